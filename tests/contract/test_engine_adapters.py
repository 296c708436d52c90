"""Every engine loads and unloads adapters, and no other reply is wrong for it, through the engine client and
a real process."""

import asyncio
import random
import shutil
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from engine_replies import CAT, GREEDY, reply
from engines import ADAPTERS, World, change, write_adapter
from fastapi.testclient import TestClient

from schemas.errors import EngineError
from schemas.policies import WEIGHTS
from serving.adapter_check import mean_difference
from serving.embedded.model import Model
from serving.embedded.scheduler import Scheduler
from serving.embedded.server import create_app
from serving.engine import EngineClient

PROBE = [5, 9, 17, 40, 41, 42, 99, 120, 77, 3, 250, 11]


def test_the_embedded_engine_reads_no_adapter_again_that_has_changed(world: World, tmp_path: Path) -> None:
    """An adapter that is not in memory is read again from its files, which are no longer those verified."""
    model = Model(world.base)
    scheduler = Scheduler(model, max_sequences=1, max_adapters=1)
    shutil.copytree(world.adapters["p1-aaaaaa"], tmp_path / "copy")
    ask = {"messages": [{"role": "user", "content": "Tea?"}], "max_tokens": 2}

    with TestClient(create_app(model, scheduler, "base")) as client:

        def load(name: str, path: Path) -> None:
            body = {"lora_name": name, "lora_path": str(path)}
            assert client.post("/v1/load_lora_adapter", json=body).status_code == 200

        def status(name: str) -> int:
            return client.post("/v1/chat/completions", json={"model": name, **ask}).status_code

        load("p1-aaaaaa", tmp_path / "copy")
        load("p2-bbbbbb", world.adapters["p2-bbbbbb"])
        assert (status("p1-aaaaaa"), status("p2-bbbbbb")) == (200, 200)
        shutil.copy(world.adapters["p3-cccccc"] / WEIGHTS, tmp_path / "copy")
        assert (status("p1-aaaaaa"), status("p2-bbbbbb")) == (404, 200)
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["p2-bbbbbb"]


async def test_load_and_unload(engine: EngineClient, world: World, tmp_path: Path) -> None:
    write_adapter(world.base, tmp_path / "new", seed=9)
    await engine.load("p4-dddddd", tmp_path / "new")
    assert await engine.adapters() == {*ADAPTERS, "p4-dddddd"}
    assert (await reply(engine, "p4-dddddd", GREEDY)).token_ids

    await engine.load("p4-dddddd", tmp_path / "new")  # as after an answer that was lost
    await engine.unload("p4-dddddd")
    await engine.unload("p4-dddddd")
    assert await engine.adapters() == set(ADAPTERS)
    with pytest.raises(EngineError):
        await reply(engine, "p4-dddddd", GREEDY)


@pytest.mark.parametrize(
    "fault", ["missing", "no weights", "truncated", "no json", "narrow", "renamed", "foreign"]
)
async def test_a_load_that_fails_changes_nothing(
    engine: EngineClient, world: World, tmp_path: Path, fault: str
) -> None:
    before = await reply(engine, "p1-aaaaaa", GREEDY)
    good, bad = world.adapters["p1-aaaaaa"], tmp_path / "bad"
    if fault != "missing":
        shutil.copytree(good, bad)
    weights, config = bad / "adapter_model.safetensors", bad / "adapter_config.json"
    if fault == "no weights":
        weights.unlink()
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    if fault == "no json":
        config.write_text("{")
    if fault == "foreign":
        config.write_text(config.read_text().replace("q_proj", "c_attn").replace("v_proj", "c_fc"))
    if fault == "narrow":
        change(weights, lambda tensors: {name: each[:, :3].clone() for name, each in tensors.items()})
    if fault == "renamed":
        change(weights, lambda tensors: {f"other.{name}": each for name, each in tensors.items()})

    with suppress(EngineError):
        await engine.load("p5-eeeeee", bad)  # vLLM takes some of these, and serves something else
        measured = await engine.probe("p5-eeeeee", PROBE, range(1, len(PROBE)))
        assert fault == "foreign" or mean_difference(measured, world.of_tokens("p1-aaaaaa", PROBE)) > 0.05
        await engine.unload("p5-eeeeee")
    assert await engine.adapters() == set(ADAPTERS)
    assert (await reply(engine, "p1-aaaaaa", GREEDY)).token_ids == before.token_ids


async def test_a_reply_finishes_on_the_adapter_it_began_with(
    engine: EngineClient, world: World, tmp_path: Path
) -> None:
    """The adapter is unloaded in the middle and its name reused for other weights."""
    write_adapter(world.base, tmp_path / "other", seed=31)
    long = {"temperature": 0, "max_tokens": 120}
    expected = (await reply(engine, "p1-aaaaaa", long)).token_ids
    async with aclosing(engine.stream("p1-aaaaaa", CAT, long)) as stream:
        found = (await anext(stream)).token_ids
        await engine.unload("p1-aaaaaa")
        with pytest.raises(EngineError):
            await reply(engine, "p1-aaaaaa", GREEDY)
        await engine.load("p1-aaaaaa", tmp_path / "other")
        assert (await reply(engine, "p1-aaaaaa", GREEDY)).token_ids != expected[:24]
        async for delta in stream:
            found = found + delta.token_ids
    assert found == expected
    await engine.unload("p1-aaaaaa")


async def test_no_reply_is_wrong_under_churn(engine: EngineClient, world: World) -> None:
    """Greedy replies on all adapters, all slots full, while a fifth adapter comes and goes under new names
    with another's weights: each equals what it was alone."""
    alone = {policy: (await reply(engine, policy, GREEDY)).token_ids for policy in ADAPTERS}
    wrong: list[str] = []
    stopped = asyncio.Event()

    async def talk() -> None:
        while not stopped.is_set():
            policy = random.choice(ADAPTERS)
            if (await reply(engine, policy, GREEDY)).token_ids != alone[policy]:
                wrong.append(policy)

    talkers = [asyncio.create_task(talk()) for _ in range(8)]
    for swap in range(12):
        twin = ADAPTERS[swap % len(ADAPTERS)]
        await engine.load(f"p{10 + swap}-ffffff", world.adapters[twin])
        if (await reply(engine, f"p{10 + swap}-ffffff", GREEDY)).token_ids != alone[twin]:
            wrong.append(f"swap {swap}")
        await engine.unload(f"p{10 + swap}-ffffff")
    stopped.set()
    await asyncio.gather(*talkers)
    assert wrong == []
