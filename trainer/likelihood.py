"""One likelihood for every kind of vote: what people said, given the scalar r of each reply.

    thumbs     P(up) = σ(a_u·r + b_u)
    rankings   best groups first, ties together: Davidson–Luce (Firth, Kosmidis and Turner 2019), which for
               two replies is Davidson (1970), with worth exp(c_s·a_u·r + g·first)
    edits      P(edit ≻ original) = σ(c_s·a_u·(r_edit − r_original)), and a thumb up on the edit, since
               people approve of what they write

b_u is a rater's leniency (prior mean 0), a_u ≥ 0 their reliability (prior mean 1): who votes against
everyone, or at random, ends near 0 and stops to count. c_s scales a kind against thumbs, g is the pull of
the reply shown first, log δ_t how readily t replies are called equal. Each has a normal prior. And now and
then a vote of anybody's means nothing (LAPSE). Signals are not used.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LENIENCY, RELIABILITY, SCALE, POSITION, TIE = 1.0, 0.5, 0.5, 0.5, 1.0
"""Standard deviations of the priors on b_u, a_u, log c_s, g and log δ_t."""

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
    count: int = 0
    thumbs: list[tuple[int, int, int, bool]] = field(default_factory=list)  # vote, rater, reply, up
    edits: list[tuple[int, int, int, int]] = field(default_factory=list)  # vote, rater, edited, original
    stages: dict[int, list[tuple[int, int, list[int], list[bool], int]]] = field(default_factory=dict)
    # by number of replies still to be ranked: vote, rater, replies, shown first, place in `subsets`

    def thumb(self, rater: int, replies: Sequence[int], up: bool) -> None:
        self.thumbs += [(self.count, rater, reply, up) for reply in replies]
        self.count += 1

    def edit(self, rater: int, edited: int, original: int) -> None:
        self.edits.append((self.count, rater, edited, original))
        self.thumbs.append((self.count, rater, edited, True))
        self.count += 1

    def ranking(self, rater: int, groups: Sequence[Sequence[int]], first: int) -> None:
        """Groups of replies, best first; `first` is the reply that was shown first."""
        groups = list(groups)
        while sum(map(len, groups)) > MOST_RANKED:
            groups.pop()
        while sum(map(len, groups)) > 1:
            left = [reply for group in groups for reply in group]
            best = tuple(range(len(groups[0])))
            row = (
                self.count,
                rater,
                left,
                [reply == first for reply in left],
                subsets(len(left)).index(best),
            )
            self.stages.setdefault(len(left), []).append(row)
            groups = groups[1:]
        self.count += 1

    def rater_of_each(self) -> list[int]:
        """(V,) who cast each vote."""
        raters = {row[0]: row[1] for row in self.thumbs} | {row[0]: row[1] for row in self.edits}
        for rows in self.stages.values():
            raters |= {row[0]: row[1] for row in rows}
        return [raters[vote] for vote in range(self.count)]

    def says_something(self) -> bool:
        """Whether some vote sets one reply above another; thumbs all alike do not."""
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
    log_tie: Tensor  # (MOST_RANKED + 1,), of group sizes; sizes 0 and 1 are not used

    @classmethod
    def unpack(cls, flat: Tensor, raters: int) -> "Terms":
        """From free parameters, all zero at the prior means."""
        leniency, reliability, rest = flat[:raters], flat[raters : 2 * raters], flat[2 * raters :]
        one = 0.5413248546129181  # softplus(one) = 1
        return cls(leniency, softplus(reliability + one), rest[0].exp(), rest[1].exp(), rest[2], rest[3:])

    @staticmethod
    def size(raters: int) -> int:
        return 2 * raters + 3 + MOST_RANKED + 1

    def log_prior(self) -> Tensor:
        return -0.5 * (
            (self.leniency_U / LENIENCY).square().sum()
            + ((self.reliability_U - 1) / RELIABILITY).square().sum()
            + (self.ranking_scale.log() / SCALE).square()
            + (self.edit_scale.log() / SCALE).square()
            + (self.position / POSITION).square()
            + (self.log_tie / TIE).square().sum()
        )


class Likelihood:
    """The log-likelihood of `votes`, made once and evaluated often."""

    def __init__(self, votes: Votes) -> None:
        self.thumbs = [torch.tensor(column) for column in zip(*votes.thumbs, strict=True)]
        self.edits = [torch.tensor(column) for column in zip(*votes.edits, strict=True)]
        self.stages = {
            size: [torch.tensor(column) for column in zip(*rows, strict=True)]
            for size, rows in votes.stages.items()
        }

    def __call__(self, r_N: Tensor, terms: Terms, weights_V: Tensor) -> Tensor:
        """Σ over votes of weight × log P(vote), in nats. `r_N` is float64."""
        total = r_N.new_zeros(())
        for vote, replies, log_p in self._parts():
            total = total + (weights_V[vote] * log_p([r_N[each] for each in replies], terms)).sum()
        return total

    def pulls(self, r_N: Tensor, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """(votes, replies, pulls), one entry for each reply that a vote is about: ∂ log P(vote) / ∂ r(reply).
        A vote that is as good as certain pulls at nothing."""
        votes, replies, pulls = [], [], []
        for vote, about, log_p in self._parts():
            r = [r_N[each].detach().requires_grad_() for each in about]
            gradients = torch.autograd.grad(log_p(r, terms).sum(), r)
            for each, gradient in zip(about, gradients, strict=True):
                votes.append(vote if each.ndim == 1 else vote.unsqueeze(1).expand_as(each).reshape(-1))
                replies.append(each.reshape(-1))
                pulls.append(gradient.reshape(-1))
        return torch.cat(votes), torch.cat(replies), torch.cat(pulls)

    def _parts(self) -> Iterator[tuple[Tensor, list[Tensor], Callable[[list[Tensor], Terms], Tensor]]]:
        """By kind of vote: the votes, the replies that each is about, and log P of each by their r."""
        if self.thumbs:
            vote, rater, reply, up = self.thumbs
            yield vote, [reply], partial(_thumbs, rater, up)
        if self.edits:
            vote, rater, edited, original = self.edits
            yield vote, [edited, original], partial(_edits, rater)
        for size, (vote, rater, replies_SM, first_SM, chosen) in self.stages.items():
            yield vote, [replies_SM], partial(_stages, size, rater, first_SM, chosen)


def _thumbs(rater: Tensor, up: Tensor, r: list[Tensor], terms: Terms) -> Tensor:
    logit = terms.reliability_U[rater] * r[0] + terms.leniency_U[rater]
    return _or_lapse(logsigmoid(torch.where(up, logit, -logit)), 2)


def _edits(rater: Tensor, r: list[Tensor], terms: Terms) -> Tensor:
    return _or_lapse(logsigmoid(terms.edit_scale * terms.reliability_U[rater] * (r[0] - r[1])), 2)


def _stages(
    size: int, rater: Tensor, first_SM: Tensor, chosen: Tensor, r: list[Tensor], terms: Terms
) -> Tensor:
    scale_S1 = terms.ranking_scale * terms.reliability_U[rater].unsqueeze(1)
    worth_SM = scale_S1 * r[0] + terms.position * first_SM
    tie = torch.stack([terms.log_tie[len(group)] * (len(group) > 1) for group in subsets(size)])
    log_p_SC = (worth_SM @ _averaging(size).T + tie).log_softmax(1)
    return _or_lapse(log_p_SC.gather(1, chosen.unsqueeze(1)).squeeze(1), len(subsets(size)))


def _or_lapse(log_p: Tensor, outcomes: int) -> Tensor:
    """Of what was meant with log-probability `log_p`, or was any of so many outcomes by mistake."""
    return torch.logaddexp(log_p + math.log1p(-LAPSE), log_p.new_tensor(LAPSE / outcomes).log())
