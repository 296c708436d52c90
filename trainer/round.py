"""One training round fits the reward model to people's votes and optimises the live adapter against it by RL,
after supervised learning on demonstrations where there are new ones.

The result is a function of the round's data, the adapter at its start and the settings, bit by bit on the
same kind of machine (`reproduce`): every random choice has its own generator, and caches do not change
results.
"""

from dataclasses import dataclass, replace
from typing import Any

from trainer.data.criterion_heads import fit_heads
from trainer.data.demonstrations import split
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.lora_heads_fit import LoraHeadsFit, fit_lora_heads
from trainer.data.split import RoundData
from trainer.evaluation.constraints.penalty import BehaviourPenalty
from trainer.evaluation.eval_samples import EvalSamples, sample_eval
from trainer.evaluation.evidence import Evidence, unseen_evidence
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import Rollout, Sampler
from trainer.reward.criteria import CriterionHead
from trainer.reward.criteria_reward import CriteriaReward, criteria_reward
from trainer.reward.ensemble import RewardModel
from trainer.reward.projection import BaseFeatures
from trainer.rl.batch import OptimizeResult
from trainer.rl.critic_objective import (
    CriticRegression,
    critic_kl_coef,
    regression_hyperparameters,
    token_critic,
)
from trainer.rl.edit_objective import with_edits
from trainer.rl.guard import CheckRecorder, Guard, KnowledgeCheck
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.rl.sft import Demonstration, weighted_base_samples, weighted_voted_replies
from trainer.rl.style_drift import StyleDrift
from trainer.rl.supervised import KL_SHARE, SupervisedResult, SupervisedStage
from trainer.rl.token_critic import TokenCritic
from trainer.rl.training_objective import training_objective


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The reward models of the training and of the held-out votes and the evidence of the unseen ones (None
    when not informative), what became of heads, the criteria of all votes, the reward with the criteria of
    the settings, the base's samples, the critic of tokens, where there was one, and the results of the
    supervised stage, likewise, of the optimisation, and of the guard's knowledge checks. The new adapter is
    in the backbone."""

    model: RewardModel
    heads: LoraHeadsFit
    held_out_model: RewardModel | None
    evidence: Evidence | None
    criteria: list[CriterionHead]
    reward: CriteriaReward
    base: EvalSamples
    critic: TokenCritic | None
    supervised: SupervisedResult | None
    optimized: OptimizeResult
    checks: list[str | bool | None]

    @property
    def moved(self) -> bool:
        """Whether the adapter differs from the parent's."""
        return self.optimized.moved or (self.supervised is not None and self.supervised.moved)

    def supervised_as_json(self) -> dict[str, Any] | None:
        return self.supervised.as_json() if self.supervised else None

    @property
    def rollouts(self) -> list[list[Rollout]]:
        """All samples of the policy, by step, those of the supervised stage first."""
        return [*(self.supervised.rollouts if self.supervised else ()), *self.optimized.rollouts]


def run_round(
    data: RoundData, cache: FeatureCache, knowledge: KnowledgeCheck, sampler: Sampler,
    base_samples: list[Rollout] | None = None, report: Report = report_nothing,
) -> RoundResult:  # fmt: skip
    """Trains the backbone's adapter, which must be the adapter of `data.inputs.parent`. A round that is
    reproduced has its `base_samples`; else they are sampled."""
    backbone, settings, rl, prompts = data.backbone, data.settings, data.rl, data.train_prompts
    report("reward_model", 0, 0)
    # Samples of the base standardise the reward, are the reference of style drift, and are trained on by SFT.
    spec = data.spec(BASE_SAMPLES)
    base = sample_eval(
        backbone, prompts[: rl.base_prompts], spec, data.generator("base"), base=True, rollouts=base_samples
    )
    base_features = BaseFeatures(base.features, BASE_SAMPLES)
    # The reward model, and what the held-out votes and the unseen ones among them say, for the gate.
    cache.update(data.corpus)
    data.weigh_clusters(base_features, cache)
    model = data.fit_reward_model(base_features, cache)
    held_out_model = data.fit_reward_model(base_features, cache, held_out=True)
    evidence = unseen_evidence(data, base_features, cache)
    assert model is not None  # noqa: S101  (skip_reason was None)
    # Heads on a LoRA beside the probe, where the votes are many.
    heads = fit_lora_heads(data, model, base_features, base.rollouts, cache)
    try:
        # The criteria: those of the training votes are in the reward, those of all votes are for the gate.
        criteria = fit_heads(data, data.corpus.examples, model, cache)
        trained = fit_heads(data, data.training, model, cache)
        combined = criteria_reward(heads.model, trained, settings.criteria, heads.base)
        # The policy.
        rewards_N = combined.reward(heads.base.groups)
        style_drift = StyleDrift(model.members[0].projections, base.features, rewards_N)
        penalty = BehaviourPenalty(backbone, data.inputs.cautions, base.rollouts)
        no_eos = 1 - base.eos_rate
        reward = ShapedReward(combined.reward, rl, style_drift, no_eos, penalty, heads.heads)
        demonstrations = weighted_base_samples(prompts, base.token_ids, heads.base, combined, rl.kl_coef)
        if data.inputs.restart:
            voted = {key: data.corpus.replies[key] for each in data.training for key in each.reply_keys}
            demonstrations += weighted_voted_replies(voted, cache.features, combined, rl.kl_coef)
        checks = CheckRecorder(knowledge)
        supervised = _learn_demonstrations(data, checks, sampler, reward, base, report)
        critic = None
        if supervised is None and not data.inputs.demonstrated:  # else regression on the base would undo it
            critic = token_critic(data, cache, model, reward, base.rollouts, rewards_N)
        if critic is None:
            objective = training_objective(data, cache, model, reward, base.rollouts, demonstrations)
        else:
            beta = critic_kl_coef(critic, backbone, rl, prompts, base.rollouts)
            objective = CriticRegression(critic, beta, rl.temperature)
            rl = regression_hyperparameters(rl, data)
        objective, edits = with_edits(data, model, objective)
        guard = Guard(
            backbone, rl.kl_per_reply, rl.entropy_floor * base.entropy, checks, data.generator("guard"),
            data.inputs.knowledge_lost / settings.gate.max_knowledge_loss,
        )  # fmt: skip
        sample = step_sampler(prompts, rl.prompts_per_step, sampler, data.generator("prompts"), edits or list)
        optimized = optimize(
            backbone, sample, reward, objective, guard, rl, report, minibatches=critic is not None
        )
        if critic is not None:  # the rate that the trust region found is that of policy gradients
            optimized = replace(optimized, learning_rate=data.rl.learning_rate)
    finally:
        heads.remove()
    return RoundResult(
        model, heads, held_out_model, evidence, criteria, combined, base, critic, supervised, optimized,
        checks.results,
    )  # fmt: skip


def _learn_demonstrations(
    data: RoundData, knowledge: KnowledgeCheck, sampler: Sampler, reward: ShapedReward, base: EvalSamples,
    report: Report,
) -> SupervisedResult | None:  # fmt: skip
    """Learns the round's demonstrations; None where there are none, or of one prompt only."""
    training, held_out = (
        [Demonstration(each.prompt_ids, each.token_ids, 1.0) for each in part]
        for part in split(data.demonstrations, data.eval_prompts)
    )
    if not training:
        return None
    backbone, rl = data.backbone, data.rl
    guard = Guard(
        backbone, KL_SHARE * rl.kl_per_reply, rl.entropy_floor * base.entropy, knowledge,
        data.generator("supervised guard"),
    )  # fmt: skip
    prompts = data.generator("supervised prompts")
    sample = step_sampler(data.train_prompts, rl.prompts_per_step, sampler, prompts)
    stage = SupervisedStage(backbone, rl, guard, sample, reward, report)
    return stage.run(training, held_out, data.generator("supervised"))
