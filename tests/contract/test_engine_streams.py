"""Every engine answers many streams at once as it answers each alone, through the engine client and a real
process."""

import asyncio

from engine_replies import TEA, replies, reply
from engines import ADAPTERS

from serving.engine import EngineClient


async def test_sixteen_streams_over_three_adapters_give_what_they_give_alone(engine: EngineClient) -> None:
    questions = [
        [{"role": "user", "content": f"{'Well. ' * (i % 5)}Tell me about {i} cats."}] for i in range(16)
    ]
    policies = [ADAPTERS[1 + i % 3] for i in range(16)]
    samplings = [{"temperature": 0, "max_tokens": 10 + 3 * i} for i in range(16)]
    orders = list(zip(policies, samplings, questions, strict=True))

    alone = [await reply(engine, *order) for order in orders]
    together = await asyncio.gather(*(reply(engine, *order) for order in orders))
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]


async def test_a_seeded_reply_does_not_depend_on_its_batch(engine: EngineClient) -> None:
    seeded = {"seed": 21, "top_p": 0.95, "max_tokens": 30}
    alone = await reply(engine, "p1-aaaaaa", seeded)
    crowd = [reply(engine, "p1-aaaaaa", {"max_tokens": 5 * i}, TEA) for i in range(1, 9)]
    among, *_ = await asyncio.gather(reply(engine, "p1-aaaaaa", seeded), *crowd)
    assert among.token_ids == alone.token_ids


async def test_more_streams_than_slots_wait_in_line(engine: EngineClient) -> None:
    found = await asyncio.gather(*(reply(engine, "p0", {"max_tokens": 12, "seed": i}) for i in range(40)))
    assert all(each.finish_reason for each in found)


async def test_replies_after_one_another_share_a_connection(engine: EngineClient) -> None:
    host, _, port = engine.url.removeprefix("http://").partition(":")
    opened = 0

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            said, end, _ = piece.rpartition(b"0\r\n\r\n")
            writer.write(said if end else piece)
            if end:  # the response's, which may come later than what it says
                await asyncio.sleep(0.05)
                writer.write(end)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        to_engine = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pass_on(reader, to_engine[1]), pass_on(to_engine[0], writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as between:
        client = EngineClient(f"http://127.0.0.1:{between.sockets[0].getsockname()[1]}", timeout=30)
        for _ in range(4):
            assert (await reply(client, ADAPTERS[0], {"max_tokens": 3})).token_ids
        await client.close()
    assert opened == 1


async def test_closing_a_stream_frees_its_slot(engine: EngineClient) -> None:
    """Six times as many long replies as slots run; once their readers leave, a new one starts at once."""
    long = {"max_tokens": 230, "temperature": 0, "frequency_penalty": 2}
    readers = [asyncio.create_task(replies(engine, "p1-aaaaaa", long)) for _ in range(96)]
    await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    await asyncio.wait_for(reply(engine, "p2-bbbbbb", {"max_tokens": 2}), timeout=3)
