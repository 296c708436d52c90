"""What people have in common, and how far they differ, follows from few votes of each."""

import torch
from torch import Tensor

from trainer.reward import population
from trainer.reward.likelihood import Likelihood, Votes
from trainer.reward.population import Population

torch.set_num_threads(1)

PEOPLE, EACH, WIDTH = 40, 20, 8


def found(weights_UK: Tensor, people: int = PEOPLE) -> tuple[Population, Tensor]:
    """Returns the population of people with these weights by thumbs on replies of their own, and the replies.
    All but the first `people` are no people."""
    generator = torch.Generator().manual_seed(7)
    features_NK = torch.randn(PEOPLE * EACH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
    rater_N = torch.arange(PEOPLE).repeat(EACH)
    logit_N = 4 * (features_NK * weights_UK[rater_N]).sum(1)
    up_N = torch.rand(len(rater_N), generator=generator, dtype=torch.float64) < logit_N.sigmoid()
    votes = Votes(PEOPLE)
    for reply, (rater, up) in enumerate(zip(rater_N.tolist(), up_N.tolist(), strict=True)):
        votes.thumb(rater, reply, up)
    everything_V = torch.ones(votes.count, dtype=torch.float64)
    likelihood, members_U = Likelihood(votes), torch.arange(people)
    return population.fit(features_NK, rater_N, PEOPLE, members_U, likelihood, everything_V), features_NK


def weights(common: float, differing: float) -> Tensor:
    """Returns weights on the features: all want the first, half of them the opposite of the second."""
    weights_UK = torch.zeros(PEOPLE, WIDTH, dtype=torch.float64)
    weights_UK[:, 0] = common
    weights_UK[:, 1] = differing * torch.tensor([1.0, -1.0]).repeat(PEOPLE // 2)
    return weights_UK


def test_the_direction_in_which_people_differ_is_found_by_few_votes() -> None:
    truth_UK = weights(1.5, 1.5)
    model, features_NK = found(truth_UK)
    assert int(model.mean_K.abs().argmax()) == 0
    values_N1, place_U1 = model.directions(features_NK, 1)
    both = torch.stack([values_N1[:, 0], features_NK[:, 1]])
    assert abs(float(torch.corrcoef(both)[0, 1])) > 0.9
    sides_U = (place_U1[:, 0] * truth_UK[:, 1]).sign()
    assert abs(int(sides_U.sum())) >= 0.9 * PEOPLE


def test_where_all_are_alike_they_hardly_differ() -> None:
    alike, _ = found(weights(1.5, 0.0))
    different, _ = found(weights(1.5, 1.5))
    largest = [float(torch.linalg.eigvalsh(each.covariance_KK)[-1]) for each in (alike, different)]
    assert largest[0] < largest[1] / 4


def test_a_few_who_want_the_opposite_of_everybody_are_no_direction_and_many_are() -> None:
    for hostile, opposed in ((4, True), (16, False)):
        truth_UK = weights(2.0, 0.0)
        truth_UK[:hostile] *= -1
        model, features_NK = found(truth_UK)
        values_NT, _ = model.directions(features_NK, WIDTH)
        correlations = torch.corrcoef(torch.cat([features_NK[:, :1].T, values_NT.T]))[0, 1:].abs()
        assert (float(correlations.max()) < 0.7) is opposed


def test_who_is_not_of_the_people_is_like_everybody() -> None:
    truth_UK = weights(1.5, 1.5)
    model, _ = found(truth_UK, people=30)
    torch.testing.assert_close(model.coefficients_UK[30:], model.mean_K.expand(10, -1))
    assert float((model.coefficients_UK[:30] - model.mean_K).norm(dim=1).min()) > 0.1
