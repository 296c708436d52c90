"""Demonstrations are imported replies that nobody voted on, for supervised learning (`rl.supervised`).

A demonstration is a turn whose `request` says so, with one reply: retention and erasure have it like any
turn. It teaches once: not again where an ancestor of the round's parent has learned from it. A policy that
was taken back has taught its descendants nothing, so its demonstrations teach again, in MAX_ROUNDS rounds at
most; a round that starts from the base has all of them again.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import Connection

from schemas.database import Pool
from schemas.policies import BASE
from trainer.data.examples import Erased, Reply
from trainer.model.backbone import Backbone
from trainer.model.token_budget import UNLIMITED

MAX_DEMONSTRATIONS = 2_048
"""Demonstrations of a round, the oldest first; the next round has the next."""

MAX_ROUNDS = 3
"""Rounds that train on a demonstration, where none of their policies stays."""

HELD_OUT, MOST_HELD_OUT = 10, 64
"""One demonstration of so many is held out, and at most so many."""

_LINEAGE: LiteralString = """
with recursive lineage (id) as (
    select %(parent)s
    union
    select p.parent from lineage join policies p on p.project = %(project)s and p.id = lineage.id
    where p.parent is not null
)
"""
_FRESH: LiteralString = """
, fresh as (
    select t.id, t.created_at, cardinality(t.prompt_token_ids) + cardinality(r.token_ids) as length
    from turns t join replies r on r.turn_id = t.id and r.choice = 0
    left join taught_demonstrations d on d.turn_id = t.id
    where t.project = %(project)s and t.request ? 'demonstration'
        and cardinality(t.prompt_token_ids) + cardinality(r.token_ids) <= %(longest)s
        and (d.turn_id is null or not d.policies && array(select id from lineage)
            and (d.rounds < %(rounds)s or %(parent)s = %(base)s))
    order by t.created_at, t.id limit %(most)s
)
select id from (
    select id, sum(length) over (order by created_at, id) - length as before from fresh
) as counted where before < %(tokens)s
"""
_TAUGHT: LiteralString = """
select exists (
    select from taught_demonstrations
    where project = %(project)s and policies && array(select id from lineage)
) as taught
"""


def select(pool: Pool, project: str, parent: str, longest: int, tokens: float) -> list[str]:
    """Returns the turns of the demonstrations that a round from this parent begins with, oldest first, of at
    most `longest` tokens each, and about `tokens` together, prompts included."""
    values = {
        "project": project, "parent": parent, "longest": longest, "tokens": tokens, "rounds": MAX_ROUNDS,
        "base": BASE, "most": MAX_DEMONSTRATIONS,
    }  # fmt: skip
    with pool.connection() as connection:
        return [row["id"] for row in connection.execute(_LINEAGE + _FRESH, values).fetchall()]


def have_taught(pool: Pool, project: str, policy: str) -> bool:
    """Whether a policy or one of its ancestors has learned from demonstrations."""
    values = {"project": project, "parent": policy}
    with pool.connection() as connection:
        row = connection.execute(_LINEAGE + _TAUGHT, values).fetchone()
    return bool(row and row["taught"])


def are_waiting(pool: Pool, project: str, longest: int) -> bool:
    """Whether there are demonstrations of at most `longest` tokens that no round has had."""
    with pool.connection() as connection:
        row = connection.execute(
            "select exists (select from turns t join replies r on r.turn_id = t.id and r.choice = 0"
            " where t.project = %s and t.request ? 'demonstration'"
            " and cardinality(t.prompt_token_ids) + cardinality(r.token_ids) <= %s"
            " and not exists (select from taught_demonstrations d where d.turn_id = t.id)) as waiting",
            [project, longest],
        ).fetchone()
    return bool(row and row["waiting"])


def note(pool: Pool, project: str, turns: Sequence[str], *, trains: bool) -> None:
    """Notes that a round has these demonstrations, and whether it trains on them."""
    with pool.connection() as connection:
        connection.execute(
            "insert into taught_demonstrations as known (turn_id, project, rounds)"
            " select id, project, %(times)s from turns where project = %(project)s and id = any(%(turns)s)"
            " on conflict (turn_id) do update set rounds = known.rounds + excluded.rounds",
            {"project": project, "turns": list(turns), "times": int(trains)},
        )


def note_policy(connection: Connection[Any], turns: Sequence[str], policy: str) -> None:
    """Notes that a policy has learned from these demonstrations."""
    connection.execute(
        "update taught_demonstrations set policies = policies || %s::text where turn_id = any(%s)",
        [policy, list(turns)],
    )


def still_held(pool: Pool, project: str, turns: Sequence[str]) -> list[str]:
    """Returns which of these demonstrations can still be loaded, in their order."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select id from turns where project = %s and id = any(%s)", [project, list(turns)]
        ).fetchall()
    held = {row["id"] for row in rows}
    return [turn for turn in turns if turn in held]


def load(
    pool: Pool, project: str, backbone: Backbone, turns: Sequence[str], longest: int = UNLIMITED
) -> list[Reply]:
    """Loads demonstrations in the order of their turns, without those that do not fit the base. Raises Erased
    when some are gone."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select t.id, t.prompt_token_ids, r.token_ids from turns t"
            " join replies r on r.turn_id = t.id and r.choice = 0"
            " where t.project = %s and t.id = any(%s)",
            [project, list(turns)],
        ).fetchall()
    found = {row["id"]: Reply(list(row["prompt_token_ids"]), list(row["token_ids"])) for row in rows}
    if len(found) < len(turns):
        raise Erased("demonstrations", len(turns) - len(found), len(turns))
    return [each for turn in turns for each in [found[turn]] if _fits(backbone, each, longest)]


def _fits(backbone: Backbone, each: Reply, longest: int) -> bool:
    fits = backbone.fits(each.prompt_ids, each.token_ids)
    return fits and bool(each.token_ids) and len(each.prompt_ids) + len(each.token_ids) <= longest


def split(
    demonstrations: Sequence[Reply], eval_prompts: Sequence[list[int]]
) -> tuple[list[Reply], list[Reply]]:
    """Returns the demonstrations to train on, and those held out: one of ten prompts, and those that the gate
    asks. Demonstrations of one prompt are in one part. Both are empty where either would be."""
    asked = {tuple(prompt) for prompt in eval_prompts}
    by_prompt: dict[tuple[int, ...], list[Reply]] = {}
    for each in demonstrations:
        by_prompt.setdefault(tuple(each.prompt_ids), []).append(each)
    training: list[Reply] = []
    held_out: list[Reply] = []
    for place, (prompt, replies) in enumerate(by_prompt.items()):
        chosen = place % HELD_OUT == 0 and len(held_out) < MOST_HELD_OUT
        (held_out if chosen or prompt in asked else training).extend(replies)
    return (training, held_out) if training and held_out else ([], [])
