"""Every engine gives the replies of this contract, through the engine client and a real process.

The suite is parametrised by the kind of engine; the references are plain transformers and PEFT.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import torch
from engine_replies import CAT, GREEDY, TEA, Reply, replies, reply
from engines import ADAPTERS, World, start_embedded
from fastapi.testclient import TestClient

from schemas.chat import parse_chat
from schemas.errors import EngineError, InvalidRequest
from schemas.generation_defaults import GenerationDefaults
from serving.embedded.model import Model
from serving.embedded.scheduler import Scheduler
from serving.embedded.server import create_app
from serving.engine import EngineClient
from tests.tools import WEATHER


async def whole(engine: EngineClient, policy: str, sampling: dict[str, Any]) -> dict[str, Any]:
    """The same request without streaming."""
    async with httpx.AsyncClient(base_url=engine.url, timeout=30) as client:
        body = {"model": policy, "messages": CAT, "logprobs": True, "return_token_ids": True, **sampling}
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        return response.json()


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
