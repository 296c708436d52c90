"""This bench compares the training throughput with TRL's GRPO trainer: `python -m tests.bench.learner`.

Both train the starter with the same LoRA: 4 replies to each of 32 prompts, a reference pass and one optimizer
step. Steps alternate in one process, and the median tokens per second are compared. TRL generates through
transformers, as it does without vLLM, uses bfloat16 where the CPU supports it, as we do, no gradient
checkpointing, and the micro-batches that are fastest for it here. A second trainer of ours runs in every turn
as a control.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from tests.training import hyperparameters
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler
from trainer.reward.features import FeatureGroups
from trainer.rl.guard import Guard
from trainer.rl.objectives import policy_objective
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts as world_prompts

STEPS = 12
WARMUP = 2  # steps that are not counted
MICRO_BATCH = 32  # replies, of TRL's trainer
PROMPTS = [prompt.prompt for prompt in world_prompts(400, 1)]


def reward(length: float) -> float:
    """Returns a reward that takes no time to compute: short replies are better."""
    return -length / 10


class Ours:
    """Takes single optimizer steps as in a round."""

    def __init__(self, rl: Hyperparameters) -> None:
        self.backbone = Backbone(MODEL_DIR, rl)
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

    def __init__(self, ours: list[Ours]) -> None:
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
        print(f"  step {len(self.speeds)}: TRL, ours, ours again: {', '.join(now)} tokens/s", flush=True)


def main() -> int:
    torch.set_num_threads(1)
    rl = hyperparameters()
    turns = Turns([Ours(rl), Ours(rl)])
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    batch = rl.prompts_per_step * rl.samples_per_prompt
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(MODEL_DIR),
            reward_funcs=turns.reward,
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=MICRO_BATCH,
                gradient_accumulation_steps=batch // MICRO_BATCH,
                num_generations=rl.samples_per_prompt,
                max_completion_length=rl.max_tokens,
                max_steps=STEPS,
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
    speeds = [turns.speeds, *(each.speeds for each in turns.ours)]
    theirs, ours, again = (statistics.median(each[WARMUP:]) for each in speeds)
    pairs = list(itertools.islice(zip(*speeds, strict=True), WARMUP, None))
    ratio = statistics.median(one / other for other, one, _ in pairs)
    control = statistics.median(two / one for _, one, two in pairs)
    print(
        json.dumps(
            {
                "trl_tokens_s": theirs,
                "ours_tokens_s": ours,
                "again": again,
                "ratio": ratio,
                "control": control,
            }
        )
    )
    print(f"ours: {ours:.0f} tokens/s, TRL: {theirs:.0f} tokens/s: {ratio:.2f} times (control {control:.2f})")
    return 0 if ratio >= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
