"""Responses are built from tokens as OpenAI's JSON: the chunks of a stream, or one chat completion."""

import time
import uuid
from collections import Counter
from typing import Any

from serving.embedded.detokenizer import Vocabulary
from serving.embedded.protocol import ChatRequest
from serving.embedded.sequence import Token
from serving.embedded.tools import ToolCallParser


class ChatResponse:
    """The response to one chat request: `chunk` for each token of a stream, or `response` once."""

    def __init__(self, request: ChatRequest, prompt: list[int], vocabulary: Vocabulary) -> None:
        self._request = request
        self._prompt = prompt
        self._vocabulary = vocabulary
        self._header = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": request.model,
        }
        self._generated: Counter[int] = Counter()
        self._parsers = {
            choice: ToolCallParser(several=request.parallel_tool_calls is not False)
            for choice in range(request.n if request.may_call else 0)
        }

    def chunk(self, token: Token) -> dict[str, Any]:
        first = not self._generated
        role = {} if self._generated[token.choice] else {"role": "assistant"}
        self._generated[token.choice] += 1
        said, finish_reason = self._said(token.choice, token.text, token.finish_reason)
        choice: dict[str, Any] = {"index": token.choice, "delta": {**role, **said}}
        choice["logprobs"] = {"content": [self._item(token)]} if self._request.logprobs else None
        choice["finish_reason"] = finish_reason
        if self._request.return_token_ids:
            choice["token_ids"] = [token.id]
        chunk = {**self._header, "object": "chat.completion.chunk", "choices": [choice]}
        if first and self._request.return_token_ids:
            chunk["prompt_token_ids"] = self._prompt
        return chunk

    def usage_chunk(self) -> dict[str, Any] | None:
        if not (self._request.stream_options and self._request.stream_options.include_usage):
            return None
        return {**self._header, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def response(self, tokens: list[Token]) -> dict[str, Any]:
        self._generated.update(token.choice for token in tokens)
        body = {**self._header, "object": "chat.completion", "usage": self._usage()}
        body["choices"] = [
            self._choice(choice, [token for token in tokens if token.choice == choice])
            for choice in range(self._request.n)
        ]
        if self._request.return_token_ids:
            body["prompt_token_ids"] = self._prompt
        return body

    def _choice(self, index: int, tokens: list[Token]) -> dict[str, Any]:
        said, finish_reason = self._said(
            index, "".join(token.text for token in tokens), tokens[-1].finish_reason
        )
        for call in said.get("tool_calls", ()):
            del call["index"]
        choice: dict[str, Any] = {"index": index, "message": {"role": "assistant", **said}}
        logprobs = {"content": [self._item(token) for token in tokens]} if self._request.logprobs else None
        choice |= {"logprobs": logprobs, "finish_reason": finish_reason}
        if self._request.return_token_ids:
            choice["token_ids"] = [token.id for token in tokens]
        return choice

    def _said(self, choice: int, text: str, finish_reason: str | None) -> tuple[dict[str, Any], str | None]:
        """Returns the new text of a choice as parts of a message, and its finish reason: as in vLLM, that of
        a reply that calls tools is `tool_calls`, but for a tool that the request named."""
        parser = self._parsers.get(choice)
        if parser is None:
            return {"content": text}, finish_reason
        content, calls = parser.push(text, ended=finish_reason is not None)
        if finish_reason == "stop" and parser.calls and self._request.named_tool is None:
            finish_reason = "tool_calls"
        return {"content": content, **({"tool_calls": calls} if calls else {})}, finish_reason

    def _item(self, token: Token) -> dict[str, Any]:
        tops = [self._logprob(*each) for each in token.top_logprobs]
        return {**self._logprob(token.id, token.logprob), "top_logprobs": tops}

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = self._vocabulary.piece(token)
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}

    def _usage(self) -> dict[str, int]:
        return usage(len(self._prompt), self._generated.total())


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
