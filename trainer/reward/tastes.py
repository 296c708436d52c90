"""This module fits tastes: the few shared directions in which people's preferences differ.

A rater u values a reply x at r_u(x) = r(x) + Σ_k z_uk·t_k(x), a latent factor model as PReF (Shenfeld et al.
2025, 2503.06358) and LoRe (Bose et al. 2025, 2504.14439). r is what people like on average, each t_k is
linear in the features as r is, and the weights z_u have the prior N(0, 1). So a person has as many parameters
as there are directions, beside their leniency and reliability.

The weights come from the population of people (`population`): the directions are those in which people's
coefficients differ most, and a rater's weights are their places on them, standardised over people, so
everybody's mean is at z = 0. Given the weights, r and all t_k are one linear model with the features (f,
z_u1·f, z_u2·f, …), so the posterior of a member stays what it is (`posterior`).

The number of directions is chosen by the likelihood of held-out votes. There are any only where more of the
raters gain than chance allows, so neither one person alone nor noise makes a taste of their own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward import population
from trainer.reward.likelihood import Likelihood, NuisanceParameters, Votes
from trainer.reward.population import Population
from trainer.reward.posterior import PRIOR_STD

MAX_DIRECTIONS = 4
"""Most directions in which people may differ."""

MIN_RATERS, MIN_VOTES = 4, 6
"""Raters with so many votes each below which everybody has the same taste."""

FOLDS = 3
"""Folds of the votes, all votes on one reply in one fold, by which the number of directions is chosen."""

DIRECTION_SCALE = 0.5
"""Standard deviation of the prior on a direction's coefficients, relative to the mean's. Chosen on the crowds
of tests.unit.test_tastes, by held-out likelihood."""

ITERATIONS = 20
"""Iterations of L-BFGS that find the weights under a fitted reward model."""

SIGNIFICANCE = 1.5
"""Standard errors, over raters, by which more directions must improve the held-out likelihood. So one
rater alone cannot bring them about, whatever they gain: their gain is its own standard error."""

HALF_KNOWN = 8.0
"""Votes after which a rater counts half where weights are standardised."""

MAX_PEOPLE = 500
"""People that make the population, those with the most votes; all others count for the mean only."""


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
    found = model.population(torch.ones(votes.count, dtype=torch.float64))
    _, place_UT = found.directions(model.features_RK, directions)
    reliable = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(votes.raters)), votes.raters)
    return standardised(place_UT, _known(votes, reliable))


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
    """What people differ in, on one set of features."""

    def __init__(self, features_RK: Tensor, votes: Votes) -> None:
        self.features_RK = features_RK
        self.votes = votes
        self.rows = RaterRows.of(votes)
        self.likelihood = Likelihood(self.rows.votes)
        counts_U = _counts(votes)
        counts_U[list(votes.judges)] = 0
        self.people_U = counts_U.argsort(descending=True, stable=True)[: int((counts_U > 0).sum())]
        self.people_U = self.people_U[:MAX_PEOPLE]
        fold_R = torch.randperm(len(features_RK), generator=torch.Generator().manual_seed(0)) % FOLDS
        self.fold_V = fold_R[votes.compared(len(features_RK))[_first_replies(votes)]]

    def population(self, mask_V: Tensor) -> Population:
        features_NK, raters = self.features_RK[self.rows.reply_N], self.votes.raters
        return population.fit(features_NK, self.rows.rater_N, raters, self.people_U, self.likelihood, mask_V)

    def choose_directions(self) -> int:
        """Returns the number of directions that the held-out votes support."""
        log_p_CV = torch.zeros(1 + MAX_DIRECTIONS, self.votes.count, dtype=torch.float64)
        for fold in range(FOLDS):
            held_out_V = (self.fold_V == fold).double()
            log_p_CV += held_out_V * self._log_p(self.population(1 - held_out_V))
        log_p_CU = torch.zeros(len(log_p_CV), self.votes.raters, dtype=torch.float64)
        log_p_CU.index_add_(1, torch.tensor(self.votes.rater_of_vote), log_p_CV)
        best = 0
        for directions in range(1, len(log_p_CU)):
            gain_U = (log_p_CU[directions] - log_p_CU[best])[self.people_U]
            if float(gain_U.sum()) > SIGNIFICANCE * float(gain_U.std() * len(gain_U) ** 0.5):
                best = directions
        return best

    def _log_p(self, found: Population) -> Tensor:
        """Returns the (1 + MAX_DIRECTIONS, V) log-likelihood of each vote with 0, 1, … directions."""
        values_RT, place_UT = found.directions(self.features_RK, MAX_DIRECTIONS)
        raters, (reply_N, rater_N) = self.votes.raters, (self.rows.reply_N, self.rows.rater_N)
        nuisance = NuisanceParameters.unpack(torch.zeros(NuisanceParameters.size(raters)).double(), raters)
        r_N = PRIOR_STD * self.features_RK[reply_N] @ found.mean_K + found.leniency_U[rater_N]
        more_NT = (values_RT[reply_N] * place_UT[rater_N]).cumsum(1)
        rewards = [r_N, *(r_N + more_N for more_N in more_NT.T)]
        rewards += [rewards[-1]] * (1 + MAX_DIRECTIONS - len(rewards))
        return torch.stack([self.likelihood.by_vote(each_N, nuisance) for each_N in rewards])


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
