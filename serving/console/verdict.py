"""The gate's verdict in words: what was decided, and each figure beside its limit.

The figures are those that the trainer recorded (`trainer.evaluation.gate`), the limits those of the settings
that it was trained with. A record of an earlier release may lack some of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

from schemas.constraints import CONSTRAINTS

State = Literal["good", "near", "bad", "unknown"]

GUARD_TOLERANCE = 1.25
"""The gate's limits of KL and entropy are wider than the guard's by this factor, as in the trainer."""

MAX_COMMON_INCREASE = 0.25
"""Most that the share of equal replies may rise, as in the trainer."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, what was found, its limit, and how they compare."""

    name: str
    found: str
    limit: str
    state: State


def headline(outcome: str | None) -> str:
    """Returns a verdict of the gate in a sentence."""
    return {
        "passed": "Passed: votes that it had never seen say that it is no worse than the live policy.",
        "unknown": "Not decided: the votes could not judge it, so people do.",
        "refused": "Refused: it did harm, so nobody is answered by it.",
    }.get(outcome or "", "There is no verdict of the gate.")


def checks(
    gate: Mapping[str, Any] | None, configuration: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """Returns the checks of a gate's report, with the limits of the trainer's `configuration`."""
    figures: Mapping[str, Any] = (gate or {}).get("figures") or {}
    configured = configuration or {}
    return [
        asdict(each)
        for each in _checks(
            figures,
            configured.get("gate") or {},
            configured.get("rl") or {},
            configured.get("criteria") or {},
        )
    ]


def _checks(
    figures: Mapping[str, Any], gate: Mapping[str, Any], rl: Mapping[str, Any], criteria: Mapping[str, Any]
) -> Iterator[Check]:
    if "unseen_votes" in figures:
        yield _unseen(figures, gate)
    if (gain := figures.get("influence_gain")) is not None:
        yield _influence(gain, figures, gate)
    for name, votes in (("trained", "the votes it learned from"), ("held_out", "votes held back from it")):
        gain, error = figures.get(f"{name}_gain"), figures.get(f"{name}_error")
        if gain is not None and error is not None:
            state: State = "good" if gain >= 0 else "near" if gain + 2 * error >= 0 else "bad"
            yield Check(f"Reward by {votes}", _signed(gain, error), "not below 0 by more than chance", state)
    if (ratio := figures.get("length_ratio")) is not None:
        most = gate.get("max_length_ratio", 3.0)
        limit = f"{1 / most:.2f} to {most:g} times"
        furthest = max(ratio, 1 / ratio) if ratio else inf  # a record rounds it
        yield Check("Length", f"{ratio:.2f} times the base's", limit, _within(furthest, most))
    if (kl := figures.get("kl")) is not None:
        most = GUARD_TOLERANCE * rl.get("kl_per_reply", 8.0)
        found = f"{kl:.2f} ± {figures.get('kl_error', 0):.2f} nats a reply"
        yield Check("Distance from the base (KL)", found, f"{most:g} nats", _within(kl, most))
    if "knowledge_unknown" in figures:
        yield Check("Knowledge", str(figures["knowledge_unknown"]), "not judged", "unknown")
    elif (lost := figures.get("knowledge_lost")) is not None:
        most = gate.get("max_knowledge_loss", 0.03)
        found = f"{figures['knowledge']:.1%} right, {_lost(lost)} ± {figures['knowledge_error']:.1%}"
        yield Check("Knowledge", found, f"a loss of {most:.0%}", _within(lost, most))
    if (approval := figures.get("approval")) is not None:
        yield _approval(approval, figures, gate)
    yield from _against_base(figures, gate, rl)
    for name, changes in (figures.get("criteria") or {}).items():
        for other in ("live", "base"):
            yield _criterion(name, other, changes, criteria)
    for name, found in (figures.get("constraints") or {}).items():
        yield _constraint(name, found)


def _approval(approval: float, figures: Mapping[str, Any], gate: Mapping[str, Any]) -> Check:
    """The approval that recorded votes let expect."""
    lower, upper = figures["approval_lower"], figures["approval_upper"]
    change, error = figures["approval_change"], figures["approval_change_error"]
    most = gate.get("max_approval_width", 0.5)
    state: State = "good" if upper - lower <= most and change >= 0 else "near"
    if change + 2 * error < 0:
        state = "bad"
    found = f"{approval:.0%} ({lower:.0%} to {upper:.0%}), {change:+.0%} ± {error:.0%} to the live policy"
    return Check("Approval by recorded votes", found, f"known to {most:.0%}, and no loss", state)


def _criterion(name: str, other: str, changes: Mapping[str, float], criteria: Mapping[str, Any]) -> Check:
    """A criterion that may not fall, against another policy."""
    change, error, most = changes[other], changes[f"{other}_error"], criteria.get("max_fall", 0.02)
    state: State = "good" if change >= -most else "near" if change + 2 * error >= -most else "bad"
    found = f"{change:+.1%} ± {error:.1%}"
    return Check(f"Criterion {name}, against the {other} policy", found, f"a fall of {most:.0%}", state)


def _constraint(name: str, found: Mapping[str, Any]) -> Check:
    """A constraint that no candidate may break, with the limit that it had."""
    about = CONSTRAINTS.get(name)
    words, of = (about.words, about.of) if about else (name, "the samples")
    if found["state"] == "unjudged":
        return Check(words, str(found["notice"]), "not judged", "unknown")
    others = f"the base {found['base']:.1%}"
    if "live" in found:
        others += f", the live policy {found['live']:.1%}"
    share = f"{found['candidate']:.1%} ± {found['error']:.1%} of {of} ({others})"
    state: State = "good" if found["state"] == "good" else "near" if found["state"] == "unknown" else "bad"
    return Check(words, share, f"{found['limit']:.1%}", state)


def _unseen(figures: Mapping[str, Any], gate: Mapping[str, Any]) -> Check:
    """The check that decides whether a candidate goes live at once."""
    votes, limit = figures["unseen_votes"], f"not below {0 - gate.get('max_reward_loss', 0.0):g}, at 95%"
    if not votes or figures.get("unseen_gain") is None:
        return Check("Reward by unseen votes", "no unseen votes", limit, "unknown")
    gain, error = figures["unseen_gain"], figures["unseen_error"]
    lower = gain - 1.64 * error
    state: State = "good" if lower >= -gate.get("max_reward_loss", 0.0) else "near" if gain >= 0 else "bad"
    return Check("Reward by unseen votes", f"{_signed(gain, error)}, {votes} votes", limit, state)


def _influence(gain: float, figures: Mapping[str, Any], gate: Mapping[str, Any]) -> Check:
    """The same without the rater, or the group of raters, whose votes add most."""
    error, most = figures["unseen_error"], gate.get("max_reward_loss", 0.0)
    state: State = "good" if gain - 1.64 * error >= -most else "near"
    raters = figures["influence_raters"]
    who = "one rater" if raters == 1 else f"{raters} raters"
    return Check(f"The same without {who}", _signed(gain, error), f"not below {0 - most:g}, at 95%", state)


def _against_base(
    figures: Mapping[str, Any], gate: Mapping[str, Any], rl: Mapping[str, Any]
) -> Iterator[Check]:
    """The checks whose limits are relative to the base's figures."""
    if {"ended", "base_ended"} <= figures.keys():
        least = figures["base_ended"] - gate.get("max_no_eos_increase", 0.05)
        state = _within(1 - figures["ended"], 1 - least)
        yield Check("Replies that end by themselves", f"{figures['ended']:.0%}", f"{least:.0%}", state)
    if {"entropy", "base_entropy"} <= figures.keys():
        least = figures["base_entropy"] * rl.get("entropy_floor", 0.25) / GUARD_TOLERANCE
        state = "good" if figures["entropy"] >= least else "bad"
        yield Check("Variety of words (entropy)", f"{figures['entropy']:.2f}", f"{least:.2f}", state)
    if {"repeated", "base_repeated"} <= figures.keys():
        most = figures["base_repeated"] + gate.get("max_repetition_increase", 0.1)
        state = _within(figures["repeated"], most)
        yield Check("Repetition within a reply", f"{figures['repeated']:.1%}", f"{most:.1%}", state)
    if {"distinct", "base_distinct"} <= figures.keys():
        least = figures["base_distinct"] * gate.get("min_distinct_ratio", 0.4)
        state = "good" if figures["distinct"] >= least else "bad"
        yield Check("Different pairs of words", f"{figures['distinct']:.1%}", f"{least:.1%}", state)
    if "alike" in figures:
        most = figures.get("base_alike", 0.0) + MAX_COMMON_INCREASE
        state = _within(figures["alike"], most)
        yield Check("The same reply to different prompts", f"{figures['alike']:.1%}", f"{most:.1%}", state)


def _within(value: float, most: float) -> State:
    if value > most:
        return "bad"
    return "near" if value > 0.8 * most else "good"


def _signed(gain: float, error: float) -> str:
    return f"{gain:+.2f} ± {error:.2f} logits"


def _lost(lost: float) -> str:
    return f"{lost:.1%} lost" if lost > 0 else "nothing lost"
