"""Authentication finds the caller of a request by its API key, checks what it may do, and charges its limits.

Keys come as `Authorization: Bearer …` (the websocket sends its key in the first message). A key has roles
(`schemas.keys`), and a publishable key may be bound to the origins of the pages that use it.

Each key has token buckets of its own, one for chats, one for votes and one for the rest. All visitors of a
page share its publishable key, so there each address has buckets too, and in it each user for their chats.
Who is refused by address takes nothing from the key's, so one visitor's flood leaves the others alone. A user
counts together with the address, since anybody may claim to be anyone. Quotas of a key replace the limits of
the settings, and may limit the tokens of its chats: those are counted once they are known, so a chat may
leave a debt, during which the next is refused.

A session token (`serving.sessions`), in the header `Hearken-Session`, says who it is that uses a key.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from starlette.requests import HTTPConnection

from schemas.database import set_actor
from schemas.errors import Forbidden, RateLimited, Unauthorized
from schemas.keys import Quota, Role
from serving.identity import Visitor
from serving.keys import Caller
from serving.limits import Charge
from serving.services import Services, services

Work = Literal["chats", "votes", "requests"]

SESSION_HEADER = "hearken-session"
"""The header of a visitor's session token."""

_CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")


async def authenticate(connection: HTTPConnection, key: str, work: Work = "requests") -> Caller:
    """Returns the caller with this key, charged one piece of `work`. Raises Unauthorized, RateLimited, and
    Forbidden for a page that the key is not for.

    A key that this process has not seen costs a database query, so whoever guesses keys is limited by
    address, and does not use up the limit of a known key.
    """
    parts = services(connection)
    if not parts.keys.contains(key):
        rate = parts.settings.serving.address_requests_per_minute
        parts.limiter.acquire(Charge(f"{address_of(connection)} keys", "unknown keys from one address", rate))
    found = await parts.keys.caller(key)
    _check_origin(connection, found)
    charge(connection, found, work)
    return found


def _check_origin(connection: HTTPConnection, caller: Caller) -> None:
    """Raises Forbidden for a browser's page that is neither this service's own nor one of the key's."""
    origin = connection.headers.get("origin")
    if origin is None or not caller.origins or origin in caller.origins:
        return
    if urlsplit(origin).netloc != connection.headers.get("host"):
        raise Forbidden(
            f"This key is not for pages of {origin[:255]}; an admin of the project adds them to the key.",
            code="origin_not_allowed",
        )


def charge(connection: HTTPConnection, caller: Caller | None, work: Work, count: int = 1) -> None:
    """Charges `count` pieces of `work` to the caller's key, and to the address of a page's visitor. Raises
    RateLimited."""
    parts = services(connection)
    limits, charges = parts.settings.serving, []
    if caller is not None:
        rate = caller.quotas.key.requests or limits.requests_per_minute
        charges.append(Charge(f"{caller.key_id} {work}", f"{work} with one key", rate, count))
    own = caller.quotas.address.requests if caller else None
    if caller is None or caller.kind == "publishable" or own:
        key = f"{address_of(connection)} {work}" + (f" {caller.key_id}" if caller and own else "")
        rate = own or limits.address_requests_per_minute
        charges.append(Charge(key, f"{work} from one address", rate, count))
    try:
        parts.limiter.acquire(*charges)
    except RateLimited:
        if caller is not None:
            parts.usage.count(caller, refused=count)
        raise
    if caller is not None:
        parts.usage.count(caller, **{work: count})


def charge_replies(
    connection: HTTPConnection, caller: Caller, replies: int, person: str | None
) -> list[Charge]:
    """Charges the replies of an authenticated chat after its first, and all of them to `person` (a pseudonym)
    where there is a limit of theirs. Returns what its tokens are to be charged to (`RateLimiter.spend`).
    Raises RateLimited, also while one of those is in debt."""
    parts, quotas, address = services(connection), caller.quotas, address_of(connection)
    publishable = caller.kind == "publishable"
    rate = quotas.person.requests or (
        parts.settings.serving.user_requests_per_minute if publishable else None
    )
    who = f"{address if publishable else caller.key_id} {_hidden(person)}" if person else None
    tokens = [
        Charge(f"{key} tokens", f"tokens of {name}", quota.tokens, 0)
        for key, name, quota in _token_quotas(caller, who, address)
        if quota.tokens is not None
    ]
    of_person = [Charge(who, "chats of one user", rate, replies)] if rate and who is not None else []
    try:
        parts.limiter.acquire(*of_person, *tokens)
    except RateLimited:
        parts.usage.count(caller, refused=replies)
        raise
    if replies > 1:
        charge(connection, caller, "chats", replies - 1)
    return tokens


def charge_network(parts: Services, origin: str) -> None:
    """Charges a vote on a reply to somebody whom no server names to the network of `serving.identity`. Raises
    RateLimited."""
    most = parts.settings.serving.network_votes_per_hour
    parts.limiter.acquire(Charge(f"network:{origin} votes", "votes from one network", most, period="an hour"))


def _hidden(person: str) -> str:
    """Returns a name for a pseudonym: the limits are no record of people."""
    return hashlib.blake2b(person.encode(), digest_size=8).hexdigest()


def _token_quotas(caller: Caller, person: str | None, address: str) -> list[tuple[str, str, Quota]]:
    key, quotas = caller.key_id, caller.quotas
    found = [(key, "one key", quotas.key), (f"{address} {key}", "one address", quotas.address)]
    return found if person is None else [*found, (f"{person} {key}", "one user", quotas.person)]


async def visitor(connection: HTTPConnection, caller: Caller, token: str | None) -> Visitor | None:
    """Returns a session token's holder; None without a token. Raises Unauthorized for a token that is not of
    this project, has expired, or was made with a key that was revoked."""
    if token is None:
        return None
    session = services(connection).signer.read_session(token)
    if session is not None and session.project == caller.project and session.expires > time.time():
        kind = await services(connection).keys.kind_of(session.key_id)
        if kind is not None:
            return Visitor(session.rater, session.key_id, named=kind != "publishable")
    raise Unauthorized(
        "This session is not valid, or has ended; get a new one from POST /v1/sessions.",
        code="invalid_session",
    )


def require(found: Caller, *roles: Role) -> Caller:
    """Returns the caller. Raises Forbidden where its key has none of the roles."""
    if not any(found.may(role) for role in roles):
        raise Forbidden(f"This needs a key with the role {' or '.join(roles)}.")
    return found


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


def _with_role(*roles: Role) -> Callable[[Request], Awaitable[Caller]]:
    """Returns a dependency that finds the caller and raises Forbidden where it has none of the roles."""

    async def found(request: Request) -> Caller:
        return require(await caller(request), *roles)

    return found


async def viewer(request: Request) -> Caller:
    """Returns a caller that may see the console. Raises Forbidden for a server's key that was given no role
    by name: it reads votes and completions, and no more."""
    found = require(await caller(request), "read")
    if found.kind == "secret" and found.roles is None:
        raise Forbidden(
            "This needs a key that was given the role read, as by `hearken keys create --role read`."
        )
    return found


User = Annotated[Caller, Depends(_with_role("chat", "vote"))]
Voter = Annotated[Caller, Depends(_with_role("vote"))]
Reader = Annotated[Caller, Depends(_with_role("read"))]
Viewer = Annotated[Caller, Depends(viewer)]
Operator = Annotated[Caller, Depends(_with_role("operate"))]
Admin = Annotated[Caller, Depends(_with_role("admin"))]


@asynccontextmanager
async def acting(connection: HTTPConnection, caller: Caller) -> AsyncIterator[AsyncConnection[DictRow]]:
    """Yields a database connection for one transaction, whose changes the audit log has under the caller's
    key. It commits at the end of the block."""
    async with services(connection).pool.connection() as database:
        await set_actor(database, actor_of(caller))
        yield database


def actor_of(caller: Caller) -> str:
    """Returns how the audit log names the caller."""
    return f"key:{caller.key_id}"


def _work(request: Request) -> Work:
    if request.method != "POST":
        return "requests"
    if request.url.path.startswith("/v1/feedback"):
        return "votes"
    return "chats" if request.url.path in _CHATS else "requests"


def network_of(connection: HTTPConnection) -> str:
    """Returns the network of the client's address, of which one person or firm may have all: the first 24
    bits of an IPv4 address, 64 of an IPv6 address."""
    host = connection.client.host if connection.client else ""
    with suppress(ValueError):
        address = ip_address(host)
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        bits = 64 if isinstance(address, IPv6Address) else 24
        return str(ip_network((address, bits), strict=False))
    return host


def address_of(connection: HTTPConnection) -> str:
    """Returns the rate limiter's key of the client's address. One person may have all of an IPv6 network of
    64 bits, so that counts as one."""
    host = connection.client.host if connection.client else ""
    with suppress(ValueError):
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            host = str(ip_network((address, 64), strict=False))
    return f"address:{host}"
