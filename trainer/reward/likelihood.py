"""One likelihood for every kind of vote: what people said, given the scalar r of each reply.

    thumbs     P(up) = σ(a_u·r + b_u)
    rankings   best groups first, ties together: Davidson–Luce (Firth, Kosmidis and Turner 2019), which for
               two replies is Davidson (1970), with worth exp(c_s·a_u·r + g·first)
    edits      P(edit ≻ original) = σ(c_s·a_u·(r_edit − r_original)), and a thumb up on the edit, since
               people approve of what they write
    signals    what people did with a reply. That a reply was signalled at all is not looked at: given that it
               was, P(copied or shared, not regenerated or abandoned) = σ(c_g·a_u·r + b_g)

b_u is a rater's leniency (prior mean 0), a_u their reliability (prior mean 1). Who votes at random ends near
0 and stops to count. Who votes against everyone ends below 0, and what they dislike speaks for a reply: so
they tell as much as those who agree, and gain nothing that an honest vote would not. c_s scales a kind
against thumbs, g is the pull of the reply shown first, log δ_t how readily t replies are called equal. Each
has a normal prior. And now and then a vote of anybody's means nothing (LAPSE).

Who is pleased may be less inclined to vote than who is not, and somebody else the other way round. Silence is
therefore no vote. And if P(vote | up) and P(vote | down) of a rater differ, then among the votes cast the
log odds of a thumb up are shifted by log P(vote | up) − log P(vote | down) whatever the reply: b_u takes that
up, and r is left alone (the case-control argument: Prentice and Pyke 1979). So it is with signals and b_g.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LENIENCY, RELIABILITY, SCALE, POSITION, TIE, SIGNAL = 1.0, 1.0, 0.5, 0.5, 1.0, 2.0
"""Standard deviations of the priors on b_u, a_u, log c_s, g, log δ_t and b_g."""

SIGNAL_SCALE = -1.0
"""Prior mean of log c_g: until votes tell otherwise, signals say little."""

LAPSE = 0.14
"""Share of votes that mean nothing, any outcome being as likely (a psychometric function's lapse rate:
Wichmann and Hill 2001). Without it one slip weighs more the surer the model is of the opposite, which keeps
it from ever being sure."""

MOST_RANKED = 8
"""Of a longer ranking, only its best eight replies are used: the subsets to sum over double with each."""


@dataclass
class Votes:
    """Votes as numbers. Replies and raters are indices; every row knows the vote it came from."""

    raters: int
    rater_of_each: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    thumbs: list[tuple[int, int, int, bool]] = field(default_factory=list)  # vote, rater, reply, up
    signals: list[tuple[int, int, int, bool]] = field(default_factory=list)  # vote, rater, reply, good
    edits: list[tuple[int, int, int, int]] = field(default_factory=list)  # vote, rater, edited, original
    stages: dict[int, list[tuple[int, int, list[int], list[bool], int]]] = field(default_factory=dict)
    # by number of replies still to be ranked: vote, rater, replies, shown first, place in `subsets`

    @property
    def count(self) -> int:
        return len(self.weights)

    def thumb(self, rater: int, reply: int, up: bool, weight: float = 1.0) -> None:
        self.thumbs.append((self._cast(rater, weight), rater, reply, up))

    def signal(self, rater: int, reply: int, good: bool, weight: float = 1.0) -> None:
        self.signals.append((self._cast(rater, weight), rater, reply, good))

    def edit(self, rater: int, edited: int, original: int, weight: float = 1.0) -> None:
        vote = self._cast(rater, weight)
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
        """Groups of replies, best first; `first` is the reply that was shown first, None where nothing was
        shown. Where none was acceptable, each has a thumb down too."""
        vote = self._cast(rater, weight)
        if not acceptable:
            self.thumbs += [(vote, rater, reply, False) for group in groups for reply in group]
        groups = list(groups)
        while sum(map(len, groups)) > MOST_RANKED:
            groups.pop()
        while sum(map(len, groups)) > 1:
            left = [reply for group in groups for reply in group]
            best = tuple(range(len(groups[0])))
            shown_first = [reply == first for reply in left]
            row = (vote, rater, left, shown_first, subsets(len(left)).index(best))
            self.stages.setdefault(len(left), []).append(row)
            groups = groups[1:]

    def _cast(self, rater: int, weight: float) -> int:
        """The number of the vote."""
        self.rater_of_each.append(rater)
        self.weights.append(weight)
        return self.count - 1

    def says_something(self) -> bool:
        """Whether some vote sets one reply above another; thumbs all alike do not, nor do signals alone."""
        strict = any(len(subsets(size)[row[4]]) < size for size, rows in self.stages.items() for row in rows)
        return strict or bool(self.edits) or len({up for _, _, _, up in self.thumbs}) == 2


@cache
def subsets(size: int) -> list[tuple[int, ...]]:
    """Every non-empty subset of range(size)."""
    return [chosen for count in range(1, size + 1) for chosen in combinations(range(size), count)]


@cache
def _averaging(size: int) -> Tensor:
    """(subsets, size): row times worths is the mean log worth of the subset's members."""
    matrix = torch.zeros(len(subsets(size)), size, dtype=torch.float64)
    for row, chosen in enumerate(subsets(size)):
        matrix[row, list(chosen)] = 1 / len(chosen)
    return matrix


@dataclass
class Terms:
    """Everything of the likelihood but r itself."""

    leniency_U: Tensor
    reliability_U: Tensor
    ranking_scale: Tensor
    edit_scale: Tensor
    position: Tensor
    signal_scale: Tensor
    signal_bias: Tensor
    log_tie: Tensor  # (MOST_RANKED + 1,), of group sizes; sizes 0 and 1 are not used

    @classmethod
    def unpack(cls, flat: Tensor, raters: int) -> "Terms":
        """From free parameters, all zero at the prior means."""
        leniency, reliability, rest = flat[:raters], flat[raters : 2 * raters], flat[2 * raters :]
        ranking, edit, position, signal, bias = rest[:5]
        return cls(
            leniency, 1 + reliability, ranking.exp(), edit.exp(), position,
            (signal + SIGNAL_SCALE).exp(), bias, rest[5:],
        )  # fmt: skip

    @staticmethod
    def size(raters: int) -> int:
        return 2 * raters + 5 + MOST_RANKED + 1

    def log_prior(self) -> Tensor:
        return -0.5 * (
            (self.leniency_U / LENIENCY).square().sum()
            + ((self.reliability_U - 1) / RELIABILITY).square().sum()
            + (self.ranking_scale.log() / SCALE).square()
            + (self.edit_scale.log() / SCALE).square()
            + (self.position / POSITION).square()
            + ((self.signal_scale.log() - SIGNAL_SCALE) / SCALE).square()
            + (self.signal_bias / SIGNAL).square()
            + (self.log_tie / TIE).square().sum()
        )


class Likelihood:
    """The log-likelihood of `votes`, made once and evaluated often."""

    def __init__(self, votes: Votes) -> None:
        self.weights_V = torch.tensor(votes.weights, dtype=torch.float64)
        self.thumbs = [torch.tensor(column) for column in zip(*votes.thumbs, strict=True)]
        self.signals = [torch.tensor(column) for column in zip(*votes.signals, strict=True)]
        self.edits = [torch.tensor(column) for column in zip(*votes.edits, strict=True)]
        self.stages = {
            size: [torch.tensor(column) for column in zip(*rows, strict=True)]
            for size, rows in votes.stages.items()
        }

    def __call__(self, r_N: Tensor, terms: Terms, draws_V: Tensor) -> Tensor:
        """Σ over votes of draws × weight × log P(vote), in nats. `r_N` is float64."""
        total = r_N.new_zeros(())
        weights_V = draws_V * self.weights_V
        for vote, about_BM, log_p in self._parts():
            total = total + (weights_V[vote] * log_p(r_N[about_BM], terms)).sum()
        return total

    def pulls(self, r_N: Tensor, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """(votes, replies, pulls), one entry for each reply that a vote is about: the vote's weight times
        ∂ log P(vote) / ∂ r(reply). A vote that is as good as certain pulls at nothing."""
        votes, replies, pulls = [], [], []
        for vote, about_BM, log_p in self._parts():
            r_BM = r_N[about_BM].detach().requires_grad_()
            (pull_BM,) = torch.autograd.grad((self.weights_V[vote] * log_p(r_BM, terms)).sum(), r_BM)
            votes.append(vote.unsqueeze(1).expand_as(about_BM).flatten())
            replies.append(about_BM.flatten())
            pulls.append(pull_BM.flatten())
        return torch.cat(votes), torch.cat(replies), torch.cat(pulls)

    def curvature(self, r_N: Tensor, terms: Terms, draws_V: Tensor) -> Tensor:
        """(N, N) sparse: ∂² / ∂r ∂r of what a call gives. Only replies of one vote share an entry, so it
        costs what the votes cost; where r is linear in something else, two products give that one's."""
        weights_V = draws_V * self.weights_V
        places, values = [], []
        for vote, about_BM, log_p in self._parts():
            r_BM = r_N[about_BM].detach().requires_grad_()
            total = (weights_V[vote] * log_p(r_BM, terms)).sum()
            (slope_BM,) = torch.autograd.grad(total, r_BM, create_graph=True)
            for about_B, slope_B in zip(about_BM.T, slope_BM.T, strict=True):
                (row_BM,) = torch.autograd.grad(slope_B.sum(), r_BM, retain_graph=True)
                places.append(torch.stack([about_B.unsqueeze(1).expand_as(about_BM), about_BM]).flatten(1))
                values.append(row_BM.flatten())
        size = (len(r_N), len(r_N))
        return torch.sparse_coo_tensor(
            torch.cat(places, 1), torch.cat(values), size, check_invariants=True
        ).coalesce()

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Callable[[Tensor, Terms], Tensor]]]:
        """By kind of vote: the (B,) votes, the (B, M) replies that each is about, and log P of each by their
        r."""
        if self.thumbs:
            vote, rater, reply, up = self.thumbs
            yield vote, reply.unsqueeze(1), partial(_thumbs, rater, up)
        if self.signals:
            vote, rater, reply, good = self.signals
            yield vote, reply.unsqueeze(1), partial(_signals, rater, good)
        if self.edits:
            vote, rater, edited, original = self.edits
            yield vote, torch.stack([edited, original], 1), partial(_edits, rater)
        for size, (vote, rater, replies_BM, first_BM, chosen) in self.stages.items():
            yield vote, replies_BM, partial(_stages, size, rater, first_BM, chosen)


def _thumbs(rater: Tensor, up: Tensor, r_BM: Tensor, terms: Terms) -> Tensor:
    logit = terms.reliability_U[rater] * r_BM[:, 0] + terms.leniency_U[rater]
    return _or_lapse(logsigmoid(torch.where(up, logit, -logit)), 2)


def _signals(rater: Tensor, good: Tensor, r_BM: Tensor, terms: Terms) -> Tensor:
    logit = terms.signal_scale * terms.reliability_U[rater] * r_BM[:, 0] + terms.signal_bias
    return _or_lapse(logsigmoid(torch.where(good, logit, -logit)), 2)


def _edits(rater: Tensor, r_BM: Tensor, terms: Terms) -> Tensor:
    return _or_lapse(logsigmoid(terms.edit_scale * terms.reliability_U[rater] * (r_BM[:, 0] - r_BM[:, 1])), 2)


def _stages(size: int, rater: Tensor, first_BM: Tensor, chosen: Tensor, r_BM: Tensor, terms: Terms) -> Tensor:
    scale_B1 = terms.ranking_scale * terms.reliability_U[rater].unsqueeze(1)
    worth_BM = scale_B1 * r_BM + terms.position * first_BM
    tie = torch.stack([terms.log_tie[len(group)] * (len(group) > 1) for group in subsets(size)])
    log_p_BC = (worth_BM @ _averaging(size).T + tie).log_softmax(1)
    return _or_lapse(log_p_BC.gather(1, chosen.unsqueeze(1)).squeeze(1), len(subsets(size)))


def _or_lapse(log_p: Tensor, outcomes: int) -> Tensor:
    """Of what was meant with log-probability `log_p`, or was any of so many outcomes by mistake."""
    return torch.logaddexp(log_p + math.log1p(-LAPSE), log_p.new_tensor(LAPSE / outcomes).log())
