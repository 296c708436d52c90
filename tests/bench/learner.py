"""This bench compares the training throughput with TRL's GRPO trainer: `python -m tests.bench.learner`.

Both train the same base, the starter or another (`--model smollm2`), with the same LoRA: 4 replies to each of
`--prompts` prompts, a reference pass and one optimizer step. Steps alternate in one process, and the median
tokens of replies per second are compared. TRL generates through transformers, as it does without vLLM, has
the base in the type of its files and bfloat16 where the CPU supports it, as we do, no gradient checkpointing,
and micro-batches of MICRO_BATCH. This trainer of TRL pads; the one that packs, the asynchronous one, needs
vLLM and a GPU. Replies of both end where the model ends them, or at `--reply` tokens. A second one of ours
runs in every turn as a control, unless there is no memory for it (`--no-control`). The line of JSON names
TRL's version, and the newest that the package index has.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from deploy.local.base_model import base_directory
from tests.training import hyperparameters
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.device import free_memory
from trainer.model.memory import TokenBytes, token_budget
from trainer.model.rollouts import SamplingSpec, adapter_sampler
from trainer.reward.features import FeatureGroups
from trainer.rl.guard import Guard
from trainer.rl.objectives import policy_objective
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts as world_prompts

WARMUP = 2
"""Steps that are not counted."""

MICRO_BATCH = 32
"""Most replies in a batch of TRL's trainer: the fastest for the starter."""

PROMPTS = [prompt.prompt for prompt in world_prompts(400, 1)]


def reward(length: float) -> float:
    """Returns a reward that takes no time to compute: short replies are better."""
    return -length / 10


class Ours:
    """Takes single optimizer steps as in a round."""

    def __init__(self, model: Path, rl: Hyperparameters) -> None:
        self.backbone = Backbone(model, rl)
        memory = free_memory(self.backbone.device)
        count = TokenBytes.count(self.backbone)
        self.backbone.token_budget = token_budget(self.backbone, count, memory, rl.samples_per_prompt)
        self.rl = rl.model_copy(update={"steps_per_round": 1, "warmup_steps": 0})
        self.prompts = [self.backbone.render([{"role": "user", "content": text}]) for text in PROMPTS]
        self.generator = torch.Generator().manual_seed(0)
        self.speeds: list[float] = []

    def step(self) -> None:
        backbone, rl = self.backbone, self.rl
        objective = policy_objective(rl)
        assert objective is not None
        began = time.perf_counter()
        spec = SamplingSpec(rl.samples_per_prompt, rl.max_tokens)
        sampler = adapter_sampler(backbone, spec, self.generator)
        sample = step_sampler(self.prompts, rl.prompts_per_step, sampler, self.generator)
        reward = ShapedReward(self._reward, rl)
        result = optimize(backbone, sample, reward, objective, Guard(backbone, rl.kl_per_reply), rl)
        seconds = time.perf_counter() - began
        tokens = sum(len(rollout.token_ids) for rollout in result.rollouts[0])
        self.speeds.append(tokens / seconds)

    @staticmethod
    def _reward(features: FeatureGroups) -> torch.Tensor:
        return -features["length"].float().sum(1)


class Turns(TrainerCallback):
    """Times TRL's steps and takes ours between them."""

    def __init__(self, ours: Sequence[Ours]) -> None:
        self.ours = ours
        self.tokens = 0
        self.speeds: list[float] = []
        self.began = 0.0

    def reward(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.tokens += sum(map(len, completion_ids))
        return [reward(len(ids)) for ids in completion_ids]

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.tokens, self.began = 0, time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.speeds.append(self.tokens / (time.perf_counter() - self.began))
        for each in self.ours:
            each.step()
        now = [f"{speeds[-1]:.0f}" for speeds in (self.speeds, *(each.speeds for each in self.ours))]
        print(f"  step {len(self.speeds)}: TRL, ours: {', '.join(now)} tokens/s", flush=True)


def newest_trl() -> str | None:
    """Returns the newest version of TRL that the package index has; None where there is no index."""
    command = [sys.executable, "-m", "pip", "index", "versions", "trl"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.split("(")[1].split(")")[0] if found.returncode == 0 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="smollm2, or a directory; default: the starter")
    parser.add_argument("--prompts", type=int, default=32, help="of a step")
    parser.add_argument("--reply", type=int, default=90, help="most tokens of a reply")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--no-control", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = base_directory(args.model) if args.model else MODEL_DIR
    rl = hyperparameters(prompts_per_step=args.prompts, max_tokens=args.reply)
    turns = Turns([Ours(model, rl) for _ in range(1 if args.no_control else 2)])
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    batch = rl.prompts_per_step * rl.samples_per_prompt
    micro_batch = min(MICRO_BATCH, batch)
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(model),
            reward_funcs=turns.reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=batch // micro_batch,
                num_generations=rl.samples_per_prompt,
                max_completion_length=rl.max_tokens,
                max_steps=args.steps,
                learning_rate=rl.learning_rate,
                beta=rl.kl_coef,
                use_cpu=True,
                bf16=bool(torch.cpu.get_capabilities().get("avx512_bf16")),
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            peft_config=LoraConfig(
                r=rl.rank, lora_alpha=rl.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[turns],
        )
        trainer.train()
    theirs, ours, *again = (each[WARMUP:] for each in (turns.speeds, *(each.speeds for each in turns.ours)))
    ratio = statistics.median(one / other for other, one in zip(theirs, ours, strict=True))
    found = {
        "model": args.model or "starter",
        "trl": version("trl"),
        "trl_newest": newest_trl(),
        "trl_tokens_s": statistics.median(theirs),
        "ours_tokens_s": statistics.median(ours),
        "ratio": ratio,
    }
    if again:
        found["control"] = statistics.median(two / one for one, two in zip(ours, again[0], strict=True))
    print(json.dumps(found))
    if found["trl_newest"] not in (None, found["trl"]):
        print(f"TRL {found['trl_newest']} is out: install it for a comparison with the newest.")
        return 1
    return 0 if ratio >= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
