"""The drift of a policy: none when it does what is liked, more of it when it changes something else."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures, Projections, fit_projections, member_features
from trainer.rl.style_drift import EVIDENCE, MOMENTUM, RIDGE, StyleDrift

BASE = 4000


@pytest.fixture(scope="module")
def base() -> FeatureGroups:
    """Two features of replies, four to each of 1,000 prompts, whose entries go together."""
    generator = torch.Generator().manual_seed(7)
    hidden_ND = torch.randn(BASE, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    return {"mean": hidden_ND, "length": hidden_ND[:, :1] + torch.randn(BASE, 1, generator=generator)}


@pytest.fixture(scope="module")
def projections(base: FeatureGroups) -> Projections:
    """Fitted to a part of the replies, which has the same few components: all of them take half a minute."""
    return fit_projections(BaseFeatures({name: view[:400] for name, view in base.items()}, 4), components=24)


def reward(features: FeatureGroups) -> torch.Tensor:
    return features["mean"][:, 1] - 0.5 * features["mean"][:, 3]


def chosen(base: FeatureGroups, weights_N: torch.Tensor, count: int = 4000) -> FeatureGroups:
    rows = torch.multinomial(weights_N, count, replacement=True, generator=torch.Generator().manual_seed(8))
    return {name: view[rows] for name, view in base.items()}


def moved(drift: StyleDrift, features: FeatureGroups) -> float:
    """ΔᵀC⁻¹Δ."""
    return float(drift.penalty(features, reward(features)).mean())


def test_what_the_reward_asks_for_is_no_drift(base: FeatureGroups, projections: Projections) -> None:
    liked = chosen(base, (0.5 * reward(base)).exp())
    longer = chosen(base, (0.5 * base["length"][:, 0]).exp())
    assert float(reward(liked).mean()) > float(reward(base).mean()) + 0.5
    assert moved(StyleDrift(projections, base, reward(base)), base) < 1e-6
    assert moved(StyleDrift(projections, base, reward(base)), liked) < 0.02
    assert moved(StyleDrift(projections, base, reward(base)), longer) > 0.3


def test_it_is_the_divergence_of_two_gaussians(base: FeatureGroups, projections: Projections) -> None:
    """When the reward says nothing all change is drift, and the mean charge is twice its KL."""
    nothing_N = torch.zeros(BASE)
    longer = chosen(base, base["length"][:, 0].exp())
    looks_NK = member_features(projections, tuple(projections), base).double()
    covariance_KK = looks_NK.T.cov(correction=0)
    covariance_KK += RIDGE * covariance_KK.trace() * torch.eye(len(covariance_KK))
    before = MultivariateNormal(looks_NK.mean(0), covariance_KK)
    after = MultivariateNormal(
        member_features(projections, tuple(projections), longer).double().mean(0), covariance_KK
    )
    penalty_N = StyleDrift(projections, base, nothing_N).penalty(longer, torch.zeros(4000))
    assert float(penalty_N.mean()) == pytest.approx(2 * float(kl_divergence(after, before)), rel=1e-4)


def test_a_reply_is_charged_what_it_adds(base: FeatureGroups, projections: Projections) -> None:
    """The charge is the derivative of the KL by how often the policy says it."""
    longer = chosen(base, base["length"][:, 0].exp(), EVIDENCE)
    penalty_N = StyleDrift(projections, base, reward(base)).penalty(longer, reward(longer)).double()
    often = EVIDENCE * 100
    for row in (0, 1, 2):
        more = {
            name: torch.cat([view.repeat(100, *(1 for _ in view.shape[1:])), view[row : row + 1]])
            for name, view in longer.items()
        }
        gained = (moved(StyleDrift(projections, base, reward(base)), more) - float(penalty_N.mean())) / 2
        assert gained * (often + 1) == pytest.approx(
            float(penalty_N[row] - penalty_N.mean()), rel=0.05, abs=0.05
        )


def test_what_few_replies_show_by_chance_does_not_drown_the_reward(
    base: FeatureGroups, projections: Projections
) -> None:
    """The base's own replies do not drift: what a step of them is charged is noise."""
    few = chosen(base, torch.ones(BASE), 16)
    charged_N = StyleDrift(projections, base, reward(base)).penalty(few, reward(few))
    assert 0 < float(charged_N.std()) < 0.05 * float(reward(base).std())


def test_steps_before_are_remembered(base: FeatureGroups, projections: Projections) -> None:
    drift = StyleDrift(projections, base, reward(base))
    longer = chosen(base, base["length"][:, 0].exp())
    first = moved(drift, longer)
    penalty_N = drift.penalty(base, reward(base))
    assert abs(float(penalty_N.mean())) < 1e-3, "the base's own replies do not drift"
    assert moved(drift, longer) == pytest.approx(first * (1 - MOMENTUM + MOMENTUM**2), rel=1e-3)


def test_other_replies_are_charged_by_the_drift_of_the_last_step(
    base: FeatureGroups, projections: Projections
) -> None:
    drift = StyleDrift(projections, base, reward(base))
    residuals_NK = drift.residuals(base, reward(base))
    assert not drift.charge(residuals_NK).any(), "nothing has drifted yet"
    longer = chosen(base, base["length"][:, 0].exp())
    charged_N = drift.penalty(longer, reward(longer))
    again_N = drift.charge(drift.residuals(longer, reward(longer)))
    torch.testing.assert_close(again_N, charged_N)
    long_N = base["length"][:, 0] > base["length"][:, 0].median()
    charge_N = drift.charge(residuals_NK)
    assert charge_N[long_N].mean() > charge_N[~long_N].mean()


def test_a_base_that_says_one_thing_only_drifts_nowhere() -> None:
    same = {"mean": torch.ones(8, 3), "length": torch.ones(8, 1)}
    drift = StyleDrift(fit_projections(BaseFeatures(same, 4), components=24), same, torch.zeros(8))
    penalty_N = drift.penalty(same, torch.zeros(8))
    assert penalty_N.isfinite().all()
    assert penalty_N.abs().max() == 0
