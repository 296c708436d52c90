"""A generation is how the replies to one request come about: each from its policy, the best of several for a
person (`best_of`), or two to compare where that teaches most (`pairs`), or in a duel (`duel`).
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from schemas.chat import DEFAULT_MODEL, ChatRequest
from schemas.errors import EngineError, InvalidRequest, Unavailable
from schemas.policies import BASE
from serving import duel, pairs
from serving.best_of import WholeReplies, best_reply, may_be_chosen
from serving.engine import Delta
from serving.identity import Identity
from serving.router import Assignment, Route
from serving.services import Services
from serving.tastes import Choice

_IN_PROMPT = {"tools", "documents", "chat_template_kwargs"}
"""The fields of a request that a chat template writes into the prompt."""


class Generation:
    """The generation of one request's replies: `drawn` has the policy of each, `record` what the turn records
    of how they came about. `messages` are as the policy sees them. The constructor generates nothing yet."""

    def __init__(
        self,
        services: Services,
        request: ChatRequest,
        route: Route,
        assignment: Assignment,
        asks: Identity,
        conversation_id: str,
        messages: Sequence[dict[str, Any]],
    ) -> None:
        self._services = services
        self._request = request
        self._route = route
        self._assignment = assignment
        self._rater, self._origin = asks.rater, asks.origin
        self._person = asks.rater if asks.is_person else None
        self._conversation_id = conversation_id
        self._messages = messages
        self.record: dict[str, Any] = {}
        self.drawn = [assignment] * request.n
        if request.n == duel.PAIR and request.model == DEFAULT_MODEL and request.store:
            self.drawn = duel.draw(route, assignment, services.fleet) or self.drawn
        self._defaults = services.generation_defaults.model_copy(
            update={name: value for name, value in route.sampling.items() if name != "max_tokens"}
        )
        usual = route.sampling.get("max_tokens") or services.settings.serving.max_tokens
        self._max_tokens: int | None = request.max_tokens or usual

    async def deltas(self) -> AsyncGenerator[Delta]:
        """Yields the replies as they are generated; see `Fleet.stream` for its errors."""
        choice = await self._personal_choice()
        if choice is None:
            asks = await self._may_ask_for_a_pair()
            async with aclosing(self._pair() if asks else self._fitting(1)) as deltas:
                async for delta in deltas:
                    yield delta
            return
        count = self._services.settings.serving.personal_choices
        self.record["best_of"] = count
        for delta in await best_reply(self._services.tastes, choice, self._fitting(count), count):
            yield delta

    async def _personal_choice(self) -> Choice | None:
        """Returns what the reply is chosen by, if it is chosen for this person: of the routed policy, as the
        base's share of people shows what is without learning."""
        several = self._services.settings.serving.personal_choices > 1
        routed = self._request.model == DEFAULT_MODEL and self._assignment.policy != BASE
        if self._person is None or not (several and routed and may_be_chosen(self._request, self.sampling())):
            return None
        return await self._services.tastes.choice(self._route.project, self._person)

    async def _may_ask_for_a_pair(self) -> bool:
        """Returns whether two replies may be sent where one was asked for: to a known person, of the live
        policy, on a page that shows them."""
        request, route = self._request, self._route
        live = request.model == DEFAULT_MODEL and self._assignment.policy == route.live
        if self._person is None or not (live and request.store and pairs.looks(request.compare or 0.0)):
            return False
        most = self._services.settings.serving.pairs_per_day
        plain = may_be_chosen(request, self.sampling())
        return plain and await pairs.may_ask(self._services.pool, route.project, self._person, most)

    async def _pair(self) -> AsyncGenerator[Delta]:
        """Yields what `pairs` decides: two replies, of a duel where the pair is one, or one reply."""
        services, route = self._services, self._route
        duelists = duel.draw(route, self._assignment, services.fleet)
        if duelists is not None:
            decision = pairs.drawn((0, 1))
            self._ask_for(decision, duelists if len(decision.choices) > 1 else [self._assignment])
            with services.fleet.hold(route.adapter(str(route.canary))):
                async with aclosing(self._fitting(1)) as deltas:
                    async for delta in deltas:
                        yield delta
            return
        replies = await WholeReplies.read(self._fitting(pairs.CHOICES), pairs.CHOICES)
        values = await services.tastes.values(route.project, replies.prompt, replies.token_ids)
        decision = services.pairs.decide(route.project, replies.texts, values)
        self._ask_for(decision, [self._assignment] * len(decision.choices))
        for delta in replies.sent(decision.choices):
            yield delta

    def _ask_for(self, decision: pairs.Decision, drawn: list[Assignment]) -> None:
        self.record["pair"] = decision.as_json()
        self.drawn = drawn

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
        policies = self.policies()
        if len(policies) == 1:
            return self._stream_of(policies[0], self._request.n * choices)
        return duel.merged([self._stream_of(each.policy, 1) for each in self.drawn])

    async def _stream_of(self, policy: str, n: int) -> AsyncGenerator[Delta]:
        """Yields `n` replies of a policy. Notes whether its engine fails, as a candidate may be at fault."""
        special_tokens = self._services.special_tokens
        parameters = {**self.sampling(), "n": n, "top_logprobs": self._request.top_logprobs or 0}
        for name, value in self._request.engine_fields().items():
            parameters[name] = special_tokens.escape_all(value) if name in _IN_PROMPT else value
        messages = [special_tokens.escape_message(message) for message in self._messages]
        adapter = self._route.adapter(policy)
        note = partial(
            self._services.failures.note, self._route, policy, self._rater, self._origin,
            drawn=self._assignment.propensity < 1,
        )  # fmt: skip
        is_served = self._services.fleet.serves(adapter)
        stream = self._services.fleet.stream(adapter, self._conversation_id, messages, parameters)
        try:
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    yield delta
        except (EngineError, Unavailable):
            if is_served:
                note(failed=True)
            raise
        note(failed=False)

    def policies(self) -> list[str]:
        """Returns the policies that answer: one, or the two of a duel."""
        return list(dict.fromkeys(each.policy for each in self.drawn))

    def sampling(self) -> dict[str, Any]:
        """Returns every sampling parameter, so that the reply does not depend on an engine's own defaults."""
        return self._request.sampling(self._max_tokens, self._defaults)
