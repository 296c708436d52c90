"""A chat completion is one request being answered: it is assigned a policy, streamed, and recorded as a turn.

The turn is durable before its completion id and feedback token reach the client, so everything that a client
has been given can be voted on. A completion that ends early (the client disconnects, the engine fails) leaves
nothing behind.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from schemas.chat import ChatRequest
from schemas.errors import EngineError, InvalidRequest
from schemas.turns import Reply, Turn, made_at, new_id
from serving.assignment import assigned_policy
from serving.generation import Generation
from serving.identity import Visitor, identify
from serving.keys import Caller
from serving.limits import Charge
from serving.publishable import check_publishable
from serving.router import Assignment
from serving.services import Services
from serving.streamed_reply import ShownDelta, StreamedReply

UNSTORED_PREFIX = "chatcmpl-nostore-"
"""The beginning of a completion's id where nothing was stored (`store: false`)."""


def unstored_id() -> str:
    """Returns a new id of a completion that is not stored."""
    return UNSTORED_PREFIX + secrets.token_hex(12)


class Completion:
    """The completion of one chat request; `visitor` is the holder of its session, `record` what else of
    the request to record, `network` where it came from; `policy` answers where serving itself asks. `person`
    is the one who is known to ask, None where only the conversation or the network is known. `token_buckets`
    are what its tokens are charged to, `stored` says whether its turn is recorded.
    The constructor generates nothing yet; it raises Forbidden, NotFound, InvalidRequest or Unavailable when
    the request cannot be answered."""

    def __init__(
        self,
        services: Services,
        caller: Caller,
        request: ChatRequest,
        visitor: Visitor | None = None,
        record: dict[str, Any] | None = None,
        policy: str | None = None,
        network: str = "",
    ) -> None:
        max_choices = services.settings.serving.max_choices
        if request.n > max_choices:
            raise InvalidRequest(f"n may be at most {max_choices}.", param="n")
        if caller.kind == "publishable":
            check_publishable(request)
        services.fleet.check_supported(request.needed())
        self._services = services
        self._caller = caller
        self._request = request
        self._record = dict(record or {})
        self._started = time.monotonic()
        self.stored = request.store
        self.id = new_id() if self.stored else unstored_id()
        self.created = int(made_at(self.id) or time.time())
        self.metadata = dict(request.metadata)
        self.conversation_id = request.metadata.get("conversation_id") or f"conv-{secrets.token_hex(12)}"
        asks = identify(services.signer, caller, request.user, visitor, self.conversation_id, network)
        self.rater, self._origin = asks.rater, asks.origin
        self.person = asks.rater if asks.is_person else None
        route = services.router.route(caller.project)
        self.assignment = (
            Assignment(policy, 1.0)
            if policy
            else assigned_policy(services, caller, request.model, route, self.rater, self.conversation_id)
        )
        self.messages = [message.model_dump(exclude_none=True) for message in request.messages]
        if route.system_prompt and all(message["role"] != "system" for message in self.messages):
            self.messages.insert(0, {"role": "system", "content": route.system_prompt})
            self._record["project_prompt"] = True
        self._route = route
        self._generation = Generation(
            services,
            request,
            route,
            self.assignment,
            asks,
            self.conversation_id,
            self.messages,
        )
        self._choices = [self._new_reply() for _ in range(request.n)]
        self.prompt_token_ids: list[int] = []
        self._seconds: dict[int, float] = {}
        self.token_buckets: list[Charge] = []

    def _new_reply(self) -> StreamedReply:
        request, special_tokens = self._request, self._services.special_tokens
        legacy = request.functions is not None
        return StreamedReply(special_tokens, bool(request.stop), legacy, request.include_reasoning)

    async def deltas(self) -> AsyncGenerator[ShownDelta]:
        """Yields the reply as it is generated; see `Fleet.stream` for its errors. Closing it stops the
        engine."""
        fleet, metrics = self._services.fleet, self._services.metrics
        try:
            with ExitStack() as held, metrics.requests_in_flight.track_inprogress():
                for policy in self._generation.policies():
                    held.enter_context(fleet.hold(self._route.adapter(policy)))
                async with aclosing(self._generation.deltas()) as deltas:
                    async for delta in deltas:
                        if delta.prompt_token_ids is not None:
                            self.prompt_token_ids = delta.prompt_token_ids
                            self._check_length(fleet.context)
                            metrics.time_to_first_token.observe(time.monotonic() - self._started)
                        # Of a pair that nobody asked for there is one more.
                        self._choices += [self._new_reply() for _ in self.drawn[len(self._choices) :]]
                        shown = self._choices[delta.choice].add(delta)
                        if delta.finish_reason:
                            self._seconds[delta.choice] = time.monotonic() - self._started
                        yield shown
        finally:
            self._count_tokens()

    def _count_tokens(self) -> None:
        """Counts the tokens that were generated, also where the client has left."""
        usage = self.usage()
        total = usage.pop("total_tokens")
        self._services.usage.count(self._caller, **usage)
        self._services.limiter.spend(*(replace(bucket, count=total) for bucket in self.token_buckets))

    def _check_length(self, context: int | None) -> None:
        """Raises InvalidRequest for a prompt that leaves no room for max_tokens, where vLLM would cut the
        reply."""
        wanted = len(self.prompt_token_ids) + (self._request.max_tokens or 0)
        if context is not None and wanted > context:
            raise InvalidRequest(
                f"The prompt's {len(self.prompt_token_ids)} tokens and max_tokens are {wanted} tokens; the"
                f" context holds {context}.",
                code="context_length_exceeded",
                param="max_tokens",
            )

    @property
    def drawn(self) -> list[Assignment]:
        """The policy of each reply."""
        return self._generation.drawn

    def sampling(self) -> dict[str, Any]:
        """Returns every sampling parameter."""
        return self._generation.sampling()

    def recorded_request(self) -> dict[str, Any]:
        """Returns what shaped the prompt and the reply beside the messages. `media` marks a prompt that is
        more than its tokens, so nothing is trained on it."""
        media = sorted({part["type"] for part in self._request.media})
        own = {"media": media} if media else {}
        return self._request.engine_fields() | own | self._record | self._generation.record

    async def record(self) -> None:
        """Stores the turn, unless the client asked that nothing be stored, and counts it. Raises EngineError
        for a reply without an end."""
        self._check_finished()
        metrics = self._services.metrics
        metrics.tokens.labels("prompt").inc(len(self.prompt_token_ids))
        metrics.tokens.labels("completion").inc(self._completion_tokens())
        for each in self.drawn:
            metrics.replies.labels(self._caller.project, each.policy).inc()
        if not self.stored:
            return
        turn = Turn(
            id=self.id,
            project=self._caller.project,
            conversation_id=self.conversation_id,
            rater=self.rater,
            key_id=self._caller.key_id,
            messages=self.messages,
            prompt_token_ids=self.prompt_token_ids,
            sampling=self.sampling(),
            replies=self.replies(),
            metadata=self.metadata,
            request=self.recorded_request(),
            origin=self._origin,
        )
        turn = await self._services.redaction.turn(turn)
        await self._services.spool.write(
            partial(self._services.store.record_turn, turn), lambda: {"kind": "turn", **asdict(turn)}
        )

    def replies(self) -> list[Reply]:
        """Returns the replies as they are recorded."""
        return [
            Reply(
                choice=index,
                policy=self.drawn[index].policy,
                propensity=self.drawn[index].propensity,
                text=choice.text,
                token_ids=choice.token_ids,
                logprobs=choice.token_logprobs,
                finish_reason=choice.finish_reason,
                message=choice.recorded(),
                seconds=self._seconds.get(index),
            )
            for index, choice in enumerate(self._choices)
        ]

    def _check_finished(self) -> None:
        for index, choice in enumerate(self._choices):
            if not choice.finish_reason:
                raise EngineError(
                    f"{self.id}, {self.assignment.policy}: choice {index} has no end after "
                    f"{len(choice.token_ids)} tokens",
                    url=", ".join(self._services.settings.vllm.urls),
                )

    def header(self, kind: str) -> dict[str, Any]:
        """Returns the fields that a completion and each of its chunks share."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self._request.model,
            "system_fingerprint": "+".join(sorted(self._generation.policies())),
        }

    def response(self) -> dict[str, Any]:
        """Returns OpenAI's whole response; call it after `record`."""
        choices = [
            {
                "index": index,
                "message": choice.message(),
                "logprobs": self.logprobs(choice.shown_logprobs),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return {
            **self.header("chat.completion"),
            "choices": choices,
            "usage": self.usage(),
            "hearken": self.extension(),
        }

    def shown(self) -> ShownDelta:
        """Returns all that the client sees of the first choice."""
        return self._choices[0].shown()

    def logprobs(self, items: list[dict[str, Any]]) -> dict[str, Any] | None:
        return {"content": items, "refusal": None} if self._request.logprobs else None

    def usage(self) -> dict[str, int]:
        prompt, completion = len(self.prompt_token_ids), self._completion_tokens()
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def extension(self) -> dict[str, Any]:
        blind = len(self._generation.policies()) > 1 and self._caller.kind != "admin"
        policies = [] if blind else [each.policy for each in self.drawn]
        token = self._services.signer.feedback_token(self.id) if self.stored else None
        return extension(self.id, self.conversation_id, policies, token)

    def _completion_tokens(self) -> int:
        return sum(len(choice.token_ids) for choice in self._choices)


def extension(
    id: str, conversation_id: str, policies: list[str], feedback_token: str | None
) -> dict[str, Any]:
    """Returns the `hearken` field, Hearken's addition to OpenAI's response: the policy of each choice, unless
    it is a duel, and the feedback token."""
    return {
        "turn_id": id,
        "conversation_id": conversation_id,
        "policies": policies,
        "feedback_token": feedback_token,
    }
