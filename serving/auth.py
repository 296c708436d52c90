"""Authentication finds the caller of a request by its API key, and charges the caller's rate limit.

Keys come as `Authorization: Bearer …` (the websocket sends its key in the first message). An admin key
may do everything in its project; a secret key chats and votes for anyone; a publishable key is for browsers:
it chats with the default model and votes on the replies that it was given.
"""

from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request
from starlette.requests import HTTPConnection

from schemas.errors import Forbidden, Unauthorized
from serving.keys import Caller
from serving.services import services


async def authenticate(connection: HTTPConnection, key: str) -> Caller:
    """Returns the caller with this key. Raises Unauthorized or RateLimited.

    A key that this process has not seen counts as a request without one, since each costs a database query.
    Whoever guesses keys is limited by address, and does not use up the limit of a known key.
    """
    parts = services(connection)
    if not parts.keys.contains(key):
        parts.limiter.acquire(address_of(connection))
    found = await parts.keys.caller(key)
    parts.limiter.acquire(found.key_id)
    return found


async def maybe_caller(request: Request) -> Caller | None:
    """Returns the caller, or None when the request has no key. Raises Unauthorized for a wrong key."""
    header = request.headers.get("authorization")
    if header is None:
        services(request).limiter.acquire(address_of(request))
        return None
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("Send your key as `Authorization: Bearer …`.")
    found = await authenticate(request, key.strip())
    request.state.key_id = found.key_id
    return found


async def caller(request: Request) -> Caller:
    found = await maybe_caller(request)
    if found is None:
        raise Unauthorized("Send your key as `Authorization: Bearer …`.")
    return found


async def admin(request: Request) -> Caller:
    found = await caller(request)
    if found.kind != "admin":
        raise Forbidden("This needs the admin key of the project.")
    return found


def address_of(connection: HTTPConnection) -> str:
    """Returns the rate limiter's key of the client's address. One person may have all of an IPv6 network of
    64 bits, so that counts as one."""
    host = connection.client.host if connection.client else ""
    with suppress(ValueError):
        address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            host = str(ip_network((address, 64), strict=False))
    return f"address:{host}"
