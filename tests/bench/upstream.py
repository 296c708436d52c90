"""An engine that costs next to nothing: `python -m tests.bench.upstream PORT [STYLE]`.

It answers as vLLM does, always the same `TOKENS` numbered tokens, whole or as a stream, so that what is
measured is what stands before it. A stream is written in one go; in the style `torn`, in pieces cut anywhere,
or `paced`, a token each `PACE` seconds.
"""

import asyncio
import json
import random
import sys
from collections.abc import Coroutine
from typing import Any

TOKENS = 64
TEXT = "".join(f" {number}" for number in range(TOKENS))
LOGPROB = -1.0
PACE = 0.02
_PROMPT = list(range(10, 30))
_CREATED = 1_700_000_000


def _logprobs(position: int) -> dict[str, Any]:
    token = f" {position}"
    return {"token": token, "logprob": LOGPROB, "bytes": list(token.encode()), "top_logprobs": []}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
    return {
        "id": "chatcmpl-up", "object": "chat.completion.chunk", "created": _CREATED, "model": "p0",
        "choices": [{**choice, **more}],
    }  # fmt: skip


def _stream() -> list[bytes]:
    first = _chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": _PROMPT}
    events = [_event(first)]
    for position in range(TOKENS):
        last = position == TOKENS - 1
        events.append(
            _event(
                _chunk(
                    {"content": f" {position}"}, token_ids=[40 + position],
                    logprobs={"content": [_logprobs(position)]},
                    finish_reason="length" if last else None,
                )
            )
        )  # fmt: skip
    chunks = [*events, b"data: [DONE]\n\n", b""]
    return [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]


def _whole() -> bytes:
    choice = {
        "index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "length",
        "logprobs": {"content": [_logprobs(position) for position in range(TOKENS)]},
        "token_ids": [40 + position for position in range(TOKENS)],
    }  # fmt: skip
    usage = {
        "prompt_tokens": len(_PROMPT),
        "completion_tokens": TOKENS,
        "total_tokens": len(_PROMPT) + TOKENS,
    }
    return json.dumps(
        {
            "id": "chatcmpl-up", "object": "chat.completion", "created": _CREATED, "model": "p0",
            "choices": [choice], "usage": usage, "prompt_token_ids": _PROMPT,
        }
    ).encode()  # fmt: skip


def _answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Upstream(asyncio.Protocol):
    """One connection."""

    loaded: set[str] = set()  # noqa: RUF012  (of the whole process, on purpose)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = _stream()
    stream = head + b"".join(events)
    whole = _answer(_whole())
    writing: set[asyncio.Task[None]] = set()  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, rest = self.buffer.split(b"\r\n\r\n", 1)
            length = 0
            if b"content-length:" in head.lower():
                length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            path, body = head.split(b" ", 2)[1], rest[:length]
            if path == b"/v1/chat/completions" and b'"stream":true' in body.replace(b" ", b""):
                self.begin_stream()
            else:
                self.transport.write(self.answer(path, body))

    def begin_stream(self) -> None:
        self.transport.write(self.stream)

    def keep_writing(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.writing.add(task)
        task.add_done_callback(self.writing.discard)

    def answer(self, path: bytes, body: bytes) -> bytes:
        if path == b"/v1/chat/completions":
            return self.whole
        if path == b"/v1/models":
            cards = [{"id": name, "parent": "base"} for name in sorted(self.loaded)]
            return _answer(json.dumps({"data": cards}).encode())
        if path == b"/v1/completions":
            return _answer(json.dumps({"choices": [{"logprobs": {"token_logprobs": [LOGPROB]}}]}).encode())
        if path == b"/v1/load_lora_adapter":
            self.loaded.add(json.loads(body)["lora_name"])
        return _answer(b"{}")


class Torn(Upstream):
    """Writes a stream in pieces that end anywhere: within an event, a line, a chunk's length."""

    def begin_stream(self) -> None:
        self.keep_writing(self._pieces())

    async def _pieces(self) -> None:
        begin = 0
        while begin < len(self.stream):
            end = begin + random.randint(1, 4_000)
            self.transport.write(self.stream[begin:end])
            begin = end
            await asyncio.sleep(0)


class Paced(Upstream):
    """Writes a token each `PACE` seconds."""

    def begin_stream(self) -> None:
        self.keep_writing(self._tokens())

    async def _tokens(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.transport.write(self.head)
        for number, event in enumerate(self.events):
            await asyncio.sleep(began + number * PACE - loop.time())
            self.transport.write(event)


async def main(port: int, style: type[Upstream]) -> None:
    server = await asyncio.get_running_loop().create_server(style, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    styles = {"torn": Torn, "paced": Paced}
    asyncio.run(main(int(sys.argv[1]), styles[sys.argv[2]] if sys.argv[2:] else Upstream))
