"""This module reads stored turns with their replies, changes their metadata, and deletes them."""

from typing import Any, Literal, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.sql import SQL, Composed
from psycopg.types.json import Jsonb

from feedback import audit
from schemas.database import AsyncPool
from schemas.errors import NotFound
from schemas.turns import StoredReply, StoredTurn

_COLUMNS: LiteralString = """
select t.id, t.conversation_id, t.messages, t.sampling, t.metadata, t.request, t.created_at,
    prompt_tokens_of(t.request, t.prompt_token_ids) as prompt_tokens,
    (select jsonb_agg(jsonb_build_object('choice', choice, 'policy', policy, 'text', text,
        'tokens', tokens_of(t.request, choice, token_ids), 'finish_reason', finish_reason,
        'message', message) order by choice)
        from replies where turn_id = t.id) as replies
from turns t
"""
_PAGE: LiteralString = """
where t.project = %(project)s {tagged}
    and (%(after)s::text is null or (t.created_at, t.id) {beyond}
        (select created_at, id from turns where id = %(after)s and project = %(project)s))
order by t.created_at {order}, t.id {order} limit %(limit)s
"""


async def find(pool: AsyncPool, project: str, id: str) -> StoredTurn | None:
    """Returns a turn of the project; None where there is none."""
    rows = await _rows(pool, _COLUMNS + "where t.project = %s and t.id = %s", [project, id])
    return _turn(rows[0]) if rows else None


async def page(
    pool: AsyncPool,
    project: str,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    metadata: dict[str, str],
) -> list[StoredTurn]:
    """Returns at most `limit` turns of the project with this metadata, by time, after the turn `after`.
    Raises NotFound where that one is gone: what follows it is not known then."""
    statement = _page_statement(order, tagged=bool(metadata))
    values = {"project": project, "metadata": Jsonb(metadata), "after": after, "limit": limit}
    rows = await _rows(pool, statement, values)
    if not rows and after is not None and await find(pool, project, after) is None:
        raise NotFound(
            f"There is no stored completion {after[:64]} to go on from.",
            code="completion_not_found",
            param="after",
        )
    return [_turn(row) for row in rows]


async def set_metadata(pool: AsyncPool, project: str, id: str, metadata: dict[str, str]) -> bool:
    """Replaces the metadata of a turn but for its conversation, also where its votes are found by it; returns
    whether there is such a turn."""
    async with pool.connection() as connection, connection.transaction():
        changed = await connection.execute(
            "update turns set metadata = %s || case when metadata ? 'conversation_id'"
            " then jsonb_build_object('conversation_id', metadata -> 'conversation_id') else '{}' end"
            " where project = %s and id = %s",
            [Jsonb(metadata), project, id],
        )
        if changed.rowcount:
            await connection.execute("update feedback set facets = null where turn_id = %s", [id])
    return changed.rowcount > 0


async def delete(connection: AsyncConnection[DictRow], project: str, id: str) -> bool:
    """Deletes a turn with its replies and votes, which the audit log notes; returns whether there was one."""
    gone = await connection.execute("delete from turns where project = %s and id = %s", [project, id])
    if gone.rowcount:
        await audit.note(connection, project, "turn.deleted", id)
    return gone.rowcount > 0


def _page_statement(order: Literal["asc", "desc"], *, tagged: bool) -> Composed:
    """Returns the statement of a page. It names the metadata only where some is asked for: an index finds it
    then."""
    return SQL(_COLUMNS + _PAGE).format(
        tagged=SQL("and t.metadata @> %(metadata)s" if tagged else ""),
        beyond=SQL(">" if order == "asc" else "<"),
        order=SQL("asc" if order == "asc" else "desc"),
    )


async def _rows(pool: AsyncPool, statement: LiteralString | Composed, values: Any) -> list[DictRow]:
    async with pool.connection() as connection:
        cursor = await connection.execute(statement, values)
        return await cursor.fetchall()


def _turn(row: DictRow) -> StoredTurn:
    replies = [StoredReply(**reply) for reply in row.pop("replies") or []]
    return StoredTurn(**row, replies=replies)
