"""`WS /v1/live`: chat, vote and hear of what was learned, over one socket.

The client's first message is `{"type": "auth", "key"}`; after `ready` it sends `chat` (a chat request with
an `id`; several may run at once), `cancel` (`id`) and `feedback` (`id`, `feedback`: a vote). It gets
`token`, `done` (the completion), `recorded`, and `error` (with the `id`, where there was one; code
`cancelled` ends a cancelled chat, of which nothing is kept). By itself the service tells `policy` (another
one is live) and `learned` (a vote given through this socket, or on what its people were answered, is in a
policy that went live), each vote once, whichever process made the policy live. Only a key that is wrong, or
was revoked since, closes the socket (4401).
"""

import asyncio
import json
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

import psycopg
import structlog
from fastapi import APIRouter, WebSocket
from psycopg_pool import PoolTimeout
from starlette.websockets import WebSocketDisconnect

from schemas.chat import ChatRequest, parse_chat
from schemas.errors import InvalidRequest, RateLimited, RequestError, TooLarge, Unauthorized
from schemas.feedback import parse_vote
from schemas.times import rfc3339
from schemas.wire import decode
from serving.answer import Answer
from serving.auth import Caller, authenticate
from serving.envelope import PASSING, InternalError, as_request_error
from serving.router import Route
from serving.votes import submit_vote

router = APIRouter()
log = structlog.get_logger()

_AUTH_SECONDS = 10
_MOST_CHATS = 16
_WAITING_FRAMES = 256  # a client that reads more slowly than this slows its own replies down
_FAILED_AUTH = 4401
_LOOK = 0.1  # seconds between looks for whether all chats have ended
_AGAIN = 1.0  # seconds until a database that was away is asked again


class Socket:
    """One websocket, authenticated with `key` as `caller`."""

    def __init__(self, websocket: WebSocket, caller: Caller, key: str) -> None:
        self.caller = caller
        self.votes: set[str] = set()
        self.raters: set[str] = set()
        self._key = key
        self._websocket = websocket
        self._state = websocket.app.state
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_WAITING_FRAMES)
        self._chats: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until the client leaves; what it had begun is given up."""
        tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._write())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks |= set(self._chats.values())
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                    log.error("live_failed", exc_info=result)

    @property
    def busy(self) -> bool:
        """Whether a chat is running, or its end was not sent yet."""
        return bool(self._chats) or not self._frames.empty()

    def tell(self, frame: dict[str, Any]) -> None:
        """News, which a client too slow to take them does without."""
        if not self._frames.full():
            self._frames.put_nowait(frame)

    async def _write(self) -> None:
        while True:
            await self._websocket.send_text(_text(await self._frames.get()))
            self._frames.task_done()

    async def _read(self) -> None:
        try:
            while True:
                await self._take(await _received(self._websocket))
        except Unauthorized:
            await self._frames.join()
            await self._websocket.close(_FAILED_AUTH)

    async def _take(self, raw: str | bytes) -> None:
        """Do what a message says, or answer why not. Raises Unauthorized, told too, when the key ended."""
        frame: Any = None
        try:
            if len(raw) > self._state.settings.serving.max_body_bytes:
                raise TooLarge(f"A message may have {self._state.settings.serving.max_body_bytes} bytes.")
            frame = decode(raw)
            await self._do(frame)
        except Unauthorized as error:
            await self._refuse(_id_of(frame), error)
            raise
        except (RequestError, *PASSING) as error:
            await self._refuse(_id_of(frame), as_request_error(error))

    async def _do(self, frame: Any) -> None:
        kind = frame.get("type") if isinstance(frame, dict) else None
        name = _id_of(frame)
        if kind == "cancel":
            if name in self._chats:
                self._chats[name].cancel()
            return
        if kind not in ("chat", "feedback"):
            raise InvalidRequest("`type` must be chat, cancel or feedback.", param="type")
        if name is None:
            raise InvalidRequest("Give the message an `id`, a string of 1 to 64 characters.", param="id")
        self.caller = await authenticate(self._websocket, self._key)
        if kind == "chat":
            self._begin(name, parse_chat({key: frame[key] for key in frame if key not in ("type", "id")}))
        else:
            recorded = await submit_vote(self._state, self.caller, parse_vote(frame.get("feedback")))
            self.votes.add(recorded["id"])
            await self._frames.put({"type": "recorded", "id": name, "feedback": recorded})

    def _begin(self, name: str, chat: ChatRequest) -> None:
        if name in self._chats:
            raise InvalidRequest(f"A chat with id {name} is running.", param="id", code="id_in_use")
        if len(self._chats) >= _MOST_CHATS:
            raise RateLimited(f"{_MOST_CHATS} chats are running on this socket.")
        answer = Answer(self._state, self.caller, chat)
        self.raters.add(answer.rater)
        self._chats[name] = asyncio.create_task(self._chat(name, answer))

    async def _chat(self, name: str, answer: Answer) -> None:
        try:
            async with aclosing(answer.deltas()) as deltas:
                async for delta in deltas:
                    if delta.text:
                        frame = {"type": "token", "id": name, "choice": delta.choice, "text": delta.text}
                        await self._frames.put(frame)
            await answer.record()
            await self._frames.put({"type": "done", "id": name, "completion": answer.completion()})
        except asyncio.CancelledError:
            cancelled = InvalidRequest("The chat was cancelled; nothing of it was kept.", code="cancelled")
            self.tell({"type": "error", "id": name, **cancelled.envelope()})
            raise
        except (RequestError, *PASSING) as error:
            await self._refuse(name, as_request_error(error))
        except Exception:  # a bug in one chat must not end the others
            log.exception("live_chat_failed", completion=answer.id)
            await self._refuse(name, InternalError(answer.id))
        finally:
            del self._chats[name]

    async def _refuse(self, name: str | None, error: RequestError) -> None:
        self._state.metrics.refused.labels(error.code).inc()
        await self._frames.put({"type": "error", "id": name, **error.envelope()})


class Hub:
    """Every socket of this process, and the news for them."""

    def __init__(self, state: Any) -> None:
        self._state = state
        self._sockets: set[Socket] = set()
        self._told: dict[str, set[str]] = {}  # of each project, the policies that are no news any more
        self._telling: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def join(self, socket: Socket) -> None:
        """From now on `socket` hears the news. What was live before the first of a project is none."""
        project = socket.caller.project
        async with self._one_at_a_time:
            if project not in self._told:
                self._told[project] = set(await self._went_live(project))
        self._sockets.add(socket)

    def leave(self, socket: Socket) -> None:
        self._sockets.discard(socket)

    async def finish(self, seconds: float) -> None:
        """Wait until no chat is running on any socket, but no longer than that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(socket.busy for socket in self._sockets):  # noqa: ASYNC110 - once in a process's life
                    await asyncio.sleep(_LOOK)

    def gone_live(self, route: Route) -> None:
        """Tell everybody of the project who answers now, and those whose votes were learned."""
        task = asyncio.create_task(self._tell(route))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, route: Route) -> None:
        for socket in self._listening(route.project):
            socket.tell({"type": "policy", "policy": route.live, "previous": route.previous})
        while True:
            try:
                await self._tell_learned(route.project)
                return
            except (psycopg.OperationalError, PoolTimeout):
                await asyncio.sleep(_AGAIN)

    async def _tell_learned(self, project: str) -> None:
        """Of every policy that went live since the last time: this process may have seen only the newest of
        them, or see one again after a rollback."""
        async with self._one_at_a_time:
            if project not in self._told:
                return
            for policy, live_at in (await self._went_live(project)).items():
                learned = await self._state.store.learned_by(project, policy)
                for socket in self._listening(project):
                    for vote in learned:
                        if vote.feedback_id in socket.votes or vote.rater in socket.raters:
                            socket.tell(
                                {
                                    "type": "learned",
                                    "feedback_id": vote.feedback_id,
                                    "completion_id": vote.turn_id,
                                    "policy": policy,
                                    "live_at": rfc3339(live_at),
                                }
                            )
                self._told[project].add(policy)

    def _listening(self, project: str) -> list[Socket]:
        return [socket for socket in self._sockets if socket.caller.project == project]

    async def _went_live(self, project: str) -> dict[str, datetime]:
        """The policies that went live and were not told of yet, the oldest first, and when. A moment to count
        from would not do: `live_at` is when a transaction began, and one may wait for another."""
        async with self._state.pool.connection() as connection:
            cursor = await connection.execute(
                "select id, live_at from policies where project = %s and live_at is not null"
                " and id <> all(%s) order by live_at, id",
                [project, list(self._told.get(project, ()))],
            )
            return {row["id"]: row["live_at"] for row in await cursor.fetchall()}


@router.websocket("/v1/live")
async def live(websocket: WebSocket) -> None:
    state = websocket.app.state
    await websocket.accept()
    try:
        async with asyncio.timeout(_AUTH_SECONDS):
            socket = await _authenticated(websocket)
        await state.hub.join(socket)
    except (RequestError, *PASSING, TimeoutError) as error:
        refused = (
            Unauthorized("No key came in time.")
            if isinstance(error, TimeoutError)
            else as_request_error(error)
        )
        state.metrics.refused.labels(refused.code).inc()
        await websocket.send_text(_text({"type": "error", "id": None, **refused.envelope()}))
        await websocket.close(_FAILED_AUTH)
        return
    except WebSocketDisconnect:
        return
    project = socket.caller.project
    route = state.router.find(project)
    socket.tell({"type": "ready", "project": project, "policy": route.live if route else None})
    try:
        with state.metrics.sockets.track_inprogress():
            await socket.run()
    finally:
        state.hub.leave(socket)


async def _authenticated(websocket: WebSocket) -> Socket:
    frame = decode(await _received(websocket))
    if not isinstance(frame, dict) or frame.get("type") != "auth" or not isinstance(frame.get("key"), str):
        raise Unauthorized('The first message must be {"type": "auth", "key": "…"}.')
    return Socket(websocket, await authenticate(websocket, frame["key"]), frame["key"])


async def _received(websocket: WebSocket) -> str | bytes:
    """The next message. Raises WebSocketDisconnect."""
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    raw: str | bytes | None = message.get("text")
    return raw if raw is not None else message["bytes"]


def _id_of(frame: Any) -> str | None:
    name = frame.get("id") if isinstance(frame, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= 64 else None


def _text(frame: dict[str, Any]) -> str:
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
