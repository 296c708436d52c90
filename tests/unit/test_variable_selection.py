"""The spike-and-slab prior tells the features that matter to people from those that do not."""

import torch
from torch import Tensor

from trainer.reward.likelihood import Votes
from trainer.reward.variable_selection import PRIOR_PROBABILITY, VariableSelection

torch.set_num_threads(1)


def crowd(kind: str, replies: int = 200, features: int = 300) -> tuple[Tensor, Votes]:
    """Returns features, of which the third alone has an effect, and thumbs or rankings of two replies."""
    generator = torch.Generator().manual_seed(4)
    features_ND = torch.randn(replies, features, generator=generator)
    noisy_N = 2 * features_ND[:, 3] + torch.randn(replies, generator=generator)
    votes = Votes(5)
    if kind == "thumbs":
        for reply in range(replies):
            votes.thumb(reply % 5, reply, up=bool(noisy_N[reply] > 1))
    else:
        for reply in range(0, replies, 2):
            best = reply + int(noisy_N[reply + 1] > noisy_N[reply])
            votes.ranking(reply % 5, [[best], [2 * reply + 1 - best]], first=None)
    return features_ND, votes


def probabilities(features_ND: Tensor, votes: Votes, weights_UT: Tensor | None = None) -> Tensor:
    if weights_UT is None:
        weights_UT = torch.zeros(votes.raters, 0)
    return VariableSelection.of(votes, torch.ones(votes.raters), weights_UT).probability(features_ND)


def test_the_one_feature_that_matters_stands_out() -> None:
    for kind in ("thumbs", "rankings"):
        features_ND, votes = crowd(kind)
        found_D = probabilities(features_ND, votes)
        assert float(found_D[3]) > 0.99
        others_D = torch.cat([found_D[:3], found_D[4:]])
        assert float(others_D.median()) < PRIOR_PROBABILITY
        assert float((others_D > 0.5).float().mean()) < 0.02


def test_what_all_replies_have_in_common_says_nothing() -> None:
    """That nearly all replies are disliked is not due to a token that nearly all have."""
    features_ND, _ = crowd("thumbs")
    features_ND[:, 7] = 5.0
    votes = Votes(1)
    for reply in range(200):
        votes.thumb(0, reply, up=reply % 20 == 0)
    assert float(probabilities(features_ND, votes)[7]) <= PRIOR_PROBABILITY * (1 + 1e-4)


def test_few_votes_leave_the_prior() -> None:
    features_ND, _ = crowd("thumbs", replies=2)
    votes = Votes(1)
    votes.thumb(0, 0, up=True)
    found_D = probabilities(features_ND, votes)
    assert float(found_D.max()) <= PRIOR_PROBABILITY * (1 + 1e-4)


def test_a_feature_on_which_people_differ_matters() -> None:
    """Half of the people like what the other half dislikes."""
    features_ND, _ = crowd("thumbs", replies=400)
    votes, weights_U1 = Votes(8), torch.tensor([[-1.0]] * 4 + [[1.0]] * 4)
    for reply in range(400):
        rater = reply % 8
        votes.thumb(rater, reply, up=bool(features_ND[reply, 3] * weights_U1[rater] > 0))
    assert float(probabilities(features_ND, votes)[3]) < 0.5
    assert float(probabilities(features_ND, votes, weights_U1)[3]) > 0.99
