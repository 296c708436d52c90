"""What needs an operator now, each with what to do. The rules for Prometheus (docs/alerts.md) also see what
happened over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import DictRow

from schemas.settings import Settings

STALE_SECONDS = 600
"""Age of enough votes for a round, above which training is behind."""

UNPROMOTED_SECONDS = 120
"""Age of a policy that should be live, above which something is wrong."""

RELAY_SECONDS = 120
"""Age of the oldest vote that the broker does not have, above which the relay is behind."""

FLOOD_VOTES = 100
"""Votes in quarantine, above which somebody floods the project (as in deploy/prometheus/alerts.yml)."""


def _hours(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 5_400 else f"{seconds / 3_600:.0f} hours"


@dataclass(frozen=True, slots=True)
class ServingState:
    """Engines in rotation, policies that no engine serves, and bytes of the spool, of one serving process."""

    engines: int
    unserved: int
    spooled: int


def alerts(
    settings: Settings,
    loop: DictRow,
    dead_letters: int,
    rounds: Sequence[dict[str, Any]],
    *,
    paused: bool,
    serving: ServingState | None,
) -> list[dict[str, str]]:
    """Returns the alerts, the most severe first. `loop` has what `loop_metrics` selects, `rounds` are the
    newest that ended."""
    found: list[dict[str, str]] = []

    def say(severity: Literal["page", "ticket", "info"], summary: str, remedy: str) -> None:
        found.append({"severity": severity, "summary": summary, "remedy": remedy})

    if serving is not None and serving.engines == 0:
        say("page", "No engine answers: every chat is refused.", "Look at the engine's log and its /health.")
    if serving is not None and serving.spooled:
        say(
            "page",
            "Turns and votes wait on this machine's disk for Postgres.",
            "They are stored by themselves once the database is back. Keep the disk.",
        )
    if serving is not None and serving.engines and serving.unserved:
        say("ticket", "An engine does not serve a policy that it should.", "Read the log of serving.")
    if not loop["trainer"] and not paused:
        say(
            "ticket",
            "No trainer is active. Votes are stored, and learned from when one is back.",
            "Start `hearken train`, or look at its log.",
        )
    if loop["unlearned"] > STALE_SECONDS and not paused:
        say(
            "ticket",
            f"Enough votes for a round have waited for {_hours(loop['unlearned'])}.",
            "Read the newest rounds: they fail, or the gate refuses what they make.",
        )
    if settings.kafka.servers and (not loop["relay"] or loop["unpublished"] > RELAY_SECONDS):
        say(
            "ticket",
            "The relay is away or behind. No vote is lost.",
            "Look at `hearken relay` and at the broker.",
        )
    if loop["unpromoted"] > UNPROMOTED_SECONDS:
        say("ticket", "A policy that passed the gate is not live yet.", "Read the log of serving.")
    if loop["held_raters"]:
        say(
            "ticket" if loop["held_votes"] > FLOOD_VOTES else "info",
            f"{loop['held_raters']} raters are in quarantine; their {loop['held_votes']} votes do not teach.",
            "Look at them: the page Raters, or `hearken quarantine list`.",
        )
    if dead_letters:
        say(
            "ticket",
            f"{dead_letters} events could not be read.",
            "`hearken dead-letters` lists them, with the reasons.",
        )
    if len(rounds) > 1 and all(each["outcome"] == "failed" for each in rounds[:2]):
        say("ticket", "The last rounds failed.", "Their reports have the reason.")
    if paused:
        say("info", "Training is paused: votes are stored and wait.", "Resume it when you like.")
    return found
