"""The official `openai` client, unchanged, against the service."""

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.service import ADMIN, PUBLIC, Service

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=ADMIN, max_retries=0)


def test_a_reply_and_the_next_turn(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="default",
        messages=ASK,
        max_completion_tokens=8,
        temperature=0,
        user="ada",
        n=2,
        logprobs=True,
        top_logprobs=2,
        metadata={"conversation_id": "c-openai"},
        store=True,
    )
    assert completion.system_fingerprint == "p0"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16
    assert completion.choices[1].logprobs is not None
    assert len(completion.choices[1].logprobs.content or []) == 8
    assert completion.model_extra is not None
    assert completion.model_extra["hearken"]["conversation_id"] == "c-openai"
    reply = completion.choices[0].message
    history: list[ChatCompletionMessageParam] = [*ASK, reply.to_dict(), ASK[0]]  # type: ignore[list-item]
    second = client.chat.completions.create(model="default", messages=history, max_tokens=8)
    assert second.choices[0].message.role == "assistant"


def test_streaming(client: openai.OpenAI) -> None:
    text, finished, usage, extra = "", None, None, None
    with client.chat.completions.create(
        model="default",
        messages=ASK,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        for chunk in chunks:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                finished = choice.finish_reason or finished
            usage = chunk.usage or usage
            extra = (chunk.model_extra or {}).get("hearken", extra)
    whole = client.chat.completions.create(model="default", messages=ASK, max_tokens=12, temperature=0)
    assert text == whole.choices[0].message.content
    assert finished == "length"
    assert usage == whole.usage
    assert extra["feedback_token"]


def test_the_clients_own_accumulator(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="default", messages=ASK, max_tokens=20, temperature=0)
    text = whole.choices[0].message.content or ""
    with client.chat.completions.stream(
        model="default", messages=ASK, max_tokens=20, temperature=0, n=2, stop=text[6:8]
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.finish_reason for choice in final.choices] == ["stop", "stop"]
    assert final.choices[1].message.content == text[: text.index(text[6:8])]


async def test_async_both_ways(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=PUBLIC) as client:
        whole = await client.chat.completions.create(
            model="default", messages=ASK, max_tokens=8, temperature=0
        )
        pieces = await client.chat.completions.create(
            model="default", messages=ASK, max_tokens=8, temperature=0, stream=True
        )
        text = "".join([piece.choices[0].delta.content or "" async for piece in pieces])
    assert text == whole.choices[0].message.content


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default", "p0"]
    assert client.models.retrieve("default").owned_by == "hearken"


def test_errors_arrive_as_the_clients_own(service: Service, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model"):
        client.chat.completions.create(model="gpt-4", messages=ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=ASK, max_tokens=100_000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="default", messages=ASK, reasoning_effort="low")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "reasoning_effort")
    stranger = openai.OpenAI(base_url=f"{service.url}/v1", api_key="sk-hearken-nobody", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.chat.completions.create(model="default", messages=ASK)
