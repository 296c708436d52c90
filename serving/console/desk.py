"""The feedback desk of the console: votes and conversations as they come, approval over time, saved views."""

from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import Response

from feedback import desk, saved_views
from feedback.approval import approval, of_holdback, step_of
from schemas.errors import InvalidRequest, NotFound
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Operator, Viewer, acting
from serving.services import services
from serving.vote_query import VoteQuery, cursor, parse_cursor

router = APIRouter(prefix="/v1/console")

MOST_ROWS = 200
"""Votes or turns of one page."""

APPROVAL_DAYS = 30
"""Days of approval that are shown where no time is asked for."""

INTERVAL_ERRORS = 1.96
"""Standard errors of an interval of 95%."""

_RECENT: LiteralString = """
select facet, count(*) as votes from (
    select facets from feedback where project = %s order by created_at desc, id desc limit 5000
) as recent, unnest(facets) as facet
where facet like any (array['policy:%%', 'reason:%%', 'tag:%%'])
group by facet order by votes desc, facet limit 200
"""


class _Page(VoteQuery):
    """A page of votes: active ones, unless `all` of them."""

    all: bool = False
    cursor: Annotated[str, Field(max_length=512)] | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50


class _Approval(VoteQuery):
    """Approval `by` policy, reason, tag:KEY, or of all."""

    by: Annotated[str, Field(pattern=r"^(all|policy|reason|tag:[^=]{1,64})$")] = "policy"


class _View(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    query: Annotated[str, Field(max_length=2_000)]


_VIEW = TypeAdapter(_View)


@router.get("/votes")
async def votes(request: Request, caller: Viewer, query: Annotated[_Page, Query()]) -> dict[str, Any]:
    """Lists votes, newest first. The first page says how many there are, counted up to 10,000."""
    parts = services(request)
    only = query.filter(parts.signer, caller.project, active=not query.all, limit=query.limit + 1)
    behind = parse_cursor(query.cursor)
    async with parts.pool.connection() as connection:
        found = await desk.votes(connection, caller.project, only, behind)
        count = None if behind else await desk.count(connection, caller.project, only)
    page = _page(found, query.limit)
    return page if count is None else {**page, "count": count, "counted_up_to": desk.MOST_COUNTED}


@router.get("/votes/{id}")
async def vote(request: Request, caller: Viewer, id: str) -> dict[str, Any]:
    """Returns a vote and its conversation."""
    async with services(request).pool.connection() as connection:
        found = await desk.vote(connection, caller.project, id)
        if found is None:
            raise NotFound(f"There is no vote {id[:64]}.", code="feedback_not_found")
        turns = await desk.conversation(connection, caller.project, found["conversation_id"])
    return {"vote": with_times(found), "conversation": [with_times(turn) for turn in turns]}


@router.get("/conversations")
async def conversations(request: Request, caller: Viewer, query: Annotated[_Page, Query()]) -> dict[str, Any]:
    """Lists turns, voted on or not, newest first: by time, policy, tag and user."""
    for name in ("type", "value", "reason", "text"):
        if getattr(query, name) is not None:
            raise InvalidRequest(
                f"{name} selects votes; conversations are selected by time, policy, tag and user.", param=name
            )
    parts = services(request)
    only = query.filter(parts.signer, caller.project)
    async with parts.pool.connection() as connection:
        found = await desk.turns(
            connection, caller.project, only, query.limit + 1, parse_cursor(query.cursor)
        )
    return _page(found, query.limit)


@router.get("/conversations/{id}")
async def conversation(request: Request, caller: Viewer, id: str) -> dict[str, Any]:
    """Returns the newest turns of a conversation, oldest first."""
    async with services(request).pool.connection() as connection:
        turns = await desk.conversation(connection, caller.project, id)
    if not turns:
        raise NotFound(f"There is no conversation {id[:64]}.", code="conversation_not_found")
    return {"object": "list", "data": [with_times(turn) for turn in turns]}


@router.get("/approval")
async def approval_over_time(
    request: Request, caller: Viewer, query: Annotated[_Approval, Query()]
) -> dict[str, Any]:
    """Returns the approval of each group over time with its interval of 95%, and of the base beside them
    (the holdback: it always answers a small share of the people)."""
    parts = services(request)
    until = query.until or datetime.now(UTC)
    shown = timedelta(days=APPROVAL_DAYS)
    since = query.since or max(until, datetime.min.replace(tzinfo=UTC) + shown) - shown
    query = query.model_copy(update={"since": since, "until": until})
    only, step = query.filter(parts.signer, caller.project), step_of(until - since)
    async with parts.pool.connection() as connection:
        found = await approval(connection, caller.project, only, query.by, step)
        base = await approval(connection, caller.project, of_holdback(only), "all", step)
    holdback = _series(base)
    return {
        "step": step,
        "groups": _series(found),
        "holdback": holdback[0] if holdback else None,
    }


@router.get("/facets")
async def facets(request: Request, caller: Viewer) -> dict[str, Any]:
    """Returns the policies, reasons and tags of the newest 5,000 votes, to choose from."""
    found: dict[str, list[dict[str, Any]]] = {"policy": [], "reason": [], "tag": []}
    async with services(request).pool.connection() as connection:
        for row in await (await connection.execute(_RECENT, [caller.project])).fetchall():
            kind, _, name = row["facet"].partition(":")
            found[kind].append({"name": name, "votes": row["votes"]})
    return found


@router.get("/views")
async def views(request: Request, caller: Viewer) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await saved_views.views(connection, caller.project)
    return {"object": "list", "data": [with_times(view) for view in found]}


@router.put("/views/{name}")
async def save_view(request: Request, caller: Operator, name: str) -> dict[str, Any]:
    """Stores the filter of the desk under a name; a view of this name is replaced."""
    if len(name) > 64:
        raise InvalidRequest("A view's name has at most 64 characters.", param="name")
    view = check(_VIEW, decode(await request.body()))
    async with acting(request, caller) as connection:
        await saved_views.save(connection, caller.project, name, view.query)
    return {"name": name, "query": view.query}


@router.delete("/views/{name}", status_code=204)
async def delete_view(request: Request, caller: Operator, name: str) -> Response:
    async with acting(request, caller) as connection:
        if not await saved_views.delete(connection, caller.project, name):
            raise NotFound(f"There is no view {name[:64]}.", code="view_not_found")
    return Response(status_code=204)


def _page(rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Returns a page of rows, of which one more than `limit` was read to see whether there are more."""
    page = rows[:limit]
    more = cursor(page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
    return {"object": "list", "data": [with_times(row) for row in page], "next_cursor": more}


def _series(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns each group with its figures of all the time, and of each step."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        low, high = _interval(row["people"], row["approvals"])
        figures = {
            "people": row["people"],
            "votes": row["votes"],
            "approval": round(row["approvals"] / row["people"], 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
        if row["at"] is None:
            found[row["name"]] = {"name": row["name"], **figures, "steps": []}
        else:
            found[row["name"]]["steps"].append(with_times({"at": row["at"], **figures}))
    return list(found.values())


def _interval(people: int, approvals: float) -> tuple[float, float]:
    """Returns the bounds of an approval, at most as wide as that of single votes. One person who liked and
    one who disliked it come on top, so that few who agree are not certain (Agresti and Coull 1998)."""
    approval = (approvals + 1) / (people + 2)
    half = INTERVAL_ERRORS * sqrt(approval * (1 - approval) / (people + 2))
    return max(0.0, approval - half), min(1.0, approval + half)
