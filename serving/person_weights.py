"""Person weights are how much one person cares for each taste, given the values of the replies they judged.

The reward of a reply with values v is v_0 + z·(v_1, v_2, …), with the prior N(0, 1) on the weights z and on
the person's leniency b. A thumb up has the probability σ(r + b), a preference σ(s·(r_A − r_B)), and a share
of LAPSE_RATE of the votes is noise: the trainer's likelihood for one person (`trainer.reward.likelihood`).
Its mode is found by Newton's method, each vote weighed by the probability that it is no lapse (EM).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedback.person_votes import PersonVote

LAPSE_RATE = 0.14
"""Share of votes that are noise, as in the trainer's likelihood."""

MAX_SCALE = 3.0
"""Largest scale of comparisons against thumbs. The trainer's may be larger, as it was fitted with the raters'
weights, but a person's weights follow from few votes. Chosen on tests.bench.ten_clicks."""

_ITERATIONS = 30

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judgments:
    """What a person said, as B logistic observations: the logit is offset + (z, b)·inputs, and each row is a
    success."""

    inputs_BK: Values
    offset_B: Values

    @classmethod
    def of(
        cls, votes: Sequence[PersonVote], values: Mapping[tuple[str, int], Values], ranking_scale: float
    ) -> "Judgments":
        """Returns the observations of thumbs and rankings, given the (C,) values of the replies by turn and
        choice. Ties say nothing; a vote on a reply without values is left out."""
        rows: list[Values] = []
        for vote in votes:
            known = {choice: values[vote.turn_id, choice] for choice in vote.replies
                     if (vote.turn_id, choice) in values}  # fmt: skip
            if vote.type == "thumb" and vote.choice in known:
                rows.append(_thumb(known[vote.choice], up=vote.value["value"] == "up"))
            elif vote.type == "ranking":
                if not vote.value["acceptable"]:
                    rows += [_thumb(each, up=False) for each in known.values()]
                for better, worse in zip(vote.value["ranking"], vote.value["ranking"][1:], strict=False):
                    rows += [
                        np.append(min(ranking_scale, MAX_SCALE) * (known[one] - known[other]), 0.0)
                        for one in better
                        for other in worse
                        if one in known and other in known
                    ]
        width = len(rows[0]) if rows else 2
        table = np.array(rows, dtype=np.float64).reshape(len(rows), width)
        return cls(table[:, 1:], table[:, 0])


@dataclass(frozen=True, slots=True)
class PersonPosterior:
    """The most probable weights, and their covariance by Laplace's approximation."""

    weights_T: Values
    covariance_TT: Values


def prior(tastes: int) -> PersonPosterior:
    """Returns what is known of a person who has not voted: N(0, 1) for each taste beside the mean."""
    return PersonPosterior(np.zeros(tastes), np.eye(tastes))


def posterior(judgments: Judgments) -> PersonPosterior:
    """Returns the posterior of a person's weights."""
    inputs_BK, offset_B = judgments.inputs_BK, judgments.offset_B
    theta_K = np.zeros(inputs_BK.shape[1])
    precision_KK = np.eye(len(theta_K))
    for _ in range(_ITERATIONS):
        p_B = sigmoid(offset_B + inputs_BK @ theta_K)
        meant_B = (1 - LAPSE_RATE) * p_B / ((1 - LAPSE_RATE) * p_B + LAPSE_RATE / 2)
        gradient_K = inputs_BK.T @ (meant_B * (1 - p_B)) - theta_K
        weight_B1 = (meant_B * p_B * (1 - p_B))[:, None]
        precision_KK = np.eye(len(theta_K)) + inputs_BK.T @ (weight_B1 * inputs_BK)
        step_K = np.linalg.solve(precision_KK, gradient_K)
        theta_K = theta_K + step_K
        if float(np.abs(step_K).max(initial=0.0)) < 1e-6:
            break
    covariance_KK = np.linalg.inv(precision_KK).astype(np.float64)
    return PersonPosterior(theta_K[:-1], covariance_KK[:-1, :-1])


def sigmoid(logit_B: Values) -> Values:
    """Returns σ, without overflow."""
    found: Values = np.exp(-np.logaddexp(0.0, -logit_B))
    return found


def reward(values_NMC: Values, weights_T: Values, caution: float) -> Values:
    """Returns the (N,) reward of replies to a person, given their (N, M, C) values by member: the members'
    mean less `caution` times their standard deviation."""
    r_NM = values_NMC[..., 0] + values_NMC[..., 1:] @ weights_T
    found: Values = r_NM.mean(1) - caution * r_NM.std(1)
    return found


def information(difference_MC: Values, known: PersonPosterior | None = None) -> float:
    """Returns the expected information of a comparison, in nats: log(1 + p(1 − p)·s²)/2, with s² the variance
    of the difference in reward under the posterior of a person's weights; without one, over the members of
    the ensemble (D-optimal design). p is the probability of the answer under both: so replies of which the
    members are sure say little, however much the members differ in how much better one is."""
    r_M, own = difference_MC[:, 0], 0.0
    if known is not None:
        r_M, mean_T = r_M + difference_MC[:, 1:] @ known.weights_T, difference_MC[:, 1:].mean(0)
        own = float(mean_T @ known.covariance_TT @ mean_T)
    members = float(r_M.var())
    p = float(sigmoid(r_M.mean() / np.sqrt(1 + np.pi * (own + members) / 8)))
    return 0.5 * float(np.log1p(p * (1 - p) * (members if known is None else own)))


def _thumb(values_C: Values, *, up: bool) -> Values:
    return np.append(values_C, 1.0) * (1.0 if up else -1.0)
