"""One visitor floods while another uses the service: `python -m tests.bench.floods`.

Both come with the publishable key, from addresses of their own, and the rate limits are the defaults. In
turns the flood is of chats, of votes, of lists of models and of websockets, each for SECONDS by FLOODERS
connections. Promised: at least 95% of what the other visitor asks for succeeds. About two minutes.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.bench.service import hearken_up
from tests.installation import PUBLIC_KEY

SECONDS = 15.0
FLOODERS = 32
PROMISED = 0.95
_CHAT = {"model": "default", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}

Act = Callable[["Visitor"], Awaitable[bool]]


class Visitor:
    """Somebody at `address`; each act returns whether it succeeded."""

    def __init__(self, url: str, address: str, user: str) -> None:
        self._url = url
        self._user = user
        self._headers = {"Authorization": f"Bearer {PUBLIC_KEY}", "X-Forwarded-For": address}
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=url, headers=self._headers, timeout=30, limits=limits)
        self._voted: dict[str, Any] | None = None

    async def close(self) -> None:
        await self._client.aclose()

    async def chat(self) -> bool:
        answer = await self._client.post("/v1/chat/completions", json={**_CHAT, "user": self._user})
        if answer.status_code == 200:
            body = answer.json()
            self._voted = {
                "type": "thumb",
                "completion_id": body["id"],
                "feedback_token": body["hearken"]["feedback_token"],
            }
        return answer.status_code == 200

    async def vote(self) -> bool:
        if self._voted is None and not await self.chat():
            return False
        answer = await self._client.post("/v1/feedback", json={**(self._voted or {}), "value": "up"})
        return answer.status_code == 201

    async def models(self) -> bool:
        return (await self._client.get("/v1/models")).status_code == 200

    async def socket(self) -> bool:
        url = self._url.replace("http://", "ws://") + "/v1/live"
        forwarded = {"X-Forwarded-For": self._headers["X-Forwarded-For"]}
        try:
            async with connect(url, additional_headers=forwarded, open_timeout=10) as socket:
                await socket.send(json.dumps({"type": "auth", "key": PUBLIC_KEY}))
                return bool(json.loads(await asyncio.wait_for(socket.recv(), 10))["type"] == "ready")
        except (WebSocketException, OSError, TimeoutError):
            return False


ACTS: dict[str, Act] = {
    "chat": Visitor.chat,
    "votes": Visitor.vote,
    "models": Visitor.models,
    "websockets": Visitor.socket,
}


async def flood(url: str, kind: str) -> dict[str, Any]:
    """Returns what came of both visitors' acts while one floods."""
    flooder, other = Visitor(url, "198.51.100.7", "flooder"), Visitor(url, "192.0.2.9", "other")
    deadline = asyncio.get_running_loop().time() + SECONDS
    refused: Counter[bool] = Counter()
    succeeded: dict[str, Counter[bool]] = {name: Counter() for name in ACTS}

    async def keep_on() -> None:
        while asyncio.get_running_loop().time() < deadline:
            try:
                refused[await ACTS[kind](flooder)] += 1
            except httpx.HTTPError:
                refused[False] += 1

    async def use() -> None:
        await asyncio.sleep(1)
        while asyncio.get_running_loop().time() < deadline - 1:
            for name, act in ACTS.items():
                try:
                    succeeded[name][await act(other)] += 1
                except httpx.HTTPError:
                    succeeded[name][False] += 1
            await asyncio.sleep(0.5)

    await asyncio.gather(use(), *(keep_on() for _ in range(FLOODERS)))
    await flooder.close()
    await other.close()
    return {
        "flood": sum(refused.values()),
        "let_through": refused[True],
        **{name: round(each[True] / max(1, each.total()), 3) for name, each in succeeded.items()},
    }


def main() -> int:
    with hearken_up(HEARKEN_SERVING__TRUSTED_PROXIES='["127.0.0.1"]') as service:
        service.run("pause")
        found = {kind: asyncio.run(flood(service.url, kind)) for kind in ACTS}
    print(json.dumps(found, indent=1))
    worst = min(each[name] for each in found.values() for name in ACTS)
    return 0 if worst >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
