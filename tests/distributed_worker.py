"""Some learning that one process does alone, or several together: `python -m tests.distributed_worker FILE` is one of
them, and writes what came of it."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from schemas.settings import RLSettings
from trainer.model.backbone import Backbone
from trainer.model.distributed import ALONE, Processes
from trainer.model.rollouts import in_process, pack
from trainer.rl.losses import leave_one_out
from trainer.rl.objectives import KTO, Judged, PolicyGradient, Samples
from trainer.rl.optimize import improve, measure
from trainer.starter import MODEL_DIR

RL = RLSettings(steps=3, prompts=5, replies=4, max_tokens=16)
ASKED = ("hello", "what is the capital of France?", "a", "name a color", "tell me about cats", "who are you?")


def learned(processes: Processes = ALONE) -> dict[str, Tensor]:
    """Of the starter: how steps of policy gradient moved its adapter, their samples, the gradient of a single
    vote, of which only one process can have a share, and how many weights this process holds."""
    backbone = Backbone(MODEL_DIR, RL, processes)
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ASKED]
    generator = torch.Generator().manual_seed(0)
    start = backbone.snapshot()
    with backbone.exact():
        found = improve(
            backbone, prompts, lambda views: views["length"].float().sum(1), RL, generator,
            PolicyGradient(leave_one_out, RL.clip, RL.truncation),
            in_process(backbone, RL.replies, RL.max_tokens, generator),
        )  # fmt: skip
        moved = [now - then for now, then in zip(backbone.snapshot(), start, strict=True)]
        reply = found.rollouts[0][0].token_ids
        [base_logprobs] = measure(backbone, prompts[:1], [reply]).base_logprobs
        vote = KTO([(Judged(prompts[0], reply, sum(base_logprobs)), True, 1.0)], 1, generator)
        vote.descend(backbone, Samples([], [], torch.empty(0, 0), [], beta=0.1, held=0.0, kl=0.0))
    gradient = [weight.grad for weight in backbone.trainable() if weight.grad is not None]
    processes.add_up(gradient)
    weights = [getattr(weight, "_local_tensor", weight) for weight in backbone.model.parameters()]
    return {
        "moved": torch.cat([each.flatten() for each in moved]),
        "gradient": torch.cat([each.flatten() for each in gradient]),
        "held": torch.tensor(sum(weight.numel() for weight in weights)),
        **pack(found.rollouts),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Processes.launched() as together:
        save_file(learned(together), Path(sys.argv[1]))
