"""The reward model: one scalar r(x, y) for a reply to a prompt, learned from every vote together.

An ensemble of linear models on the frozen base's views of a reply (`features`). Each view is first brought
down to the directions in which the base's replies to one and the same prompt differ most: what is alike in
all replies to a prompt is its subject, and cannot be chosen. Members differ in the views that they see and
in their weights on the votes (the Bayesian bootstrap: Rubin 1981), so they disagree where little is known.
Each is the maximum a posteriori under the one likelihood (`likelihood`), with its rater terms of its own,
found by L-BFGS. r is the probability of a thumb up from an average rater, standardised on replies of the
base, so that its scale means the same in every round; a probability has an end, so nothing is gained by
ever more of what was liked. Fitting takes seconds, so each round starts from all votes afresh.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.features import Views
from trainer.likelihood import Likelihood, Terms, Votes

LOOKS: tuple[tuple[str, ...], ...] = (
    ("peak", "tokens", "length"),
    ("peak", "last", "mean", "tokens", "length"),
    ("peak", "mean", "tokens", "length"),
    ("peak", "last", "tokens", "length"),
)
"""What members look at, in turn."""

PRIOR = 4.0
"""Standard deviation of a member's logit before any vote, over the base's replies."""

DIRECTIONS = 24
"""Of each view."""

WEIGHT = {"length": 0.7}
"""The size of a view against the others, which have size 1."""


@dataclass(frozen=True, slots=True)
class Lens:
    """One view made comparable: centred and scaled on the base's replies, and narrowed to `basis_DK`."""

    centre_D: Tensor
    spread_D: Tensor
    basis_DK: Tensor
    size: float

    @classmethod
    def on(cls, name: str, view_ND: Tensor, per_prompt: int) -> "Lens":
        """From the base's replies, `per_prompt` of them in a row to each prompt."""
        centre_D = view_ND.mean(0)
        spread_D = torch.ones_like(centre_D) if name == "tokens" else view_ND.std(0).clamp_min(1e-3)
        scaled_PKD = ((view_ND - centre_D) / spread_D).clamp(-4, 4).view(-1, per_prompt, view_ND.shape[1])
        within_ND = (scaled_PKD - scaled_PKD.mean(1, keepdim=True)).flatten(0, 1)
        basis_DK = principal_directions(within_ND, DIRECTIONS)
        norm = float((scaled_PKD @ basis_DK).square().sum(2).mean().sqrt())
        return cls(centre_D, spread_D, basis_DK, WEIGHT.get(name, 1.0) / max(norm, 1e-6))

    def __call__(self, view_ND: Tensor) -> Tensor:
        scaled_ND = ((view_ND.float() - self.centre_D) / self.spread_D).clamp(-4, 4)
        narrowed_NK: Tensor = torch.matmul(scaled_ND, self.basis_DK) * self.size
        return narrowed_NK


Lenses = dict[str, Lens]


def lenses(base: Views, per_prompt: int) -> Lenses:
    """One for each view."""
    return {name: Lens.on(name, view_ND.float(), per_prompt) for name, view_ND in base.items()}


def principal_directions(rows_ND: Tensor, most: int) -> Tensor:
    """(D, K) at most `most` orthonormal directions in which the rows are largest."""
    values, vectors_NN = torch.linalg.eigh((rows_ND @ rows_ND.T).double())
    kept = values > 1e-6 * values[-1]
    values, vectors_NN = values[kept][-most:], vectors_NN[:, kept][:, -most:]
    return torch.matmul(rows_ND.T, (vectors_NN / values.sqrt()).float())


def look(through: Lenses, names: tuple[str, ...], views: Views) -> Tensor:
    """(N, K) what a member sees, of mean square length about 1 on the base's replies."""
    return torch.cat([through[name](views[name]) for name in names], 1).div(len(names) ** 0.5)


@dataclass(frozen=True, slots=True)
class Member:
    """r = (σ(seen·direction + bias) − centre) / spread. `covariance_KK` is the direction's, given the votes
    (Laplace's approximation: MacKay 1992)."""

    lenses: Lenses
    names: tuple[str, ...]
    direction_K: Tensor
    covariance_KK: Tensor
    bias: float
    centre: float
    spread: float
    terms: Terms

    def __call__(self, views: Views) -> Tensor:
        logits_N: Tensor = look(self.lenses, self.names, views) @ self.direction_K + self.bias
        return (logits_N.sigmoid() - self.centre) / self.spread

    def gain(self, to: Views, of: Views) -> tuple[Tensor, float]:
        """(N,) by how much the logit of each reply of `to` is above its fellow's of `of`, and the variance of
        their mean that comes from knowing the direction no better than the votes tell it."""
        moves_NK = look(self.lenses, self.names, to) - look(self.lenses, self.names, of)
        mean_K = moves_NK.mean(0)
        return torch.mv(moves_NK, self.direction_K), float(mean_K @ self.covariance_KK @ mean_K)


@dataclass(frozen=True, slots=True)
class RewardModel:
    members: list[Member]
    caution: float

    @property
    def reliability_U(self) -> Tensor:
        """(U,) what it makes of the raters, on average over its members."""
        return torch.stack([member.terms.reliability_U for member in self.members]).mean(0)

    def scores(self, views: Views) -> Tensor:
        """(N, M) standardised r by member."""
        return torch.stack([member(views) for member in self.members], 1)

    def reward(self, views: Views) -> Tensor:
        """(N,) mean − κ·std over the members: where they disagree, less."""
        scores_NM = self.scores(views)
        return scores_NM.mean(1) - self.caution * scores_NM.std(1)


def fit(
    views: Views,
    votes: Votes,
    base: Views,
    per_prompt: int,
    settings: RewardSettings,
    generator: torch.Generator,
) -> RewardModel:
    """Members fitted to `votes` about the replies of `views`; `base` are views of the base's own replies,
    `per_prompt` of them in a row to each prompt."""
    likelihood = Likelihood(votes)
    through = lenses(base, per_prompt)
    members = []
    for number in range(settings.members):
        weights_V = torch.empty(votes.count, dtype=torch.float64).exponential_(generator=generator)
        names = LOOKS[number % len(LOOKS)]
        members.append(_fit_member(through, names, views, base, likelihood, votes.raters, weights_V))
    return RewardModel(members, settings.caution)


def _fit_member(
    through: Lenses,
    names: tuple[str, ...],
    views: Views,
    base: Views,
    likelihood: Likelihood,
    raters: int,
    weights_V: Tensor,
) -> Member:
    seen_NK = look(through, names, views).double()
    width = seen_NK.shape[1]
    flat = torch.zeros(width + 1 + Terms.size(raters), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [flat], max_iter=150, history_size=20, tolerance_grad=1e-4, tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss(weights_K: Tensor, rest: Tensor) -> Tensor:
        terms = Terms.unpack(rest[1:], raters)
        logits_N = PRIOR * (seen_NK @ weights_K) + rest[0]
        prior = terms.log_prior() - 0.5 * weights_K.square().sum()
        return -likelihood(logits_N, terms, weights_V) - prior

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(flat[:width], flat[width:])
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    solution = flat.detach()
    weights_K, rest = solution[:width], solution[width:]
    curvature_KK = torch.autograd.functional.hessian(  # type: ignore[no-untyped-call]
        lambda each: loss(each, rest), weights_K, vectorize=True
    )
    # Where a vote is taken for a slip the likelihood curves the other way; there the prior alone counts.
    eye_KK = torch.eye(width, dtype=torch.float64)
    values_K, vectors_KK = torch.linalg.eigh(curvature_KK - eye_KK)
    curvature_KK = eye_KK + (vectors_KK * values_K.clamp_min(0)) @ vectors_KK.T
    direction_K = (PRIOR * weights_K).float()
    bias = float(solution[width])
    on_base_N = (look(through, names, base) @ direction_K + bias).sigmoid()
    return Member(
        through, names, direction_K, (PRIOR**2 * torch.linalg.inv(curvature_KK)).float(), bias,
        float(on_base_N.mean()), max(float(on_base_N.std()), 1e-3),
        Terms.unpack(solution[width + 1 :], raters),
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
