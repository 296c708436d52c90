"""A chat completion is one request being answered: it is assigned a policy, streamed, and recorded as a turn.

The turn is durable before its completion id and feedback token reach the client, so everything that a client
has been given can be voted on. A completion that ends early (the client disconnects, the engine fails) leaves
nothing behind.
"""

import re
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from schemas.chat import DEFAULT_MODEL, ChatRequest
from schemas.errors import EngineError, Forbidden, InvalidRequest, NotFound, Unavailable
from schemas.policies import BASE
from schemas.turns import Reply, Turn, made_at, new_id
from serving import duel, pairs
from serving.best_of import WholeReplies, best_reply, may_be_chosen
from serving.engine import Delta
from serving.identity import Visitor, identify
from serving.keys import Caller
from serving.limits import Charge
from serving.router import Assignment, Route
from serving.services import Services
from serving.streamed_reply import ShownDelta, StreamedReply
from serving.tastes import Choice

_POLICY_ID = re.compile(r"p\d+(-[0-9a-f]{6})?")
_IN_PROMPT = {"tools", "documents", "chat_template_kwargs"}
"""The fields of a request that a chat template writes into the prompt."""
UNSTORED_PREFIX = "chatcmpl-nostore-"
"""The beginning of a completion's id where nothing was stored (`store: false`)."""


class Completion:
    """The completion of one chat request; `visitor` is the holder of its session, `record` what else of
    the request to record, `network` where it came from; `policy` answers where serving itself asks. `person`
    is the one who is known to ask, None where only the conversation or the network is known. `token_buckets`
    are what its tokens are charged to.
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
        if caller.kind == "publishable" and request.names_addresses:
            # An engine would fetch them, from inside the operator's network.
            raise InvalidRequest(
                "With a publishable key, send the file itself as a data: URL.", param="messages"
            )
        services.fleet.check_supported(request.needed())
        self._services = services
        self._caller = caller
        self._request = request
        self._record = dict(record or {})
        self._started = time.monotonic()
        self.id = new_id() if request.store else UNSTORED_PREFIX + secrets.token_hex(12)
        self.created = int(made_at(self.id) or time.time())
        self.metadata = dict(request.metadata)
        self.conversation_id = request.metadata.get("conversation_id") or f"conv-{secrets.token_hex(12)}"
        asks = identify(services.signer, caller, request.user, visitor, self.conversation_id, network)
        self.rater, self._origin = asks.rater, asks.origin
        self.person = asks.rater if asks.is_person else None
        route = services.router.route(caller.project)
        self.assignment = (
            Assignment(policy, 1.0) if policy else _assign(services, caller, request.model, route, self.rater)
        )
        self.messages = [message.model_dump(exclude_none=True) for message in request.messages]
        if route.system_prompt and all(message["role"] != "system" for message in self.messages):
            self.messages.insert(0, {"role": "system", "content": route.system_prompt})
            self._record["project_prompt"] = True
        self._route = route
        self.drawn = [self.assignment] * request.n
        if request.n == duel.PAIR and request.model == DEFAULT_MODEL and request.store:
            self.drawn = duel.draw(route, self.assignment, services.fleet) or self.drawn
        self._choices = [self._new_reply() for _ in range(request.n)]
        self.prompt_token_ids: list[int] = []
        self._seconds: dict[int, float] = {}
        self._defaults = services.generation_defaults.model_copy(
            update={name: value for name, value in route.sampling.items() if name != "max_tokens"}
        )
        usual = route.sampling.get("max_tokens") or services.settings.serving.max_tokens
        self._max_tokens: int | None = request.max_tokens or usual
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
                for policy in self._policies():
                    held.enter_context(fleet.hold(self._route.adapter(policy)))
                async with aclosing(self._generate()) as deltas:
                    async for delta in deltas:
                        if delta.prompt_token_ids is not None:
                            self.prompt_token_ids = delta.prompt_token_ids
                            self._check_length(fleet.context)
                            metrics.time_to_first_token.observe(time.monotonic() - self._started)
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

    async def _generate(self) -> AsyncGenerator[Delta]:
        choice = await self._personal_choice()
        if choice is None:
            asks = await self._may_ask_for_a_pair()
            async with aclosing(self._pair() if asks else self._fitting(1)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        count = self._services.settings.serving.personal_choices
        self._record["best_of"] = count
        for delta in await best_reply(self._services.tastes, choice, self._fitting(count), count):
            yield delta

    async def _personal_choice(self) -> Choice | None:
        """Returns what the reply is chosen by, if it is chosen for this person: of the routed policy, as the
        base's share of people shows what is without learning."""
        several = self._services.settings.serving.personal_choices > 1
        routed = self._request.model == DEFAULT_MODEL and self.assignment.policy != BASE
        if self.person is None or not (several and routed and may_be_chosen(self._request, self.sampling())):
            return None
        return await self._services.tastes.choice(self._caller.project, self.person)

    async def _may_ask_for_a_pair(self) -> bool:
        """Returns whether two replies may be sent where one was asked for: to a known person, of the live
        policy, on a page that shows them."""
        request, route = self._request, self._route
        live = request.model == DEFAULT_MODEL and self.assignment.policy == route.live
        if self.person is None or not (live and request.store and pairs.looks(request.compare or 0.0)):
            return False
        most = self._services.settings.serving.pairs_per_day
        plain = may_be_chosen(request, self.sampling())
        return plain and await pairs.may_ask(self._services.pool, route.project, self.person, most)

    async def _pair(self) -> AsyncGenerator[Delta]:
        """Yields the two replies of a duel, or what `pairs` decides: a pair, or one reply."""
        services, route = self._services, self._route
        duelists = duel.draw(route, self.assignment, services.fleet)
        if duelists is not None:
            self._ask_for(pairs.Decision([0, 1], 1.0, None), duelists)
            with services.fleet.hold(route.adapter(str(route.canary))):
                async for delta in self._fitting(1):
                    yield delta
            return
        replies = await WholeReplies.read(self._fitting(pairs.CHOICES), pairs.CHOICES)
        values = await services.tastes.values(route.project, replies.prompt, replies.token_ids)
        decision = services.pairs.decide(route.project, replies.texts, values)
        self._ask_for(decision, [self.assignment] * len(decision.choices))
        for delta in replies.sent(decision.choices):
            yield delta

    def _ask_for(self, decision: pairs.Decision, drawn: list[Assignment]) -> None:
        self._record["pair"] = decision.as_json()
        self.drawn = drawn
        self._choices += [self._new_reply() for _ in drawn[1:]]

    async def _fitting(self, choices: int) -> AsyncGenerator[Delta]:
        """Yields `choices` replies for each one that was asked for, within the context."""
        try:
            async with aclosing(self._stream(choices)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        except InvalidRequest as error:
            if error.code != "context_length_exceeded" or self._request.max_tokens is not None:
                raise
        # The default max_tokens did not fit, so the reply may use the rest of the context.
        self._max_tokens = None
        async with aclosing(self._stream(choices)) as deltas:
            async for delta in deltas:
                yield delta

    def _stream(self, choices: int) -> AsyncGenerator[Delta]:
        policies = self._policies()
        if len(policies) == 1:
            return self._stream_of(policies[0], self._request.n * choices)
        return duel.merged([self._stream_of(each.policy, 1) for each in self.drawn])

    async def _stream_of(self, policy: str, n: int) -> AsyncGenerator[Delta]:
        """Yields `n` replies of a policy. Notes whether its engine fails, as a candidate may be at fault."""
        special_tokens = self._services.special_tokens
        parameters = {**self.sampling(), "n": n, "top_logprobs": self._request.top_logprobs or 0}
        for name, value in self._request.engine_fields().items():
            parameters[name] = special_tokens.escape_all(value) if name in _IN_PROMPT else value
        messages = [special_tokens.escape_message(message) for message in self.messages]
        adapter, failures = self._route.adapter(policy), self._services.failures
        is_served = self._services.fleet.serves(adapter)
        stream = self._services.fleet.stream(adapter, self.conversation_id, messages, parameters)
        try:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    yield delta
        except (EngineError, Unavailable):
            if is_served:
                failures.note(self._route, policy, self.rater, self._origin, failed=True)
            raise
        failures.note(self._route, policy, self.rater, self._origin, failed=False)

    def _policies(self) -> list[str]:
        """Returns the policies that answer: one, or the two of a duel."""
        return list(dict.fromkeys(each.policy for each in self.drawn))

    def sampling(self) -> dict[str, Any]:
        """Returns every sampling parameter, so that the reply does not depend on an engine's own defaults."""
        return self._request.sampling(self._max_tokens, self._defaults)

    def recorded_request(self) -> dict[str, Any]:
        """Returns what shaped the prompt and the reply beside the messages. `media` marks a prompt that is
        more than its tokens, so nothing is trained on it."""
        media = sorted({part["type"] for part in self._request.media})
        return self._request.engine_fields() | ({"media": media} if media else {}) | self._record

    async def record(self) -> None:
        """Stores the turn, unless the client asked that nothing be stored, and counts it. Raises EngineError
        for a reply without an end."""
        self._check_finished()
        metrics = self._services.metrics
        metrics.tokens.labels("prompt").inc(len(self.prompt_token_ids))
        metrics.tokens.labels("completion").inc(self._completion_tokens())
        for each in self.drawn:
            metrics.replies.labels(each.policy).inc()
        if not self._request.store:
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
            "system_fingerprint": "+".join(sorted(self._policies())),
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
        blind = len(self._policies()) > 1 and self._caller.kind != "admin"
        policies = [] if blind else [each.policy for each in self.drawn]
        token = self._services.signer.feedback_token(self.id) if self._request.store else None
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


def _assign(services: Services, caller: Caller, model: str, route: Route, person: str) -> Assignment:
    """Returns the routed policy, or the one that an operator's key pins. While no engine serves a candidate,
    its people are answered by the live policy, which was not drawn for them. Raises Forbidden or NotFound."""
    if model == DEFAULT_MODEL:
        drawn = services.router.assign(route, person)
        is_away = drawn.policy == route.canary and not services.fleet.serves(route.adapter(drawn.policy))
        return Assignment(route.live, 1.0) if is_away else drawn
    pinned_adapter(services, caller, model, route)
    return Assignment(model, 1.0)


def pinned_adapter(services: Services, caller: Caller, model: str, route: Route) -> str:
    """Returns the adapter of a policy that an operator's key pins. Raises Forbidden or NotFound."""
    if not caller.may("operate") and _POLICY_ID.fullmatch(model):
        raise Forbidden(f"Only a key with the role operate may choose a policy; use model {DEFAULT_MODEL}.")
    if model not in route.policies() or not services.fleet.serves(route.adapter(model)):
        raise NotFound(
            f"There is no model {model[:64]} here now; GET /v1/models lists those there are.",
            code="model_not_found",
            param="model",
        )
    return route.adapter(model)
