"""The reward model: one scalar r(x, y) for a reply to a prompt, learned from every vote together.

An ensemble of linear models on the frozen base's views of a reply (`features`). Members differ in the views
that they see and in their weights on the votes (the Bayesian bootstrap: Rubin 1981), so they disagree where
little is known. Each is the maximum a posteriori under the one likelihood (`likelihood`), with its rater
terms of its own, found by L-BFGS; r is then standardised on replies of the base, so its scale means the
same in every round. Fitting takes seconds, so each round starts from all votes afresh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.features import Views
from trainer.likelihood import Likelihood, Terms, Votes

LOOKS: tuple[tuple[str, ...], ...] = (
    ("peak", "last", "mean", "tokens", "length"),
    ("peak", "tokens", "length"),
    ("last", "mean", "tokens", "length"),
    ("peak", "last", "length"),
    ("peak", "mean", "tokens"),
)
"""What members look at, in turn."""

PRIOR = 2.0
"""Standard deviation of r before any vote, in logits, over the base's replies."""

LANDMARKS, DIRECTIONS = 1024, 256
"""Members are linear in the principal directions of at most so many replies."""

WEIGHT = {"length": 0.3}
"""The size of a view against the others, which have size 1."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How raw views become numbers of like size: centred and (tokens aside) scaled on the base's replies."""

    look: tuple[str, ...]
    centre: Views
    spread: Views
    size: dict[str, float]

    @classmethod
    def on(cls, base: Views, look: tuple[str, ...]) -> "Scaling":
        centre, spread, size = {}, {}, {}
        for name in look:
            view_ND = base[name].float()
            centre[name] = view_ND.mean(0)
            spread[name] = (
                torch.ones_like(centre[name]) if name == "tokens" else view_ND.std(0).clamp_min(1e-3)
            )
            scaled = ((view_ND - centre[name]) / spread[name]).clamp(-4, 4)
            size[name] = WEIGHT.get(name, 1.0) / max(float(scaled.square().sum(1).mean().sqrt()), 1e-6)
        return cls(look, centre, spread, size)

    def __call__(self, views: Views) -> Tensor:
        """(N, D) of mean square length about 1."""
        parts = [
            ((views[name].float() - self.centre[name]) / self.spread[name]).clamp(-4, 4) * self.size[name]
            for name in self.look
        ]
        return torch.cat(parts, 1) / len(parts) ** 0.5


@dataclass(frozen=True, slots=True)
class Member:
    """r = (scaling(views)·direction + bias − centre) / spread, in standard deviations over base replies."""

    scaling: Scaling
    direction_D: Tensor
    bias: float
    centre: float
    spread: float
    terms: Terms

    def raw(self, views: Views) -> Tensor:
        """(N,) in logits: what enters the likelihood."""
        logits_N: Tensor = self.scaling(views) @ self.direction_D + self.bias
        return logits_N

    def __call__(self, views: Views) -> Tensor:
        return (self.raw(views).sigmoid() - self.centre) / self.spread


@dataclass(frozen=True, slots=True)
class RewardModel:
    members: list[Member]
    caution: float

    def scores(self, views: Views) -> Tensor:
        """(N, M) standardised r by member."""
        return torch.stack([member(views) for member in self.members], 1)

    def reward(self, views: Views) -> Tensor:
        """(N,) mean − κ·std over the members: where they disagree, less."""
        scores_NM = self.scores(views)
        return scores_NM.mean(1) - self.caution * scores_NM.std(1)


def fit(
    views: Views, votes: Votes, base: Views, settings: RewardSettings, generator: torch.Generator
) -> RewardModel:
    """Members fitted to `votes` about the replies of `views`; `base` are views of the base's own replies."""
    likelihood = Likelihood(votes)
    members = []
    for number in range(settings.members):
        weights_V = torch.empty(votes.count, dtype=torch.float64).exponential_(generator=generator)
        scaling = Scaling.on(base, LOOKS[number % len(LOOKS)])
        members.append(_fit_member(scaling, views, base, likelihood, votes.raters, weights_V, generator))
    return RewardModel(members, settings.caution)


def _fit_member(
    scaling: Scaling,
    views: Views,
    base: Views,
    likelihood: Likelihood,
    raters: int,
    weights_V: Tensor,
    generator: torch.Generator,
) -> Member:
    x_ND, base_ND = scaling(views), scaling(base)
    basis_DK = principal_directions(torch.cat([x_ND, base_ND]), generator)
    phi_NK = (x_ND @ basis_DK).double()
    width = phi_NK.shape[1]
    flat = torch.zeros(width + 1 + Terms.size(raters), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [flat], max_iter=150, history_size=20, tolerance_grad=1e-4, tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        terms = Terms.unpack(flat[width + 1 :], raters)
        r_N = PRIOR * (phi_NK @ flat[:width]) + flat[width]
        prior = terms.log_prior() - 0.5 * flat[:width].square().sum()
        value = -likelihood(r_N, terms, weights_V) - prior
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    solution = flat.detach()
    direction_D = basis_DK @ (PRIOR * solution[:width]).float()
    bias = float(solution[width])
    on_base_N = (base_ND @ direction_D + bias).sigmoid()
    return Member(
        scaling, direction_D, bias, float(on_base_N.mean()), max(float(on_base_N.std()), 1e-3),
        Terms.unpack(solution[width + 1 :], raters),
    )  # fmt: skip


def principal_directions(x_ND: Tensor, generator: torch.Generator) -> Tensor:
    """(D, K) orthonormal directions in which at most LANDMARKS of the rows lie, the largest first."""
    if len(x_ND) > LANDMARKS:
        x_ND = x_ND[torch.randperm(len(x_ND), generator=generator)[:LANDMARKS]]
    values, vectors_NN = torch.linalg.eigh((x_ND @ x_ND.T).double())
    kept = values > 1e-6 * values[-1]
    values, vectors_NN = values[kept][-DIRECTIONS:], vectors_NN[:, kept][:, -DIRECTIONS:]
    return torch.matmul(x_ND.T, (vectors_NN / values.sqrt()).float())


def pairwise_accuracy(reward_N: Tensor, votes: Votes) -> float | None:
    """Share of the pairs (a thumbed-up reply, a thumbed-down one) that the reward orders as people did, ties
    counting half; None where there is no such pair."""
    up = [reply for _, _, reply, liked in votes.thumbs if liked]
    down = [reply for _, _, reply, liked in votes.thumbs if not liked]
    if not up or not down:
        return None
    gaps = reward_N[up].unsqueeze(1) - reward_N[down].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())


def rows(views: Views, indices: Sequence[int]) -> Views:
    """Some of the replies."""
    return {name: view[list(indices)] for name, view in views.items()}
