"""One request being answered: resolved to a policy once, streamed, recorded, and only then completed.

The turn is durable before its completion id and feedback token leave, so whatever a client was given can
be voted on. An answer that was given up (the client left, the engine failed) leaves nothing behind.
"""

import re
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from schemas.chat import DEFAULT_MODEL, ChatRequest
from schemas.errors import EngineError, Forbidden, InvalidRequest, NotFound
from schemas.turns import Reply, Turn, new_id
from serving.auth import Caller, Seals
from serving.engine import Delta
from serving.fleet import Fleet
from serving.router import Choice, Router

_POLICY = re.compile(r"p\d+(-[0-9a-f]{6})?")
UNSTORED = "chatcmpl-nostore-"  # ids of replies of which nothing was kept


class _Text:
    """What one choice has said so far."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish_reason = ""

    def add(self, delta: Delta, text: str) -> None:
        self.pieces.append(text)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason


class Answer:
    """`state` is the application's. Raises Forbidden, NotFound, InvalidRequest or Unavailable when the
    request cannot be taken; nothing is generated yet."""

    def __init__(self, state: Any, caller: Caller, request: ChatRequest) -> None:
        seals: Seals = state.seals
        if request.n > state.settings.serving.max_choices:
            raise InvalidRequest(f"n may be at most {state.settings.serving.max_choices}.", param="n")
        self._state = state
        self._caller = caller
        self._request = request
        self._begun = time.monotonic()
        self.created = int(time.time())
        self.id = new_id() if request.store else UNSTORED + secrets.token_hex(12)
        self.conversation_id = request.metadata.get("conversation_id") or f"conv-{secrets.token_hex(12)}"
        user = request.user or f"conversation:{self.conversation_id}"
        self.rater = seals.rater(caller.project, user, caller.kind)
        self.choice = _choose(state.router, state.fleet, caller, request.model, self.conversation_id)
        self.messages = _with_system(request, state.router.route(caller.project).system_prompt)
        self._texts = [_Text() for _ in range(request.n)]
        self._prompt: list[int] = []
        self._limit = request.max_tokens or state.settings.serving.max_tokens

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The reply as it is generated; see `Fleet.stream` for what it raises. Close it to stop."""
        fleet: Fleet = self._state.fleet
        with fleet.hold(self.choice.policy), self._state.metrics.streams.track_inprogress():
            async with aclosing(self._generate(fleet)) as deltas:
                async for delta in deltas:
                    if delta.prompt_token_ids is not None:
                        self._prompt = delta.prompt_token_ids
                        self._check_length(fleet.context)
                        self._state.metrics.first_token.observe(time.monotonic() - self._begun)
                    # A byte-level model can say NUL, which Postgres cannot keep.
                    text = delta.text.replace("\0", "\ufffd")
                    self._texts[delta.choice].add(delta, text)
                    yield Delta(
                        delta.choice, text, delta.token_ids, delta.logprobs, delta.finish_reason, None
                    )

    def _check_length(self, context: int | None) -> None:
        """vLLM would cut a reply short that was promised more tokens than fit. Raises InvalidRequest."""
        wanted = len(self._prompt) + (self._request.max_tokens or 0)
        if context is not None and wanted > context:
            raise InvalidRequest(
                f"The prompt's {len(self._prompt)} tokens and max_tokens are {wanted} tokens; the context "
                f"holds {context}.",
                code="context_length_exceeded",
                param="max_tokens",
            )

    async def _generate(self, fleet: Fleet) -> AsyncGenerator[Delta]:
        try:
            async with aclosing(self._stream(fleet)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except InvalidRequest as error:
            if error.code != "context_length_exceeded" or self._request.max_tokens is not None:
                raise
        # It was our default that did not fit, so the reply gets what is left of the context.
        self._limit = None
        async with aclosing(self._stream(fleet)) as deltas:
            async for delta in deltas:
                yield delta

    def _stream(self, fleet: Fleet) -> AsyncGenerator[Delta]:
        sampling = {
            **self._request.sampling(self._limit),
            "top_logprobs": self._request.top_logprobs or 0,
        }
        return fleet.stream(self.choice.policy, self.conversation_id, self.messages, sampling)

    async def record(self) -> None:
        """Make the turn durable, unless the client asked that nothing be kept. Raises EngineError for a reply
        that never ended."""
        self._check_whole()
        metrics = self._state.metrics
        metrics.tokens.labels("prompt").inc(len(self._prompt))
        metrics.tokens.labels("completion").inc(self._completion_tokens())
        metrics.replies.labels(self.choice.policy).inc(len(self._texts))
        if not self._request.store:
            return
        replies = [
            Reply(
                choice=index,
                policy=self.choice.policy,
                propensity=self.choice.propensity,
                text="".join(text.pieces),
                token_ids=text.token_ids,
                logprobs=[item["logprob"] for item in text.logprobs],
                finish_reason=text.finish_reason,
            )
            for index, text in enumerate(self._texts)
        ]
        await self._state.store.record_turn(
            Turn(
                id=self.id,
                project=self._caller.project,
                conversation_id=self.conversation_id,
                rater=self.rater,
                key_id=self._caller.key_id,
                messages=self.messages,
                prompt_token_ids=self._prompt,
                sampling=self._request.sampling(self._limit),
                replies=replies,
                metadata=dict(self._request.metadata),
            )
        )

    def _check_whole(self) -> None:
        for index, text in enumerate(self._texts):
            if not text.finish_reason:
                raise EngineError(
                    f"{self.id}, {self.choice.policy}: choice {index} never ended, after "
                    f"{len(text.token_ids)} tokens",
                    url=", ".join(self._state.settings.vllm.urls),
                )

    def head(self, kind: str) -> dict[str, Any]:
        """The fields that a completion and each of its chunks share."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self._request.model,
            "system_fingerprint": self.choice.policy,
        }

    def completion(self) -> dict[str, Any]:
        """OpenAI's whole response, for after the record."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(text.pieces), "refusal": None},
                "logprobs": self.logprobs(text.logprobs),
                "finish_reason": text.finish_reason,
            }
            for index, text in enumerate(self._texts)
        ]
        return {
            **self.head("chat.completion"),
            "choices": choices,
            "usage": self.usage(),
            "hearken": self.extension(),
        }

    def logprobs(self, items: list[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": items, "refusal": None} if self._request.logprobs else None

    def usage(self) -> dict[str, int]:
        prompt, completion = len(self._prompt), self._completion_tokens()
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def extension(self) -> dict[str, Any]:
        """What Hearken adds to OpenAI's response: how to vote on it, and who answered."""
        seals: Seals = self._state.seals
        return {
            "turn_id": self.id,
            "conversation_id": self.conversation_id,
            "policies": [self.choice.policy] * len(self._texts),
            "feedback_token": seals.feedback_token(self.id) if self._request.store else None,
        }

    def _completion_tokens(self) -> int:
        return sum(len(text.token_ids) for text in self._texts)


def _choose(router: Router, fleet: Fleet, caller: Caller, model: str, conversation_id: str) -> Choice:
    if model == DEFAULT_MODEL:
        return router.choose(caller.project, conversation_id)
    if caller.kind != "admin" and _POLICY.fullmatch(model):
        raise Forbidden(f"Only an admin key may choose a policy; use model {DEFAULT_MODEL}.")
    if model not in router.route(caller.project).policies() or not fleet.serves(model):
        raise NotFound(
            f"There is no model {model[:64]} here now; GET /v1/models lists those there are.",
            code="model_not_found",
            param="model",
        )
    return Choice(model, 1.0)


def _with_system(request: ChatRequest, system_prompt: str | None) -> list[dict[str, Any]]:
    messages = [message.model_dump() for message in request.messages]
    if system_prompt and all(message["role"] != "system" for message in messages):
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages
