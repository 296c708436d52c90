"""One training round fits the reward model to people's votes and optimises the live adapter against it by RL.

The result is a function of the round's data, the adapter at its start and the settings, bit by bit on the
same kind of machine (`reproduce`): every random choice has its own generator, and caches do not change
results.
"""

from dataclasses import dataclass

from trainer.data.criterion_heads import fit_heads
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.split import RoundData
from trainer.evaluation.eval_samples import EvalSamples, sample_eval
from trainer.evaluation.evidence import Evidence, unseen_evidence
from trainer.evaluation.knowledge import KnowledgeEval
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import Rollout, Sampler
from trainer.reward.criteria import CriterionHead
from trainer.reward.criteria_reward import CriteriaReward, criteria_reward
from trainer.reward.ensemble import RewardModel
from trainer.reward.projection import BaseFeatures
from trainer.rl.batch import OptimizeResult
from trainer.rl.guard import Guard
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.rl.sft import weighted_base_samples, weighted_voted_replies
from trainer.rl.style_drift import StyleDrift
from trainer.rl.training_objective import training_objective


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The reward models of the training and of the held-out votes and the evidence of the unseen ones (None
    when not informative), the criteria of all votes, the reward with the criteria of the settings, the base's
    samples, and the optimisation's result. The new adapter is in the backbone."""

    model: RewardModel
    held_out_model: RewardModel | None
    evidence: Evidence | None
    criteria: list[CriterionHead]
    reward: CriteriaReward
    base: EvalSamples
    optimized: OptimizeResult


def run_round(
    data: RoundData, cache: FeatureCache, knowledge: KnowledgeEval, sampler: Sampler,
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
    # The criteria: those of the training votes are in the reward, those of all votes are for the gate.
    criteria = fit_heads(data, data.corpus.examples, model, cache)
    trained = fit_heads(data, data.training, model, cache)
    combined = criteria_reward(model, trained, settings.criteria, base_features)
    # The policy.
    style_drift = StyleDrift(model.members[0].projections, base.features, combined.reward(base.features))
    reward = ShapedReward(combined.reward, rl, style_drift, base_no_eos=1 - base.eos_rate)
    demonstrations = weighted_base_samples(prompts, base.token_ids, base_features, combined, rl.kl_coef)
    if data.inputs.restart:
        voted = {key: data.corpus.replies[key] for each in data.training for key in each.reply_keys}
        demonstrations += weighted_voted_replies(voted, cache.features, combined, rl.kl_coef)
    objective = training_objective(data, cache, model, reward, base.rollouts, demonstrations)
    guard = Guard(
        backbone, rl.kl_per_reply, rl.entropy_floor * base.entropy, knowledge, data.generator("guard"),
        data.inputs.knowledge_lost / settings.gate.max_knowledge_loss,
    )  # fmt: skip
    sample = step_sampler(prompts, rl.prompts_per_step, sampler, data.generator("prompts"))
    optimized = optimize(backbone, sample, reward, objective, guard, rl, report)
    return RoundResult(model, held_out_model, evidence, criteria, combined, base, optimized)
