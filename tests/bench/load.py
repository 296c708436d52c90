"""A lean HTTP/1.1 client for benches: kept-alive connections, requests written as bytes, answers read
as they come. On two cores the usual clients cost more than what they measure."""

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


def request(host: str, path: str, key: str, body: Any) -> bytes:
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def send(host: str, port: int, requests: Iterable[bytes], connections: int) -> list[tuple[int, float]]:
    """Each request's status and seconds, at most `connections` at a time."""
    waiting = iter(requests)
    answers = await asyncio.gather(*(_connection(host, port, waiting) for _ in range(connections)))
    return [answer for each in answers for answer in each]


async def _connection(host: str, port: int, waiting: Iterator[bytes]) -> list[tuple[int, float]]:
    reader, writer = await asyncio.open_connection(host, port)
    answers = []
    for message in waiting:
        began = time.perf_counter()
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length:" in head:
            await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
        else:  # chunked: every one ends a line, the last is empty
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        answers.append((int(head[9:12]), time.perf_counter() - began))
    writer.close()
    await writer.wait_closed()
    return answers


def at(share: float, seconds: Sequence[float]) -> float:
    """The value that this share of `seconds` lie below."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
