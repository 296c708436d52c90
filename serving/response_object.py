"""The response object of OpenAI's Responses API is made from what its turn records, so one that is retrieved
is the one that was answered, but for `user`, of which only a pseudonym is kept.

A response's id is its completion's with another prefix.
"""

from typing import Any

from schemas.chat import DEFAULT_MODEL
from schemas.responses import ResponseRequest, response_format, response_tool, response_tool_choice
from schemas.turns import COMPLETION_PREFIX, bare_id

_PREFIX = "resp_"


def completion_id(response_id: str) -> str:
    return COMPLETION_PREFIX + response_id.removeprefix(_PREFIX)


def recorded_fields(asked: ResponseRequest) -> dict[str, Any]:
    """Returns what a turn records of a response beside what it records of a chat request."""
    fields = {
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "model": asked.model if asked.model != DEFAULT_MODEL else None,
        "previous_response_id": asked.previous_response_id,
    }
    return {name: value for name, value in fields.items() if value}


def begun(
    id: str, created: int, request: dict[str, Any], sampling: dict[str, Any], metadata: dict[str, Any]
) -> dict[str, Any]:
    """Returns the response to a turn that is in progress."""
    return {
        "id": _PREFIX + bare_id(id),
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "metadata": metadata,
        "model": request.get("model", DEFAULT_MODEL),
        "output": [],
        "parallel_tool_calls": request.get("parallel_tool_calls", True),
        "previous_response_id": request.get("previous_response_id"),
        "reasoning": {"effort": request.get("reasoning_effort"), "summary": None},
        "store": True,
        "temperature": sampling.get("temperature"),
        "text": {"format": response_format(request.get("response_format"))},
        "tool_choice": response_tool_choice(request.get("tool_choice")),
        "tools": [response_tool(tool) for tool in request.get("tools", ())],
        "top_p": sampling.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def ended(
    response: dict[str, Any],
    output: list[dict[str, Any]],
    finish_reason: str | None,
    prompt_tokens: int,
    completion_tokens: int,
) -> dict[str, Any]:
    """Returns a response in progress with its output."""
    cut = finish_reason == "length"
    return response | {
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": output,
        "usage": {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
