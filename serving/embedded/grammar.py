"""Constrained decoding allows only the tokens with which a reply can still become valid JSON, match a pattern
or call a tool (Willard and Louf 2023), by llguidance's parser.

As in vLLM, tokens that a grammar forbids have probability 0, so log-probabilities are of what may come.
"""

import json
from typing import Any

import llguidance
import llguidance.hf
import torch
from llguidance import LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor

from schemas.errors import InvalidRequest
from serving.embedded.model import Model
from serving.embedded.tools import CLOSE, OPEN

_JSON_OPTIONS: Any = {"whitespace_pattern": r"[ \n]{0,2}"}  # a small model may write blanks for ever


class Grammar:
    """What may come next in one reply."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = allocate_token_bitmask(1, vocabulary)
        self._vocabulary = vocabulary

    def allowed(self) -> Tensor:
        """Returns which tokens may be next, (V,), of bool."""
        fill_next_token_bitmask(self._matcher, self._bits)
        bits = torch.from_numpy(self._bits[0])[:, None] >> torch.arange(32, dtype=torch.int32)
        return (bits & 1).bool().flatten()[: self._vocabulary]

    def append(self, token: int) -> None:
        self._matcher.consume_token(token)

    def copy(self) -> "Grammar":
        """Returns a grammar of another reply to the same request."""
        return Grammar(self._matcher.deep_copy(), self._vocabulary)


class Grammars:
    """The grammars over one model's vocabulary."""

    def __init__(self, model: Model) -> None:
        self._vocabulary = model.vocabulary
        self._tokenizer = llguidance.hf.from_tokenizer(
            model.tokenizer, n_vocab=model.vocabulary, eos_token=sorted(model.eos_token_ids)
        )

    def compile(self, source: str, param: str) -> Grammar:
        """Returns the grammar of a source that a function below made. Raises InvalidRequest about `param`."""
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            problem = matcher.get_error().strip().splitlines()[0]
            raise InvalidRequest(f"{param} is not a grammar that can be followed: {problem}", param=param)
        return Grammar(matcher, self._vocabulary)


def response_format_source(response_format: dict[str, Any]) -> str | None:
    """Returns the grammar's source for OpenAI's `response_format`; None for text."""
    match response_format.get("type"):
        case "json_object":
            return _json_source({"type": "object"})
        case "json_schema":
            return _json_source((response_format.get("json_schema") or {}).get("schema") or {})
        case _:
            return None


def structured_outputs_source(given: dict[str, Any]) -> str:
    """Returns the grammar's source for vLLM's `structured_outputs`. Raises InvalidRequest."""
    fields = {name: value for name, value in given.items() if value is not None}
    match fields:
        case {"json": str() | dict() as schema, **rest} if not rest:
            return _json_source(schema)
        case {"json_object": True, **rest} if not rest:
            return _json_source({"type": "object"})
        case {"regex": str(pattern), **rest} if not rest:
            return LLMatcher.grammar_from_regex(pattern)
        case {"choice": [*choices], **rest} if not rest and choices:
            return LLMatcher.grammar_from_lark("start: " + " | ".join(map(_quoted, choices)))
        case {"grammar": str(grammar), **rest} if not rest:
            return LLMatcher.grammar_from_lark(grammar)
        case _:
            raise InvalidRequest(
                "structured_outputs needs one of json, json_object, regex, choice and grammar.",
                param="structured_outputs",
            )


def tool_call_source(tools: list[dict[str, Any]], name: str | None, *, several: bool) -> str:
    """Returns the grammar's source for calls of these tools, of the one called `name` if that is given."""
    functions = [tool["function"] for tool in tools if name in (None, tool["function"]["name"])]
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    lines = [
        'start: call ("\\n" call)*' if several else "start: call",
        f"call: {_quoted(OPEN)} body {_quoted(CLOSE)}",
        f"body: %json {json.dumps({'anyOf': calls, 'x-guidance': _JSON_OPTIONS})}",
    ]
    return LLMatcher.grammar_from_lark("\n".join(lines))


def _json_source(schema: str | dict[str, Any]) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS)
    except ValueError as error:
        raise InvalidRequest(f"The JSON schema is not one: {error}", param="response_format") from None


def _quoted(text: Any) -> str:
    return json.dumps(str(text))
