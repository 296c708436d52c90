"""Tastes chooses the best of several replies for a person whose weights on the shared tastes are known.

The live policy's directory may hold a taste model (`schemas.taste_model`). The embedded engine evaluates it;
beside vLLM, `serving.scorer_url` names an embedded engine that does. Where there is no taste model or no
engine that evaluates it, and for people of whom too little is known, nothing is chosen, and replies are as
they are.

A person's weights follow from their newest votes. They are found anew in the background when the person
votes, or comes back under a new taste model, and kept in Postgres by pseudonym.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import LiteralString

import numpy as np
import psycopg
import structlog
from psycopg_pool import PoolTimeout

from feedback.person_votes import VOTED, newest_votes
from schemas.database import AsyncPool
from schemas.errors import EngineError, InvalidRequest, PolicyRejected, RequestError
from schemas.settings import Settings
from schemas.signatures import trusted_keys
from schemas.taste_model import REWARD, TASTES
from schemas.verification import read_manifest
from serving.engine import TASTES_PATH, EngineClient
from serving.fleet import Fleet
from serving.person_weights import Judgments, PersonPosterior, Values, posterior, reward
from serving.policy_files import registered
from serving.router import Router

log = structlog.get_logger()

MIN_VOTES = 5
"""Votes of a person from which on replies are chosen for them."""

MAX_VOTES = 24
"""Newest votes of a person that their weights follow from."""

_MAX_LEARNING = 64  # people whose weights are found at once; others wait for their next message
_MAX_VALUES = 20_000  # values of replies in memory
_MAX_WITHOUT_VOTES = 20_000  # people known to have none
_MAX_MODELS = 256  # taste models whose addresses are in memory
_PATIENCE, _RETRY = 1.0, 10.0  # seconds that a message waits for the database; and not again for so long
_FIND: LiteralString = (
    "select weights, votes from person_tastes where project = %s and rater = %s and policy = %s"
)
_FORGET: LiteralString = "delete from person_tastes where project = %s and rater = %s and policy = %s"
_KEEP: LiteralString = """
    with voted as ({voted})
    insert into person_tastes (project, rater, policy, weights, votes)
    select %(project)s, %(rater)s, %(policy)s, %(weights)s, %(votes)s from voted
    on conflict (project, rater, policy) do update
    set weights = excluded.weights, votes = excluded.votes, updated_at = now()
"""
_FAILURES = (RequestError, EngineError, psycopg.Error, PoolTimeout, ValueError, KeyError)


@dataclass(frozen=True, slots=True)
class TasteFile:
    """The taste model of a policy: its file and the file's digest, and whether people's tastes differ."""

    policy: str
    path: str
    digest: str
    differ: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """The (N, M, C) values of replies, and the constants of their taste model."""

    values_NMC: Values
    ranking_scale: float
    caution: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What replies are chosen by for one person."""

    model: TasteFile
    weights_T: Values


class Tastes:
    """The taste models of all projects. `scorer` evaluates them; None: the engines of `fleet` do."""

    def __init__(
        self,
        settings: Settings,
        pool: AsyncPool,
        fleet: Fleet,
        router: Router,
        scorer: EngineClient | None = None,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._fleet = fleet
        self._router = router
        self._scorer = scorer
        self._models: OrderedDict[tuple[str, str], TasteFile | None] = OrderedDict()
        self._values: OrderedDict[tuple[str, str, int], Values] = OrderedDict()
        self._scales: dict[str, float] = {}
        self._without_votes: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._learning: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._again: set[tuple[str, str]] = set()
        self._away_until = 0.0

    async def close(self) -> None:
        for task in self._learning.values():
            task.cancel()
        if self._scorer is not None:
            await self._scorer.close()

    async def choice(self, project: str, rater: str) -> Choice | None:
        """Returns what replies are chosen by for a person, or None; None, too, while the database is away."""
        if time.monotonic() < self._away_until:
            return None
        try:
            model = await self.model(project)
            if model is None:
                return None
            async with self._pool.connection(timeout=_PATIENCE) as connection:
                cursor = await connection.execute(_FIND, [project, rater, model.policy])
                row = await cursor.fetchone()
        except (psycopg.OperationalError, PoolTimeout):
            self._away_until = time.monotonic() + _RETRY
            return None
        if row is None:
            if (project, rater) not in self._without_votes:
                self._start(project, rater)
            return None
        return Choice(model, np.array(row["weights"])) if row["votes"] >= MIN_VOTES else None

    async def values(
        self, project: str, prompt: Sequence[int], replies: Sequence[Sequence[int]]
    ) -> Values | None:
        """Returns the (N, M, C) values of replies by the live policy's taste model, in logits of a
        comparison; None where they cannot be scored."""
        try:
            model = await self._live(project)
            if model is None:
                return None
            scored = await self.score(model, prompt, replies)
            return scored.ranking_scale * scored.values_NMC
        except _FAILURES as error:
            log.warning("pair_not_scored", project=project, error=str(error))
            return None

    async def best(self, choice: Choice, prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> int:
        """Returns which of the replies pleases the person most; the first where none can be scored."""
        try:
            scored = await self.score(choice.model, prompt, replies)
            return int(reward(scored.values_NMC, choice.weights_T, scored.caution).argmax())
        except _FAILURES as error:
            log.warning("reply_not_chosen", policy=choice.model.policy, error=str(error))
            return 0

    def voted(self, project: str, rater: str) -> None:
        """Finds the weights of a person whose votes have changed anew, in the background."""
        self._without_votes.pop((project, rater), None)
        self._start(project, rater)

    def _start(self, project: str, rater: str) -> None:
        person, route = (project, rater), self._router.find(project)
        if route is None:
            return
        key = project, route.live
        if key in self._models and ((model := self._models[key]) is None or not model.differ):
            return  # the live policy knows one taste
        if person in self._learning:
            self._again.add(person)
        elif len(self._learning) < _MAX_LEARNING:
            self._learning[person] = asyncio.create_task(self._learn(project, rater))

    async def posterior(
        self, model: TasteFile, project: str, rater: str
    ) -> tuple[PersonPosterior | None, int]:
        """Returns the posterior of a person's weights, and the number of votes that it follows from; None
        where there are none. Raises RequestError or EngineError."""
        votes = await newest_votes(self._pool, project, rater, MAX_VOTES)
        found: dict[tuple[str, int], Values] = {}
        for vote in votes:
            choices = sorted(vote.replies)
            keys = [(model.digest, vote.turn_id, choice) for choice in choices]
            if not all(key in self._values for key in keys) and all(vote.replies.values()):
                replies = [vote.replies[choice] for choice in choices]
                try:
                    scored = await self.score(model, vote.prompt_token_ids, replies)
                except InvalidRequest:  # it does not fit the engine
                    continue
                self.keep({key: each.mean(0) for key, each in zip(keys, scored.values_NMC, strict=True)})
                self._scales[model.digest] = scored.ranking_scale
            found |= {(turn, choice): self._values[digest, turn, choice]
                      for digest, turn, choice in keys if (digest, turn, choice) in self._values}  # fmt: skip
        judgments = Judgments.of(votes, found, self._scales.get(model.digest, 1.0))
        return (posterior(judgments), len(votes)) if len(judgments.offset_B) else (None, 0)

    async def score(
        self, model: TasteFile, prompt: Sequence[int], replies: Sequence[Sequence[int]]
    ) -> Scored:
        """Returns the values of replies to one prompt. Raises RequestError where no engine scores here, and
        EngineError."""
        body = {
            "path": model.path, "digest": model.digest, "prompt": list(prompt),
            "replies": [list(reply) for reply in replies],
        }  # fmt: skip
        pieces: AsyncGenerator[bytes] = (
            self._fleet.forward(TASTES_PATH, body)
            if self._scorer is None
            else self._scorer.forward(TASTES_PATH, body)
        )
        async with aclosing(pieces):
            answer = json.loads(b"".join([piece async for piece in pieces]))
        return Scored(np.array(answer["values"]), answer["ranking_scale"], answer["caution"])

    async def model(self, project: str) -> TasteFile | None:
        """Returns the taste model of the live policy, if people's tastes differ and an engine here can
        evaluate it."""
        model = await self._live(project)
        return model if model is not None and model.differ else None

    async def _live(self, project: str) -> TasteFile | None:
        route = self._router.find(project)
        if route is None or not self._can_score:
            return None
        key = project, route.live
        if key not in self._models:
            self._models[key] = await self._read(project, route.live)
            if len(self._models) > _MAX_MODELS:
                _, oldest = self._models.popitem(last=False)
                self._scales.pop(oldest.digest if oldest else "", None)
        return self._models[key]

    @property
    def _can_score(self) -> bool:
        return self._scorer is not None or any(
            TASTES_PATH in replica.description.paths for replica in self._fleet.in_rotation
        )

    async def _read(self, project: str, policy: str) -> TasteFile | None:
        async with self._pool.connection(timeout=_PATIENCE) as connection:
            cursor = await connection.execute(
                "select directory, digest, signature from policies"
                " where project = %s and id = %s and manifest -> 'files' ?| %s",
                [project, policy, [TASTES, REWARD]],
            )
            row = await cursor.fetchone()
        if row is None:
            return None
        found = registered(project, policy, row)
        try:
            manifest = await asyncio.to_thread(read_manifest, found, trusted_keys(self._settings))
        except PolicyRejected as error:
            log.error("tastes_not_used", policy=policy, error=error.message)
            return None
        for name in (TASTES, REWARD):
            if name in manifest.files:
                path = str(found.directory / name)
                return TasteFile(policy, path, manifest.files[name], differ=name == TASTES)
        return None

    async def _learn(self, project: str, rater: str) -> None:
        person = project, rater
        try:
            model = await self.model(project)
            if model is not None:
                await self._store(model, project, rater)
        except _FAILURES as error:
            log.warning("weights_not_found", project=project, error=str(error))
        finally:
            del self._learning[person]
            if person in self._again:
                self._again.discard(person)
                self._start(project, rater)

    async def _store(self, model: TasteFile, project: str, rater: str) -> None:
        found, votes = await self.posterior(model, project, rater)
        async with self._pool.connection() as connection:
            if found is None:
                self._without_votes[project, rater] = None
                if len(self._without_votes) > _MAX_WITHOUT_VOTES:
                    self._without_votes.popitem(last=False)
                await connection.execute(_FORGET, [project, rater, model.policy])
            else:
                values = {"project": project, "rater": rater, "policy": model.policy, "votes": votes}
                values["weights"] = found.weights_T.tolist()
                await connection.execute(_KEEP.format(voted=VOTED), values)

    def keep(self, values: dict[tuple[str, str, int], Values]) -> None:
        """Keeps values (C,) of replies, by the digest of the taste model, turn and choice."""
        self._values |= values
        while len(self._values) > _MAX_VALUES:
            self._values.popitem(last=False)
