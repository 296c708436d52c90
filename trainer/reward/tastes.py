"""This module fits tastes: the few shared directions in which people's preferences differ.

A rater u values a reply x at r_u(x) = r(x) + Σ_k z_uk·t_k(x), a latent factor model as PReF (Shenfeld et al.
2025, 2503.06358) and LoRe (Bose et al. 2025, 2504.14439). r is what people like on average, each t_k is
linear in the features as r is, and the weights z_u have the prior N(0, 1). So a person has as many parameters
as there are directions, beside their leniency and reliability.

Given the weights, r and all t_k are one linear model with the features (f, z_u1·f, z_u2·f, …), so the
posterior of a member stays what it is (`posterior`). Given r and t_k, the weights are found by rater. The two
steps alternate. A new direction begins as the leading eigenvector of the raters' gradients: raters whose
votes pull the reward the same way begin on one side. The weights are standardised over people, so everybody's
mean is at z = 0.

The number of directions is chosen by the likelihood of held-out votes. One more is taken only where more of
the raters gain than chance allows, so neither one person alone nor noise makes a taste of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.posterior import PRIOR_STD, Posterior

MAX_DIRECTIONS = 4
"""Most directions in which people may differ."""

MIN_RATERS, MIN_VOTES = 4, 6
"""Raters with so many votes each below which everybody has the same taste."""

FOLDS = 3
"""Folds of the votes, all votes on one reply in one fold, by which the number of directions is chosen."""

ALTERNATIONS = 4
"""How often weights and directions are fitted in turn."""

DIRECTION_SCALE = 0.5
"""Standard deviation of the prior on a direction's coefficients, relative to the mean's. Chosen on the crowds
of tests.unit.test_tastes, by held-out likelihood."""

ITERATIONS = 20
"""Iterations of L-BFGS in one step, which begins where the last one ended."""

OPPOSITION = 0.7
"""Correlation with the mean reward, over the voted replies, from which a direction is no taste: whoever is on
its far side votes against everybody on everything, and that is a matter of their reliability."""

SIGNIFICANCE = 1.0
"""Standard errors, over raters, by which one more direction must improve the held-out likelihood. With 1, one
rater alone cannot, whatever they gain."""

HALF_KNOWN = 8.0
"""Votes after which a rater counts half where weights are standardised."""

MAX_COMPARED = 500
"""Raters whose gradients are compared, those with the most votes: the time grows with their cube."""


@dataclass(frozen=True, slots=True)
class PersonWeights:
    """The (U, T) weights of the raters, their precision (U, T, T) under the posterior, and how much is known
    of each rater as a person, from 0 to 1: judges are none."""

    mean_UT: Tensor
    precision_UTT: Tensor
    known_U: Tensor


@dataclass(frozen=True, slots=True)
class RaterRows:
    """`votes` numbered anew, with a row for each reply that a rater voted on: N rows, each of a reply and a
    rater."""

    votes: Votes
    reply_N: Tensor
    rater_N: Tensor

    @classmethod
    def of(cls, votes: Votes) -> "RaterRows":
        row_of: dict[tuple[int, int], int] = {}

        def row(reply: int, rater: int) -> int:
            return row_of.setdefault((reply, rater), len(row_of))

        numbered = Votes(votes.raters, votes.judges, votes.rater_of_vote, votes.weights)
        numbered.thumbs = [(v, u, row(reply, u), up) for v, u, reply, up in votes.thumbs]
        numbered.signals = [(v, u, row(reply, u), good) for v, u, reply, good in votes.signals]
        numbered.edits = [(v, u, row(one, u), row(other, u)) for v, u, one, other in votes.edits]
        numbered.stages = {
            size: [(v, u, [row(reply, u) for reply in on], first, index) for v, u, on, first, index in rows]
            for size, rows in votes.stages.items()
        }
        reply_N, rater_N = torch.tensor(list(row_of)).T
        return cls(numbered, reply_N, rater_N)

    def inputs(self, features_RK: Tensor, weights_UT: Tensor) -> Tensor:
        """Returns the (N, (1 + T)·K) inputs of a member, from its (R, K) features of the replies."""
        return with_weights(features_RK[self.reply_N], weights_UT[self.rater_N])


def with_weights(features_NK: Tensor, weights_NT: Tensor) -> Tensor:
    """Returns (f, d·z_1·f, d·z_2·f, …) for each row, with d the DIRECTION_SCALE: so one prior fits all."""
    scaled_NT = DIRECTION_SCALE * weights_NT
    parts = [features_NK, *(features_NK * weight_N.unsqueeze(1) for weight_N in scaled_NT.T)]
    return torch.cat(parts, 1)


def fit_weights(features_RK: Tensor, votes: Votes) -> Tensor:
    """Returns the (U, T) weights of the raters, from the features of the replies. T is 0 where the votes do
    not support that people differ."""
    if int((_counts(votes) >= MIN_VOTES).sum()) < MIN_RATERS:
        return torch.zeros(votes.raters, 0, dtype=torch.float64)
    model = _TasteFit(features_RK.double(), votes)
    directions = model.choose_directions()
    fit = model.begun(torch.ones(votes.count, dtype=torch.float64))
    for _ in range(directions):
        fit = model.extended(fit)
    return fit.weights_UT


def posterior_weights(
    rows: RaterRows, values_RC: Tensor, nuisance: NuisanceParameters, start_UT: Tensor
) -> PersonWeights:
    """Returns the posterior of the raters' weights, given the (R, 1 + T) values of the replies, the mean's
    first, and the shared parameters of the likelihood."""
    likelihood = Likelihood(rows.votes)
    everything_V = torch.ones(rows.votes.count, dtype=torch.float64)
    found = _person_step(rows, likelihood, everything_V, values_RC.double(), nuisance, start_UT.double())
    weights_UT, nuisance = found
    values_NC = values_RC.double()[rows.reply_N]
    r_N = _person_rewards(values_NC, weights_UT[rows.rater_N])
    hessian = likelihood.hessian(r_N, nuisance, everything_V)
    one, other = hessian.indices()
    outer_ETT = values_NC[one, 1:, None] * values_NC[other, None, 1:] * hessian.values()[:, None, None]
    directions = weights_UT.shape[1]
    precision_UTT = torch.zeros(rows.votes.raters, directions, directions, dtype=torch.float64)
    precision_UTT.index_add_(0, rows.rater_N[one], -outer_ETT)
    values, vectors = torch.linalg.eigh((precision_UTT + precision_UTT.mT) / 2)
    positive = (vectors * values.clamp_min(0).unsqueeze(-2)) @ vectors.mT  # lapses have negative curvature
    known_U = _known(rows.votes, nuisance)
    return PersonWeights(weights_UT, positive + torch.eye(directions, dtype=torch.float64), known_U)


class _TasteFit:
    """The alternating fit on one set of features. `mask_V` selects votes by weight."""

    def __init__(self, features_RK: Tensor, votes: Votes) -> None:
        self.features_RK = features_RK
        self.rows = RaterRows.of(votes)
        self.likelihood = Likelihood(self.rows.votes)
        self.counts_U = _counts(votes)
        fold_R = torch.randperm(len(features_RK), generator=torch.Generator().manual_seed(0)) % FOLDS
        self.fold_V = fold_R[votes.compared(len(features_RK))[_first_replies(votes)]]

    def choose_directions(self) -> int:
        """Returns the number of directions that the held-out votes support."""
        fits = [self.begun((self.fold_V != fold).double()) for fold in range(FOLDS)]
        before_V = self._held_out(fits)
        for directions in range(MAX_DIRECTIONS):
            fits = [self.extended(fit) for fit in fits]
            after_V = self._held_out(fits)
            gain_U = torch.zeros(len(self.counts_U), dtype=torch.float64)
            gain_U.index_add_(0, torch.tensor(self.rows.votes.rater_of_vote), after_V - before_V)
            gain_U = gain_U[self.counts_U > 0]
            gains = float(gain_U.sum()) > SIGNIFICANCE * float(gain_U.std() * len(gain_U) ** 0.5)
            if not gains or any(fit.opposes() for fit in fits):
                return directions
            before_V = after_V
        return MAX_DIRECTIONS

    def begun(self, mask_V: Tensor) -> "_Fit":
        """Returns the fit without directions."""
        weights_UT = torch.zeros(len(self.counts_U), 0, dtype=torch.float64)
        return self._linear_step(weights_UT, mask_V, None)

    def extended(self, fit: "_Fit") -> "_Fit":
        """Returns the fit with one more direction."""
        weights_UT = torch.cat([fit.weights_UT, self._first_guess(fit).unsqueeze(1)], 1)
        width, end = self.features_RK.shape[1], self.features_RK.shape[1] * weights_UT.shape[1]
        start = torch.cat([fit.mode[:end], fit.mode.new_zeros(width), fit.mode[end:]])
        for _ in range(ALTERNATIONS):
            fit = self._linear_step(weights_UT, fit.mask_V, start)
            found, nuisance = _person_step(
                self.rows, self.likelihood, fit.mask_V, fit.values_RC, fit.nuisance, weights_UT
            )
            weights_UT, start = standardised(found, _known(self.rows.votes, nuisance)), fit.mode
        return self._linear_step(weights_UT, fit.mask_V, start)

    def _held_out(self, fits: Sequence["_Fit"]) -> Tensor:
        """Returns the (V,) log-likelihood of each vote by the fit to the other folds."""
        total_V = torch.zeros(self.rows.votes.count, dtype=torch.float64)
        for fit in fits:
            r_N = _person_rewards(fit.values_RC[self.rows.reply_N], fit.weights_UT[self.rows.rater_N])
            total_V += (1 - fit.mask_V) * self.likelihood.by_vote(r_N, fit.nuisance)
        return total_V

    def _first_guess(self, fit: "_Fit") -> Tensor:
        """Returns weights for a further direction: the leading eigenvector of the products of the raters'
        gradients, as if all were reliable. The diagonal is left out, since it has each rater's own noise."""
        nuisance = replace(fit.nuisance, reliability_U=torch.ones_like(self.counts_U))
        features_NK = self.features_RK[self.rows.reply_N]
        r_N = _person_rewards(fit.values_RC[self.rows.reply_N], fit.weights_UT[self.rows.rater_N])
        vote, row, gradient = self.likelihood.gradients(r_N, nuisance)
        gradients_UK = torch.zeros(len(self.counts_U), features_NK.shape[1], dtype=torch.float64)
        contribution = (gradient * fit.mask_V[vote]).unsqueeze(1) * features_NK[row]
        gradients_UK.index_add_(0, self.rows.rater_N[row], contribution)
        gradients_UK /= self.counts_U.clamp_min(1).sqrt().unsqueeze(1)
        chosen = self.counts_U.argsort(descending=True, stable=True)[:MAX_COMPARED]
        gram = gradients_UK[chosen] @ gradients_UK[chosen].T
        _, vectors = torch.linalg.eigh(gram - gram.diag().diag())
        guess_U = torch.zeros_like(self.counts_U)
        guess_U[chosen] = vectors[:, -1]
        return standardised(guess_U.unsqueeze(1), _known(self.rows.votes, nuisance)).squeeze(1)

    def _linear_step(self, weights_UT: Tensor, mask_V: Tensor, start: Tensor | None) -> "_Fit":
        """Returns the most probable coefficients given the weights."""
        raters, (width, directions) = len(self.counts_U), (self.features_RK.shape[1], weights_UT.shape[1])
        inputs = self.rows.inputs(self.features_RK, weights_UT)
        mode = Posterior(inputs, self.likelihood, raters, mask_V, None).mode(start, ITERATIONS)
        end = width * (1 + directions)
        scale_C1 = torch.tensor([PRIOR_STD, *[PRIOR_STD * DIRECTION_SCALE] * directions]).unsqueeze(1)
        values_RC = self.features_RK @ (scale_C1 * mode[:end].view(1 + directions, width)).T
        values_RC[:, 0] += mode[end]
        nuisance = NuisanceParameters.unpack(mode[end + 1 :], raters)
        return _Fit(weights_UT, mask_V, mode, values_RC, nuisance)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Weights, and the most probable coefficients and nuisance parameters given these: the `mode`, and the
    (R, 1 + T) values of the replies that follow from it."""

    weights_UT: Tensor
    mask_V: Tensor
    mode: Tensor
    values_RC: Tensor
    nuisance: NuisanceParameters

    def opposes(self) -> bool:
        """Returns whether some direction is the mean reward turned round."""
        r_1R, directions_TR = self.values_RC.T[:1], self.values_RC.T[1:]
        return bool((torch.corrcoef(torch.cat([r_1R, directions_TR]))[0, 1:].abs() > OPPOSITION).any())


def standardised(weights_UT: Tensor, known_U: Tensor) -> Tensor:
    """Returns the weights with mean 0 and covariance 1 over the people, by how much is known of each."""
    share_U1 = (known_U / known_U.sum().clamp_min(1e-9)).unsqueeze(1)
    centred_UT = weights_UT - (share_U1 * weights_UT).sum(0)
    values, vectors = torch.linalg.eigh((share_U1 * centred_UT).T @ centred_UT)
    whitening_TT = (vectors / values.clamp_min(1e-6).sqrt()) @ vectors.T
    found_UT: Tensor = centred_UT @ whitening_TT
    return found_UT


def _person_step(
    rows: RaterRows, likelihood: Likelihood, mask_V: Tensor, values_RC: Tensor,
    shared: NuisanceParameters, start_UT: Tensor,
) -> tuple[Tensor, NuisanceParameters]:  # fmt: skip
    """Returns the most probable weights of the raters, with their leniency and reliability, given the values
    of the replies and the shared parameters."""
    values_NC, raters = values_RC[rows.reply_N].detach(), rows.votes.raters
    weights_UT = start_UT.clone().requires_grad_()
    raters_2U = torch.stack([shared.leniency_U, shared.reliability_free_U]).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights_UT, raters_2U], max_iter=ITERATIONS, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        nuisance = shared.of_raters(raters_2U[0], raters_2U[1])
        r_N = _person_rewards(values_NC, weights_UT[rows.rater_N])
        loss = 0.5 * weights_UT.square().sum() - nuisance.log_prior() - likelihood(r_N, nuisance, mask_V)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    if raters and weights_UT.shape[1]:
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    found_2U = raters_2U.detach()
    return weights_UT.detach(), shared.of_raters(found_2U[0], found_2U[1])


def _person_rewards(values_NC: Tensor, weights_NT: Tensor) -> Tensor:
    return values_NC[:, 0] + (values_NC[:, 1:] * weights_NT).sum(1)


def _counts(votes: Votes) -> Tensor:
    """Returns the (U,) number of votes of each rater, signals aside."""
    signals = {vote for vote, _, _, _ in votes.signals}
    raters = [rater for vote, rater in enumerate(votes.rater_of_vote) if vote not in signals]
    return torch.tensor(raters, dtype=torch.long).bincount(minlength=votes.raters).double()


def _known(votes: Votes, nuisance: NuisanceParameters) -> Tensor:
    """Returns how much is known of each rater as a person, from 0 to 1."""
    counts_U = _counts(votes)
    known_U: Tensor = counts_U / (counts_U + HALF_KNOWN) * nuisance.reliability_U.detach().clamp_max(1)
    known_U[list(votes.judges)] = 0.0
    return known_U


def _first_replies(votes: Votes) -> list[int]:
    """Returns the first reply of each vote."""
    first: dict[int, int] = {}
    for vote, _, reply, _ in (*votes.thumbs, *votes.signals, *votes.edits):
        first.setdefault(vote, reply)
    for _, rows in sorted(votes.stages.items(), reverse=True):
        for vote, _, replies, _, _ in rows:
            first.setdefault(vote, replies[0])
    return [first.get(vote, 0) for vote in range(votes.count)]
