"""A distributed worker: a small training run in one process, or as one of several.

    python -m tests.distributed_worker FILE

The worker trains and writes the resulting tensors to FILE.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.training import hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup
from trainer.model.rollouts import Rollout, SamplingSpec, adapter_sampler, pack
from trainer.reward.scoring import Scored, score
from trainer.rl.advantages import leave_one_out
from trainer.rl.batch import Batch
from trainer.rl.guard import Guard
from trainer.rl.objectives import KTO, PolicyGradient, ScoredReply
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.starter import MODEL_DIR

RL = hyperparameters(steps_per_round=3, prompts_per_step=5, samples_per_prompt=4, max_tokens=16)
ASKED = ("hello", "what is the capital of France?", "a", "name a color", "tell me about cats", "who are you?")


def train(group: ProcessGroup = SINGLE_PROCESS) -> dict[str, Tensor]:
    """Returns, for the starter: the change of its adapter in steps of policy gradient, their samples, the
    gradient of a single vote, which only one process has as its shard, and the number of weights in this
    process."""
    backbone = Backbone(MODEL_DIR, RL, group)
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ASKED]
    generator = torch.Generator().manual_seed(0)
    start = backbone.snapshot()
    with backbone.full_precision():
        sampler = adapter_sampler(backbone, SamplingSpec(RL.samples_per_prompt, RL.max_tokens), generator)
        result = optimize(
            backbone,
            step_sampler(prompts, RL.prompts_per_step, sampler, generator),
            ShapedReward(lambda features: features["length"].float().sum(1), RL),
            PolicyGradient(leave_one_out, RL.importance_weight_cap),
            Guard(backbone, RL.kl_per_reply),
            RL,
        )
        moved = [now - then for now, then in zip(backbone.snapshot(), start, strict=True)]
        reply = result.rollouts[0][0].token_ids
        [base_logprobs] = score(backbone, prompts[:1], [reply]).base_logprobs
        vote = KTO([(ScoredReply(prompts[0], reply, sum(base_logprobs)), True, 1.0)], 1, generator)
        sample = Rollout(0, reply, base_logprobs, False)  # its KL to the base is zero
        scored = Scored([base_logprobs], {})
        vote.backward(backbone, Batch(prompts[:1], [sample], scored, torch.zeros(1, 1), 0.1, 0.0))
    gradient = [weight.grad for weight in backbone.trainable() if weight.grad is not None]
    group.all_reduce_sum(gradient)
    weights = [getattr(weight, "_local_tensor", weight) for weight in backbone.model.parameters()]
    return {
        "moved": torch.cat([each.flatten() for each in moved]),
        "gradient": torch.cat([each.flatten() for each in gradient]),
        "held": torch.tensor(sum(weight.numel() for weight in weights)),
        **pack(result.rollouts),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ProcessGroup.from_environment() as together:
        save_file(train(together), Path(sys.argv[1]))
