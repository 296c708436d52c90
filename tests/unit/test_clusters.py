"""Few who vote alike beyond chance count as one person; tastes, strangers and small crowds do not."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.reward import ensemble
from trainer.reward.clusters import PART, Cluster, cluster_factors, find_clusters, parts_of
from trainer.reward.features import NO_TOKEN, FeatureGroups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures

torch.set_num_threads(1)

HIDDEN = 8


class Crowd:
    """Thumbs on replies with hidden properties: people like the first, and a brigade only the last, each of
    it after so many votes as people's (`honest`)."""

    def __init__(
        self, seed: int, *, people: int = 40, brigade: int = 4, taste: int = 0, honest: int = 0,
        hostile: int = 24,
    ) -> None:  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        raters = [rater for rater in range(people) for _ in range(8)]
        raters += [people + rater for rater in range(brigade) for _ in range(honest + hostile)]
        count = len(raters) + 120
        self.hidden_NH = torch.randn(count, HIDDEN, generator=generator)
        noise_NK = 0.3 * torch.randn(count, 16, generator=generator)
        mixed_NK = self.hidden_NH @ torch.randn(HIDDEN, 16, generator=generator) + noise_NK
        self.features: FeatureGroups = {
            "mean": mixed_NK.half(), "peak": mixed_NK.half(), "last": mixed_NK.half(),
            "tokens": torch.where(self.hidden_NH > 1, torch.arange(HIDDEN), NO_TOKEN).int(),
            "length": noise_NK[:, :1].half(),
        }  # fmt: skip
        self.votes = Votes(people + brigade)
        luck_N = torch.rand(count, generator=generator)
        cast = Counter[int]()
        for reply, rater in enumerate(raters):
            wanted = 0 if rater < people - taste else 1 if rater < people else HIDDEN - 1
            wanted = 0 if rater >= people and cast[rater] < honest else wanted
            cast[rater] += 1
            chance = torch.sigmoid(2.5 * self.hidden_NH[reply, wanted])
            self.votes.thumb(rater, reply, bool(luck_N[reply] < chance))
        self.voted = {name: group[: len(raters)] for name, group in self.features.items()}
        self.base = BaseFeatures({name: group[-120:] for name, group in self.features.items()}, 4)

    def pull(self) -> Tensor:
        """Returns how far the fitted reward follows each hidden property."""
        settings = RewardSettings(members=2)
        generator = torch.Generator().manual_seed(0)
        model = ensemble.fit(self.voted, self.votes, self.base, settings, generator)
        r_N = model.penalised(self.base.groups)
        pull_H: Tensor = torch.corrcoef(torch.cat([r_N.unsqueeze(0), self.hidden_NH[-120:].T]))[0, 1:]
        return pull_H


def test_a_brigade_is_one_cluster_and_counts_as_one_person() -> None:
    crowd = Crowd(1, people=50, brigade=6)
    (found,) = find_clusters(crowd.voted, crowd.votes, crowd.base)
    assert len(found.raters) >= 4
    assert set(found.raters) <= set(range(50, 56))
    assert found.agreement > found.chance
    assert found.turned == []  # it was so from the start
    factors = cluster_factors(crowd.votes, [found])
    assert sum(factors[vote] for vote in found.votes) == pytest.approx(8, rel=0.05)
    before = crowd.pull()
    crowd.votes.weights = [factors.get(vote, 1.0) for vote in range(crowd.votes.count)]
    after = crowd.pull()
    assert before[-1] > 0.1
    assert abs(after[-1]) < before[-1] / 2
    assert after[0] > before[0]


def test_most_raters_who_turn_are_found_within_forty_votes() -> None:
    turned = 0
    for seed in (11, 12, 13):
        crowd = Crowd(seed, people=60, brigade=8, honest=48, hostile=40)
        found = {crowd.votes.rater_of_vote[vote] for cluster in _found(crowd) for vote in cluster.turned}
        assert found <= set(range(60, 68))
        turned += len(found)
    assert turned > 0.5 * 3 * 8


def test_honest_crowds_have_hardly_any_cluster() -> None:
    clusters = [found for seed in range(20) for found in _found(Crowd(100 + seed, brigade=0))]
    assert len(clusters) <= 3


def test_a_large_group_with_a_taste_of_its_own_is_no_cluster() -> None:
    found = _found(Crowd(3, brigade=0, taste=16))
    assert all(len(cluster.raters) <= 8 for cluster in found)
    assert sum(len(cluster.raters) for cluster in found) <= 8


def test_a_small_crowd_has_no_clusters() -> None:
    crowd = Crowd(4, people=5, brigade=2)
    assert find_clusters(crowd.voted, crowd.votes, crowd.base) == []


def test_votes_are_taken_in_parts_by_rater_without_signals_and_judges() -> None:
    votes = Votes(3, judges={2})
    for reply in range(PART + 4):
        votes.thumb(0, reply, up=True)
    votes.signal(0, 0, good=True)
    votes.thumb(1, 0, up=True)
    for reply in range(PART):
        votes.thumb(2, reply, up=True)
    parts = parts_of(votes).tolist()
    assert len(set(parts[:PART])) == len(set(parts[PART : PART + 4])) == 1
    assert parts[0] != parts[PART]
    assert set(parts[PART + 4 :]) == {-1}


def _found(crowd: Crowd) -> list[Cluster]:
    return find_clusters(crowd.voted, crowd.votes, crowd.base)
