"""`GET /v1/feedback/export` gives the votes of a project, one JSON object a line."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request

from feedback.export import everything
from feedback.row_writer import line
from feedback.vote_filter import Filter
from schemas.database import AsyncPool
from schemas.errors import InvalidRequest, NotFound
from serving.auth import Reader
from serving.downloads import Download
from serving.services import services
from serving.vote_query import ExportQuery

router = APIRouter()


@router.get("/v1/feedback/export", responses={200: {"content": {"application/x-ndjson": {}}}})
async def export(request: Request, caller: Reader, query: Annotated[ExportQuery, Query()]) -> Download:
    if query.format != "jsonl":
        raise InvalidRequest("The only format is jsonl.", code="unsupported_format", param="format")
    parts = services(request)
    only = query.filter(parts.signer, caller.project, after=query.after, limit=query.limit)
    if query.after is not None:
        last = await parts.store.find(query.after)
        if last is None or last.project != caller.project:
            message = "There is no such feedback to go on from."
            raise NotFound(message, code="feedback_not_found", param="after")
    lines = _lines(parts.pool, caller.project, only)
    return Download(parts.limiter, caller.project, lines, "application/x-ndjson")


async def _lines(pool: AsyncPool, project: str, only: Filter) -> AsyncGenerator[str]:
    async with pool.connection() as connection, aclosing(everything(connection, project, only)) as votes:
        async for vote in votes:
            yield line(vote)
