"""The reward model: one scalar r(x, y) for a reply to a prompt, learned from every vote together.

An ensemble of linear models on the frozen base's views of a reply (`features`). Each view is first brought
down to the directions in which the base's replies to one and the same prompt differ most: what is alike in
all replies to a prompt is its subject, and cannot be chosen. Members differ in the views that they see and
in their weights on the votes, so they disagree where little is known.
Each is the maximum a posteriori under the one likelihood (`likelihood`), with its rater terms of its own,
found by L-BFGS. r is their mean less κ times their std, as logits of a thumb up from an average rater; the
reward is which side of even it is on, softly (of what a tenth of the base's replies reach, where those do not
reach even), standardised on replies of the base, so that its scale means the same in every round. So nothing
is gained by ever more of what was liked, and little by what matters little: a reply that people like is not
made better by words that are a bit more usual in others that they like. Each round is fitted afresh, to newer
votes as they are and to older ones by what is left of them (`past`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.reward.features import Views
from trainer.reward.laplace import SHARED, Quadratic
from trainer.reward.likelihood import Likelihood, Terms, Votes
from trainer.reward.posterior import PRIOR, Posterior
from trainer.reward.projection import Lenses, beside, directions, lenses, look, narrow

LOOKS: tuple[tuple[str, ...], ...] = (
    ("peak", "tokens", "length"),
    ("peak", "last", "mean", "tokens", "length"),
    ("peak", "mean", "tokens", "length"),
    ("peak", "last", "tokens", "length"),
)
"""What members look at, in turn."""


EVENNESS = 4
"""Shape of the gamma distribution that a member's weights on the votes are drawn from: 1 is the Bayesian
bootstrap (Rubin 1981), by which a third of the votes weigh less than 0.41 in each member."""


SHARPNESS = 4.0
"""What r is multiplied by before it goes through a sigmoid: 1 is the probability of a thumb up, and more says
rather whether that is likelier than not."""


@dataclass(frozen=True, slots=True)
class Member:
    """r = seen·direction + bias, in logits. `covariance_KK` is the direction's, given the votes (Laplace's
    approximation: MacKay 1992)."""

    lenses: Lenses
    names: tuple[str, ...]
    direction_K: Tensor
    covariance_KK: Tensor
    bias: float
    terms: Terms

    def __call__(self, views: Views) -> Tensor:
        """(N,) logits of a thumb up from an average rater."""
        r_N: Tensor = look(self.lenses, self.names, views) @ self.direction_K + self.bias
        return r_N

    def gain(self, to: Views, of: Views) -> tuple[Tensor, float]:
        """(N,) by how much the logit of each reply of `to` is above its fellow's of `of`, and the variance of
        their mean that comes from knowing the direction no better than the votes tell it."""
        moves_NK = look(self.lenses, self.names, to) - look(self.lenses, self.names, of)
        mean_K = moves_NK.mean(0)
        return torch.mv(moves_NK, self.direction_K), float(mean_K @ self.covariance_KK @ mean_K)


@dataclass(frozen=True, slots=True)
class RewardModel:
    """`even` is the r in the middle of the sigmoid; `centre` and `spread` are of what comes out of it for the
    base's replies."""

    members: list[Member]
    caution: float
    even: float = 0.0
    centre: float = 0.0
    spread: float = 1.0

    @property
    def reliability_U(self) -> Tensor:
        """(U,) what it makes of the raters, on average over its members."""
        return torch.stack([member.terms.reliability_U for member in self.members]).mean(0)

    def logits(self, views: Views) -> Tensor:
        """(N, M) r by member."""
        return torch.stack([member(views) for member in self.members], 1)

    def reward(self, views: Views) -> Tensor:
        """(N,)"""
        return ((SHARPNESS * (self.cautious(views) - self.even)).sigmoid() - self.centre) / self.spread

    @property
    def most(self) -> float:
        """The reward that none is above."""
        return (1 - self.centre) / self.spread

    def cautious(self, views: Views) -> Tensor:
        """(N,) mean − κ·std of r over the members: where they disagree, less."""
        r_NM = self.logits(views)
        return r_NM.mean(1) - self.caution * r_NM.std(1)

    def standardised(self, base: Views) -> "RewardModel":
        """The same, its reward of mean 0 and spread 1 on replies of the base."""
        model = replace(self, even=min(0.0, float(self.cautious(base).quantile(0.9))))
        rewards_N = model.reward(base)
        return replace(model, centre=float(rewards_N.mean()), spread=max(float(rewards_N.std()), 1e-3))


@dataclass(frozen=True, slots=True)
class Recalled:
    """What older votes say, by member, of the raters of the newer votes and seen through `lenses`."""

    lenses: Lenses
    members: list[Quadratic]


def fit(
    views: Views,
    votes: Votes,
    base: Views,
    per_prompt: int,
    settings: RewardSettings,
    generator: torch.Generator,
    past: Recalled | None = None,
) -> RewardModel:
    """Members fitted to `votes` about the replies of `views`, and to the `past`; `base` are views of the
    base's own replies, `per_prompt` of them in a row to each prompt."""
    likelihood = Likelihood(votes)
    seen: dict[int, tuple[Lenses, Views]] = {}
    members = []
    for number, (names, draws_V) in enumerate(_members(settings, votes, generator)):
        fineness = directions(number, votes.count)
        if fineness not in seen:
            through = lenses(base, per_prompt, fineness) if past is None else past.lenses
            seen[fineness] = through, narrow(through, views)
        through, narrowed = seen[fineness]
        older = past.members[number] if past is not None else None
        members.append(_fit_member(through, names, narrowed, likelihood, votes.raters, draws_V, older))
    return RewardModel(members, settings.caution).standardised(base)


def expand(
    views: Views,
    votes: Votes,
    past: Recalled,
    groups_GV: Tensor,
    settings: RewardSettings,
    generator: torch.Generator,
) -> list[Quadratic]:
    """By member, what each group of `votes` says; expanded where the votes and the past together put the
    member. A group is a row of zeros and ones."""
    likelihood, seen = Likelihood(votes), narrow(past.lenses, views)
    found = []
    for number, (names, draws_V) in enumerate(_members(settings, votes, generator)):
        seen_NK = beside(seen, names).double()
        posterior = Posterior(seen_NK, likelihood, votes.raters, draws_V, past.members[number])
        at = posterior.mode()
        found.append(Quadratic.stack([posterior.said(at, kept_V) for kept_V in groups_GV * draws_V]))
    return found


def parameters(through: Lenses, member: int) -> int:
    """Free parameters of a member that are no rater's."""
    return sum(through[name].basis_DK.shape[1] for name in LOOKS[member % len(LOOKS)]) + 1 + SHARED


def _members(
    settings: RewardSettings, votes: Votes, generator: torch.Generator
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """What each looks at, and how it weighs the votes."""
    for number in range(settings.members):
        draws_EV = torch.empty(EVENNESS, votes.count, dtype=torch.float64).exponential_(generator=generator)
        yield LOOKS[number % len(LOOKS)], draws_EV.mean(0)


def _fit_member(
    through: Lenses,
    names: tuple[str, ...],
    seen: Views,
    likelihood: Likelihood,
    raters: int,
    weights_V: Tensor,
    past: Quadratic | None = None,
) -> Member:
    seen_NK = beside(seen, names).double()
    width = seen_NK.shape[1]
    posterior = Posterior(seen_NK, likelihood, raters, weights_V, past)
    mode = posterior.mode()
    direction_K = (PRIOR * mode[:width]).float()
    return Member(
        through, names, direction_K, (PRIOR**2 * posterior.covariance_KK(mode)).float(), float(mode[width]),
        Terms.unpack(mode[width + 1 :], raters),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Influence:
    """By how much the reward of the replies voted on would change (root mean square, in logits) without each
    vote, and without all votes of each rater; and what the model makes of the raters, on average over its
    members."""

    of_votes_V: Tensor
    of_raters_U: Tensor
    reliability_U: Tensor
    leniency_U: Tensor


def influence(model: RewardModel, views: Views, votes: Votes) -> Influence:
    """To first order (influence functions: Koh and Liang 2017), for the votes that `model` was fitted to."""
    likelihood = Likelihood(votes)
    rater_V = torch.tensor(votes.rater_of_each)
    of_votes, of_raters = [], []
    for member in model.members:
        seen_NK = look(member.lenses, member.names, views)
        r_N = (seen_NK @ member.direction_K + member.bias).double()
        vote, reply, pull = likelihood.pulls(r_N, member.terms)
        pulls_VK = torch.zeros(votes.count, seen_NK.shape[1]).index_add_(
            0, vote, pull.float().unsqueeze(1) * seen_NK[reply]
        )
        pulls_UK = torch.zeros(votes.raters, seen_NK.shape[1]).index_add_(0, rater_V, pulls_VK)
        effect_KK = member.covariance_KK @ (seen_NK.T @ seen_NK / len(seen_NK)) @ member.covariance_KK
        of_votes.append(((pulls_VK @ effect_KK) * pulls_VK).sum(1).clamp_min(0).sqrt())
        of_raters.append(((pulls_UK @ effect_KK) * pulls_UK).sum(1).clamp_min(0).sqrt())
    return Influence(
        torch.stack(of_votes).mean(0),
        torch.stack(of_raters).mean(0),
        model.reliability_U,
        torch.stack([member.terms.leniency_U for member in model.members]).mean(0),
    )


def pairwise_accuracy(reward_N: Tensor, votes: Votes) -> float | None:
    """Share of the pairs (a thumbed-up reply, a thumbed-down one) that the reward orders as people did, ties
    counting half; None where there is no such pair."""
    up = [reply for _, _, reply, liked in votes.thumbs if liked]
    down = [reply for _, _, reply, liked in votes.thumbs if not liked]
    if not up or not down:
        return None
    gaps = reward_N[up].unsqueeze(1) - reward_N[down].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())
