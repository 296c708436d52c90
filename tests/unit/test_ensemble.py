"""The ensemble recovers a known preference from votes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import torch
from torch import Tensor

from schemas.feedback import JUDGE
from schemas.settings import RewardSettings
from trainer.data.examples import Corpus, Example, raters
from trainer.reward.ensemble import RewardModel, _fit_member, bootstrap, fit, influence, pairwise_accuracy
from trainer.reward.features import NO_TOKEN
from trainer.reward.likelihood import Likelihood, Votes
from trainer.reward.posterior import Posterior
from trainer.reward.projection import (
    RATE_SMOOTHING,
    BaseFeatures,
    Projection,
    VotedFeatures,
    component_count,
    frequent_tokens,
    group_of,
    principal_components,
)

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
        "tokens": torch.where(hidden > 0, torch.arange(6), NO_TOKEN).int(),
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
    return {name: each if name == "tokens" else each.half() for name, each in features.items()}, votes, truth


def divided_crowd(minority: int, seed: int) -> tuple[dict[str, Tensor], Votes, Tensor]:
    """Returns thumbs of ten raters who all like more of a first matter. Of a second one, which is half as
    much again to them, the first raters like less and all others like more."""
    features, everybody, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=seed)
    matters_N2 = features["mean"][:, :2].float()
    luck_N = torch.rand(400, generator=torch.Generator().manual_seed(seed + 100))
    votes = Votes(10)
    for _, rater, reply, _ in everybody.thumbs:
        first, second = matters_N2[reply]
        liking = 2 * (first - 1.5 * second if rater < minority else first + 1.5 * second)
        votes.thumb(rater, reply, up=bool(luck_N[reply] < liking.sigmoid()))
    return features, votes, matters_N2


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


def test_raters_who_vote_against_everyone_lose_their_influence() -> None:
    features, votes, truth = crowd_votes(raters=10, each=40, contrarians=3, seed=3)
    model = fitted(features, votes)
    assert 0 <= float(model.reliability_U[:3].min()) <= float(model.reliability_U[:3].max()) < 0.2
    assert float(model.reliability_U[3:].min()) > 0.5
    assert correlation(model.logits(features).mean(1), truth) > 0.85


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_minority_that_differs_on_one_of_two_matters_does_not_lower_the_weight_of_the_other(
    seed: int,
) -> None:
    def weight_of_the_agreed(minority: int) -> float:
        """Returns the slope of the reward in the matter that all raters agree on."""
        features, votes, matters_N2 = divided_crowd(minority, seed)
        generator = torch.Generator().manual_seed(0)
        model = fit(features, votes, BaseFeatures(features, 4), RewardSettings(members=2), generator)
        assert float(model.reliability_U.min()) >= 0
        slopes = torch.linalg.lstsq(matters_N2, model.reward(features).unsqueeze(1)).solution
        return float(slopes[0])

    all_agree = weight_of_the_agreed(0)
    for minority in (2, 3, 4):
        assert weight_of_the_agreed(minority) > 0.9 * all_agree


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
    with_zeros_ND = torch.cat([x_ND, torch.zeros(500, x_ND.shape[1])])
    assert torch.equal(principal_components(with_zeros_ND, 40), basis_DK)
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


def test_signals_and_judges_are_no_votes_where_the_number_of_components_is_chosen() -> None:
    votes = Votes(2, judges={1})
    for number in range(1_600):
        if number < 40:
            votes.thumb(0, number % 400, up=bool(number % 2), weight=0.5)
        elif number < 840:
            votes.signal(0, number % 400, good=bool(number % 2))
        else:
            votes.thumb(1, number % 400, up=bool(number % 2))
    assert votes.people_weight == 20
    features, _, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=4)
    more = torch.randn(400, 120, generator=torch.Generator().manual_seed(7))
    model = fitted(features | {"mean": torch.cat([features["mean"], more.half()], 1)}, votes)
    assert [member.projections["mean"].basis_DK.shape[1] for member in model.members] == [24, 48, 96, 24, 48]


def test_replies_that_people_compared_add_directions_to_those_of_few_base_replies() -> None:
    generator = torch.Generator().manual_seed(3)
    base = {"mean": torch.randn(8, 200, generator=generator)}
    voted = {"mean": torch.randn(60, 200, generator=generator)}
    votes = Votes(1)
    for reply in range(0, 40, 2):
        votes.ranking(0, [[reply], [reply + 1]], first=None)
    votes.edit(0, 40, 41)
    votes.thumb(0, 50, up=True)
    prompt_N = votes.compared(60)
    assert prompt_N.tolist() == [*(each for each in range(0, 42, 2) for _ in range(2)), *range(42, 60)]
    alone = Projection.fit("mean", BaseFeatures(base, 4), components=96)
    together = Projection.fit("mean", BaseFeatures(base, 4), 96, VotedFeatures(voted, prompt_N))
    assert alone.basis_DK.shape == (200, 6)
    assert together.basis_DK.shape == (200, 6 + 21)
    assert float(together(base["mean"]).square().sum(1).mean()) == pytest.approx(1, rel=1e-4)


def test_a_narrowed_projection_is_one_fitted_with_as_many_components() -> None:
    features, _, _ = crowd_votes(raters=10, each=20, contrarians=0, seed=2)
    base = BaseFeatures(features, 4)
    for name in ("mean", "tokens", "rates"):
        group = group_of(name, features)
        found = Projection.fit(name, base, 12).narrowed(4, group)(group)
        torch.testing.assert_close(found, Projection.fit(name, base, 4)(group))


def test_the_token_group_is_projected_as_if_each_token_had_a_column() -> None:
    generator = torch.Generator().manual_seed(5)
    known_V = torch.randint(0, 150_000, (40,), generator=generator)
    ids_NL = torch.stack([known_V[torch.randperm(40, generator=generator)[:12]] for _ in range(32)])
    ids_NL[:, 9:] = NO_TOKEN
    ids_NL = torch.cat([ids_NL, ids_NL[:, :3]], 1).sort(1).values.int()  # three tokens occur twice
    for name in ("tokens", "rates"):
        projection = Projection.fit(name, BaseFeatures({"tokens": ids_NL}, 4), components=10)
        assert projection.vocabulary_D is not None
        dense_ND = (ids_NL.unsqueeze(2) == projection.vocabulary_D).sum(1).float()
        dense_ND = dense_ND / (12 + RATE_SMOOTHING) if name == "rates" else dense_ND.clamp_max(1)
        torch.testing.assert_close(projection.dense(ids_NL), dense_ND)
        centred_ND = dense_ND - projection.mean_D
        torch.testing.assert_close(projection(ids_NL), centred_ND @ projection.basis_DK * projection.scale)
        unknown = projection(torch.tensor([[3, NO_TOKEN], [NO_TOKEN, NO_TOKEN]]).int())
        assert torch.equal(unknown[0], unknown[1])


def test_the_vocabulary_is_the_tokens_of_two_replies_or_more_the_most_frequent_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids_NL = torch.tensor([[9, 70_000, 5], [9, 70_000, NO_TOKEN], [9, 8, 5]])
    assert frequent_tokens(ids_NL).tolist() == [5, 9, 70_000]
    assert frequent_tokens(ids_NL[:1]).tolist() == [5, 9, 70_000]
    monkeypatch.setattr("trainer.reward.projection.MAX_VOCABULARY", 2)
    assert frequent_tokens(ids_NL).tolist() == [5, 9]


@pytest.mark.parametrize("often", [False, True])
def test_eighty_thumbs_find_the_one_token_of_hundreds_that_matters(often: bool) -> None:
    """People like replies that have a token, or have it often."""
    generator = torch.Generator().manual_seed(9)
    ids_NL = torch.randint(1, 600, (400, 60), generator=generator)
    counts_N = torch.randint(1 if often else 0, 5 if often else 2, (400,), generator=generator)
    ids_NL = torch.where(torch.arange(60) < counts_N.unsqueeze(1), 0, ids_NL)
    liked_N = counts_N > (2 if often else 0)
    features, _, _ = crowd_votes(raters=10, each=40, contrarians=0, seed=6)
    features["tokens"] = ids_NL.sort(1).values.int()
    votes = Votes(4)
    for reply in range(80):
        votes.thumb(reply % 4, reply, up=bool(liked_N[reply]) != (reply % 10 == 0))
    reward_N = fitted(features, votes).reward(features)
    assert correlation(reward_N[80:], liked_N[80:].float()) > 0.75


def test_two_tokens_are_never_taken_for_one() -> None:
    """Ids that are equal modulo a power of two would share a column of a hash table."""
    generator = torch.Generator().manual_seed(6)
    liked_N = torch.arange(200) % 2 == 0
    ids_N1 = torch.where(liked_N, 100_000, 100_000 + 2**14).unsqueeze(1)
    others_NL = torch.randint(0, 500, (200, 8), generator=generator)
    features, _, _ = crowd_votes(raters=10, each=20, contrarians=0, seed=6)
    features["tokens"] = torch.cat([ids_N1, others_NL], 1).int()
    votes = Votes(1)
    for reply in range(100):
        votes.thumb(0, reply, up=bool(liked_N[reply]))
    reward_N = fitted(features, votes).reward(features)[100:]
    assert float(reward_N[liked_N[100:]].min()) > float(reward_N[~liked_N[100:]].max())


def test_a_preference_is_found_at_the_width_of_large_models() -> None:
    """The matter is one of 1,500 states, beside 30 directions in which replies vary more; scales differ."""
    generator = torch.Generator().manual_seed(11)
    subject_NK, matter_N = torch.randn(800, 30, generator=generator), torch.randn(800, generator=generator)
    states_ND = subject_NK @ torch.randn(30, 1_500, generator=generator)
    states_ND += torch.randn(800, 1_500, generator=generator)
    states_ND[:, 7:300] += 3 * matter_N.unsqueeze(1)
    states_ND *= torch.logspace(-1, 2, 1_500)[torch.randperm(1_500, generator=generator)]
    features, _, _ = crowd_votes(raters=10, each=80, contrarians=0, seed=6)
    features |= {name: states_ND.half() for name in ("mean", "peak", "last")}
    votes = Votes(1)
    for reply in range(400):
        votes.thumb(0, reply, up=bool(matter_N[reply] > 0))
    reward_N = fitted(features, votes).reward(features)[400:]
    assert correlation(reward_N, matter_N[400:]) > 0.8


def test_what_all_replies_to_a_prompt_share_is_not_counts() -> None:
    generator = torch.Generator().manual_seed(6)
    between_P1D = torch.randn(20, 1, 3, generator=generator) * torch.tensor([5.0, 0.0, 0.0])
    within_PKD = torch.randn(20, 4, 3, generator=generator) * torch.tensor([0.0, 1.0, 1.0])
    base = BaseFeatures({"mean": (between_P1D + within_PKD).flatten(0, 1)}, 4)
    projection = Projection.fit("mean", base, components=3)
    assert projection.basis_DK.shape == (3, 2)
    assert torch.allclose(projection.basis_DK[0], torch.zeros(2), atol=1e-5)


def test_the_influence_of_a_vote_agrees_with_a_refit_without_it() -> None:
    features, votes, _ = crowd_votes(raters=5, each=24, contrarians=0, seed=8)
    model = fitted(features, votes)
    found = influence(model, features, votes)

    def change(without: set[int]) -> float:
        """Returns the root mean square change of the members' logits when refitted without these votes."""
        kept = Likelihood(votes)
        draws = bootstrap(RewardSettings(), votes, torch.Generator().manual_seed(0))
        total = 0.0
        for member, bootstrap_V in zip(model.members, draws, strict=True):
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
    assert of[f"{JUDGE}coin"] < 0.4
    assert 0 <= of[f"{JUDGE}contrary"] < 0.1
    assert correlation(model.logits(features).mean(1), truth) > 0.85
