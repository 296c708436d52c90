"""Every engine satisfies this contract, through the engine client and a real process.

The suite is parametrised by the kind of engine; the references are plain transformers and PEFT.
"""

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engines import ADAPTERS, World, change, start_embedded, write_adapter
from fastapi.testclient import TestClient

from schemas.chat import parse_chat
from schemas.errors import EngineError, InvalidRequest
from schemas.generation_defaults import GenerationDefaults
from schemas.policies import WEIGHTS
from serving.adapter_check import mean_difference
from serving.embedded.model import Model
from serving.embedded.scheduler import Scheduler
from serving.embedded.server import create_app
from serving.engine import EngineClient, EngineDescription
from tests.tools import WEATHER

CAT = [{"role": "user", "content": "Tell me about the cat."}]
TEA = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tea? 🙂"}]
PROBE = [5, 9, 17, 40, 41, 42, 99, 120, 77, 3, 250, 11]
GREEDY = {"temperature": 0, "max_tokens": 24}


@dataclass
class Reply:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


async def replies(
    engine: EngineClient, policy: str, sampling: dict[str, Any], messages: list[dict[str, Any]] = CAT
) -> tuple[list[int], list[Reply]]:
    """Returns the prompt's ids and every choice, collected from the stream."""
    found = [Reply() for _ in range(sampling.get("n", 1))]
    prompt: list[int] = []
    async for delta in engine.stream(policy, messages, sampling):
        reply = found[delta.choice]
        assert reply.finish_reason is None, "nothing comes after the end"
        assert len(delta.logprobs) == len(delta.token_ids)
        reply.text += delta.text
        reply.token_ids += delta.token_ids
        reply.logprobs += delta.logprobs
        reply.finish_reason = delta.finish_reason
        for part in delta.tool_calls:
            if part["index"] == len(reply.tool_calls):
                reply.tool_calls.append({"id": part["id"], "function": {"name": "", "arguments": ""}})
            for name, text in part["function"].items():
                reply.tool_calls[part["index"]]["function"][name] += text or ""
        prompt = prompt or delta.prompt_token_ids or []
    return prompt, found


async def reply(
    engine: EngineClient, policy: str, sampling: dict[str, Any], messages: list[dict[str, Any]] = CAT
) -> Reply:
    return (await replies(engine, policy, sampling, messages))[1][0]


async def whole(engine: EngineClient, policy: str, sampling: dict[str, Any]) -> dict[str, Any]:
    """The same request without streaming."""
    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as client:
        body = {"model": policy, "messages": CAT, "logprobs": True, "return_token_ids": True, **sampling}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture
async def engine(url: str, world: World) -> AsyncIterator[EngineClient]:
    """A client of an engine that holds exactly the four adapters."""
    engine = EngineClient(url, timeout=30)
    for name in await engine.adapters() - set(ADAPTERS):
        await engine.unload(name)
    for name, path in world.adapters.items():
        await engine.load(name, path)
    yield engine
    await engine.close()


async def test_streaming_gives_what_the_whole_response_gives(engine: EngineClient) -> None:
    sampling = {"n": 2, "seed": 5, "max_tokens": 30, "top_logprobs": 3}
    prompt, streamed = await replies(engine, "p1-aaaaaa", sampling)
    body = await whole(engine, "p1-aaaaaa", sampling)

    assert body["prompt_token_ids"] == prompt
    for choice, expected in zip(body["choices"], streamed, strict=True):
        assert choice["message"]["content"] == expected.text
        assert choice["token_ids"] == expected.token_ids
        assert choice["finish_reason"] == expected.finish_reason
        items = zip(choice["logprobs"]["content"], expected.logprobs, strict=True)
        assert all(mine["logprob"] == pytest.approx(theirs["logprob"], abs=1e-4) for mine, theirs in items)


async def test_the_chat_template_makes_the_prompt(engine: EngineClient, world: World) -> None:
    prompt, _ = await replies(engine, "p0", {"max_tokens": 1}, TEA)
    text = "<|system|>Be kind.<|end|><|user|>Tea? 🙂<|end|><|assistant|>"
    assert world.tokenizer.decode(prompt) == text


@pytest.mark.parametrize("policy", ADAPTERS)
async def test_logprobs_are_the_models_own(engine: EngineClient, world: World, policy: str) -> None:
    """They do not depend on temperature, top_p and penalties."""
    sampling = {"temperature": 1.7, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 3, "max_tokens": 40}
    prompt, (reply,) = await replies(engine, policy, {**sampling, "top_logprobs": 2}, TEA)

    table = world.logprobs(policy, prompt + reply.token_ids)[len(prompt) - 1 :]
    for row, token, item in zip(table, reply.token_ids, reply.logprobs, strict=True):
        assert item["logprob"] == pytest.approx(float(row[token]), abs=1e-3)
        best = [top["logprob"] for top in item["top_logprobs"]]
        assert best == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


async def test_greedy_takes_the_likeliest_token(engine: EngineClient, world: World) -> None:
    prompt, (reply,) = await replies(engine, "p2-bbbbbb", GREEDY)
    table = world.logprobs("p2-bbbbbb", prompt + reply.token_ids)[len(prompt) - 1 :]
    assert table.argmax(-1).tolist() == reply.token_ids


async def test_the_text_is_the_tokens(engine: EngineClient, world: World) -> None:
    """It is the decoded ids, without an incomplete character at the end and without special tokens."""
    for seed in range(8):
        found = await reply(engine, "p3-cccccc", {"seed": seed, "max_tokens": 40})
        text = world.tokenizer.decode(found.token_ids, skip_special_tokens=True)
        assert text.startswith(found.text)
        assert text.removeprefix(found.text).strip("\ufffd ") == ""


async def test_a_seed_reproduces_and_another_does_not(engine: EngineClient) -> None:
    once = await reply(engine, "p1-aaaaaa", {"seed": 11, "max_tokens": 24})
    again = await reply(engine, "p1-aaaaaa", {"seed": 11, "max_tokens": 24})
    other = await reply(engine, "p1-aaaaaa", {"seed": 12, "max_tokens": 24})
    assert once.token_ids == again.token_ids != other.token_ids


async def test_choices_of_one_request_differ(engine: EngineClient) -> None:
    _, found = await replies(engine, "p0", {"n": 3, "seed": 1, "max_tokens": 16})
    assert len({tuple(each.token_ids) for each in found}) == 3
    assert all(each.finish_reason for each in found)


async def test_a_stop_string_ends_the_reply_and_is_not_shown(engine: EngineClient) -> None:
    free = await reply(engine, "p1-aaaaaa", GREEDY)
    stop = free.text[5:9]
    found = await reply(engine, "p1-aaaaaa", {**GREEDY, "stop": ["never there", stop]})

    assert found.text == free.text[: free.text.index(stop)]
    assert found.finish_reason == "stop"
    assert found.token_ids == free.token_ids[: len(found.token_ids)]


async def test_the_end_token_is_part_of_the_record(engine: EngineClient, world: World) -> None:
    """Sampled hot, one of many replies ends by itself; its last token is the end token, with a logprob."""
    _, found = await replies(engine, "p2-bbbbbb", {"n": 16, "seed": 2, "temperature": 2, "max_tokens": 200})
    ended = [each for each in found if each.finish_reason == "stop"]
    assert ended
    assert all(each.token_ids[-1] == world.tokenizer.eos_token_id for each in ended)
    assert all(world.tokenizer.eos_token_id not in each.token_ids[:-1] for each in found)
    assert not any("<|end|>" in each.text for each in found)


async def test_max_tokens_bounds_the_reply(engine: EngineClient) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        found = await reply(engine, "p0", {"temperature": 0, name: 3})
        assert len(found.token_ids) == 3
        assert found.finish_reason == "length"


@pytest.mark.parametrize("penalty", ["presence_penalty", "frequency_penalty"])
async def test_penalties_make_repetition_rarer(engine: EngineClient, penalty: str) -> None:
    cold = {"temperature": 0.6, "max_tokens": 60, "seed": 4, "n": 4}
    _, plain = await replies(engine, "p0", cold)
    _, held = await replies(engine, "p0", {**cold, penalty: 2})
    assert distinct(held) > distinct(plain)


def distinct(found: list[Reply]) -> float:
    return sum(len(set(each.token_ids)) / len(each.token_ids) for each in found)


NARROW = [{"top_p": 1e-6}, {"top_k": 1}, {"min_p": 1.0}]


@pytest.mark.parametrize("narrow", NARROW, ids=lambda sampling: next(iter(sampling)))
async def test_one_token_that_is_left_is_greedy(engine: EngineClient, narrow: dict[str, Any]) -> None:
    found = await reply(engine, "p1-aaaaaa", {**narrow, "max_tokens": 24})
    assert found.token_ids == (await reply(engine, "p1-aaaaaa", GREEDY)).token_ids


@pytest.mark.parametrize(
    "defaults", [*NARROW, {"temperature": 0.0}], ids=lambda defaults: next(iter(defaults))
)
async def test_a_request_that_names_nothing_has_the_defaults_of_the_base(
    engine: EngineClient, defaults: dict[str, Any]
) -> None:
    """One that names a neutral value has that instead."""
    unnamed = parse_chat({"messages": CAT, "max_tokens": 24})
    found = await reply(engine, "p1-aaaaaa", unnamed.sampling(24, GenerationDefaults(**defaults)))
    greedy = (await reply(engine, "p1-aaaaaa", GREEDY)).token_ids
    assert found.token_ids == greedy

    named = parse_chat({"messages": CAT, "max_tokens": 24, "temperature": 1.0, "top_p": 1.0, "seed": 3})
    of_the_request = await reply(engine, "p1-aaaaaa", named.sampling(24, GenerationDefaults()))
    assert of_the_request.token_ids != greedy


async def test_the_repetition_penalty_is_on_prompt_and_reply(engine: EngineClient, world: World) -> None:
    penalty = 1.5
    prompt, (found,) = await replies(engine, "p2-bbbbbb", {**GREEDY, "repetition_penalty": penalty})
    assert found.token_ids != (await reply(engine, "p2-bbbbbb", GREEDY)).token_ids
    logits = world.logits("p2-bbbbbb", prompt + found.token_ids)[len(prompt) - 1 :]
    for step, (token, row) in enumerate(zip(found.token_ids, logits, strict=True)):
        seen = torch.tensor(sorted({*prompt, *found.token_ids[:step]}))
        row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        assert row[token] == pytest.approx(float(row.max()), abs=1e-3)


TIME = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "maxProperties": 0}},
}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}


def without_blanks(world: World) -> dict[str, int]:
    """A bias against blanks, which random weights write for ever where a grammar allows them."""
    vocabulary = world.tokenizer.get_vocab()
    return {str(token): -100 for text, token in vocabulary.items() if not text.strip("ĠĊ")}


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}},
        {"structured_outputs": {"json": CITY}},
        {"structured_outputs": {"regex": r'\{"city": "(Paris|Rome)"\}'}},
        {"structured_outputs": {"choice": ['{"city": "Rome"}', '{"city": "Paris"}']}},
    ],
    ids=["response_format", "json", "regex", "choice"],
)
async def test_a_reply_has_the_form_that_was_asked_for(
    engine: EngineClient, world: World, form: dict[str, Any]
) -> None:
    asked = {**form, "n": 3, "max_tokens": 60, "seed": 4, "logit_bias": without_blanks(world)}
    _, found = await replies(engine, "p1-aaaaaa", asked)
    for each in found:
        assert json.loads(each.text)["city"] in ("Paris", "Rome")
        assert each.finish_reason == "stop"


async def test_a_grammar_that_is_none_is_refused(engine: EngineClient) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(InvalidRequest):
        await reply(engine, "p0", {**GREEDY, "response_format": wrong})


async def test_a_bias_rules_tokens_in_and_out(engine: EngineClient) -> None:
    wanted = await reply(engine, "p1-aaaaaa", {**GREEDY, "max_tokens": 4, "logit_bias": {"77": 100}})
    assert wanted.token_ids == [77] * 4
    free = await reply(engine, "p1-aaaaaa", GREEDY)
    without = await reply(engine, "p1-aaaaaa", {**GREEDY, "logit_bias": {str(free.token_ids[0]): -100}})
    assert free.token_ids[0] not in without.token_ids


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_tool_that_must_be_called_is_called(engine: EngineClient, world: World, choice: Any) -> None:
    """A model with random weights calls the right tool with valid arguments, and every token is recorded."""
    asked = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False, "seed": 3}
    asked |= {"max_tokens": 160, "logit_bias": without_blanks(world)}
    _, [found] = await replies(engine, "p1-aaaaaa", asked)
    [call] = found.tool_calls
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"])["city"] in ("Paris", "Rome")
    assert call["id"]
    assert found.text == ""
    assert len(found.token_ids) > 10


async def test_tools_and_their_calls_are_in_the_prompt(engine: EngineClient, world: World) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": '{"zone": "UTC"}'}}
    messages = [
        *CAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Noon."},
    ]
    prompt, _ = await replies(
        engine, "p0", {"tools": [WEATHER, TIME], "tool_choice": "none", "max_tokens": 1}, messages
    )
    text = world.tokenizer.decode(prompt)
    assert text.startswith(
        "<|system|>weather: The weather in a city.<tool_call><|end|><|system|>time: <tool_"
    )
    assert '<tool_call>\n{"name": "time", "arguments": {"zone": "UTC"}}\n</tool_call>' in text
    assert text.endswith("<|user|>Noon.<|end|><|assistant|>")


async def test_it_says_what_it_can(engine: EngineClient) -> None:
    described = await engine.describe()
    name, fields = described.name, described.fields
    assert name in ("vLLM", "the embedded engine")
    assert fields is not None
    assert {"tools", "response_format", "structured_outputs", "logit_bias", "chat_template_kwargs"} <= fields
    assert "tempreature" not in fields


async def test_usage_counts_the_tokens(engine: EngineClient) -> None:
    sampling = {"n": 2, "max_tokens": 7, "seed": 1}
    body = await whole(engine, "p0", sampling)
    completion = sum(len(choice["token_ids"]) for choice in body["choices"])
    prompt = len(body["prompt_token_ids"])
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    assert body["usage"].items() >= usage.items()

    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as client:
        request = {"model": "p0", "messages": CAT, "stream": True, "stream_options": {"include_usage": True}}
        response = await client.post("/v1/chat/completions", json={**request, **sampling})
    *_, last, done = [line for line in response.text.splitlines() if line]
    assert done == "data: [DONE]"
    assert httpx.Response(200, text=last.removeprefix("data: ")).json()["usage"].items() >= usage.items()


async def test_a_probe_is_the_prompts_own_logprobs(engine: EngineClient, world: World) -> None:
    ids = world.tokenizer("What is the capital of France?")["input_ids"]
    for policy in ADAPTERS:
        found = await engine.probe(policy, ids, range(1, len(ids)))
        assert found == pytest.approx(world.of_tokens(policy, ids), abs=1e-3)


async def test_probes_and_replies_share_batches(engine: EngineClient, world: World) -> None:
    """vLLM 0.32 dies of `prompt_logprobs` in a batch with replies of adapters."""
    ids = world.tokenizer("What is the capital of France?")["input_ids"]

    async def replying(policy: str) -> None:
        for _ in range(4):
            await reply(engine, policy, {"max_tokens": 24})

    async def probing(policy: str) -> None:
        for _ in range(4):
            found = await engine.probe(policy, ids, range(1, len(ids), 2))
            assert found == pytest.approx(world.of_tokens(policy, ids)[::2], abs=1e-3)

    await asyncio.gather(*(work(policy) for work in (replying, probing) for policy in ADAPTERS))


async def test_the_zero_adapter_answers_as_the_base(engine: EngineClient, world: World) -> None:
    """The other adapters do not, so the tests of mixed traffic can fail."""
    found = {policy: tuple((await reply(engine, policy, GREEDY)).token_ids) for policy in ADAPTERS}
    assert len(set(found.values())) == len(ADAPTERS)


async def test_a_prompt_beyond_the_context_is_refused(engine: EngineClient) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await reply(engine, "p0", {}, [{"role": "user", "content": "🙂" * 300}])
    assert refusal.value.code == "context_length_exceeded"


async def test_more_tokens_than_the_context_holds_are_refused_or_cut(engine: EngineClient) -> None:
    with suppress(InvalidRequest):
        prompt, (found,) = await replies(engine, "p0", {"max_tokens": 250})
        assert found.finish_reason == "stop" or len(prompt) + len(found.token_ids) == 256


async def test_without_max_tokens_a_reply_may_fill_the_context(engine: EngineClient) -> None:
    prompt, (found,) = await replies(engine, "p0", {"temperature": 0})
    assert found.finish_reason == "stop" or len(prompt) + len(found.token_ids) == 256


@pytest.mark.parametrize(
    "sampling", [{"temperature": -1}, {"top_p": 0}, {"n": 0}, {"max_tokens": 0}, {"presence_penalty": 3}]
)
async def test_a_wrong_value_is_refused(engine: EngineClient, sampling: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await reply(engine, "p0", sampling)


async def test_an_unknown_adapter_is_an_error(engine: EngineClient) -> None:
    with pytest.raises(EngineError) as failure:
        await reply(engine, "p9-999999", GREEDY)
    assert failure.value.status == 404


async def test_a_running_engine_is_healthy(engine: EngineClient) -> None:
    await engine.check_health()


def test_the_embedded_engine_is_unhealthy_when_its_thread_has_ended(world: World) -> None:
    model = Model(world.base)
    scheduler = Scheduler(model, max_sequences=1, max_adapters=1)
    with TestClient(create_app(model, scheduler, "base")) as client:
        assert client.get("/health").status_code == 200
        scheduler.stop()
        assert client.get("/health").status_code == 503


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


async def test_an_engine_that_is_not_there_is_an_error() -> None:
    engine = EngineClient("http://127.0.0.1:9", timeout=1)
    with pytest.raises(EngineError) as failure:
        await engine.adapters()
    assert failure.value.status is None
    with pytest.raises(EngineError):
        await reply(engine, "p0", GREEDY)
    await engine.close()


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
async def test_other_architectures_answer(worlds: Callable[[str], World], architecture: str) -> None:
    """Batched rows of different lengths, each as the reference computes it."""
    world = worlds(architecture)
    starting = start_embedded(world.base)
    engine = EngineClient(next(starting), timeout=30)
    for policy in ADAPTERS[:2]:
        await engine.load(policy, world.adapters[policy])
    orders = [(policy, TEA if i % 2 else CAT) for i, policy in enumerate(ADAPTERS[:2] * 3)]
    found = await asyncio.gather(*(replies(engine, policy, GREEDY, asked) for policy, asked in orders))
    for (policy, _), (prompt, (each,)) in zip(orders, found, strict=True):
        table = world.logprobs(policy, prompt + each.token_ids)[len(prompt) - 1 :]
        expected = table.gather(-1, torch.tensor(each.token_ids)[:, None]).squeeze(-1).tolist()
        assert [item["logprob"] for item in each.logprobs] == pytest.approx(expected, abs=1e-3)
        assert table.argmax(-1).tolist() == each.token_ids
    await engine.close()
    starting.close()


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
        async with asyncio.timeout(2):
            with pytest.raises(EngineError):
                await waiting


async def test_vllms_refusal_of_a_long_prompt_is_context_length_exceeded() -> None:
    body = '{"error":{"message":"This model\'s maximum context length is 9 tokens.","type":"x","code":400}}'
    async with answering("400 Bad Request", "application/json", body) as engine:
        with pytest.raises(InvalidRequest) as refusal:
            await replies(engine, "p1", {})
    assert refusal.value.code == "context_length_exceeded"
