"""RLOO with a KL penalty (Ahmadian et al. 2024) trains the adapter; the other objectives share the loop.

A step samples k replies to each of a few prompts, scores them with the reward model and the frozen base,
takes the leave-one-out advantages, and makes one AdamW step within a trust region. The guard looks at the
samples before the step.
"""

from collections.abc import Callable

import structlog

from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.progress import Report, report_nothing
from trainer.model.rollouts import Rollout
from trainer.rl.batch import Batch, OptimizeResult
from trainer.rl.guard import Guard
from trainer.rl.objectives import CONFIDENT_KL_SCALE, Objective
from trainer.rl.optimizer_step import Optimizer
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import Samples
from trainer.rl.schedule import kl_coef, lr_factor
from trainer.rl.scored_samples import ScoredSamples

log = structlog.get_logger("trainer")


def optimize(
    backbone: Backbone, sample: Callable[[], Samples], reward: ShapedReward, objective: Objective,
    guard: Guard, rl: Hyperparameters, report: Report = report_nothing, *, minibatches: bool = False,
) -> OptimizeResult:  # fmt: skip
    """Trains the backbone's adapter for at most `rl.steps_per_round` steps, and reports each. With
    `minibatches` (a `CriticRegression`) a step makes an optimizer step for each sample of a prompt, outside
    of the trust region: a regression comes to rest where its target is, and the KL of its noise on the way
    says nothing of the rate. The next policy gradient finds its own."""
    optimizer = Optimizer(backbone, rl, 2 * rl.prompts_per_step * rl.samples_per_prompt)  # half are replayed
    every_step: list[list[Rollout]] = []
    for step in range(rl.steps_per_round):
        report("optimizing", step, rl.steps_per_round)
        # Sample k replies to each prompt, then score them.
        drawn = ScoredSamples.draw(backbone, sample, reward, rl)
        every_step.append(drawn.rollouts)
        stats = drawn.stats
        if backbone.group.is_main:
            log.info("step", step=step, reward=stats.reward, kl=stats.kl_per_reply, length=stats.mean_length)
        # The guard takes back the last step if these samples are beyond its limits.
        if not guard.accepts(stats):
            if guard.gives_up:
                break
            optimizer.slow_down()
            continue
        # Advantages, loss and gradient.
        used = stats.kl_per_reply / rl.kl_per_reply
        confident = CONFIDENT_KL_SCALE * kl_coef(max(used, guard.knowledge_used), rl)
        rewards_PK = drawn.rewards.shaped_B.view(-1, rl.samples_per_prompt)
        batch = Batch(drawn.prompts, drawn.rollouts, drawn.scored, rewards_PK, kl_coef(used, rl), confident)
        if minibatches:
            optimizer.set_rate(lr_factor(step, rl))
            for part in batch.minibatches():
                objective.backward(backbone, part)
                optimizer.step()
        else:
            with optimizer.within_trust_region(batch.prompts, batch.replies, lr_factor(step, rl)):
                objective.backward(backbone, batch)
                optimizer.step()
        if not guard.keeps(step):
            break
    moved, region = guard.finish(), optimizer.trust_region
    return OptimizeResult(
        guard.accepted, every_step, guard.stopped, guard.halvings, moved,
        region.learning_rate, region.step_kl,
    )  # fmt: skip
