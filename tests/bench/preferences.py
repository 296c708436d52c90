"""This bench measures the reward model on pairs of replies that people ranked, against TRL's RewardTrainer.

    python -m tests.bench.preferences --data PATH --model DIR

`PATH` is a folder with the files that `tests.bench.preference_data` names, `DIR` a base model. For each seed
the prompts of hh-rlhf's pairs are shuffled. The reward model is fitted to the first 400 pairs, and to the
first 1,500, given as rankings, and judged on the rest: the share of pairs that it orders as people did. Then
LLMBar's adversarial pairs: the share in which it prefers the worse reply, which looks better. Seconds are of
one thread, and include the features of the pairs that are learned from.

With `--trl` RewardTrainer learns from the same pairs with a LoRA on the same base, for one epoch at each of
LEARNING_RATES, and the best is counted. Targets: not below it; a fifth of its time. Dialogues are truncated
to the last 384 tokens. Features are computed once and kept in a folder of temporary files: a run that was
ended goes on where it was.
"""

import argparse
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from schemas.settings import TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.preference_data import Pair, harmless_pairs, llmbar_pairs
from trainer.data.feature_cache import VERSION
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score

SIZES = (400, 1_500)
SEEDS = (11, 12, 13)
MAX_TOKENS, MAX_REPLY = 384, 256
BASE_PROMPTS, BASE_REPLIES, BASE_TOKENS = 32, 4, 64
"""Replies of the base on which the reward is standardised, to the first prompts of the file."""

BLOCK = 25
"""Pairs whose features are in one file."""

LEARNING_RATES = (1e-4, 1e-3)


@dataclass(frozen=True, slots=True)
class Measured:
    """Features of pairs, the better reply of each in an even row, and the seconds that they took."""

    features: FeatureGroups
    seconds: float

    def rows(self, pairs: Sequence[int]) -> FeatureGroups:
        both = [row for pair in pairs for row in (2 * pair, 2 * pair + 1)]
        return {name: group[both] for name, group in self.features.items()}


class FeatureFiles:
    """Features of the base, in files that a later run finds again."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._folder = Path(tempfile.gettempdir()) / f"hearken-preferences-{VERSION}-{backbone.digest[:16]}"
        self._folder.mkdir(exist_ok=True)

    def measured(self, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> Measured:
        """Returns the features of replies to prompts, computed in blocks where there is no file."""
        parts, seconds = [], 0.0
        for start in range(0, len(replies), 2 * BLOCK):
            rows = slice(start, start + 2 * BLOCK)
            path = self.path(prompts[rows], replies[rows])
            if not path.exists():
                begun = time.process_time()
                found = score(self.backbone, prompts[rows], replies[rows]).features
                took = torch.tensor(time.process_time() - begun)
                save_file(found | {"seconds": took}, path.with_suffix(".draft"))
                path.with_suffix(".draft").replace(path)
                print(f"{start + len(replies[rows])} of {len(replies)} replies", file=sys.stderr, flush=True)
            part = load_file(path)
            seconds += float(part.pop("seconds"))
            parts.append(part)
        return Measured({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, seconds)

    def path(self, prompts: Sequence[list[int]], replies: Sequence[list[int]], of: str = "") -> Path:
        """Returns the file of what was computed of replies to prompts."""
        return self._folder / f"{_name(prompts, replies)}{of}.safetensors"

    def pairs(self, pairs: Sequence[Pair]) -> Measured:
        """Returns the features of both replies of each pair."""
        return self.measured(*self.rows(pairs))

    def rows(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        """Returns the prompts and both replies of each pair, as token ids."""
        prompts, replies = [], []
        for pair in pairs:
            prompt = self.backbone.render(pair.messages)
            for text in (pair.better, pair.worse):
                reply = self.backbone.encode_reply(text)[-MAX_REPLY:]
                prompts.append(prompt[-(MAX_TOKENS - len(reply)) :])
                replies.append(reply)
        return prompts, replies

    def base(self, pairs: Sequence[Pair]) -> BaseFeatures:
        """Returns the features of the base's own replies to the first prompts."""
        return BaseFeatures(self.measured(*self.base_rows(pairs)).features, BASE_REPLIES)

    def base_rows(self, pairs: Sequence[Pair]) -> tuple[list[list[int]], list[list[int]]]:
        """Returns the first prompts and the base's own replies to them."""
        path = self._folder / "base.json"
        prompts = [self.backbone.render(pair.messages)[-MAX_TOKENS:] for pair in pairs[:BASE_PROMPTS]]
        if not path.exists():
            spec = SamplingSpec(BASE_REPLIES, BASE_TOKENS)
            with self.backbone.reference():
                found = sample(self.backbone, prompts, spec, torch.Generator().manual_seed(0))
            path.write_text(json.dumps([rollout.token_ids for rollout in found]))
        replies = json.loads(path.read_text())
        return [prompt for prompt in prompts for _ in range(BASE_REPLIES)], replies


def _name(prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> str:
    return hashlib.sha256(json.dumps([list(prompts), list(replies)]).encode()).hexdigest()[:32]


def shuffled(pairs: Sequence[Pair], seed: int) -> list[int]:
    """Returns the numbers of the pairs in an order by prompt, so that pairs of one prompt stay together."""
    prompts = sorted({pair.prompt for pair in pairs})
    random.Random(seed).shuffle(prompts)
    place = {prompt: number for number, prompt in enumerate(prompts)}
    return sorted(range(len(pairs)), key=lambda number: place[pairs[number].prompt])


def split(pairs: Sequence[Pair], order: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Returns the pairs to learn from and the others, without those that share a prompt with the former."""
    learned = list(order[:size])
    known = {pairs[number].prompt for number in learned}
    held_out = [number for number in order[size:] if pairs[number].prompt not in known]
    assert_disjoint(learned=known, held_out=[pairs[number].prompt for number in held_out])
    return learned, held_out


def fitted(features: FeatureGroups, base: BaseFeatures, seed: int) -> RewardModel:
    """Fits the reward model to rankings of two replies each."""
    votes = Votes(1)
    for row in range(0, len(features["mean"]), 2):
        votes.ranking(0, [[row], [row + 1]], first=None)
    settings = TrainerSettings().reward
    return ensemble.fit(features, votes, base, settings, torch.Generator().manual_seed(seed))


def share_right(model: RewardModel, features: FeatureGroups) -> float:
    """Returns the share of pairs whose better reply gets the higher reward, ties counting half."""
    reward_P2 = model.penalised(features).view(-1, 2)
    gap_P = reward_P2[:, 0] - reward_P2[:, 1]
    return float((gap_P > 0).float().mean() + 0.5 * (gap_P == 0).float().mean())


def reward_trainer(
    model: Path, learned: Sequence[Pair], held_out: Sequence[Pair], rate: float
) -> tuple[float, float]:
    """Trains TRL's RewardTrainer; returns its held-out accuracy and the seconds of its training."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports much
        from datasets import Dataset
        from trl import RewardConfig, RewardTrainer

    def rows(pairs: Sequence[Pair]) -> Any:
        def side(pair: Pair, reply: str) -> list[dict[str, Any]]:
            return [*pair.messages, {"role": "assistant", "content": reply}]

        return Dataset.from_list(
            [{"chosen": side(pair, pair.better), "rejected": side(pair, pair.worse)} for pair in pairs]
        )

    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            folder, per_device_train_batch_size=8, per_device_eval_batch_size=8, num_train_epochs=1,
            learning_rate=rate, use_cpu=True, report_to="none", save_strategy="no", logging_strategy="no",
            disable_tqdm=True, gradient_checkpointing=False, max_length=1_024,
            bf16=bool(torch.cpu.get_capabilities().get("avx512_bf16")),
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS")
        trainer = RewardTrainer(
            model=str(model), args=config, train_dataset=rows(learned), eval_dataset=rows(held_out),
            peft_config=lora,
        )  # fmt: skip
        begun = time.process_time()
        trainer.train()
        seconds = time.process_time() - begun
        return float(trainer.evaluate()["eval_accuracy"]), seconds


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Prints the figures of each seed and size, and returns them."""
    backbone = Backbone(options.model, TrainerSettings().rl)
    files = FeatureFiles(backbone)
    pairs, adversarial = harmless_pairs(options.data), llmbar_pairs(options.data)
    pairs = sorted(pairs, key=Pair.characters)[: options.limit] if options.limit else pairs
    base = files.base(pairs)
    measured, worse_looks_better = files.pairs(pairs), files.pairs(adversarial)
    figures: dict[str, Any] = {}
    for size in [size for size in options.sizes if size < len(pairs)]:
        found: dict[str, list[float]] = {}
        for seed in options.seeds:
            learned, held_out = split(pairs, shuffled(pairs, seed), size)
            assert_disjoint(
                learned=[pairs[number].prompt for number in learned],
                adversarial=[pair.prompt for pair in adversarial],
            )
            begun = time.process_time()
            model = fitted(measured.rows(learned), base, seed)
            seconds = time.process_time() - begun + measured.seconds * size / len(pairs)
            row = {
                "accuracy": share_right(model, measured.rows(held_out)),
                "seconds": seconds,
                "adversarial_worse_preferred": 1 - share_right(model, worse_looks_better.features),
            }
            if options.trl:
                judged = [pairs[number] for number in held_out[: options.trl]]
                runs = [
                    reward_trainer(options.model, [pairs[number] for number in learned], judged, rate)
                    for rate in LEARNING_RATES
                ]
                best = max(runs)
                row |= {"trl_accuracy": best[0], "trl_seconds": best[1]}
                row["accuracy_there"] = share_right(model, measured.rows(held_out[: options.trl]))
            for name, value in row.items():
                found.setdefault(name, []).append(value)
            print(size, seed, {name: round(value, 3) for name, value in row.items()}, flush=True)
        medians = {name: round(statistics.median(values), 3) for name, values in found.items()}
        print(f"{size} pairs, medians: {medians}", flush=True)
        figures[str(size)] = found
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of pairs")
    parser.add_argument("--model", type=Path, required=True, help="folder of a base model")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--limit", type=int, help="use only so many pairs of hh-rlhf, the shortest dialogues")
    parser.add_argument("--trl", type=int, default=0, help="held-out pairs on which RewardTrainer is judged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = compare(options)
    print(json.dumps(figures))
    against = [row for row in figures.values() if "trl_accuracy" in row]
    better = all(
        statistics.median(row["accuracy_there"]) >= statistics.median(row["trl_accuracy"])
        and statistics.median(row["seconds"]) <= statistics.median(row["trl_seconds"]) / 5
        for row in against
    )
    return 0 if better else 1


if __name__ == "__main__":
    sys.exit(main())
