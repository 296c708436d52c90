"""RLOO with a KL penalty (Ahmadian et al. 2024) trains the adapter; the other objectives share the loop.

A step samples k replies to each of a few prompts, scores them with the reward model and the frozen base,
takes the leave-one-out advantages, and makes one AdamW step within a trust region. The guard looks at the
samples before the step.
"""

from collections.abc import Callable

import structlog
import torch

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.device import release_memory
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import Rollout
from trainer.reward.scoring import score
from trainer.rl.batch import Batch, OptimizeResult, StepStats
from trainer.rl.guard import Guard
from trainer.rl.objectives import CONFIDENT_KL_SCALE, Objective
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import Samples
from trainer.rl.schedule import kl_coef, lr_factor
from trainer.rl.trust_region import TrustRegion

BETAS = (0.6, 0.95)
"""AdamW's momenta: a round has few steps, which the usual 0.9 would average away."""

LORA_B_LR_RATIO = 2.0
"""LoRA+ (Hayou, Ghosh and Yu 2024): B begins at zero and learns faster than A, by this factor."""

log = structlog.get_logger("trainer")


def optimize(
    backbone: Backbone, sample: Callable[[], Samples], reward: ShapedReward, objective: Objective,
    guard: Guard, rl: Hyperparameters, report: Report = report_nothing,
) -> OptimizeResult:  # fmt: skip
    """Trains the backbone's adapter for at most `rl.steps_per_round` steps, and reports each."""
    optimizer, trust_region = _adamw(backbone, rl), TrustRegion(backbone, rl)
    every_step: list[list[Rollout]] = []
    for step in range(rl.steps_per_round):
        report("optimizing", step, rl.steps_per_round)
        # Sample k replies to each prompt, then score them.
        prompts, rollouts = sample()
        every_step.append(rollouts)
        replies = [rollout.token_ids for rollout in rollouts]
        scored = score(backbone, prompts, replies, temperature=rl.temperature, reward=reward.model)
        rewards = reward(rollouts, scored)
        stats = StepStats.of(rollouts, rewards)
        if backbone.group.is_main:
            log.info("step", step=step, reward=stats.reward, kl=stats.kl_per_reply, length=stats.mean_length)
        # The guard takes back the last step if these samples are beyond its limits.
        if not guard.accepts(stats):
            if guard.gives_up:
                break
            trust_region.learning_rate /= 2
            optimizer.state.clear()  # its moments are of the step that was taken back
            continue
        # Advantages, loss and gradient.
        used = stats.kl_per_reply / rl.kl_per_reply
        confident = CONFIDENT_KL_SCALE * kl_coef(max(used, guard.knowledge_used), rl)
        rewards_PK = rewards.shaped_B.view(-1, rl.samples_per_prompt)
        batch = Batch(prompts, rollouts, scored, rewards_PK, kl_coef(used, rl), confident)
        objective.backward(backbone, batch)
        backbone.group.all_reduce_sum([each.grad for each in backbone.trainable() if each.grad is not None])
        torch.nn.utils.clip_grad_norm_(backbone.trainable(), 1.0)
        # Step.
        trust_region.begin(batch)
        for group in optimizer.param_groups:
            group["lr"] = trust_region.learning_rate * lr_factor(step, rl) * group["lr_ratio"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        release_memory()
        trust_region.end(lr_factor(step, rl))
        if not guard.keeps(step):
            break
    moved = guard.finish()
    return OptimizeResult(
        guard.accepted, every_step, guard.stopped, guard.halvings, moved,
        trust_region.learning_rate, trust_region.step_kl, guard.checks,
    )  # fmt: skip


def _adamw(backbone: Backbone, rl: Hyperparameters) -> torch.optim.AdamW:
    lora_a, lora_b = backbone.lora_parameters()
    groups = [{"params": lora_a, "lr_ratio": 1.0}, {"params": lora_b, "lr_ratio": LORA_B_LR_RATIO}]
    return torch.optim.AdamW(groups, lr=rl.learning_rate, betas=BETAS, weight_decay=0.0)
