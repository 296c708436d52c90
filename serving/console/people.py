"""What is held about one person, in figures, for the console; `GET /v1/users/{user}` is all of it."""

from typing import Any, LiteralString

from fastapi import APIRouter, Request
from psycopg.rows import DictRow

from feedback import erasures, held_data
from schemas.times import rfc3339
from serving.auth import Viewer
from serving.services import services
from serving.users import pseudonyms

router = APIRouter(prefix="/v1/console/people")

MOST_ERASURES = 10
"""Erasures of one person that are named, the newest."""

_ERASURES: LiteralString = """
select id, asked_at, done_at from erasures where project = %s and hashes && %s::bytea[]
order by asked_at desc, id desc limit %s
"""


@router.get("/{user:path}")
async def show_person(request: Request, user: str, caller: Viewer) -> dict[str, Any]:
    """Returns how much is held about a person, which policies learned from them first, and their erasures."""
    raters = pseudonyms(request, caller, user)
    hashes = [erasures.person_hash(caller.project, rater) for rater in raters]
    async with services(request).pool.connection() as connection:
        held = await held_data.summary(connection, caller.project, raters)
        cursor = await connection.execute(_ERASURES, [caller.project, hashes, MOST_ERASURES])
        asked: list[DictRow] = await cursor.fetchall()
    return {
        "pseudonyms": raters,
        **held,
        "erasures": [
            {
                "id": row["id"],
                "state": "running" if row["done_at"] is None else "done",
                "asked_at": rfc3339(row["asked_at"]),
            }
            for row in asked
        ],
    }
