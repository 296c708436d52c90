"""`POST /v1/sessions` makes a session: a signed token that says who uses a key on a page.

A publishable key is everybody's, so with it a session stands for somebody new, or, where the request has the
token of a session, for the same person for longer, still by the word of the key that it was made with. A
secret key names its `user`: a team's server asks for that person's token and hands it to the page, and the
person is the same whether the page or the server chats for them. The token goes into the header
`Hearken-Session` of chats, or into the first message of a websocket. It cannot be forged; it ends after
SESSION_DAYS, and when the key that it was made with is revoked.
"""

import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, TypeAdapter

from schemas.errors import Forbidden, InvalidRequest
from schemas.times import rfc3339
from schemas.users import UserName
from schemas.wire import check, decode
from serving.auth import SESSION_HEADER, User, address_of, visitor
from serving.identity import Visitor
from serving.limits import Charge
from serving.openapi import request_body
from serving.services import services
from serving.token_signer import Session

SESSION_DAYS = 90
"""Days after which a session ends; the widget renews it before, where it is visited."""

_NEW_VISITORS = 10  # one for so many requests that an address may send

router = APIRouter()


class NewSession(BaseModel):
    """Whose session it is; nobody's name with a publishable key."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user: UserName | None = None


_NEW_SESSION = TypeAdapter(NewSession)


@router.post("/v1/sessions", status_code=201, openapi_extra=request_body("/v1/sessions", NewSession))
async def create_session(request: Request, caller: User) -> dict[str, Any]:
    parts = services(request)
    body = await request.body()
    user = check(_NEW_SESSION, decode(body)).user if body else None
    if caller.kind == "publishable":
        if user is not None:
            raise Forbidden(
                "A publishable key names nobody; your server asks for this user's session with a secret key.",
                code="user_not_allowed",
            )
        rate = max(1, parts.settings.serving.address_requests_per_minute // _NEW_VISITORS)
        parts.limiter.acquire(
            Charge(f"{address_of(request)} sessions", "new sessions from one address", rate)
        )
        known = await visitor(request, caller, request.headers.get(SESSION_HEADER))
        person = known or Visitor(parts.signer.visitor_id(caller.project), caller.key_id, named=False)
    elif user is None:
        raise InvalidRequest("Name the user whose session it is.", code="missing", param="user")
    else:
        rater = parts.signer.rater_id(caller.project, user, caller.kind)
        person = Visitor(rater, caller.key_id, named=True)
    expires = int(time.time()) + SESSION_DAYS * 24 * 3600
    token = parts.signer.session_token(Session(caller.project, person.rater, person.key_id, expires))
    return {"token": token, "expires_at": rfc3339(datetime.fromtimestamp(expires, UTC))}
