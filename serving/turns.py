"""`POST /v1/turns` records a prompt and replies that Hearken did not write, so that people can vote on them.

A team's server that has its own chat sends what was said, and gets a completion id and a feedback token, for
`<hearken-vote>` or `POST /v1/feedback`. Such a turn is stored like an imported one: of no policy, without
log-probabilities, and without token ids, which the trainer adds, since serving has no tokenizer.
"""

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.chat import parse_chat
from schemas.errors import Forbidden, InvalidRequest
from schemas.turns import IMPORTED, IMPORTED_POLICY, Reply, Turn
from schemas.users import UserName
from schemas.wire import check, decode
from serving.auth import Voter
from serving.completion import unstored_id
from serving.openapi import request_body
from serving.services import services

router = APIRouter()


class NewTurn(BaseModel):
    """The messages up to the person's last one, and one reply or several. `user` is the person; `metadata` as
    in a chat request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    replies: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=128)]
    user: UserName | None = None
    metadata: dict[str, Any] | None = None


_NEW_TURN = TypeAdapter(NewTurn)


@router.post("/v1/turns", status_code=201, openapi_extra=request_body("/v1/turns", NewTurn))
async def record_turn(request: Request, response: Response, caller: Voter) -> dict[str, Any]:
    """Records the turn; of a person who does not want to be learned from nothing is kept, so there is no
    feedback token (200)."""
    if caller.kind == "publishable":
        raise Forbidden("A publishable key may not record what was said; use a secret key on your server.")
    parts = services(request)
    new = check(_NEW_TURN, decode(await request.body()))
    if len(new.replies) > parts.settings.serving.max_choices:
        raise InvalidRequest(
            f"There may be at most {parts.settings.serving.max_choices} replies.", param="replies"
        )
    chat = parse_chat({"messages": new.messages, "metadata": new.metadata})
    if chat.media:
        raise InvalidRequest("A recorded turn has text only.", param="messages")
    conversation = chat.metadata.get("conversation_id") or f"conv-{secrets.token_hex(12)}"
    rater = (
        parts.signer.conversation_rater(caller.project, conversation)
        if new.user is None
        else parts.signer.rater_id(caller.project, new.user, caller.kind)
    )
    if not await parts.store.may_store(caller.project, rater, caller.key_id):
        response.status_code = 200
        return {"completion_id": unstored_id(), "conversation_id": conversation, "feedback_token": None}
    id = IMPORTED + secrets.token_hex(16)
    turn = Turn(
        id=id,
        project=caller.project,
        conversation_id=conversation,
        rater=rater,
        key_id=caller.key_id,
        messages=[message.model_dump(exclude_none=True) for message in chat.messages],
        prompt_token_ids=[],
        sampling={},
        replies=[
            Reply(choice, IMPORTED_POLICY, 1.0, text, [], [], "stop")
            for choice, text in enumerate(new.replies)
        ],
        metadata=dict(chat.metadata),
    )
    await parts.store.record_turn(await parts.redaction.turn(turn))
    return {
        "completion_id": id,
        "conversation_id": conversation,
        "feedback_token": parts.signer.feedback_token(id),
    }
