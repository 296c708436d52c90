"""Authentication finds the caller of a request by its API key, and charges the caller's rate limits.

Keys come as `Authorization: Bearer …` (the websocket sends its key in the first message). An admin key
may do everything in its project; a secret key chats and votes for anyone; a publishable key is for browsers:
it chats with the default model and votes on the replies that it was given.

Each key has token buckets of its own, one for chats, one for votes and one for the rest. All visitors of a
page share its publishable key, so there each address has buckets too, and in it each user for their chats.
Who is refused by address takes nothing from the key's, so one visitor's flood leaves the others alone. A user
counts together with the address, since anybody may claim to be anyone.

A session token (`serving.sessions`), in the header `Hearken-Session`, says who it is that uses a key.
"""

import hashlib
import time
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Literal

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from schemas.errors import Forbidden, Unauthorized
from serving.keys import Caller
from serving.limits import Charge
from serving.services import services

Work = Literal["chats", "votes", "requests"]

SESSION_HEADER = "hearken-session"
"""The header of a visitor's session token."""

_CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")


async def authenticate(connection: HTTPConnection, key: str, work: Work = "requests") -> Caller:
    """Returns the caller with this key, charged one piece of `work`. Raises Unauthorized or RateLimited.

    A key that this process has not seen costs a database query, so whoever guesses keys is limited by
    address, and does not use up the limit of a known key.
    """
    parts = services(connection)
    if not parts.keys.contains(key):
        rate = parts.settings.serving.address_requests_per_minute
        parts.limiter.acquire(Charge(f"{address_of(connection)} keys", "unknown keys from one address", rate))
    found = await parts.keys.caller(key)
    charge(connection, found, work)
    return found


def charge(connection: HTTPConnection, caller: Caller | None, work: Work, count: int = 1) -> None:
    """Charges `count` pieces of `work` to the caller's key, and to the address of a page's visitor. Raises
    RateLimited."""
    limits = services(connection).settings.serving
    charges = []
    if caller is not None:
        charges.append(
            Charge(f"{caller.key_id} {work}", f"{work} with one key", limits.requests_per_minute, count)
        )
    if caller is None or caller.kind == "publishable":
        address, rate = address_of(connection), limits.address_requests_per_minute
        charges.append(Charge(f"{address} {work}", f"{work} from one address", rate, count))
    services(connection).limiter.acquire(*charges)


def charge_replies(connection: HTTPConnection, caller: Caller, replies: int, person: str | None) -> None:
    """Charges the replies of an authenticated chat after its first, and all of them to `person` (a pseudonym)
    where a page's visitor is one. Raises RateLimited."""
    if caller.kind == "publishable" and person is not None:
        rate = services(connection).settings.serving.user_requests_per_minute
        name = hashlib.blake2b(
            person.encode(), digest_size=8
        ).hexdigest()  # the limits are no record of people
        key = f"{address_of(connection)} {name}"
        services(connection).limiter.acquire(Charge(key, "chats of one user", rate, replies))
    if replies > 1:
        charge(connection, caller, "chats", replies - 1)


async def visitor(connection: HTTPConnection, caller: Caller, token: str | None) -> str | None:
    """Returns the pseudonym of a session token's holder; None without a token. Raises Unauthorized for a
    token that is not of this project, has expired, or was made with a key that was revoked."""
    if token is None:
        return None
    session = services(connection).signer.read_session(token)
    if (
        session is None
        or session.project != caller.project
        or session.expires <= time.time()
        or not await services(connection).keys.is_valid(session.key_id)
    ):
        raise Unauthorized(
            "This session is not valid, or has ended; get a new one from POST /v1/sessions.",
            code="invalid_session",
        )
    return session.rater


async def maybe_caller(request: Request) -> Caller | None:
    """Returns the caller, or None when the request has no key. Raises Unauthorized for a wrong key."""
    header = request.headers.get("authorization")
    if header is None:
        charge(request, None, _work(request))
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("Send your key as `Authorization: Bearer …`.")
    found = await authenticate(request, key.strip(), _work(request))
    request.state.key_id = found.key_id
    return found


async def caller(request: Request) -> Caller:
    found = await maybe_caller(request)
    if found is None:
        raise Unauthorized("Send your key as `Authorization: Bearer …`.")
    return found


async def reader(found: Annotated[Caller, Depends(caller)]) -> Caller:
    """Returns the caller. Raises Forbidden for a publishable key, which reads nothing that is stored."""
    if found.kind == "publishable":
        raise Forbidden("A publishable key may not read what is stored; use a secret key.")
    return found


Reader = Annotated[Caller, Depends(reader)]


async def admin(request: Request) -> Caller:
    found = await caller(request)
    if found.kind != "admin":
        raise Forbidden("This needs the admin key of the project.")
    return found


def _work(request: Request) -> Work:
    if request.method != "POST":
        return "requests"
    if request.url.path.startswith("/v1/feedback"):
        return "votes"
    return "chats" if request.url.path in _CHATS else "requests"


def address_of(connection: HTTPConnection) -> str:
    """Returns the rate limiter's key of the client's address. One person may have all of an IPv6 network of
    64 bits, so that counts as one."""
    host = connection.client.host if connection.client else ""
    with suppress(ValueError):
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            host = str(ip_network((address, 64), strict=False))
    return f"address:{host}"
