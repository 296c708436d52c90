"""What people were told, compared with what exists: what was exported, what the trainer made of it, what the
log delivered, and the turns that were kept."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

from feedback.log import Entry
from schemas.feedback import FeedbackEvent
from tests.installation import Installation, wait

DRAINED = 600.0  # seconds for the backlog: the trainer reads between its rounds, one of which may take 200


@dataclass(frozen=True, slots=True)
class Told:
    """That the vote `id` was recorded or retracted; its slot is what a newer vote of the same person would
    take, its value what the log carries of it."""

    kind: Literal["recorded", "retracted"]
    id: str
    conversation: str
    completion: str
    slot: str
    value: dict[str, Any]


@dataclass
class Memory:
    """All that one person was told, in this order; `turns` are completions by conversation."""

    votes: list[Told] = field(default_factory=list)
    turns: dict[str, list[str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def compare(installation: Installation, memories: Sequence[Memory], delivered: list[Entry]) -> list[str]:
    """What is wrong with the world by these memories. Waits until trainer and auditor have read everything;
    `delivered` grows meanwhile."""
    told = [each for memory in memories for each in memory.votes]
    ended = {name: by for memory in memories for name, by in enders(memory.votes).items()}
    recorded = {each.id: each for each in told if each.kind == "recorded"}
    problems = [refusal for memory in memories for refusal in memory.refused]
    if len(recorded) != sum(each.kind == "recorded" for each in told):
        problems.append("two votes were told under one id")
    problems += _exported(installation, recorded, ended)
    problems += log_problems(told, delivered)
    with psycopg.connect(installation.database_url(), autocommit=True) as connection:
        problems += _turns(connection, memories)
        problems += _examples(connection, recorded, ended, delivered)
    return problems


def enders(told: Iterable[Told]) -> dict[str, Told]:
    """What ended each of one person's votes that stands no more, by the vote's id: its retraction, or the
    next vote for its slot."""
    ends: dict[str, Told] = {}
    standing: dict[tuple[str, str], str] = {}
    for each in told:
        before = standing.pop((each.completion, each.slot), None)
        if before is not None:
            ends[before] = each
        if each.kind == "recorded":
            standing[each.completion, each.slot] = each.id
    return ends


def out_of_order(told: Sequence[Any], found: Iterable[Any]) -> bool:
    """Whether `told` is no subsequence of `found`, where each may come again and again, and the later once
    before the earlier if it comes after that again: a log that gives again what a broker lost may do so."""
    rest = iter(found)
    return not all(each in rest for each in told)


def _exported(installation: Installation, recorded: dict[str, Told], ended: dict[str, Told]) -> list[str]:
    """All but what was retracted, each once, and which took the place of which."""
    exported = installation.run("export")
    if exported.returncode != 0:
        return [exported.stderr]
    kept = [json.loads(line) for line in exported.stdout.splitlines()]
    found = {vote["id"]: vote["superseded_by"] for vote in kept}
    expected = {
        name: ended[name].id if name in ended else None
        for name in recorded
        if name not in ended or ended[name].kind == "recorded"
    }
    problems = []
    if lost := expected.keys() - found.keys():
        problems.append(f"{len(lost)} acknowledged votes are lost: {sorted(lost)[:3]}")
    if unknown := found.keys() - expected.keys():
        again = len(unknown & recorded.keys())
        problems.append(f"{len(unknown)} votes are kept that nobody was told of, {again} of them retracted")
    if len(kept) != len(found):
        problems.append(f"{len(kept) - len(found)} votes are kept twice")
    if wrong := [name for name in expected.keys() & found.keys() if expected[name] != found[name]]:
        problems.append(f"{len(wrong)} votes are not superseded by what was voted next: {wrong[:3]}")
    return problems


def _turns(connection: psycopg.Connection[Any], memories: Sequence[Memory]) -> list[str]:
    """Each conversation's turns in the order in which they were had; others may lie between, whose reply
    never arrived."""
    told = {name: turns for memory in memories for name, turns in memory.turns.items()}
    rows = connection.execute(
        "select conversation_id, array_agg(id order by created_at) from turns"
        " where conversation_id = any(%s) group by conversation_id",
        [list(told)],
    ).fetchall()
    kept = defaultdict(list, rows)
    wrong = [name for name, turns in told.items() if out_of_order(turns, kept[name])]
    return [f"{len(wrong)} conversations have lost a turn or its place: {wrong[:3]}"] if wrong else []


def log_problems(told: Sequence[Told], delivered: list[Entry]) -> list[str]:
    """Each conversation's events in the order in which people were told of them, in one partition, and no
    others."""
    wanted = {(each.kind, each.id) for each in told}
    problems = _drained(
        lambda: wanted <= {_said(entry) for entry in list(delivered)}, "every event was delivered"
    )
    if unreadable := sum(not isinstance(entry.event, FeedbackEvent) for entry in delivered):
        problems.append(f"{unreadable} events could not be read")
    if unknown := {_said(entry) for entry in delivered} - wanted:
        problems.append(f"{len(unknown)} events were delivered that nobody was told of")
    found: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in delivered:
        if isinstance(entry.event, FeedbackEvent):
            found[entry.event.conversation_id].append(entry)
    expected: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in told:
        expected[each.conversation].append((each.kind, each.id))
    if wrong := [name for name, order in expected.items() if out_of_order(order, map(_said, found[name]))]:
        problems.append(f"{len(wrong)} conversations were delivered out of order: {wrong[:3]}")
    return problems


def _examples(
    connection: psycopg.Connection[Any],
    recorded: dict[str, Told],
    ended: dict[str, Told],
    delivered: list[Entry],
) -> list[str]:
    """What the trainer knows: each vote once, as it was told, and ended by what ended it: the next vote, or
    that it was retracted, of which it may have read the event or not."""
    said = {
        entry.event.event_id: _said(entry) for entry in delivered if isinstance(entry.event, FeedbackEvent)
    }
    expected = {
        name: (vote.value, (ended[name].kind, ended[name].id) if name in ended else None)
        for name, vote in recorded.items()
    }

    def read() -> dict[str, tuple[dict[str, Any], tuple[str, str] | None]]:
        rows = connection.execute(
            "select feedback_id, value, superseded_by from training_examples"
        ).fetchall()
        return {
            name: (value, ("retracted", name) if by == "retracted" else said.get(by))
            for name, value, by in rows
        }

    problems = _drained(lambda: read() == expected, "the trainer knows what people said, and nothing else")
    found = read()
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = {name: (expected[name], found[name]) for name in expected.keys() & found.keys()}
    wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
    if problems:
        problems.append(
            f"{len(missing)} are missing, {len(unknown)} too many, {len(wrong)} wrong: {wrong}"[:600]
        )
    return problems


def _said(entry: Entry) -> tuple[str, str]:
    """What an event says of which vote."""
    event = entry.event
    return (
        (event.kind, event.feedback_id)
        if isinstance(event, FeedbackEvent)
        else ("unreadable", entry.position)
    )


def _drained(condition: Callable[[], bool], what: str) -> list[str]:
    """No problem once that is true, one when it is not in time."""
    try:
        wait(condition, what, DRAINED)
    except AssertionError as error:
        return [str(error)]
    return []
