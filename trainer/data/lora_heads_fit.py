"""This module fits heads to a round's votes where these are many, and mixes them with the probe.

The probe, the ensemble's linear members, is the prior. Heads (`reward.lora_heads`) are fitted to the newest
training votes that the round has time for. Then r = (1 − w)·probe + w·heads, with the w under which the votes
that the round holds out are most likely: 0 unless they gain more than chance allows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.data import examples
from trainer.data.examples import Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout
from trainer.model.upper_layers import UpperLayers
from trainer.reward import lora_heads
from trainer.reward.ensemble import RewardModel, bootstrap
from trainer.reward.features import select_layers
from trainer.reward.likelihood import Likelihood, NuisanceParameters
from trainer.reward.lora_heads import EPOCHS, LORA_HEADS, RANK, HeadVotes, LoraHeads, longest_reply
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import upper_inputs

MIN_VOTES = 400
"""People's votes that heads are fitted to, below which there are none."""

HELD_OUT_SHARE = 0.2
"""Share of the time that the held-out votes have."""

FORWARD = 1 / 3
"""Time of a forward pass relative to one with gradients."""

MAX_BYTES = 2**30
"""Most memory of the hidden states of voted replies, in half precision."""

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The w that are compared."""

SIGNIFICANCE = 1.0
"""Standard errors, over votes, by which the held-out log-likelihood must be above the probe's."""


@dataclass(frozen=True, slots=True)
class LoraHeadsFit:
    """What became of the heads: the reward model, with them or without, the features of the base's replies
    that it needs, and why. `heads` are None where the reward model is the probe. `figures` are of the fit."""

    model: RewardModel
    base: BaseFeatures
    reason: str
    heads: LoraHeads | None = None
    figures: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns what the round's record says."""
        chosen = {"lora_share": self.model.lora_share, "lora_reason": self.reason}
        return chosen | (self.figures or {})

    def remove(self) -> None:
        """Removes the heads from the base."""
        if self.heads is not None:
            self.heads.upper.remove()


def fit_lora_heads(
    data: RoundData, model: RewardModel, base: BaseFeatures, samples: Sequence[Rollout], cache: FeatureCache
) -> LoraHeadsFit:
    """Fits heads beside `model`, the probe of the training votes. `samples` are the base's replies to the
    first training prompts, whose features are in `base`."""
    if (reason := _why_none(data)) is not None:
        return LoraHeadsFit(model, base, reason)
    plan = _Plan.of(data, samples)
    if plan.people < MIN_VOTES:
        reason = f"there is time for heads on {plan.people} of people's votes, and they need {MIN_VOTES}"
        return LoraHeadsFit(model, base, reason)
    upper = UpperLayers(data.backbone, plan.layer, RANK, data.generator("heads adapter").initial_seed())
    found = LoraHeadsFit(model, base, "the upper layers of this base cannot be run alone")
    try:
        if upper.reproduces_base():
            found = _fitted(data, model, base, plan, upper, cache)
    finally:
        if found.heads is None:
            upper.remove()
    return found


def _why_none(data: RoundData) -> str | None:
    """Returns why there are no heads, whatever the time; None where there may be."""
    people = sum(example.by_person for example in data.training)
    if data.settings.reward.kind == "probe":
        return "the settings ask for the probe"
    if data.backbone.group.size > 1:
        return "a trainer of several processes has no heads"
    if data.inputs.restart:
        return "a round that starts from the base again has no heads"
    if people < MIN_VOTES:
        return f"{people} of people's votes, and heads need {MIN_VOTES}"
    if not data.held_out:
        return "no votes are held out by which heads could be judged"
    if upper_layer(data.backbone) is None:
        return "the upper layers of this base cannot be run alone"
    return None


def upper_layer(backbone: Backbone) -> int | None:
    """Returns from which hidden states heads read on: the last but one that features are of. None where the
    base has too few layers."""
    layers = select_layers(backbone)
    return layers[-2] if len(layers) > 1 and layers[-2] > 0 else None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a round has time for: the numbers of the `training` votes and of the `held_out` ones, of which
    `people` of the training votes are people's, and the base's replies with their prompts. Heads read on from
    the hidden states of `layer`, at most `longest` tokens of a voted reply."""

    layer: int
    longest: int
    training: list[int]
    held_out: list[int]
    people: int
    base: list[Reply]

    @classmethod
    def of(cls, data: RoundData, samples: Sequence[Rollout]) -> "_Plan":
        backbone = data.backbone
        layer = upper_layer(backbone)
        assert layer is not None  # noqa: S101  (else there are no heads)
        longest = longest_reply(backbone.token_budget.training)
        base = [Reply(data.train_prompts[each.prompt], each.token_ids) for each in samples]
        upper = 1 - layer / len(backbone.layers)
        width = int(backbone.model.config.get_text_config().hidden_size)

        def newest(chosen: Sequence[Example], tokens: float, passes: float, bytes_: float) -> list[int]:
            found: list[int] = []
            known: set[Key] = set()
            for number in reversed(range(len(chosen))):
                for key in (each for each in chosen[number].reply_keys if each not in known):
                    reply = data.corpus.replies[key]
                    read = min(len(reply.token_ids), longest)
                    tokens -= FORWARD * (len(reply.prompt_ids) + len(reply.token_ids)) + passes * upper * read
                    bytes_ -= torch.half.itemsize * width * read
                if tokens < 0 or bytes_ < 0:
                    break
                known.update(chosen[number].reply_keys)
                found.append(number)
            return found

        rows = sum(len(each.prompt_ids) + len(each.token_ids) for each in base)
        tokens = data.inputs.lora_tokens - FORWARD * rows
        held_out = newest(data.held_out, HELD_OUT_SHARE * tokens, FORWARD, HELD_OUT_SHARE * MAX_BYTES)
        share = 1 - HELD_OUT_SHARE
        training = newest(data.training, share * tokens, EPOCHS, share * MAX_BYTES)
        people = sum(data.training[number].by_person for number in training)
        return cls(layer, longest, training, held_out, people, base)

    def states(self, data: RoundData, chosen: Sequence[Example], keys: Sequence[Key]) -> dict[int, Tensor]:
        """Returns the hidden states of the replies of these votes, by their number in `keys`."""
        wanted = {key for example in chosen for key in example.reply_keys}
        rows = [row for row, key in enumerate(keys) if key in wanted]
        found = self.states_of(data.backbone, [data.corpus.replies[keys[row]] for row in rows])
        return {row: states_RD[: self.longest] for row, states_RD in zip(rows, found, strict=True)}

    def states_of(self, backbone: Backbone, replies: Sequence[Reply]) -> list[Tensor]:
        prompts, tokens = [each.prompt_ids for each in replies], [each.token_ids for each in replies]
        return upper_inputs(backbone, prompts, tokens, self.layer)


def _fitted(
    data: RoundData, probe: RewardModel, base: BaseFeatures, plan: _Plan, upper: UpperLayers,
    cache: FeatureCache,
) -> LoraHeadsFit:  # fmt: skip
    """Fits the heads, and finds their share."""
    votes, keys = data.votes()
    learned = [data.training[number] for number in plan.training]
    bootstrap_MV = torch.zeros(len(probe.members), votes.count, dtype=torch.float64)
    drawn = bootstrap(data.settings.reward, votes, data.generator("members"))
    for weights_V, drawn_V in zip(bootstrap_MV, drawn, strict=True):
        weights_V[plan.training] = drawn_V[plan.training]
    bias_M = torch.tensor([member.bias for member in probe.members])
    nuisance = [member.nuisance for member in probe.members]
    head_votes = HeadVotes(votes, plan.states(data, learned, keys), nuisance, bias_M, bootstrap_MV)
    base_states = plan.states_of(data.backbone, plan.base)
    budget = data.backbone.token_budget.training
    heads = lora_heads.fit(upper, head_votes, base_states, budget, data.generator("heads"))
    gains = _gains(data, probe, plan, heads, cache)
    figures = {
        "lora_votes": len(plan.training), "lora_held_out": len(plan.held_out),
        "lora_gains": {str(share): round(float(gain_V.sum()), 2) for share, gain_V in gains.items()},
    }  # fmt: skip
    share = best_share(gains)
    if share == 0:
        reason = "the held-out votes are not more likely with heads, beyond chance"
        return LoraHeadsFit(probe, base, reason, None, figures)
    groups = base.groups | {LORA_HEADS: heads.all_logits(base_states)}
    model = replace(probe, lora_share=share).standardised(groups)
    reason = "the held-out votes are more likely with heads, beyond chance"
    return LoraHeadsFit(model, BaseFeatures(groups, base.samples_per_prompt), reason, heads, figures)


def best_share(gains: Mapping[float, Tensor]) -> float:
    """Returns the share with the largest gain, given the (V,) gains of each vote by share; 0 unless it is
    beyond SIGNIFICANCE standard errors."""
    best = max(gains, key=lambda share: float(gains[share].sum()))
    gain_V = gains[best]
    if len(gain_V) < 2 or float(gain_V.sum()) <= SIGNIFICANCE * float(gain_V.std()) * len(gain_V) ** 0.5:
        return 0.0
    return best


def _gains(
    data: RoundData, probe: RewardModel, plan: _Plan, heads: LoraHeads, cache: FeatureCache
) -> dict[float, Tensor]:
    """Returns for each share the (V,) log-likelihoods of held-out votes above the probe's, in nats."""
    votes, keys = data.votes(held_out=True)
    states = plan.states(data, [data.held_out[number] for number in plan.held_out], keys)
    logits_NM = torch.zeros(len(keys), len(probe.members))
    if states:
        logits_NM[list(states)] = heads.all_logits(list(states.values()))
    features = cache.features(keys) | {LORA_HEADS: logits_NM}
    nuisance = _nuisance_of(probe, examples.raters(data.training), examples.raters(data.held_out))
    likelihood = Likelihood(votes)
    log_p = {
        share: likelihood.by_vote(
            replace(probe, lora_share=share).logits(features).mean(1).double(), nuisance
        )[plan.held_out]
        for share in SHARES
    }
    return {share: log_p_V - log_p[0.0] for share, log_p_V in log_p.items()}


def _nuisance_of(probe: RewardModel, known: Sequence[str], raters: Sequence[str]) -> NuisanceParameters:
    """Returns the parameters of raters, averaged over the members; of raters who are not `known`, the prior's
    means."""
    number = {rater: index for index, rater in enumerate(known)}
    leniency_U, free_U = torch.zeros(2, len(raters), dtype=torch.float64)
    met = [index for index, rater in enumerate(raters) if rater in number]
    same = [number[raters[index]] for index in met]
    found = [member.nuisance for member in probe.members]
    leniency_U[met] = torch.stack([each.leniency_U for each in found]).mean(0)[same]
    free_U[met] = torch.stack([each.reliability_free_U for each in found]).mean(0)[same]
    return found[0].of_raters(leniency_U, free_U)
