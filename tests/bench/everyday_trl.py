"""The natural opponent of the bench `everyday`: TRL's RewardTrainer and GRPO, both with LoRA, in rounds.

In each round the same people vote on the policy's replies as often as on ours. A reward model is trained anew
on all votes so far, and GRPO improves the last policy against it on the prompts that people sent. There is no
gate: the last policy is judged. Time is what the rounds took.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from schemas.settings import Settings
from serving.router import Assignment
from tests.bench.everyday_outcome import Outcome, Policies, Rounds, outcome
from tests.bench.everyday_prompts import HELD_OUT, TRAFFIC
from tests.bench.everyday_tastes import choose
from tests.bench.judgment import judge_base, judge_policy
from tests.bench.preference_rows import preference_rows
from tests.bench.served_replies import BaseReplies, ServedAt
from tests.bench.voters import Visit, Voters
from trainer.model.backbone import Backbone

REWARD_RATE, POLICY_RATE = 2e-4, 2e-4
REWARD_EPOCHS = 2
STEPS, PROMPTS, REPLIES = 8, 8, 4
"""GRPO's optimizer steps in a round, prompts of a step, and replies to each."""

MICRO_BATCH = 8
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": MICRO_BATCH, "use_cpu": not torch.cuda.is_available(), "report_to": "none",
    "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
    "bf16": torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("avx512_bf16")),
}  # fmt: skip


def run(seed: int, args: argparse.Namespace, settings: Settings, served_at: ServedAt) -> Outcome:
    """Returns the figures of one seed."""
    torch.set_num_threads(settings.trainer.threads or 1)
    backbone = Backbone(Path(settings.model), settings.trainer.rl)
    taste = choose(backbone, served_at, seed, args.taste)
    judged = HELD_OUT[: args.judged]
    base = judge_base(backbone, BaseReplies(backbone, served_at), judged, taste)
    voters = Voters(backbone, served_at, TRAFFIC, taste, seed)
    with tempfile.TemporaryDirectory(prefix="hearken-trl-") as folder:
        opponent = Opponent(settings, served_at, Path(folder), seed)
        seconds: list[float] = []
        for _ in range(args.rounds):
            opponent.visits += voters.visit(
                args.votes // args.rounds, lambda _: Assignment("trl", 1.0), lambda _: opponent.load(backbone)
            )
            began = time.monotonic()
            opponent.improve()
            seconds.append(time.monotonic() - began)
        opponent.load(backbone)
    policy = judge_policy(backbone, served_at, judged, taste)
    rounds = Rounds(["published"] * args.rounds, seconds, sum(seconds) / 60, voters.votes)
    return outcome(seed, taste, base, Policies(policy, policy), rounds, None)


class Opponent:
    """TRL's policy of one run, which starts as the base."""

    def __init__(self, settings: Settings, served_at: ServedAt, folder: Path, seed: int) -> None:
        self.visits: list[Visit] = []
        self._settings = settings
        self._served_at = served_at
        self._folder = folder
        self._seed = seed
        self._policy: Path | None = None
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model)

    def load(self, backbone: Backbone) -> None:
        """Puts the policy's adapter into the backbone; the base needs none."""
        if self._policy is not None:
            backbone.load_adapter(self._policy)

    def improve(self) -> None:
        """Runs one round on all votes so far; without a pair of replies to learn from, nothing changes."""
        rows = preference_rows(self.visits, random.Random(self._seed))
        if rows:
            self._policy = self._train_policy(self._train_reward_model(rows))

    def _lora(self, task: str) -> LoraConfig:
        rl = self._settings.trainer.rl
        return LoraConfig(r=rl.rank, lora_alpha=rl.alpha, target_modules="all-linear", task_type=task)

    def _train_reward_model(self, rows: list[dict[str, Any]]) -> PreTrainedModel:
        config = RewardConfig(
            output_dir=str(self._folder / "reward"), learning_rate=REWARD_RATE,
            num_train_epochs=REWARD_EPOCHS, seed=self._seed, **COMMON,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=self._settings.model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=self._tokenizer,
            peft_config=self._lora("SEQ_CLS"),
        )
        trainer.train()
        merged: PreTrainedModel = trainer.model.merge_and_unload()
        return merged.eval()

    def _train_policy(self, reward_model: PreTrainedModel) -> Path:
        prompts = [visit.turn.messages for visit in self.visits]
        batch = PROMPTS * REPLIES
        config = GRPOConfig(
            output_dir=str(self._folder / "grpo"), learning_rate=POLICY_RATE, max_steps=STEPS,
            gradient_accumulation_steps=batch // MICRO_BATCH, num_generations=REPLIES,
            max_completion_length=self._served_at.max_tokens, temperature=self._served_at.temperature,
            top_p=self._served_at.top_p, beta=0.04, seed=self._seed, **COMMON,
        )  # fmt: skip
        base = AutoModelForCausalLM.from_pretrained(self._settings.model, dtype=torch.float32)
        first = self._policy is None
        trainer = GRPOTrainer(
            model=base if first else PeftModel.from_pretrained(base, str(self._policy), is_trainable=True),
            reward_funcs=reward_model,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": messages} for messages in prompts]),
            processing_class=self._tokenizer,
            reward_processing_classes=self._tokenizer,
            peft_config=self._lora("CAUSAL_LM") if first else None,
        )
        trainer.train()
        target = self._folder / f"policy-{len(self.visits)}"
        trainer.save_model(str(target))
        return target
