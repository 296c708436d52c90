"""Who is calling, and the seals that need no database: feedback tokens and hashed users.

Keys come as `Authorization: Bearer …` (the websocket sends its key in the first message). An admin key
may do everything in its project, a secret key chats and votes for anyone, a publishable key is for
browsers: it chats with the default model and votes on what it was shown.
"""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import Literal, cast

from fastapi import Request
from starlette.requests import HTTPConnection

from schemas.database import AsyncPool
from schemas.errors import Forbidden, Unauthorized
from serving.keys import key_hash

Kind = Literal["admin", "secret", "publishable"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key came with a request. `key_id` may be logged."""

    key_id: str
    project: str
    kind: Kind


class Seals:
    """Keyed hashes under the installation's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def feedback_token(self, completion_id: str) -> str:
        """Allows voting on this completion and on nothing else."""
        return base64.urlsafe_b64encode(self._mac("feedback", completion_id)[:24]).decode()

    def opens(self, completion_id: str, token: str) -> bool:
        return hmac.compare_digest(self.feedback_token(completion_id).encode(), token.encode())

    def rater(self, project: str, user: str, kind: Kind) -> str:
        """The name under which a person's votes are kept: the same person, never who.

        Whom a publishable key names is never whom another key names: anybody may hold it and claim to be
        anyone. So a `user` is two raters at most, and both follow from the name.
        """
        label = "claimed" if kind == "publishable" else "rater"
        return "u_" + self._mac(label, project, user).hex()[:32]

    def _mac(self, *parts: str) -> bytes:
        return hmac.digest(self._secret, "\0".join(parts).encode(), hashlib.sha256)


class Keyring:
    """Looks callers up by key, and remembers them for some seconds: a revoked key ends that soon."""

    def __init__(self, pool: AsyncPool, *, remember: float = 10) -> None:
        self._pool = pool
        self._remember = remember
        self._known: dict[bytes, tuple[float, Caller]] = {}

    def knows(self, token: str) -> bool:
        """Whether this key was good here once, and has not been met as revoked."""
        return key_hash(token) in self._known

    async def caller(self, token: str) -> Caller:
        """Raises Unauthorized for a key that is unknown or revoked."""
        digest = key_hash(token)
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "select id, project, kind from keys where hash = %s and revoked_at is null", [digest]
            )
            row = await cursor.fetchone()
        if row is None:
            self._known.pop(digest, None)
            raise Unauthorized(
                "This key is unknown or was revoked. `hearken up` shows a new installation's keys."
            )
        found = Caller(row["id"], row["project"], cast(Kind, row["kind"]))
        self._known[digest] = (time.monotonic() + self._remember, found)
        return found


async def authenticate(connection: HTTPConnection, token: str) -> Caller:
    """The caller with this key. Raises Unauthorized or RateLimited.

    A key that this process has not met counts as a request without one, as each costs a question to the
    database. Whoever guesses keys so stops nobody whose key is known.
    """
    state = connection.app.state
    if not state.keyring.knows(token):
        state.limiter.take(_address(connection))
    found: Caller = await state.keyring.caller(token)
    state.limiter.take(found.key_id)
    return found


async def maybe_caller(request: Request) -> Caller | None:
    """The caller, or None when the request brought no key at all. A wrong key is never ignored."""
    header = request.headers.get("authorization")
    if header is None:
        request.app.state.limiter.take(_address(request))
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("Send your key as `Authorization: Bearer …`.")
    found = await authenticate(request, token.strip())
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


def _address(connection: HTTPConnection) -> str:
    """The limiter's name for where a request without a key of its own came from."""
    return f"address:{connection.client.host if connection.client else ''}"
