"""Off-policy evaluation estimates a candidate's approval from votes on other policies' replies.

The estimate is doubly robust (Dudík, Langford and Li 2011; for language models as bandits). With q(y) the
reward model's probability that people give the reply y a thumb up, and held-out votes v on replies that a
policy μ gave:

    V = mean of q over the candidate's own replies + mean of w·(v − q(y)) over the voted replies
    w = min(π(y)/μ(y), CAP) + 1 − mean of min(π(y)/μ(y), CAP)

The first part is right if the reward model is, the second corrects it if it is not, as far as the recorded
replies are like the candidate's. That is `coverage`, the mean truncated weight: near 1 where the candidate
would have given them too, near 0 where it speaks otherwise. What is not covered rests on the reward model,
corrected by its mean error only, so its posterior variance counts in that proportion.

The person is the unit: a person's votes are averaged first, then people. All whom no server names, in one
network, are one person, as in a rollout. The standard error has the variance
over people, over the prompts of the candidate's replies, and of the reward model. The round has not learned
from the votes that it holds out, but an earlier one may have, which makes the estimate a little high; so it
is no proof that a candidate is better, for which the gate has the unseen votes (`evidence`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trainer.data import examples
from trainer.data.behaviour import Behaviour
from trainer.data.examples import Example, Key
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.evaluation.estimate import Z_95, Estimate
from trainer.evaluation.eval_samples import EvalSamples
from trainer.evaluation.verdict import Check, Verdict
from trainer.model.backbone import Backbone
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import LAPSE_RATE
from trainer.reward.scoring import micro_batches

MAX_TOKENS = 2**14
"""Tokens of the voted replies with their prompts, the newest, whose probabilities are computed, in a forward
pass for each policy."""

CAP = 5.0
"""Largest importance weight. More lets a single vote decide."""

MAX_PEOPLE = 200
"""People whose approval by the reward model is averaged."""

CANDIDATE = "candidate"

Logprobs = Mapping[str, Mapping[Key, float]]
"""Log-probabilities of replies (nats in total) by policy and reply."""


@dataclass(frozen=True, slots=True)
class Approval:
    """The estimated approval of a candidate, and by how much it is above the live policy's, both as shares of
    thumbs up; from so many votes of so many people, with a `coverage` between 0 and 1."""

    candidate: Estimate
    change: Estimate
    votes: int
    people: int
    coverage: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 90% confidence interval of the candidate's approval."""
        error = Z_95 * self.candidate.error
        return max(0.0, self.candidate.value - error), min(1.0, self.candidate.value + error)

    def as_json(self) -> dict[str, Any]:
        lower, upper = self.interval
        return {
            "approval": round(self.candidate.value, 4),
            "approval_lower": round(lower, 4),
            "approval_upper": round(upper, 4),
            "approval_change": round(self.change.value, 4),
            "approval_change_error": round(self.change.error, 4),
            "approval_votes": self.votes,
            "approval_people": self.people,
            "approval_coverage": round(self.coverage, 3),
        }


@dataclass(frozen=True, slots=True)
class VotedReplies:
    """Held-out votes on replies whose behaviour is known: the votes' people and values, the features of the
    replies, and the importance weights of the candidate and of the live policy. `turns_N` is the number of
    turns that each stands for: some like it became a pair instead (inverse propensity)."""

    people: list[str]
    liked_N: Tensor
    features: FeatureGroups
    candidate_N: Tensor
    live_N: Tensor
    turns_N: Tensor


def check_approval(verdict: Verdict, approval: Approval | None, max_width: float) -> None:
    """Refuses a candidate that recorded votes show to be liked less than the live policy, and doubts one of
    which they tell too little: where the interval of its approval is wider than `max_width`."""
    if approval is None:
        verdict.figures["approval"] = None
        return
    verdict.figures |= approval.as_json()
    lower, upper = approval.interval
    width, change = upper - lower, approval.change
    verdict.limit(
        "approval_change", change.value, 0.0, change * -1,
        f"liked less than the live policy by recorded votes ({change})",
    )  # fmt: skip
    verdict.checks["approval_width"] = Check(
        width, max_width, None, "unknown" if width > max_width else "good"
    )
    if width > max_width:
        verdict.doubts.append(f"recorded votes leave its approval between {lower:.0%} and {upper:.0%}")


def held_out_thumbs(data: RoundData) -> list[Example]:
    """Returns the newest of people's thumbs that the round holds out, on MAX_TOKENS tokens at most."""
    found = [each for each in data.held_out if each.type == "thumb" and each.by_person]
    replies = [data.corpus.replies[each.reply_keys[0]] for each in reversed(found)]
    total = accumulate(len(each.prompt_ids) + len(each.token_ids) for each in replies)
    return found[len(found) - sum(tokens <= MAX_TOKENS for tokens in total) :]


@torch.no_grad()
def reply_logprobs(backbone: Backbone, data: RoundData) -> dict[Key, float]:
    """Returns the log-probability of each held-out reply under the current adapter, or under the base inside
    `reference`, at the round's temperature. All processes of a group call it together."""
    keys = list(dict.fromkeys(each.reply_keys[0] for each in held_out_thumbs(data)))
    replies = [data.corpus.replies[key] for key in keys]
    prompts, tokens = [each.prompt_ids for each in replies], [each.token_ids for each in replies]
    found: dict[Key, float] = {}
    for rows in micro_batches(backbone, prompts, tokens):
        batch = backbone.pad([prompts[row] for row in rows], [tokens[row] for row in rows])
        total_B = backbone.logprobs_BR(batch, data.rl.temperature).sum(1)
        found |= {keys[row]: value for row, value in zip(rows, total_B.tolist(), strict=True)}
    return found


def voted_replies(
    data: RoundData, cache: FeatureCache, behaviour: Mapping[str, Behaviour], logprobs: Logprobs, live: str
) -> VotedReplies | None:
    """Returns the held-out votes on replies that were sampled at the round's parameters, and whose
    probability under their own policy is known: computed in this round, or recorded where the temperature
    is 1. None without any."""
    rows: list[tuple[Example, float]] = []
    asked: list[float] = []
    for example in held_out_thumbs(data):
        own = behaviour.get(example.event_id)
        if own is None or own.sampling != data.rl.sampling:
            continue
        computed = logprobs.get(own.policy)
        if computed is not None:
            rows.append((example, computed[example.reply_keys[0]]))
        elif data.rl.temperature == 1 and own.logprob is not None:
            rows.append((example, own.logprob))
        else:
            continue
        asked.append(own.asked)
    if not rows:
        return None
    keys = [example.reply_keys[0] for example, _ in rows]
    behind_N = torch.tensor([logprob for _, logprob in rows])
    candidate_N, live_N = (
        (torch.tensor([logprobs[policy][key] for key in keys]) - behind_N).exp()
        for policy in (CANDIDATE, live)
    )
    liked = [example.value["value"] == "up" for example, _ in rows]
    people = [example.owner for example, _ in rows]
    liked_N, turns_N = torch.tensor(liked).float(), 1 / (1 - torch.tensor(asked))
    return VotedReplies(people, liked_N, cache.features(keys), candidate_N, live_N, turns_N)


def estimate_approval(
    model: RewardModel, raters: Sequence[int], voted: VotedReplies, candidate: EvalSamples, live: EvalSamples
) -> Approval:
    """Returns the estimate. `raters` are the people, by their number in `model`, whose approval is meant."""
    q_N, slope = _approval(model, voted.features, raters)
    residual_N = voted.liked_N - q_N
    truncated = [weight_N.clamp_max(CAP) for weight_N in (voted.candidate_N, voted.live_N)]
    weights = [weight_N + 1 - weight_N.mean() for weight_N in truncated]
    coverage = [min(1.0, float(weight_N.mean())) for weight_N in truncated]
    direct = [_approval(model, each.features, raters) for each in (candidate, live)]
    by_prompt = [q.view(-1, candidate.per_prompt).mean(1) for q, _ in direct]
    own, others = (_by_person(voted, weight_N * residual_N) for weight_N in weights)

    def estimate(direct_P: Tensor, corrections_U: Tensor, model_variance: float) -> Estimate:
        variance = _variance(direct_P) + _smoothed_variance(corrections_U) + model_variance
        return Estimate(float(direct_P.mean() + corrections_U.mean()), variance**0.5)

    slopes = [mean for _, mean in direct]
    alone = _model_variance(model, slopes[0], slope) * (1 - coverage[0]) ** 2
    both = _model_variance(model, slopes[0], slopes[1]) * (1 - coverage[0]) ** 2
    return Approval(
        estimate(by_prompt[0], own, alone),
        estimate(by_prompt[0] - by_prompt[1], own - others, both),
        len(voted.people), len(own), coverage[0],
    )  # fmt: skip


def direct_approval(model: RewardModel, raters: Sequence[int], candidate: EvalSamples) -> float:
    """Returns the approval by the reward model alone."""
    return float(_approval(model, candidate.features, raters)[0].mean())


def people_of(data: RoundData) -> list[int]:
    """Returns the numbers of the people among the raters of the training votes, at most MAX_PEOPLE evenly; of
    those whom no server names, the one with the most votes in each network."""
    number = {rater: place for place, rater in enumerate(examples.raters(data.training))}
    votes = Counter(example.rater for example in data.training if example.by_person)
    owners = {example.rater: example.owner for example in data.training if example.by_person}
    chosen: dict[str, str] = {}
    for rater, _ in votes.most_common():
        chosen.setdefault(owners[rater], rater)
    people = sorted(number[rater] for rater in chosen.values())
    return people[:: -(-len(people) // MAX_PEOPLE)] if people else []


def _approval(
    model: RewardModel, features: FeatureGroups, raters: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Returns the (N,) probability that a random one of the raters gives a thumb up, and for each member the
    (K,) derivative of its mean in the coefficients."""
    chosen = list(raters)
    by_member, slopes = [], []
    for member in model.members:
        inputs_NK = member.inputs(features)
        r_N1 = (inputs_NK @ member.coefficients_K + member.bias).unsqueeze(1)
        reliability_U = member.nuisance.reliability_U[chosen].float()
        up_NU = (reliability_U * r_N1 + member.nuisance.leniency_U[chosen].float()).sigmoid()
        by_member.append((1 - LAPSE_RATE) * up_NU.mean(1) + LAPSE_RATE / 2)
        change_N = (1 - LAPSE_RATE) * (reliability_U * up_NU * (1 - up_NU)).mean(1)
        slopes.append((change_N.unsqueeze(1) * inputs_NK).mean(0))
    return torch.stack(by_member).mean(0), slopes


def _model_variance(model: RewardModel, slopes: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Returns the posterior variance of a difference of mean approvals, on average over the members."""
    total = 0.0
    for member, one_K, other_K in zip(model.members, slopes, others, strict=True):
        total += float((one_K - other_K) @ member.covariance_KK @ (one_K - other_K))
    return max(0.0, total / len(model.members))


def _by_person(voted: VotedReplies, values_N: Tensor) -> Tensor:
    """Returns the (U,) mean of each person's values over the turns that these stand for."""
    number = {person: place for place, person in enumerate(dict.fromkeys(voted.people))}
    person_N = torch.tensor([number[person] for person in voted.people])
    total_U = torch.zeros(len(number)).index_add_(0, person_N, voted.turns_N * values_N)
    return total_U / person_N.bincount(voted.turns_N)


def _variance(values: Tensor) -> float:
    """Returns the variance of the mean."""
    return float(values.var(correction=min(1, len(values) - 1))) / len(values)


def _smoothed_variance(values_U: Tensor) -> float:
    """Returns the variance of the mean over people, with a person at +½ and one at −½ on top, so that a few
    who agree are not certain (Agresti and Min 2005)."""
    return float(torch.cat([values_U, torch.tensor([0.5, -0.5])]).var()) / len(values_U)
