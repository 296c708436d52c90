"""Webhook endpoints are the URLs to which a project's events are sent; their deliveries are kept for some
days, so that they can be read and sent again."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.database import next_transaction
from schemas.errors import Conflict, NotFound
from schemas.webhooks import NewWebhook, new_secret, shown_secret

Connection = AsyncConnection[DictRow]

MOST_ENDPOINTS = 20
"""Endpoints of one project."""

KEPT_DAYS = 30
"""Age at which deliveries are deleted, days."""

BATCH = 1_000
"""Deliveries that one transaction changes."""


_ENDPOINTS: LiteralString = """
select e.id, e.url, e.types as events, e.created_at, e.disabled_at, e.failing_since, last.delivered_at
from webhook_endpoints e left join lateral (
    select delivered_at from webhook_deliveries where endpoint = e.id order by id desc limit 1
) as last on true
where project = %s order by created_at, id
"""
_DELIVERIES: LiteralString = """
select id, type, attempts, due_at, delivered_at, status, error,
    case when delivered_at is not null then 'delivered' when due_at is null then 'failed' else 'waiting'
    end as state
from webhook_deliveries where endpoint = %s and id < %s order by id desc limit %s
"""
_ENABLE: LiteralString = """
update webhook_endpoints set disabled_at = null, failing_since = null, failures = 0, due_at = now()
where id = %s
"""
_DISABLE: LiteralString = """
update webhook_endpoints set disabled_at = coalesce(disabled_at, now()) where id = %s
"""
_REPLAY: LiteralString = """
with page as (
    select id from webhook_deliveries where endpoint = %(endpoint)s and id > %(after)s and id <= %(until)s
    order by id limit %(most)s
), again as (
    update webhook_deliveries each
    set due_at = now(), delivered_at = null, attempts = 0, status = null, error = null
    from page where each.id = page.id and (each.due_at is null or each.due_at > now())
    returning 1
)
select (select count(*) from again) as replayed, max(id) as last from page
"""
_FORGET: LiteralString = """
delete from webhook_deliveries where id in (
    select id from webhook_deliveries where endpoint = %s order by id limit %s
)
"""


def delivery_id(at: datetime) -> str:
    """Returns a new id of a delivery; ids sort by time."""
    return f"{time_bound(at)}{secrets.token_hex(8)}"


def time_bound(at: datetime) -> str:
    """Returns what the ids of deliveries since `at` are not before."""
    return f"msg_{max(0, int(at.timestamp() * 1_000)):012x}"


async def add(connection: Connection, project: str, new: NewWebhook) -> dict[str, Any]:
    """Stores an endpoint; returns it with its secret, which is shown this once. Raises Conflict where the
    project has MOST_ENDPOINTS."""
    secret, id = new_secret(), f"we_{secrets.token_hex(12)}"
    async with connection.transaction():
        await connection.execute("select from projects where id = %s for update", [project])
        if len(await endpoints(connection, project)) >= MOST_ENDPOINTS:
            raise Conflict(f"A project has at most {MOST_ENDPOINTS} webhooks; delete one first.")
        cursor = await connection.execute(
            "insert into webhook_endpoints (id, project, url, types, secret) values (%s, %s, %s, %s, %s)"
            " returning id, url, types as events, created_at",
            [id, project, new.url, sorted(set(new.events)), secret],
        )
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101  (insert … returning gives its row)
    return {**row, "secret": shown_secret(secret)}


async def endpoints(connection: Connection, project: str) -> list[DictRow]:
    """Returns a project's endpoints, without their secrets."""
    return await (await connection.execute(_ENDPOINTS, [project])).fetchall()


async def delete(connection: Connection, project: str, id: str) -> None:
    """Deletes an endpoint, to which nothing is sent any more, and its deliveries, in transactions of BATCH.
    Raises NotFound."""
    await _own(connection, project, id)
    await connection.execute(_DISABLE, [id])
    await next_transaction(connection)
    while (await connection.execute(_FORGET, [id, BATCH])).rowcount:
        await next_transaction(connection)
    await connection.execute("delete from webhook_endpoints where id = %s", [id])


async def enable(connection: Connection, project: str, id: str) -> None:
    """Sends to an endpoint again that had failed for too long. Raises NotFound."""
    await _own(connection, project, id)
    await connection.execute(_ENABLE, [id])


async def replay(connection: Connection, project: str, id: str, since: datetime) -> int:
    """Sends what is kept of the time from `since` on again, under the same ids, in transactions of BATCH;
    returns how much that is. Raises NotFound."""
    await _own(connection, project, id)
    cursor = await connection.execute(
        "select max(id) as newest from webhook_deliveries where endpoint = %s", [id]
    )
    row = await cursor.fetchone()
    page = {"endpoint": id, "after": time_bound(since), "until": row and row["newest"], "most": BATCH}
    count = 0
    while True:
        row = await (await connection.execute(_REPLAY, page)).fetchone()
        await connection.execute(_ENABLE, [id])  # whoever sends to it may have found nothing more that is due
        if row is None or row["last"] is None:
            return count
        count += row["replayed"]
        page["after"] = row["last"]
        await next_transaction(connection)


async def deliveries(
    connection: Connection, project: str, id: str, limit: int, before: str | None
) -> list[DictRow]:
    """Returns the newest deliveries of an endpoint, from before the one with the id `before`. Raises
    NotFound."""
    await _own(connection, project, id)
    newest = before or time_bound(datetime.now(UTC) + timedelta(days=1))
    return await (await connection.execute(_DELIVERIES, [id, newest, limit])).fetchall()


async def _own(connection: Connection, project: str, id: str) -> None:
    cursor = await connection.execute(
        "select 1 from webhook_endpoints where project = %s and id = %s", [project, id]
    )
    if await cursor.fetchone() is None:
        raise NotFound(f"There is no webhook {id[:64]}.", code="webhook_not_found")
