"""The audit compares what clients were told with the state of the system: the export, the trainer's examples,
the delivered log and the stored turns."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

from feedback.log import Entry
from schemas.feedback import FeedbackEvent
from tests.installation import Installation, wait

BACKLOG_TIMEOUT = 600.0  # seconds; the trainer reads between rounds, and a round may take 200


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The answer that the vote `id` was recorded or retracted. A newer vote of the same person on the same
    `slot` supersedes it; `value` is the content of its event."""

    kind: Literal["recorded", "retracted"]
    id: str
    conversation: str
    completion: str
    slot: str
    value: dict[str, Any]


@dataclass
class ClientRecord:
    """All answers to one client, in order; `turns` are completions by conversation."""

    votes: list[Acknowledgement] = field(default_factory=list)
    turns: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def audit(installation: Installation, records: Sequence[ClientRecord], delivered: list[Entry]) -> list[str]:
    """Returns the differences between the records and the system. Waits until trainer and auditor have read
    everything; `delivered` grows meanwhile."""
    votes = [vote for record in records for vote in record.votes]
    superseded = {name: by for record in records for name, by in superseding(record.votes).items()}
    recorded = {vote.id: vote for vote in votes if vote.kind == "recorded"}
    problems = [refusal for record in records for refusal in record.refused]
    if len(recorded) != sum(vote.kind == "recorded" for vote in votes):
        problems.append("two votes were acknowledged with the same id")
    problems += _exported(installation, recorded, superseded)
    problems += log_problems(votes, delivered)
    with psycopg.connect(installation.database_url(), autocommit=True) as connection:
        problems += _turns(connection, records)
        problems += _examples(connection, recorded, superseded, delivered)
    return problems


def superseding(votes: Iterable[Acknowledgement]) -> dict[str, Acknowledgement]:
    """Returns what superseded each inactive vote of one person, by the vote's id: its retraction, or the next
    vote on its slot."""
    superseded: dict[str, Acknowledgement] = {}
    active: dict[tuple[str, str], str] = {}
    for vote in votes:
        before = active.pop((vote.completion, vote.slot), None)
        if before is not None:
            superseded[before] = vote
        if vote.kind == "recorded":
            active[vote.completion, vote.slot] = vote.id
    return superseded


def out_of_order(expected: Sequence[Any], found: Iterable[Any]) -> bool:
    """Returns whether `expected` is not a subsequence of `found`. Repetitions are allowed, even of a later
    entry before an earlier one, if the later one comes again after it: republishing to a broker does that."""
    rest = iter(found)
    return not all(each in rest for each in expected)


def _exported(
    installation: Installation, recorded: dict[str, Acknowledgement], superseded: dict[str, Acknowledgement]
) -> list[str]:
    """The export has each vote once, with the vote that superseded it, unless it was retracted, or what
    replaced it was."""
    exported = installation.run("export")
    if exported.returncode != 0:
        return [exported.stderr]
    kept = [json.loads(line) for line in exported.stdout.split("\n") if line]
    found = {vote["id"]: vote["superseded_by"] for vote in kept}
    expected = {
        name: superseded[name].id if name in superseded else None
        for name in recorded
        if not _retracted(name, superseded)
    }
    problems = []
    if lost := expected.keys() - found.keys():
        problems.append(f"{len(lost)} acknowledged votes are lost: {sorted(lost)[:3]}")
    if unknown := found.keys() - expected.keys():
        retracted = len(unknown & recorded.keys())
        problems.append(f"{len(unknown)} votes exist without acknowledgement, {retracted} of them retracted")
    if len(kept) != len(found):
        problems.append(f"{len(kept) - len(found)} votes exist twice")
    if wrong := [name for name in expected.keys() & found.keys() if expected[name] != found[name]]:
        problems.append(f"{len(wrong)} votes are not superseded by the next vote: {wrong[:3]}")
    return problems


def _retracted(name: str, superseded: dict[str, Acknowledgement]) -> bool:
    """Returns whether a vote, or the last of those that replaced it, was retracted."""
    while (by := superseded.get(name)) is not None:
        if by.kind == "retracted":
            return True
        name = by.id
    return False


def _turns(connection: psycopg.Connection[Any], records: Sequence[ClientRecord]) -> list[str]:
    """The turns of each conversation are stored in order; between them there may be turns whose reply never
    arrived."""
    expected = {name: turns for record in records for name, turns in record.turns.items()}
    rows = connection.execute(
        "select conversation_id, array_agg(id order by created_at) from turns"
        " where conversation_id = any(%s) group by conversation_id",
        [list(expected)],
    ).fetchall()
    kept = defaultdict(list, rows)
    wrong = [name for name, turns in expected.items() if out_of_order(turns, kept[name])]
    return [f"{len(wrong)} conversations lost a turn or its order: {wrong[:3]}"] if wrong else []


def log_problems(votes: Sequence[Acknowledgement], delivered: list[Entry]) -> list[str]:
    """The log delivers the events of each turn in the order of their acknowledgements, in one partition, and
    no other events."""
    wanted = {(vote.kind, vote.id) for vote in votes}
    problems = _eventually(
        lambda: wanted <= {_identity(entry) for entry in list(delivered)}, "every event was delivered"
    )
    if unreadable := sum(not isinstance(entry.event, FeedbackEvent) for entry in delivered):
        problems.append(f"{unreadable} events could not be read")
    if unknown := {_identity(entry) for entry in delivered} - wanted:
        problems.append(f"{len(unknown)} events were delivered without acknowledgement")
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in delivered:
        if isinstance(entry.event, FeedbackEvent):
            found[entry.event.turn_id].append(entry)
    expected: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for vote in votes:
        expected[vote.completion].append((vote.kind, vote.id))
    wrong = [name for name, order in expected.items() if out_of_order(order, map(_identity, found[name]))]
    if wrong:
        problems.append(f"{len(wrong)} turns were delivered out of order: {wrong[:3]}")
    return problems


def _examples(
    connection: psycopg.Connection[Any],
    recorded: dict[str, Acknowledgement],
    superseded: dict[str, Acknowledgement],
    delivered: list[Entry],
) -> list[str]:
    """The trainer has each vote once, with its value, superseded by the next vote or the retraction."""
    identities = {
        entry.event.event_id: _identity(entry)
        for entry in delivered
        if isinstance(entry.event, FeedbackEvent)
    }
    expected = {
        name: (vote.value, (superseded[name].kind, superseded[name].id) if name in superseded else None)
        for name, vote in recorded.items()
    }

    def read() -> dict[str, tuple[dict[str, Any], tuple[str, str] | None]]:
        rows = connection.execute(
            "select feedback_id, value, superseded_by from training_examples"
        ).fetchall()
        return {  # a vote may be marked as retracted before the trainer has read the event
            name: (value, ("retracted", name) if by == "retracted" else identities.get(by))
            for name, value, by in rows
        }

    problems = _eventually(lambda: read() == expected, "the trainer's examples are the acknowledged votes")
    found = read()
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = {name: (expected[name], found[name]) for name in expected.keys() & found.keys()}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if problems:
        problems.append(
            f"{len(missing)} are missing, {len(unknown)} too many, {len(wrong)} wrong: {wrong}"[:600]
        )
    return problems


def _identity(entry: Entry) -> tuple[str, str]:
    """Returns the kind of the event and the id of its vote."""
    event = entry.event
    return (
        (event.kind, event.feedback_id)
        if isinstance(event, FeedbackEvent)
        else ("unreadable", entry.position)
    )


def _eventually(condition: Callable[[], bool], what: str) -> list[str]:
    """Returns no problem as soon as the condition holds, or one after the timeout."""
    try:
        wait(condition, what, BACKLOG_TIMEOUT)
    except AssertionError as error:
        return [str(error)]
    return []
