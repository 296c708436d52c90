"""An engine that costs next to nothing: `python -m tests.bench.upstream PORT`.

It answers as vLLM does, always the same `TOKENS` tokens, whole or as a stream written in one go, so that what
is measured is what stands before it.
"""

import asyncio
import json
import sys
from typing import Any

TOKENS = 64
LOGPROB = -1.0
_PROMPT = list(range(10, 30))
_CREATED = 1_700_000_000


def _logprobs(position: int) -> dict[str, Any]:
    return {"token": " word", "logprob": LOGPROB, "bytes": list(b" word"), "top_logprobs": []}


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
    return {
        "id": "chatcmpl-up", "object": "chat.completion.chunk", "created": _CREATED, "model": "p0",
        "choices": [{**choice, **more}],
    }  # fmt: skip


def _stream() -> bytes:
    first = _chunk({"role": "assistant", "content": ""}) | {"prompt_token_ids": _PROMPT}
    events = [_event(first)]
    for position in range(TOKENS):
        last = position == TOKENS - 1
        events.append(
            _event(
                _chunk(
                    {"content": " word"}, token_ids=[40 + position],
                    logprobs={"content": [_logprobs(position)]},
                    finish_reason="length" if last else None,
                )
            )
        )  # fmt: skip
    chunks = [*events, b"data: [DONE]\n\n", b""]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def _whole() -> bytes:
    choice = {
        "index": 0, "message": {"role": "assistant", "content": " word" * TOKENS}, "finish_reason": "length",
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
    stream = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + _stream()
    )
    whole = _answer(_whole())

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
            self.transport.write(self.answer(head.split(b" ", 2)[1], rest[:length]))

    def answer(self, path: bytes, body: bytes) -> bytes:
        if path == b"/v1/chat/completions":
            return self.stream if b'"stream":true' in body.replace(b" ", b"") else self.whole
        if path == b"/v1/models":
            cards = [{"id": name, "parent": "base"} for name in sorted(self.loaded)]
            return _answer(json.dumps({"data": cards}).encode())
        if path == b"/v1/completions":
            tokens = json.loads(body)["prompt"]
            found = [None, *({str(token): {"logprob": LOGPROB}} for token in tokens[1:])]
            return _answer(json.dumps({"choices": [{"prompt_logprobs": found}]}).encode())
        if path == b"/v1/load_lora_adapter":
            self.loaded.add(json.loads(body)["lora_name"])
        return _answer(b"{}")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
