"""A client that notes when each token of a stream arrives."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp
import orjson

from tests.installation import ADMIN_KEY


@dataclass
class Heard:
    """A stream as it arrived: when each piece of text did (seconds of `perf_counter`), which policies its
    chunks name, and whether the end was announced."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    policies: set[str] = field(default_factory=set)
    ended: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def first(self) -> float:
        """Seconds to the first token. Raises IndexError when none came."""
        return self.arrivals[0] - self.sent

    def gaps(self) -> list[float]:
        """Seconds between the tokens."""
        return [after - before for before, after in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def listen(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Heard:
    """A streamed chat completion from `url`, to its end. Raises RuntimeError for an answer that is none."""
    heard = Heard(perf_counter())
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with session.post(
        f"{url}/v1/chat/completions", json={**body, "stream": True}, headers=headers
    ) as answer:
        if answer.status != 200:
            raise RuntimeError(await answer.text())
        async for line in answer.content:
            if line.startswith(b"data: {"):
                moment = perf_counter()
                event = orjson.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                heard.policies.add(event.get("system_fingerprint") or "none")
                for choice in event["choices"]:
                    if piece := choice["delta"].get("content"):
                        heard.arrivals.append(moment)
                        heard.pieces.append(piece)
            heard.ended = heard.ended or line.startswith(b"data: [DONE]")
    return heard
