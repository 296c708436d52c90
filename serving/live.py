"""`WS /v1/live` is a websocket for chats, votes, and notifications of what the model has learned.

The client's first message is `{"type": "auth", "key"}`, with the `session` token of a visitor. After `ready`
it sends `chat` (a chat request with an `id`; several may run at once), `cancel` (`id`), `feedback` (`id`,
`feedback`: a vote) and `consent` (`id`, `learning`: the visitor's choice, for all that it sends after that).
It receives `token`, `done` (the completion), `recorded`, `consent`, and `error` (with the `id`, if there was
one, and `retry_after` seconds where it passes; code `cancelled` ends a cancelled chat, of which nothing is
stored). The service also sends `policy` (another policy is live) and `learned` (a vote through this
websocket, of its session's person, or of one whom a server's key chatted for, is in a policy that went live),
once per vote, whichever process promoted the policy. A key or session that is wrong or revoked closes the
websocket (4401); so do too many messages (1008), an hour without one (1000), and too many websockets of one
address, or a failure that passes (1013).
"""

import asyncio
import json
import random
import time
from collections import OrderedDict
from contextlib import aclosing, suppress
from typing import Any

import structlog
from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from feedback import consent
from schemas.chat import ChatRequest, parse_chat
from schemas.errors import (
    InvalidRequest,
    RateLimited,
    RequestError,
    RetryLater,
    TooLarge,
    Unauthorized,
)
from schemas.feedback import parse_vote
from schemas.keys import Role
from schemas.wire import check, decode
from serving.auth import Work, address_of, authenticate, charge_replies, network_of, require, visitor
from serving.completion import Completion
from serving.consent import CHOICE, obey_consent
from serving.error_handlers import TRANSIENT_ERRORS, InternalError, to_request_error
from serving.identity import Visitor
from serving.keys import Caller
from serving.limits import TokenBucket
from serving.services import Services, services
from serving.streams import WRITE_SECONDS
from serving.users import VISITOR
from serving.vote_submission import submit_vote

router = APIRouter()
log = structlog.get_logger()

MOST_KNOWN = 10_000
"""Votes through one websocket, and people whom it chatted for, whose news it hears: the newest. A server may
keep one open for months."""

_WORK: dict[str, Work] = {"chat": "chats", "feedback": "votes", "consent": "requests"}
_ROLES: dict[str, tuple[Role, ...]] = {
    "chat": ("chat",), "feedback": ("vote",), "consent": ("chat", "vote"),
}  # fmt: skip

_AUTH_TIMEOUT = 10  # seconds
_MAX_CHATS = 16
_MAX_FRAMES = 256  # queued for a client; beyond that its own replies wait for it to read
_PER_SECOND, _BURST = 20, 100  # messages of a client
_IDLE_SECONDS = 3600.0  # without a message from the client
_WATCH_SECONDS = 30.0  # between looks at whether the key is still valid

# Close codes.
_IDLE = 1000
_FLOODED = 1008
_TRY_LATER = 1013
_AUTH_FAILED = 4401


class LiveSocket:
    """One websocket, authenticated with `key` as `caller`, and with a session token as `visitor`; a
    `Subscriber` of the hub."""

    def __init__(
        self, websocket: WebSocket, caller: Caller, key: str, session: str | None, visitor: Visitor | None
    ) -> None:
        self.caller = caller
        self.votes: OrderedDict[str, None] = OrderedDict()
        self.raters: OrderedDict[str, None] = OrderedDict()
        if visitor is not None:
            keep_newest(self.raters, visitor.rater)
        self._visitor = visitor
        self._session = session
        self._key = key
        self._websocket = websocket
        self._services = services(websocket)
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_FRAMES)
        self._chats: dict[str, asyncio.Task[None]] = {}
        self._generating: set[str] = set()  # the chats that a client may still cancel
        self._heard = time.monotonic()
        self._bucket = TokenBucket(_BURST, _PER_SECOND)
        self._key_changed = asyncio.Event()

    async def run(self) -> None:
        """Runs until the client disconnects, and then cancels its chats."""
        tasks = {asyncio.create_task(each) for each in (self._read(), self._write(), self._watch())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks |= set(self._chats.values())
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, TimeoutError):
                    log.warning("client_stalled", seconds=WRITE_SECONDS)
                elif isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                    log.error("websocket_failed", exc_info=result)

    @property
    def busy(self) -> bool:
        return bool(self._chats) or not self._frames.empty()

    def notify(self, frame: dict[str, Any]) -> None:
        if not self._frames.full():
            self._frames.put_nowait(frame)

    def recheck(self) -> None:
        self._key_changed.set()

    async def _write(self) -> None:
        while True:
            frame = _encode(await self._frames.get())
            async with asyncio.timeout(WRITE_SECONDS):
                await self._websocket.send_text(frame)
            self._frames.task_done()

    async def _read(self) -> None:
        try:
            while True:
                frame = await _receive(self._websocket)
                self._heard = time.monotonic()
                if not self._bucket.take():
                    await self._send_error(None, RateLimited(f"More than {_PER_SECOND} messages a second."))
                    await self._close(_FLOODED)
                    return
                await self._handle(frame)
        except Unauthorized:
            await self._close(_AUTH_FAILED)

    async def _watch(self) -> None:
        """Ends the websocket when its key is revoked or expires, its session ends, or nothing was heard for
        long."""
        while time.monotonic() - self._heard < _IDLE_SECONDS:
            seconds = _WATCH_SECONDS * random.uniform(0.5, 1)  # not all at once
            if (ends := self.caller.expires_at) is not None:
                seconds = min(seconds, max(0.0, ends.timestamp() - time.time()) + 0.1)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._key_changed.wait(), seconds)
            self._key_changed.clear()
            try:
                with suppress(*TRANSIENT_ERRORS):
                    self.caller = await self._services.keys.caller(self._key)
                    await visitor(self._websocket, self.caller, self._session)
            except Unauthorized as error:
                await self._send_error(None, error)
                await self._close(_AUTH_FAILED)
                return
        await self._close(_IDLE)

    async def _close(self, code: int) -> None:
        """Closes the websocket after what is queued has been sent."""
        await self._frames.join()
        await self._websocket.close(code)

    async def _handle(self, raw: str | bytes) -> None:
        """Executes a message, or answers with an error. Raises Unauthorized, after sending it, when the key
        was revoked."""
        frame: Any = None
        limit = self._services.settings.serving.max_body_bytes
        try:
            if len(raw) > limit:
                raise TooLarge(f"A message may have {limit} bytes.")
            frame = decode(raw)
            await self._dispatch(frame)
        except Unauthorized as error:
            await self._send_error(_id_of(frame), error)
            raise
        except (RequestError, *TRANSIENT_ERRORS) as error:
            await self._send_error(_id_of(frame), to_request_error(error))

    async def _dispatch(self, frame: Any) -> None:
        kind = frame.get("type") if isinstance(frame, dict) else None
        name = _id_of(frame)
        if kind == "cancel":
            if name in self._generating:
                self._chats[name].cancel()
            return
        if kind not in ("chat", "feedback", "consent"):
            raise InvalidRequest("`type` must be chat, cancel, feedback or consent.", param="type")
        if name is None:
            raise InvalidRequest("Give the message an `id`, a string of 1 to 64 characters.", param="id")
        self.caller = require(await authenticate(self._websocket, self._key, _WORK[kind]), *_ROLES[kind])
        if kind == "consent":
            await self._frames.put({"type": "consent", "id": name, **await self._choose(frame)})
        elif kind == "chat":
            chat = parse_chat({key: frame[key] for key in frame if key not in ("type", "id")})
            network = network_of(self._websocket)
            chat = await obey_consent(self._services, self.caller, chat, self._visitor, network)
            self._start_chat(name, chat, network)
            await asyncio.sleep(0)  # it has begun before the next message may cancel it
        else:
            recorded = await submit_vote(self._services, self.caller, parse_vote(frame.get("feedback")))
            keep_newest(self.votes, recorded["id"])
            await self._frames.put({"type": "recorded", "id": name, "feedback": recorded})

    async def _choose(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Records whether the visitor is learned from. Raises InvalidRequest."""
        if self._visitor is None:
            raise InvalidRequest(
                "Only who has a session chooses; send it with the first message.",
                code="missing_session",
                param="session",
            )
        said = check(CHOICE, {"learning": frame.get("learning")})
        async with self._services.pool.connection() as connection:
            return await consent.choose(
                connection, self.caller.project, [self._visitor.rater], said.learning, VISITOR
            )

    def _start_chat(self, name: str, chat: ChatRequest, network: str) -> None:
        if name in self._chats:
            raise InvalidRequest(f"A chat with id {name} is running.", param="id", code="id_in_use")
        if len(self._chats) >= _MAX_CHATS:
            raise RateLimited(f"{_MAX_CHATS} chats are running on this websocket; wait until one has ended.")
        completion = Completion(self._services, self.caller, chat, self._visitor, network=network)
        completion.token_buckets = charge_replies(self._websocket, self.caller, chat.n, completion.person)
        if self.caller.kind != "publishable":  # whoever holds such a key may claim to be anyone
            keep_newest(self.raters, completion.rater)
        self._generating.add(name)
        self._chats[name] = asyncio.create_task(self._chat(name, completion))

    async def _chat(self, name: str, completion: Completion) -> None:
        try:
            async with aclosing(completion.deltas()) as deltas:
                async for delta in deltas:
                    if delta.text:
                        frame = {"type": "token", "id": name, "choice": delta.choice, "text": delta.text}
                        await self._frames.put(frame)
            self._generating.discard(name)  # it is kept from here on
            await completion.record()
            await self._frames.put({"type": "done", "id": name, "completion": completion.response()})
        except asyncio.CancelledError:
            cancelled = InvalidRequest("The chat was cancelled; nothing of it was stored.", code="cancelled")
            self.notify({"type": "error", "id": name, **cancelled.envelope()})
            raise
        except (RequestError, *TRANSIENT_ERRORS) as error:
            await self._send_error(name, to_request_error(error))
        except Exception:  # a bug in one chat must not end the others
            log.exception("websocket_chat_failed", completion=completion.id)
            await self._send_error(name, InternalError(completion.id))
        finally:
            del self._chats[name]
            self._generating.discard(name)

    async def _send_error(self, name: str | None, error: RequestError) -> None:
        self._services.metrics.refused.labels(error.code).inc()
        await self._frames.put(_error_frame(name, error))


def keep_newest(names: OrderedDict[str, None], name: str) -> None:
    """Adds a name, the newest, and drops the oldest of more than MOST_KNOWN."""
    names[name] = None
    names.move_to_end(name)
    if len(names) > MOST_KNOWN:
        names.popitem(last=False)


@router.websocket("/v1/live")
async def live(websocket: WebSocket) -> None:
    parts = services(websocket)
    await websocket.accept()
    most = parts.settings.serving.websockets_per_address
    try:
        with parts.limiter.concurrently("websockets", most, of=address_of(websocket)):
            await _serve(websocket, parts)
    except RateLimited as error:
        await _refuse(websocket, parts, error, _TRY_LATER)


async def _refuse(websocket: WebSocket, parts: Services, error: RequestError, code: int) -> None:
    parts.metrics.refused.labels(error.code).inc()
    await websocket.send_text(_encode(_error_frame(None, error)))
    await websocket.close(code)


async def _serve(websocket: WebSocket, parts: Services) -> None:
    try:
        async with asyncio.timeout(_AUTH_TIMEOUT):
            socket = await _authenticated(websocket)
        await parts.hub.subscribe(socket)
    except (RequestError, *TRANSIENT_ERRORS, TimeoutError) as error:
        refused = (
            Unauthorized(f"No key came within {_AUTH_TIMEOUT} seconds.")
            if isinstance(error, TimeoutError)
            else to_request_error(error)
        )
        passes = isinstance(refused, RetryLater)
        await _refuse(websocket, parts, refused, _TRY_LATER if passes else _AUTH_FAILED)
        return
    except WebSocketDisconnect:
        return
    project = socket.caller.project
    route = parts.router.find(project)
    limits = {"bytes": parts.settings.serving.max_body_bytes, "context": parts.fleet.context}
    live = route.live if route else None
    socket.notify({"type": "ready", "project": project, "policy": live, "limits": limits})
    try:
        with parts.metrics.live_sockets.track_inprogress():
            await socket.run()
    finally:
        parts.hub.unsubscribe(socket)


async def _authenticated(websocket: WebSocket) -> LiveSocket:
    frame = decode(await _receive(websocket))
    if not isinstance(frame, dict) or frame.get("type") != "auth" or not isinstance(frame.get("key"), str):
        raise Unauthorized('The first message must be {"type": "auth", "key": "…"}.')
    session = frame.get("session")
    if session is not None and not isinstance(session, str):
        raise Unauthorized("`session` is the token of POST /v1/sessions.", code="invalid_session")
    caller = require(await authenticate(websocket, frame["key"]), "chat", "vote")
    return LiveSocket(websocket, caller, frame["key"], session, await visitor(websocket, caller, session))


async def _receive(websocket: WebSocket) -> str | bytes:
    """Returns the next message. Raises WebSocketDisconnect."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    raw: str | bytes | None = message.get("text")
    return raw if raw is not None else message["bytes"]


def _error_frame(name: str | None, error: RequestError) -> dict[str, Any]:
    """Returns the message of an error; of one that passes, with the seconds to wait."""
    wait = {"retry_after": error.retry_after} if isinstance(error, RetryLater) else {}
    return {"type": "error", "id": name, **error.envelope(), **wait}


def _id_of(frame: Any) -> str | None:
    name = frame.get("id") if isinstance(frame, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= 64 else None


def _encode(frame: dict[str, Any]) -> str:
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
