"""The ensemble recovers a known preference from votes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from torch import Tensor

from schemas.feedback import JUDGE
from schemas.settings import RewardSettings
from trainer.data.examples import Corpus, Example, raters
from trainer.reward.ensemble import RewardModel, _bootstrap, _fit_member, fit, influence, pairwise_accuracy
from trainer.reward.likelihood import Likelihood, Votes
from trainer.reward.posterior import Posterior
from trainer.reward.projection import BaseFeatures, Projection, component_count, principal_components

torch.set_num_threads(1)

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def crowd_votes(
    raters: int, each: int, contrarians: int, seed: int, careless: int = 0
) -> tuple[dict[str, Tensor], Votes, Tensor]:
    """Returns replies with five feature groups, thumbs by a hidden linear preference, and each reply's true
    value. The first raters vote against the preference, the next ones at random."""
    generator = torch.Generator().manual_seed(seed)
    count = raters * each  # a multiple of four, the replies to a prompt
    hidden = torch.randn(count, 6, generator=generator)
    features = {
        "mean": torch.cat([hidden, torch.randn(count, 10, generator=generator)], 1),
        "peak": hidden @ torch.randn(6, 12, generator=generator),
        "last": hidden @ torch.randn(6, 12, generator=generator),
        "tokens": (hidden > 0).float(),
        "length": torch.randn(count, 1, generator=generator),
    }
    truth = hidden[:, 0] - hidden[:, 1]
    votes = Votes(raters)
    for reply in range(count):
        rater = reply % raters
        up = bool(torch.rand((), generator=generator) < torch.sigmoid(2 * truth[reply]))
        if contrarians <= rater < contrarians + careless:
            up = bool(torch.rand((), generator=generator) < 0.5)
        votes.thumb(rater, reply, up=up != (rater < contrarians))
    return {name: group.half() for name, group in features.items()}, votes, truth


def fitted(features: dict[str, Tensor], votes: Votes) -> RewardModel:
    return fit(features, votes, BaseFeatures(features, 4), RewardSettings(), torch.Generator().manual_seed(0))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def test_the_reward_recovers_the_preference() -> None:
    features, votes, truth = crowd_votes(raters=10, each=30, contrarians=0, seed=1)
    model = fitted(features, votes)
    assert correlation(model.logits(features).mean(1), truth) > 0.85
    accuracy = pairwise_accuracy(model.reward(features), votes)
    assert accuracy is not None
    assert accuracy > 0.8


def test_the_reward_is_standardised_on_replies_of_the_base() -> None:
    features, votes, _ = crowd_votes(raters=10, each=20, contrarians=0, seed=2)
    reward_N = fitted(features, votes).reward(features)
    assert abs(float(reward_N.mean())) < 1e-3
    assert abs(float(reward_N.std()) - 1) < 1e-3


def test_the_reward_is_bounded() -> None:
    features, votes, _ = crowd_votes(raters=10, each=20, contrarians=0, seed=2)
    model = fitted(features, votes)
    adored = replace(model, members=[replace(each, bias=each.bias + 20) for each in model.members])
    torch.testing.assert_close(adored.reward(features), torch.full((200,), model.max_reward))
    assert float(model.reward(features).max()) <= model.max_reward + 1e-6


def test_the_reward_saturates() -> None:
    features, votes, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=9)
    model = fitted(features, votes)
    r_N, order = model.logits(features).mean(1).sort()
    reward_N = model.reward(features)[order]
    middle, most = int((r_N < 0).sum()), len(r_N) - 1
    near, far = middle + 10, middle + (most - middle) // 2
    rise = (reward_N[near] - reward_N[middle - 10]) / (r_N[near] - r_N[middle - 10])
    assert (reward_N[most] - reward_N[far]) / (r_N[most] - r_N[far]) < rise / 4


def test_the_midpoint_follows_a_base_that_is_hardly_liked() -> None:
    features, votes, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=2)
    model = fitted(features, votes)
    glum = RewardModel(
        [replace(each, bias=each.bias - 6) for each in model.members], model.uncertainty_penalty
    )
    reward_N = glum.standardised(features).reward(features)
    best = model.logits(features).mean(1).argsort(descending=True)[: len(reward_N) // 20]
    assert abs(float(reward_N.std()) - 1) < 1e-3
    assert float(reward_N[best].mean()) > 1.5


def test_contrarians_get_a_negative_reliability() -> None:
    features, votes, truth = crowd_votes(raters=10, each=40, contrarians=3, seed=3)
    model = fitted(features, votes)
    assert float(model.reliability_U[:3].max()) < -0.3
    assert float(model.reliability_U[3:].min()) > 0.5
    assert correlation(model.logits(features).mean(1), truth) > 0.85


def test_members_differ_and_the_uncertainty_penalty_lowers_the_reward() -> None:
    features, votes, _ = crowd_votes(raters=4, each=10, contrarians=0, seed=4)
    model = fitted(features, votes)
    r_NM = model.logits(features)
    assert float(r_NM.std(1).mean()) > 0.1
    bolder = replace(model, uncertainty_penalty=2 * model.uncertainty_penalty)
    assert (bolder.reward(features) <= model.reward(features)).all()
    assert bolder.reward(features).mean() < model.reward(features).mean() - 0.01


def test_principal_components_are_orthonormal_and_span_the_rows() -> None:
    x_ND = torch.randn(12, 40, generator=torch.Generator().manual_seed(5))
    basis_DK = principal_components(x_ND, 40)
    assert torch.allclose(basis_DK.T @ basis_DK, torch.eye(12), atol=1e-4)
    assert torch.allclose(x_ND @ basis_DK @ basis_DK.T, x_ND, atol=1e-4)
    largest_DK = principal_components(x_ND, 3)
    singular = torch.linalg.svdvals(x_ND)[:3]
    assert torch.allclose((x_ND @ largest_DK).norm(dim=0).sort(descending=True).values, singular, atol=1e-3)


def test_more_votes_give_more_components() -> None:
    counts = [[component_count(member, votes) for votes in (10, 400, 600, 5_000)] for member in range(4)]
    assert counts == [[24, 24, 54, 96], [48, 48, 96, 96], [96, 96, 96, 96], [24, 24, 54, 96]]


def test_members_have_different_component_counts() -> None:
    features, votes, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=4)
    more = torch.randn(400, 120, generator=torch.Generator().manual_seed(7))
    model = fitted(features | {"mean": torch.cat([features["mean"], more.half()], 1)}, votes)
    assert [member.projections["mean"].basis_DK.shape[1] for member in model.members] == [24, 48, 96, 24, 48]


def test_what_all_replies_to_a_prompt_share_is_not_counts() -> None:
    generator = torch.Generator().manual_seed(6)
    between_P1D = torch.randn(20, 1, 3, generator=generator) * torch.tensor([5.0, 0.0, 0.0])
    within_PKD = torch.randn(20, 4, 3, generator=generator) * torch.tensor([0.0, 1.0, 1.0])
    projection = Projection.fit(
        "mean", (between_P1D + within_PKD).flatten(0, 1), samples_per_prompt=4, components=3
    )
    assert projection.basis_DK.shape == (3, 2)
    assert torch.allclose(projection.basis_DK[0], torch.zeros(2), atol=1e-5)


def test_the_influence_of_a_vote_agrees_with_a_refit_without_it() -> None:
    features, votes, _ = crowd_votes(raters=5, each=24, contrarians=0, seed=8)
    model = fitted(features, votes)
    found = influence(model, features, votes)

    def change(without: set[int]) -> float:
        """Returns the root mean square change of the members' logits when refitted without these votes."""
        kept = Likelihood(votes)
        bootstrap = _bootstrap(RewardSettings(), votes, torch.Generator().manual_seed(0))
        total = 0.0
        for member, (_, bootstrap_V) in zip(model.members, bootstrap, strict=True):
            weights_V = bootstrap_V.clone()
            weights_V[list(without)] = 0.0
            features_NK = member.inputs(features)
            posterior = Posterior(features_NK.double(), kept, votes.raters, weights_V, None)
            other = _fit_member(member.projections, member.names, posterior)
            moved_N = features_NK @ (other.coefficients_K - member.coefficients_K)
            total += float(moved_N.square().mean().sqrt())
        return total / len(model.members)

    order = found.votes_V.argsort(descending=True).tolist()
    heavy, light = order[:3], order[-3:]
    assert min(change({vote}) for vote in heavy) > 3 * max(change({vote}) for vote in light)
    assert found.raters_U.shape == (5,)


def test_one_thumb_up_among_many_down_is_no_lapse() -> None:
    """Without a prior the maximum is at a bias of minus infinity, with that one vote as a lapse."""
    votes = Votes(1)
    for reply in range(200):
        votes.thumb(0, reply, up=reply == 0)
    features_NK = torch.randn(200, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    posterior = Posterior(features_NK, Likelihood(votes), 1, torch.ones(200, dtype=torch.float64), None)
    mode = posterior.mode()
    assert -6 < float(mode[8]) < -2
    assert float((features_NK @ mode[:8])[0]) > float((features_NK @ mode[:8])[1:].mean())


def test_a_rater_who_votes_at_random_has_little_influence() -> None:
    features, votes, _ = crowd_votes(raters=10, each=40, contrarians=0, careless=2, seed=3)
    found = influence(fitted(features, votes), features, votes)
    assert float(found.raters_U[:2].max()) < 0.5 * float(found.raters_U[2:].mean())
    assert float(found.reliability_U[:2].abs().max()) < 0.3


def test_a_rater_who_downvotes_everything_has_little_influence() -> None:
    features, everybody, truth = crowd_votes(raters=10, each=40, contrarians=0, seed=3)
    votes = Votes(10)
    for _, rater, reply, up in everybody.thumbs:
        votes.thumb(rater, reply, up and rater > 2)
    model = fitted(features, votes)
    found = influence(model, features, votes)
    assert float(found.raters_U[:3].max()) < 0.5 * float(found.raters_U[3:].mean())
    assert correlation(model.logits(features).mean(1), truth) > 0.85


def test_votes_missing_by_their_value_do_not_bias_the_reward() -> None:
    features, everybody, truth = crowd_votes(raters=10, each=120, contrarians=0, seed=5)
    chance = torch.rand(len(everybody.thumbs), generator=torch.Generator().manual_seed(9)).tolist()
    votes = Votes(10)
    for (_, rater, reply, up), luck in zip(everybody.thumbs, chance, strict=True):
        if luck < (0.15 if up else 0.9):
            votes.thumb(rater, reply, up)
    model = fitted(features, votes)
    assert sum(up for _, _, _, up in votes.thumbs) < votes.count / 4
    assert correlation(model.logits(features).mean(1), truth) > 0.85
    assert float(model.members[0].nuisance.leniency_U.mean() + model.members[0].bias) < -1


def test_signals_improve_on_votes_alone() -> None:
    features, everybody, truth = crowd_votes(raters=10, each=60, contrarians=0, seed=6)
    alone, together = Votes(10), Votes(10)
    for number, (_, rater, reply, up) in enumerate(everybody.thumbs):
        if number % 12 == 0:
            alone.thumb(rater, reply, up)
            together.thumb(rater, reply, up)
        else:
            together.signal(rater, reply, up)
    with_signals = correlation(fitted(features, together).logits(features).mean(1), truth)
    assert with_signals > correlation(fitted(features, alone).logits(features).mean(1), truth) + 0.05


def test_weights_scale_the_influence_of_votes() -> None:
    features, first, truth = crowd_votes(raters=10, each=60, contrarians=0, seed=7)
    votes = Votes(10)
    for _, rater, reply, up in first.thumbs:
        old = reply % 3 != 0  # two in three votes are older and contradict the rest
        votes.thumb(rater, reply, not up if old else up, weight=0.05 if old else 1.0)
    assert correlation(fitted(features, votes).logits(features).mean(1), truth) > 0.8


def thumb(rater: str, reply: int, up: bool, days: float = 0) -> Example:
    """Returns a thumb on a reply, so many days old."""
    keys, when = ((f"t{reply}", "0"),), NOW - timedelta(days=days)
    value = {"value": "up" if up else "down"}
    return Example(f"{rater} {reply}", keys[0][0], "thumb", value, rater, keys, when, seen_in_training=False)


def test_recent_votes_outweigh_older_ones() -> None:
    features, thumbs, truth = crowd_votes(raters=10, each=60, contrarians=0, seed=7)
    found = []
    for _, rater, reply, up in thumbs.thumbs:
        old = reply % 3 != 0  # two in three votes are half a year old and the opposite
        found.append(thumb(f"u{rater}", reply, up != old, 180 if old else reply / 100))
    votes, _ = Corpus(found, {}).votes(found, RewardSettings())
    assert correlation(fitted(features, votes).logits(features).mean(1), truth) > 0.7


def test_a_judges_reliability_follows_its_agreement_with_people() -> None:
    features, thumbs, truth = crowd_votes(raters=10, each=40, contrarians=0, seed=8)
    luck = torch.rand(len(truth), generator=torch.Generator().manual_seed(10)).tolist()
    found = [thumb(f"u{rater}", reply, up) for _, rater, reply, up in thumbs.thumbs]
    for reply in range(0, len(truth), 2):
        found.append(thumb(f"{JUDGE}wise", reply, bool(truth[reply] > 0)))
        found.append(thumb(f"{JUDGE}coin", reply, luck[reply] < 0.5))
        found.append(thumb(f"{JUDGE}contrary", reply, bool(truth[reply] < 0)))
    votes, _ = Corpus(found, {}).votes(found, RewardSettings())
    assert sum(votes.weights[400:]) == pytest.approx(RewardSettings().judge_weight_cap * 400)
    model = fitted(features, votes)
    of = dict(zip(raters(found), model.reliability_U.tolist(), strict=True))
    assert of[f"{JUDGE}wise"] > 0.8
    assert abs(of[f"{JUDGE}coin"]) < 0.4
    assert of[f"{JUDGE}contrary"] < -0.5
    assert correlation(model.logits(features).mean(1), truth) > 0.85
