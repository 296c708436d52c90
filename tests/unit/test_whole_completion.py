"""A raw completion is put together from its events."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from schemas.errors import EngineError, HearkenError, InvalidRequest
from serving.whole_completion import whole_completion

HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "p1"}


def choice(index: int, text: str, tokens: list[str], finish: str | None = None) -> dict[str, Any]:
    offsets, values = list(range(len(tokens))), [-0.5] * len(tokens)
    logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
    return {"index": index, "text": text, "logprobs": logprobs, "token_ids": offsets, "finish_reason": finish}


async def events(*found: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> AsyncGenerator[bytes]:
    """Yields the events in pieces that end anywhere."""
    sent = b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in found) + end
    for start in range(0, len(sent), 7):
        yield sent[start : start + 7]


async def whole(pieces: AsyncGenerator[bytes]) -> dict[str, Any]:
    [body] = [each async for each in whole_completion(pieces)]
    found: dict[str, Any] = json.loads(body)
    return found


async def test_texts_and_lists_grow_and_choices_come_in_their_order() -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    found = await whole(
        events(
            {**HEAD, "choices": [choice(1, "", [])]},
            {**HEAD, "choices": [choice(1, "a\n\n", ["a", "\n\n"])]},
            {**HEAD, "choices": [choice(0, "x", ["x"], "length")]},
            {**HEAD, "choices": [{"index": 1, "text": "", "logprobs": None, "token_ids": None}]},
            {**HEAD, "choices": [choice(1, "b", ["b"], "stop")]},
            {**HEAD, "choices": [], "usage": usage},
        )
    )
    assert found == {
        **HEAD,
        "usage": usage,
        "choices": [
            choice(0, "x", ["x"], "length"),
            {
                "index": 1, "text": "a\n\nb", "token_ids": [0, 1, 0], "finish_reason": "stop",
                "logprobs": {
                    "tokens": ["a", "\n\n", "b"], "token_logprobs": [-0.5] * 3, "text_offset": [0, 1, 0],
                },
            },
        ],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (events({**HEAD, "choices": []}, {"error": {"message": "no grammar", "code": 400}}), InvalidRequest),
        (events({"error": {"message": "out of memory", "code": 500}}), EngineError),
        (events({**HEAD, "choices": []}, end=b""), EngineError),
    ],
)
async def test_what_does_not_end_well_is_an_error(
    pieces: AsyncGenerator[bytes], error: type[HearkenError]
) -> None:
    with pytest.raises(error):
        await whole(pieces)
