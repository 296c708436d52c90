"""Planted tastes are found by the votes of those who have them, and nothing is found where there are none."""

import pytest
import torch
from torch import Tensor

from schemas.settings import RewardSettings
from tests.unit.test_ensemble import correlation, crowd_votes
from trainer.reward.ensemble import RewardModel, fit
from trainer.reward.groups import Groups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.tastes import PersonWeights, standardised

torch.set_num_threads(1)

RATERS, EACH = 20, 20


def crowd(minority: int, seed: int, *, hostile: bool = False) -> tuple[dict[str, Tensor], Votes, Tensor]:
    """Returns thumbs of raters who all like more of a first matter; of a second one the first raters like
    less and all others more. Hostile ones want the opposite of everybody in both."""
    features, everybody, _ = crowd_votes(raters=RATERS, each=EACH, contrarians=0, seed=seed)
    matters_N2 = features["mean"][:, :2].float()
    luck_N = torch.rand(RATERS * EACH, generator=torch.Generator().manual_seed(seed + 100))
    votes = Votes(RATERS)
    for _, rater, reply, _ in everybody.thumbs:
        first, second = matters_N2[reply]
        own = rater < minority
        liking = 2 * ((-first if own and hostile else first) + 1.5 * (-second if own else second))
        votes.thumb(rater, reply, up=bool(luck_N[reply] < liking.sigmoid()))
    return features, votes, matters_N2


def fitted(features: dict[str, Tensor], votes: Votes, groups: str = "mean") -> RewardModel:
    settings = RewardSettings(members=2, groups=groups)  # type: ignore[arg-type]
    return fit(features, votes, BaseFeatures(features, 4), settings, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def divided() -> tuple[dict[str, Tensor], Votes, Tensor, RewardModel]:
    features, votes, matters_N2 = crowd(8, seed=1)
    return features, votes, matters_N2, fitted(features, votes)


def test_two_groups_are_told_apart_by_one_direction(
    divided: tuple[dict[str, Tensor], Votes, Tensor, RewardModel],
) -> None:
    features, _, matters_N2, model = divided
    assert model.people is not None
    assert model.people.mean_UT.shape == (RATERS, 1)
    side_U = model.people.mean_UT[:, 0].sign()
    assert abs(int(side_U[:8].sum())) >= 6
    assert abs(int(side_U[8:].sum())) >= 8
    assert side_U[:8].sum() * side_U[8:].sum() < 0
    values_NC = model.values(features)
    assert correlation(values_NC[:, 1], matters_N2[:, 1]) ** 2 > 0.7


def test_the_mean_keeps_what_all_agree_on_and_each_rater_has_their_own_reward(
    divided: tuple[dict[str, Tensor], Votes, Tensor, RewardModel],
) -> None:
    features, _, matters_N2, model = divided
    assert model.people is not None
    values_NC = model.values(features).double()
    slopes = torch.linalg.lstsq(matters_N2.double(), values_NC[:, :1]).solution
    assert float(slopes[0]) > 1.5 * abs(float(slopes[1]))
    for rater, side in ((0, -1), (19, 1)):
        own_N = values_NC[:, 0] + values_NC[:, 1:] @ model.people.mean_UT[rater]
        truth_N = matters_N2[:, 0] + side * 1.5 * matters_N2[:, 1]
        assert correlation(own_N.float(), truth_N) > 0.75
    assert float(torch.linalg.eigvalsh(model.people.precision_UTT).min()) >= 1


@pytest.mark.parametrize("seed", [2, 3])
def test_one_taste_is_one_taste_and_then_nothing_changes(seed: int) -> None:
    features, votes, _ = crowd(0, seed)
    model = fitted(features, votes)
    assert model.people is None
    votes.tastes_UT = torch.zeros(RATERS, 0)
    as_before = fitted(features, votes)
    assert torch.equal(model.reward(features), as_before.reward(features))


def test_one_person_alone_makes_no_taste() -> None:
    features, votes, _ = crowd(1, seed=4)
    assert fitted(features, votes).people is None


@pytest.mark.parametrize("hostile", [1, 3])
def test_hostile_raters_stay_harmless(hostile: int) -> None:
    features, votes, matters_N2 = crowd(hostile, seed=5, hostile=True)
    model = fitted(features, votes)
    truth_N = matters_N2[:, 0] + 1.5 * matters_N2[:, 1]
    assert correlation(model.logits(features).mean(1), truth_N) > 0.85
    assert correlation(fitted(features, votes, "least_satisfied").reward(features), truth_N) > 0.7


def test_the_group_that_is_pleased_least_counts_as_much_as_the_mean(
    divided: tuple[dict[str, Tensor], Votes, Tensor, RewardModel],
) -> None:
    features, votes, matters_N2, _ = divided
    model = fitted(features, votes, "least_satisfied")
    assert model.groups is not None
    assert len(model.groups.weights_GT) == 2
    reward_N = model.reward(features)
    assert float(reward_N.mean()) == pytest.approx(0, abs=1e-4)
    extreme_N = matters_N2[:, 1].abs()  # whatever is far on one side displeases one group
    liked_N = matters_N2[:, 0] > 0.5
    neutral, far = reward_N[liked_N & (extreme_N < 0.4)], reward_N[liked_N & (extreme_N > 1.2)]
    assert float(neutral.mean()) > float(far.mean())


def test_a_group_needs_people() -> None:
    weights_U1 = torch.tensor([[-1.0]] * 9 + [[3.0]] * 1, dtype=torch.float64)
    precision = torch.ones(10, 1, 1, dtype=torch.float64)
    assert Groups.of(PersonWeights(weights_U1, precision, torch.ones(10, dtype=torch.float64))) is None
    weights_U1[6:] = 3.0
    found = Groups.of(PersonWeights(weights_U1, precision, torch.ones(10, dtype=torch.float64)))
    assert found is not None
    assert sorted(found.weights_GT.flatten().tolist()) == [-1.0, 3.0]


def test_weights_are_standardised_over_the_people_alone() -> None:
    weights_U2 = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known_U = (torch.arange(50) < 40).double()
    weights_U2[40:] += 100
    found = standardised(weights_U2, known_U)[:40]
    torch.testing.assert_close(found.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.T @ found / 40, torch.eye(2, dtype=torch.float64))
