"""This module implements one likelihood for every kind of vote, given a scalar reward r for each reply.

    thumbs     P(up) = σ(a_u·r + b_u): logistic regression with item-response terms for the rater
    rankings   Davidson–Luce (Firth, Kosmidis and Turner 2019), a Plackett–Luce model with ties, best group
               first; for two replies it is Davidson (1970). The worth is exp(c_s·a_u·r + g·first)
    edits      P(edit ≻ original) = σ(c_s·a_u·(r_edit − r_original)), Bradley–Terry, and a thumb up on the
               edit
    signals    P(good) = σ(c_g·a_u·r + b_g), given that there was a signal; copied and shared are good,
               regenerated and abandoned are not

a_u is a rater's reliability (prior mean 1), b_u their leniency (prior mean 0). The reliability of a rater who
votes at random or against everyone goes to 0, so their votes lose their weight. It is never below 0: votes
with the opposite sign would turn round what a minority agrees on with everyone, because of what it does not.
c_s scales a kind of vote relative to thumbs, g is the position bias of the reply shown first, and log δ_t is
the tie parameter of groups of t replies. Each free parameter has a normal prior. A share LAPSE_RATE of all
votes is noise.

A missing vote is not a vote. Raters may be more inclined to vote when they are pleased, or when they are not:
if P(vote | up) and P(vote | down) differ, the log odds of a thumb up among the votes cast shift by
log P(vote | up) − log P(vote | down) for every reply alike. b_u absorbs the shift, and r stays unbiased (the
case-control argument: Prentice and Pyke 1979). b_g does the same for signals.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LENIENCY_STD, RELIABILITY_STD, SCALE_STD, POSITION_STD, TIE_STD, SIGNAL_STD = 1.0, 1.0, 0.5, 0.5, 1.0, 2.0
"""Standard deviations of the normal priors on b_u, a_u's free parameter, log c_s, g, log δ_t and b_g."""

RELIABILITY_SHARPNESS = 4.0
"""Sharpness of the softplus that keeps a reliability above 0: it is nearly 1 + x of the free parameter x down
to a quarter, and exponential below."""

_INVERSE_SOFTPLUS_OF_1 = math.log(math.expm1(RELIABILITY_SHARPNESS)) / RELIABILITY_SHARPNESS

SIGNAL_LOG_SCALE = -1.0
"""Prior mean of log c_g: a signal is weaker evidence than a thumb."""

LAPSE_RATE = 0.14
"""Share of votes that are noise, each outcome being equally likely (the lapse rate of a psychometric
function: Wichmann and Hill 2001). Chosen on tests.bench.reward."""

MAX_RANKED = 8
"""Replies of a ranking that are used, the best ones: the sum is over all subsets of them."""


@dataclass
class Votes:
    """Votes as indices of raters and replies. Every row names the vote that it came from. `judges` are the
    raters that are no people; `tastes_UT` are the raters' weights (`tastes`), where these are known."""

    raters: int
    judges: set[int] = field(default_factory=set)
    rater_of_vote: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    thumbs: list[tuple[int, int, int, bool]] = field(default_factory=list)  # vote, rater, reply, up
    signals: list[tuple[int, int, int, bool]] = field(default_factory=list)  # vote, rater, reply, good
    edits: list[tuple[int, int, int, int]] = field(default_factory=list)  # vote, rater, edited, original
    stages: dict[int, list[tuple[int, int, list[int], list[bool], int]]] = field(default_factory=dict)
    # by number of replies still to be ranked: vote, rater, replies, shown first, index in `subsets`
    tastes_UT: Tensor | None = None

    @property
    def count(self) -> int:
        """The number of votes."""
        return len(self.weights)

    @property
    def people_weight(self) -> float:
        """The total weight of people's votes. Signals and judges' votes are none."""
        signals = {vote for vote, _, _, _ in self.signals}
        votes = enumerate(zip(self.rater_of_vote, self.weights, strict=True))
        return sum(
            weight for vote, (rater, weight) in votes if vote not in signals and rater not in self.judges
        )

    def replies(self) -> list[list[int]]:
        """Returns the replies that each vote is on."""
        found: list[set[int]] = [set() for _ in self.weights]
        for vote, _, reply, _ in (*self.thumbs, *self.signals):
            found[vote].add(reply)
        for vote, _, edited, original in self.edits:
            found[vote] |= {edited, original}
        for rows in self.stages.values():
            for vote, _, on, _, _ in rows:
                found[vote].update(on)
        return [sorted(each) for each in found]

    def compared(self, replies: int) -> Tensor:
        """Returns for each of so many replies the lowest reply that it was compared with, by edits and
        rankings, itself included."""
        lowest = list(range(replies))
        together = [[edited, original] for _, _, edited, original in self.edits]
        together += [row[2] for _, rows in sorted(self.stages.items(), reverse=True) for row in rows]
        for group in together:
            smallest = min(lowest[reply] for reply in group)
            for reply in group:
                lowest[reply] = smallest
        return torch.tensor(lowest)

    def thumb(self, rater: int, reply: int, up: bool, weight: float = 1.0) -> None:
        """Adds a thumb."""
        self.thumbs.append((self._add(rater, weight), rater, reply, up))

    def signal(self, rater: int, reply: int, good: bool, weight: float = 1.0) -> None:
        """Adds a signal."""
        self.signals.append((self._add(rater, weight), rater, reply, good))

    def edit(self, rater: int, edited: int, original: int, weight: float = 1.0) -> None:
        """Adds an edit: a preference for the edited reply, and a thumb up on it."""
        vote = self._add(rater, weight)
        self.edits.append((vote, rater, edited, original))
        self.thumbs.append((vote, rater, edited, True))

    def ranking(
        self,
        rater: int,
        groups: Sequence[Sequence[int]],
        first: int | None,
        acceptable: bool = True,
        weight: float = 1.0,
    ) -> None:
        """Adds a ranking: groups of tied replies, best first. `first` is the reply that was shown first; None
        where nothing was shown. If none was acceptable, each reply also gets a thumb down."""
        vote = self._add(rater, weight)
        if not acceptable:
            self.thumbs += [(vote, rater, reply, False) for group in groups for reply in group]
        groups = list(groups)
        while sum(map(len, groups)) > MAX_RANKED:
            groups.pop()
        while sum(map(len, groups)) > 1:
            left = [reply for group in groups for reply in group]
            best = tuple(range(len(groups[0])))
            shown_first = [reply == first for reply in left]
            row = (vote, rater, left, shown_first, subsets(len(left)).index(best))
            self.stages.setdefault(len(left), []).append(row)
            groups = groups[1:]

    def _add(self, rater: int, weight: float) -> int:
        """Returns the index of the new vote."""
        self.rater_of_vote.append(rater)
        self.weights.append(weight)
        return self.count - 1

    def is_informative(self) -> bool:
        """Whether some vote prefers one reply to another; equal thumbs and signals alone do not."""
        strict = any(len(subsets(size)[row[4]]) < size for size, rows in self.stages.items() for row in rows)
        return strict or bool(self.edits) or len({up for _, _, _, up in self.thumbs}) == 2


@cache
def subsets(size: int) -> list[tuple[int, ...]]:
    """Returns every non-empty subset of range(size)."""
    return [chosen for count in range(1, size + 1) for chosen in combinations(range(size), count)]


@cache
def _averaging_matrix(size: int) -> Tensor:
    """Returns a (subsets, size) matrix. A row times the log worths is the mean log worth of the subset."""
    matrix = torch.zeros(len(subsets(size)), size, dtype=torch.float64)
    for row, chosen in enumerate(subsets(size)):
        matrix[row, list(chosen)] = 1 / len(chosen)
    return matrix


@dataclass
class NuisanceParameters:
    """The parameters of the likelihood other than r."""

    leniency_U: Tensor
    reliability_U: Tensor
    reliability_free_U: Tensor
    ranking_scale: Tensor
    edit_scale: Tensor
    position: Tensor
    signal_scale: Tensor
    signal_bias: Tensor
    log_tie: Tensor  # (MAX_RANKED + 1,), of group sizes; sizes 0 and 1 are not used

    @classmethod
    def unpack(cls, flat: Tensor, raters: int) -> "NuisanceParameters":
        """Unpacks free parameters, which are all zero at the prior means."""
        leniency, free, rest = flat[:raters], flat[raters : 2 * raters], flat[2 * raters :]
        ranking, edit, position, signal, bias = rest[:5]
        reliability = softplus(free + _INVERSE_SOFTPLUS_OF_1, RELIABILITY_SHARPNESS)
        return cls(
            leniency, reliability, free, ranking.exp(), edit.exp(), position,
            (signal + SIGNAL_LOG_SCALE).exp(), bias, rest[5:],
        )  # fmt: skip

    def of_raters(self, leniency_U: Tensor, reliability_free_U: Tensor) -> "NuisanceParameters":
        """Returns these parameters with other free parameters of the raters."""
        reliability_U = softplus(reliability_free_U + _INVERSE_SOFTPLUS_OF_1, RELIABILITY_SHARPNESS)
        return replace(
            self, leniency_U=leniency_U, reliability_U=reliability_U, reliability_free_U=reliability_free_U
        )

    @staticmethod
    def size(raters: int) -> int:
        """Returns the number of free parameters."""
        return 2 * raters + 5 + MAX_RANKED + 1

    def log_prior(self) -> Tensor:
        """Returns the log density of the normal priors, up to a constant."""
        return -0.5 * (
            (self.leniency_U / LENIENCY_STD).square().sum()
            + (self.reliability_free_U / RELIABILITY_STD).square().sum()
            + (self.ranking_scale.log() / SCALE_STD).square()
            + (self.edit_scale.log() / SCALE_STD).square()
            + (self.position / POSITION_STD).square()
            + ((self.signal_scale.log() - SIGNAL_LOG_SCALE) / SCALE_STD).square()
            + (self.signal_bias / SIGNAL_STD).square()
            + (self.log_tie / TIE_STD).square().sum()
        )


class Likelihood:
    """The log-likelihood of `votes`, as tensors."""

    def __init__(self, votes: Votes) -> None:
        self.weights_V = torch.tensor(votes.weights, dtype=torch.float64)
        self.thumbs = [torch.tensor(column) for column in zip(*votes.thumbs, strict=True)]
        self.signals = [torch.tensor(column) for column in zip(*votes.signals, strict=True)]
        self.edits = [torch.tensor(column) for column in zip(*votes.edits, strict=True)]
        self.stages = {
            size: [torch.tensor(column) for column in zip(*rows, strict=True)]
            for size, rows in votes.stages.items()
        }

    def __call__(self, r_N: Tensor, nuisance: NuisanceParameters, bootstrap_V: Tensor) -> Tensor:
        """Returns Σ over votes of bootstrap weight × weight × log P(vote), in nats. `r_N` is float64."""
        total = r_N.new_zeros(())
        weights_V = bootstrap_V * self.weights_V
        for vote, replies_BM, log_p in self._by_kind():
            total = total + (weights_V[vote] * log_p(r_N[replies_BM], nuisance)).sum()
        return total

    def by_vote(self, r_N: Tensor, nuisance: NuisanceParameters) -> Tensor:
        """Returns (V,) weight × log P(vote), in nats."""
        total_V = torch.zeros_like(self.weights_V)
        for vote, replies_BM, log_p in self._by_kind():
            total_V.index_add_(0, vote, self.weights_V[vote] * log_p(r_N[replies_BM], nuisance))
        return total_V

    def gradients(self, r_N: Tensor, nuisance: NuisanceParameters) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (votes, replies, gradients), one entry for each reply of each vote: the vote's weight times
        ∂ log P(vote) / ∂ r(reply)."""
        votes, replies, gradients = [], [], []
        for vote, replies_BM, log_p in self._by_kind():
            r_BM = r_N[replies_BM].detach().requires_grad_()
            (gradient_BM,) = torch.autograd.grad((self.weights_V[vote] * log_p(r_BM, nuisance)).sum(), r_BM)
            votes.append(vote.unsqueeze(1).expand_as(replies_BM).flatten())
            replies.append(replies_BM.flatten())
            gradients.append(gradient_BM.flatten())
        return torch.cat(votes), torch.cat(replies), torch.cat(gradients)

    def hessian(self, r_N: Tensor, nuisance: NuisanceParameters, bootstrap_V: Tensor) -> Tensor:
        """Returns the (N, N) sparse Hessian of the log-likelihood in r. Only replies of one vote share an
        entry, so its cost is linear in the votes."""
        weights_V = bootstrap_V * self.weights_V
        indices, values = [], []
        for vote, replies_BM, log_p in self._by_kind():
            r_BM = r_N[replies_BM].detach().requires_grad_()
            total = (weights_V[vote] * log_p(r_BM, nuisance)).sum()
            (gradient_BM,) = torch.autograd.grad(total, r_BM, create_graph=True)
            for reply_B, gradient_B in zip(replies_BM.T, gradient_BM.T, strict=True):
                (row_BM,) = torch.autograd.grad(gradient_B.sum(), r_BM, retain_graph=True)
                indices.append(
                    torch.stack([reply_B.unsqueeze(1).expand_as(replies_BM), replies_BM]).flatten(1)
                )
                values.append(row_BM.flatten())
        size = (len(r_N), len(r_N))
        return torch.sparse_coo_tensor(
            torch.cat(indices, 1), torch.cat(values), size, check_invariants=True
        ).coalesce()

    def _by_kind(self) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor, NuisanceParameters], Tensor]]]:
        """Yields for each kind of vote the (B,) votes, the (B, M) replies of each, and a function that gives
        their log P from the (B, M) rewards."""
        if self.thumbs:
            vote, rater, reply, up = self.thumbs
            yield vote, reply.unsqueeze(1), partial(_thumb_log_p, rater, up)
        if self.signals:
            vote, rater, reply, good = self.signals
            yield vote, reply.unsqueeze(1), partial(_signal_log_p, rater, good)
        if self.edits:
            vote, rater, edited, original = self.edits
            yield vote, torch.stack([edited, original], 1), partial(_edit_log_p, rater)
        for size, (vote, rater, replies_BM, first_BM, chosen) in self.stages.items():
            yield vote, replies_BM, partial(_stage_log_p, size, rater, first_BM, chosen)


def _thumb_log_p(rater: Tensor, up: Tensor, r_BM: Tensor, nuisance: NuisanceParameters) -> Tensor:
    logit = nuisance.reliability_U[rater] * r_BM[:, 0] + nuisance.leniency_U[rater]
    return _with_lapses(logsigmoid(torch.where(up, logit, -logit)), 2)


def _signal_log_p(rater: Tensor, good: Tensor, r_BM: Tensor, nuisance: NuisanceParameters) -> Tensor:
    logit = nuisance.signal_scale * nuisance.reliability_U[rater] * r_BM[:, 0] + nuisance.signal_bias
    return _with_lapses(logsigmoid(torch.where(good, logit, -logit)), 2)


def _edit_log_p(rater: Tensor, r_BM: Tensor, nuisance: NuisanceParameters) -> Tensor:
    scale = nuisance.edit_scale * nuisance.reliability_U[rater]
    return _with_lapses(logsigmoid(scale * (r_BM[:, 0] - r_BM[:, 1])), 2)


def _stage_log_p(
    size: int, rater: Tensor, first_BM: Tensor, chosen: Tensor, r_BM: Tensor, nuisance: NuisanceParameters
) -> Tensor:
    scale_B1 = nuisance.ranking_scale * nuisance.reliability_U[rater].unsqueeze(1)
    worth_BM = scale_B1 * r_BM + nuisance.position * first_BM
    tie = torch.stack([nuisance.log_tie[len(group)] * (len(group) > 1) for group in subsets(size)])
    log_p_BC = (worth_BM @ _averaging_matrix(size).T + tie).log_softmax(1)
    return _with_lapses(log_p_BC.gather(1, chosen.unsqueeze(1)).squeeze(1), len(subsets(size)))


def _with_lapses(log_p: Tensor, outcomes: int) -> Tensor:
    """Returns the log-probability of a mixture: `log_p`, or with LAPSE_RATE any of `outcomes` outcomes."""
    return torch.logaddexp(log_p + math.log1p(-LAPSE_RATE), log_p.new_tensor(LAPSE_RATE / outcomes).log())
