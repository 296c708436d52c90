"""A person's votes, newest first, with the tokens of the replies that they are on."""

from dataclasses import dataclass
from typing import Any, LiteralString

from schemas.database import AsyncPool

VOTED: LiteralString = (
    "select from feedback where project = %(project)s and rater = %(rater)s limit 1 for key share"
)
"""Selects a vote of a person, for what is stored because of their votes: whoever was erased meanwhile has
none left, and an erasure waits for the lock."""

_VOTES: LiteralString = """
    select f.turn_id, f.choice, f.type, f.value, t.prompt_token_ids,
        array(select choice from replies where turn_id = t.id order by choice) as choices,
        (select jsonb_agg(token_ids order by choice) from replies where turn_id = t.id) as replies
    from feedback f join turns t on t.id = f.turn_id
    where f.project = %s and f.rater = %s and f.type in ('thumb', 'ranking')
        and f.superseded_by is null and f.retracted_at is null and cardinality(t.prompt_token_ids) > 0
    order by f.created_at desc limit %s
"""


@dataclass(frozen=True, slots=True)
class PersonVote:
    """An active thumb on one reply, or a ranking of all. `replies` has the token ids of each choice."""

    turn_id: str
    choice: int | None
    type: str
    value: dict[str, Any]
    prompt_token_ids: list[int]
    replies: dict[int, list[int]]


async def newest_votes(pool: AsyncPool, project: str, rater: str, limit: int) -> list[PersonVote]:
    """Returns the person's newest active thumbs and rankings, at most `limit`."""
    async with pool.connection() as connection:
        cursor = await connection.execute(_VOTES, [project, rater, limit])
        rows = await cursor.fetchall()
    return [
        PersonVote(
            row["turn_id"], row["choice"], row["type"], row["value"], row["prompt_token_ids"],
            dict(zip(row["choices"], row["replies"] or [], strict=True)),
        )
        for row in rows
    ]  # fmt: skip
