"""`GET /v1/usage`: what was asked of a project by day and by key, and of all projects for who makes them."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import InvalidRequest
from schemas.projects import MOST_PROJECTS
from serving.auth import Viewer
from serving.services import services
from serving.tenants.projects import is_installations_own
from serving.usage import COUNTED

DAYS, MOST_DAYS = 30, 366
"""Days that are shown where none are asked for, and at most."""

router = APIRouter()

_SUMS: LiteralString = """
sum(chats)::bigint as chats, sum(votes)::bigint as votes, sum(requests)::bigint as requests,
sum(refused)::bigint as refused, sum(prompt_tokens)::bigint as prompt_tokens,
sum(completion_tokens)::bigint as completion_tokens
"""
_BY_DAY_AND_KEY: LiteralString = (
    "select u.day, u.key_id as key, k.name, k.kind, "
    + _SUMS
    + """from key_usage u join keys k on k.id = u.key_id
where u.project = %s and u.day between %s and %s
group by grouping sets ((u.day), (u.key_id, k.name, k.kind)) order by u.day, chats desc, u.key_id limit 2000
"""
)
_BY_PROJECT: LiteralString = (
    "select project, " + _SUMS + "from key_usage where day between %s and %s group by project"
    " order by chats desc, project limit %s"
)


async def usage(
    connection: AsyncConnection[DictRow], project: str, since: date, until: date, *, of_all: bool = False
) -> dict[str, Any]:
    """Returns the counts of a project by day and by key; `of_all` adds those of every project."""
    cursor = await connection.execute(_BY_DAY_AND_KEY, [project, since, until])
    rows = await cursor.fetchall()
    found: dict[str, Any] = {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "days": [
            {"day": str(row["day"]), **{name: row[name] for name in COUNTED}} for row in rows if row["day"]
        ],
        "keys": [
            {name: row[name] for name in ("key", "name", "kind", *COUNTED)} for row in rows if row["key"]
        ],
    }
    if of_all:
        cursor = await connection.execute(_BY_PROJECT, [since, until, MOST_PROJECTS])
        found["projects"] = await cursor.fetchall()
    return found


def span(since: date | None, until: date | None) -> tuple[date, date]:
    """Returns the first and the last day of a time that was asked for, the last DAYS where none was. Raises
    InvalidRequest for more than MOST_DAYS."""
    last = until or datetime.now(UTC).date()
    first = since or date.fromordinal(max(1, last.toordinal() - DAYS + 1))
    if not 0 <= (last - first).days < MOST_DAYS:
        raise InvalidRequest(f"Ask for 1 to {MOST_DAYS} days, since before until.", param="since")
    return first, last


@router.get("/v1/usage")
async def read_usage(
    request: Request,
    caller: Viewer,
    since: Annotated[date | None, Query()] = None,
    until: Annotated[date | None, Query()] = None,
) -> dict[str, Any]:
    """Counts are some seconds old. `projects` is there for an admin of the installation's own project."""
    of_all = is_installations_own(request, caller)
    first, last = span(since, until)
    async with services(request).pool.connection() as connection:
        return await usage(connection, caller.project, first, last, of_all=of_all)
