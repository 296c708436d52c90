"""Annotation queues of the console: replies that several raters judge, and how far they agree."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import Response

from feedback import annotation, desk, stored_turns
from feedback.annotation import MOST_ITEMS, MOST_RATERS
from schemas.errors import InvalidRequest, NotFound
from schemas.feedback import Ranking, Reason, Thumb
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Operator, Viewer, acting, require
from serving.services import services
from serving.vote_query import VoteQuery
from serving.vote_submission import submit_vote

router = APIRouter(prefix="/v1/console/queues")

Name = Annotated[str, Field(min_length=1, max_length=64)]


class _NewQueue(BaseModel):
    """A queue of the newest `items` turns with a vote that the filter selects; each gets answers of `raters`
    raters."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    raters: Annotated[int, Field(ge=1, le=MOST_RATERS)] = 2
    items: Annotated[int, Field(ge=1, le=MOST_ITEMS)] = 50
    filter: VoteQuery = VoteQuery()


class _Answer(BaseModel):
    """What a rater says of a turn: a thumb on its only reply, or a ranking of its replies."""

    model_config = ConfigDict(strict=True, extra="forbid")

    rater: Name
    completion_id: Annotated[str, Field(min_length=1, max_length=128)]
    value: Literal["up", "down"] | None = None
    ranking: Annotated[list[Annotated[list[int], Field(max_length=128)]], Field(max_length=128)] | None = None
    acceptable: bool = True
    reasons: Annotated[list[Reason], Field(max_length=8)] = []
    comment: Annotated[str, Field(max_length=10_000)] | None = None


_NEW_QUEUE, _ANSWER = TypeAdapter(_NewQueue), TypeAdapter(_Answer)


@router.get("")
async def queues(request: Request, caller: Viewer) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        found = await annotation.queues(connection, caller.project)
    return {"object": "list", "data": [with_times(queue) for queue in found]}


@router.post("", status_code=201)
async def create_queue(request: Request, caller: Operator) -> dict[str, Any]:
    parts = services(request)
    new = check(_NEW_QUEUE, decode(await request.body()))
    only = new.filter.filter(parts.signer, caller.project)
    async with acting(request, caller) as connection:
        id = await annotation.create(connection, caller.project, new.name, new.raters, only, new.items)
        return with_times(await annotation.queue(connection, caller.project, id))


@router.get("/{id}")
async def queue(request: Request, caller: Viewer, id: str) -> dict[str, Any]:
    """Returns a queue with its answers so far and the agreement of its raters."""
    async with services(request).pool.connection() as connection:
        found = await annotation.queue(connection, caller.project, id)
        return {**with_times(found), **await annotation.progress(connection, found)}


@router.delete("/{id}", status_code=204)
async def delete_queue(request: Request, caller: Operator, id: str) -> Response:
    async with acting(request, caller) as connection:
        await annotation.delete(connection, caller.project, id)
    return Response(status_code=204)


@router.get("/{id}/next")
async def next_item(
    request: Request, caller: Viewer, id: str, rater: Annotated[str, Query(min_length=1, max_length=64)]
) -> dict[str, Any]:
    """Returns the next turn for this rater, without its policy and the votes of others; `item` is null where
    all is done."""
    parts = services(request)
    async with parts.pool.connection() as connection:
        found = await annotation.queue(connection, caller.project, id)
        item = await annotation.next_item(connection, found, rater)
    if item is None:
        return {"item": None}
    turn = await stored_turns.find(parts.pool, caller.project, item["turn_id"])
    if turn is None:  # it was deleted in this moment
        return await next_item(request, caller, id, rater)
    replies = [{"choice": reply.choice, "text": reply.text} for reply in turn.replies]
    return {
        "item": {
            "position": item["position"],
            "completion_id": turn.id,
            "messages": turn.messages[-desk.MOST_TURNS :],
            "replies": replies,
        }
    }


@router.post("/{id}/answers", status_code=201)
async def answer(request: Request, caller: Viewer, id: str) -> dict[str, str]:
    """Records an answer as a vote of this rater."""
    parts = services(request)
    require(caller, "vote")
    said = check(_ANSWER, decode(await request.body()))
    if (said.value is None) == (said.ranking is None):
        raise InvalidRequest("An answer has either a value or a ranking.", param="value")
    user = f"annotator:{said.rater}"
    async with parts.pool.connection() as connection:
        await annotation.queue(connection, caller.project, id)
        if not await annotation.has_turn(connection, id, said.completion_id):
            raise NotFound("This turn is not in the queue.", code="item_not_found", param="completion_id")
        rater = parts.signer.rater_id(caller.project, user, caller.kind)
        await annotation.enrol(connection, caller.project, id, said.rater, rater)
    about: dict[str, Any] = {
        "completion_id": said.completion_id, "user": user, "reasons": said.reasons,
        "comment": said.comment or None,
    }  # fmt: skip
    if said.ranking is not None:
        ranked: dict[str, Any] = {"ranking": said.ranking, "acceptable": said.acceptable}
        return await submit_vote(parts, caller, Ranking(type="ranking", **ranked, **about))
    assert said.value is not None  # noqa: S101  (one of the two is given)
    return await submit_vote(parts, caller, Thumb(type="thumb", value=said.value, **about))
