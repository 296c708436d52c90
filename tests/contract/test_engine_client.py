"""The engine client understands what vLLM sends, and what an engine does that breaks off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from engine_replies import CAT, GREEDY, replies, reply

from schemas.errors import EngineError, InvalidRequest
from serving.engine import EngineClient, EngineDescription

VLLM_STREAM = """\
data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,\
"finish_reason":null}],"prompt_token_ids":[5,6]}

: a comment

data: {"id":"c","choices":[{"index":0,"delta":{"content":"a\u2028b"},"logprobs":{"content":[\
{"token":"a","logprob":-1.5,"bytes":[97],"top_logprobs":[]},{"token":"b","logprob":-0.5,"bytes":[98],\
"top_logprobs":[]}]},"finish_reason":null,"token_ids":[8,9]}]}

data: {"id":"c","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"length",\
"stop_reason":null,"token_ids":[]}]}

"""


@asynccontextmanager
async def answering(status: str, kind: str, body: str) -> AsyncIterator[EngineClient]:
    """A client of a socket that answers any request with this, a few bytes at a time."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n".encode())
        raw = body.encode()
        for at in range(0, len(raw), 50):
            writer.write(raw[at : at + 50])
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        engine = EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=5)
        yield engine
        await engine.close()


async def test_vllms_stream_is_understood() -> None:
    """An announcing chunk, a line separator inside a text, two tokens at once, an end without a token."""
    async with answering("200 OK", "text/event-stream", VLLM_STREAM + "data: [DONE]\n\n") as engine:
        first, last = [delta async for delta in engine.stream("p1", CAT, {})]
    assert (first.text, first.token_ids, first.prompt_token_ids) == ("a\u2028b", [8, 9], [5, 6])
    assert [item["logprob"] for item in first.logprobs] == [-1.5, -0.5]
    assert (last.text, last.finish_reason, last.prompt_token_ids) == ("", "length", None)


@pytest.mark.parametrize("said", ["", "no json", "[]", "{}", '{"paths": []}', '{"paths": {"/v1": 1}}'])
async def test_an_engine_that_does_not_say_what_it_can_is_asked_for_all(said: str) -> None:
    async with answering("200 OK", "application/json", said) as engine:
        assert await engine.describe() == EngineDescription()


@pytest.mark.parametrize("said", ["<html>It works!</html>", "[]", "{}", '{"data": [1]}', '{"choices": []}'])
async def test_what_is_no_engine_is_an_error(said: str) -> None:
    """Another service has its address."""
    async with answering("200 OK", "text/html", said) as engine:
        with pytest.raises(EngineError, match=r"vllm\.urls"):
            await engine.folders()
        with pytest.raises(EngineError, match=r"vllm\.urls"):
            await engine.probe("p1", [1, 2], [1])


async def test_an_error_that_is_only_a_text_is_told() -> None:
    async with answering("500 Internal Server Error", "application/json", '{"error": "too hot"}') as engine:
        with pytest.raises(EngineError, match="too hot"):
            await engine.check_health()


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    async with answering("200 OK", "text/event-stream", VLLM_STREAM) as engine:
        with pytest.raises(EngineError, match="ended early"):
            await replies(engine, "p1", {})


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"])
async def test_closing_the_client_ends_running_requests(said: bytes) -> None:
    """It does so for an engine that hangs after it began to answer, too."""
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        engine = EngineClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=60)
        waiting = asyncio.create_task(replies(engine, "p1", {}))
        await asked.wait()
        await asyncio.sleep(0.05)
        await engine.close()
        async with asyncio.timeout(20):
            with pytest.raises(EngineError):
                await waiting


async def test_vllms_refusal_of_a_long_prompt_is_context_length_exceeded() -> None:
    body = '{"error":{"message":"This model\'s maximum context length is 9 tokens.","type":"x","code":400}}'
    async with answering("400 Bad Request", "application/json", body) as engine:
        with pytest.raises(InvalidRequest) as refusal:
            await replies(engine, "p1", {})
    assert refusal.value.code == "context_length_exceeded"


async def test_an_engine_that_is_not_there_is_an_error() -> None:
    engine = EngineClient("http://127.0.0.1:9", timeout=1)
    with pytest.raises(EngineError) as failure:
        await engine.adapters()
    assert failure.value.status is None
    with pytest.raises(EngineError):
        await reply(engine, "p0", GREEDY)
    await engine.close()
