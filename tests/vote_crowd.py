"""Simulated votes with features, for tests of what is kept of older votes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import torch
from torch import Tensor

from schemas.settings import RewardSettings, TrainerSettings
from trainer.data import examples
from trainer.data.examples import Corpus, Example, Key
from trainer.data.vote_rows import VoteRows
from trainer.data.vote_summary import VoteSummary
from trainer.data.vote_weights import age_weight
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import NO_TOKEN, FeatureGroups
from trainer.reward.projection import BaseFeatures, fit_projections

RATERS = 8
START = datetime(2026, 3, 2, tzinfo=UTC)
"""The time of the first vote, a Monday."""

REWARD = RewardSettings(members=2)
TRAINER = TrainerSettings(reward=REWARD)
FOLDS = TRAINER.gate.folds


class Crowd:
    """Thumbs by a hidden linear preference, at equal times, each on its own reply. One rater in eight votes
    against it."""

    def __init__(self, votes: int, seed: int, step: timedelta = timedelta(minutes=1)) -> None:
        generator = torch.Generator().manual_seed(seed)
        hidden_N6 = torch.randn(votes + 200, 6, generator=generator)
        self.truth_N = hidden_N6[:, 0] - hidden_N6[:, 1]
        self.all_features: FeatureGroups = {
            "mean": torch.cat([hidden_N6, torch.randn(len(hidden_N6), 8, generator=generator)], 1).half(),
            "peak": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "last": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "tokens": torch.where(hidden_N6 > 0, torch.arange(6), NO_TOKEN).int(),
            "length": torch.randn(len(hidden_N6), 1, generator=generator).half(),
        }
        luck_N = torch.rand(votes, generator=generator)
        self.examples = []
        for number in range(votes):
            up = bool(luck_N[number] < torch.sigmoid(2 * self.truth_N[number])) != (number % RATERS == 0)
            self.examples.append(self.thumb(number, up, f"u{number % RATERS}", step))
        self.base = {name: group[-200:] for name, group in self.all_features.items()}
        self.projections = fit_projections(BaseFeatures(self.base, 4), components=24)

    @staticmethod
    def thumb(number: int, up: bool, rater: str, step: timedelta = timedelta(minutes=1)) -> Example:
        when = START + number * step
        value = {"value": "up" if up else "down"}
        return Example(f"e{number}", f"t{number}", "thumb", value, rater, ((f"t{number}", "0"),), when, False)

    def features_of(self, keys: Sequence[Key]) -> FeatureGroups:
        rows = [int(turn[1:]) for turn, _ in keys]
        return {name: group[rows] for name, group in self.all_features.items()}

    def empty(self) -> VoteSummary:
        return VoteSummary("this", TRAINER, self.examples[0].created_at, self.projections)

    def with_rows(
        self, before: VoteSummary, window: list[Example], compacted: int, seed: int = 0
    ) -> tuple[VoteSummary, VoteRows]:
        corpus = Corpus(window, {})
        events = [example.event_id for example in window[:compacted]]
        generator = torch.Generator().manual_seed(seed)
        return before.aged_to(corpus.newest).compact(corpus, events, self.features_of, generator)

    def compact(
        self, before: VoteSummary, window: list[Example], compacted: int, seed: int = 0
    ) -> VoteSummary:
        return self.with_rows(before, window, compacted, seed)[0]

    def fit(self, window: list[Example], before: VoteSummary | None = None) -> RewardModel:
        votes, keys = Corpus(window, {}).votes(window, REWARD)
        older = before.prior(range(FOLDS), examples.raters(window)) if before else None
        return ensemble.fit(
            self.features_of(keys),
            votes,
            BaseFeatures(self.base, 4),
            REWARD,
            torch.Generator().manual_seed(1),
            older,
        )

    def skill(self, model: RewardModel) -> float:
        """Returns the correlation with the true preference, on replies without votes."""
        reward_N = model.reward(self.base)
        return float(torch.corrcoef(torch.stack([reward_N, self.truth_N[-200:]]))[0, 1])


def tensors(of: VoteSummary) -> list[Tensor]:
    """Returns the tensors of the summary at its time, by fold, member and rater."""
    raters = [f"u{number}" for number in range(RATERS)]
    return [
        tensor
        for fold in range(FOLDS)
        for member in range(REWARD.members)
        for week in of.weeks
        for tensor in week.prior(member, [fold], raters)
        .scaled(age_weight(of.newest - week.newest, REWARD))
        .tensors()
    ]
