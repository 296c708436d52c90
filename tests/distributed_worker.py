"""A distributed worker: a small training run in one process, or as one of several.

    python -m tests.distributed_worker FILE

trains and writes the resulting tensors to FILE.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup
from trainer.model.rollouts import SamplingSpec, in_process_sampler, pack
from trainer.reward.scoring import score
from trainer.rl.losses import leave_one_out
from trainer.rl.objectives import KTO, Judged, PolicyGradient, Samples
from trainer.rl.optimize import improve
from trainer.starter import MODEL_DIR

RL = RLSettings(steps_per_round=3, prompts_per_step=5, samples_per_prompt=4, max_tokens=16)
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
        found = improve(
            backbone, prompts, lambda views: views["length"].float().sum(1), RL, generator,
            PolicyGradient(leave_one_out, RL.importance_weight_cap),
            in_process_sampler(backbone, SamplingSpec(RL.samples_per_prompt, RL.max_tokens), generator),
        )  # fmt: skip
        moved = [now - then for now, then in zip(backbone.snapshot(), start, strict=True)]
        reply = found.rollouts[0][0].token_ids
        [base_logprobs] = score(backbone, prompts[:1], [reply]).base_logprobs
        vote = KTO([(Judged(prompts[0], reply, sum(base_logprobs)), True, 1.0)], 1, generator)
        vote.descend(backbone, Samples([], [], torch.empty(0, 0), [], beta=0.1, held=0.0, kl=0.0))
    gradient = [weight.grad for weight in backbone.trainable() if weight.grad is not None]
    group.all_reduce_sum(gradient)
    weights = [getattr(weight, "_local_tensor", weight) for weight in backbone.model.parameters()]
    return {
        "moved": torch.cat([each.flatten() for each in moved]),
        "gradient": torch.cat([each.flatten() for each in gradient]),
        "held": torch.tensor(sum(weight.numel() for weight in weights)),
        **pack(found.rollouts),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ProcessGroup.from_environment() as together:
        save_file(train(together), Path(sys.argv[1]))
