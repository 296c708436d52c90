"""`/v1/widget` is how a project's chat looks on a page: any key that chats or votes reads it, an operator's
replaces it.

Two fields are no settings: `tastes` says that people's tastes differ here, so a visitor may be asked for
theirs; `card` is where everybody reads what the live policy learned from."""

from typing import Any

from fastapi import APIRouter, Request
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from schemas.widget import Appearance
from schemas.wire import check, decode
from serving.auth import Operator, User, acting
from serving.services import services

router = APIRouter()

_APPEARANCE = TypeAdapter(Appearance)


@router.get("/v1/widget")
async def appearance(request: Request, caller: User) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        cursor = await connection.execute(
            "select widget, public_cards from projects where id = %s", [caller.project]
        )
        row = await cursor.fetchone()
    found = dict(row["widget"]) if row else {}
    if await services(request).tastes.model(caller.project) is not None:
        found["tastes"] = True
    if row and row["public_cards"]:
        found["card"] = f"/cards/{caller.project}"
    return found


@router.put("/v1/widget")
async def set_appearance(request: Request, caller: Operator) -> dict[str, Any]:
    """Replaces all of it; a field that is left out has its default again."""
    said = check(_APPEARANCE, decode(await request.body())).model_dump(exclude_none=True)
    async with acting(request, caller) as connection:
        await connection.execute(
            "update projects set widget = %s where id = %s", [Jsonb(said), caller.project]
        )
    return said
