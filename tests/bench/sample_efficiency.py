"""This bench compares the votes needed to reach 80% approval with TRL's DPO, KTO and online DPO.

    python -m tests.bench.sample_efficiency --seeds 543 544

First, our rounds run on votes of simulated people (`offline_learning`) until the true approval of the policy
is 80% within the gate's limits of KL to the base and of knowledge lost; this takes n votes. The people then
vote on it until there are 2n votes. TRL's DPO and KTO train on those 2n votes, its online DPO on 2n
comparisons of its own samples by the same people, all from the same base with the same LoRA, each with every
learning rate of a grid. The target, in most seeds: none of them reaches 80% within the same limits. The best
approval beyond the limits is printed too. The later n votes are on replies of a policy with 80% approval,
which only our loop has made; this helps KTO. 25 to 45 minutes a seed on one core.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from deploy.simulation.people import Person, draw_people
from schemas import logs
from schemas.settings import TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.offline_learning import (
    REPLY_TOKENS,
    PolicySamples,
    VoteHistory,
    simulate_votes,
    train_round,
)
from tests.bench.world_prompts import judgment, traffic, trainer_questions
from trainer.data.examples import Corpus, Key
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation import gate
from trainer.evaluation.eval_samples import sample_eval
from trainer.evaluation.knowledge import KnowledgeEval, accuracy_drop
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.starter import MODEL_DIR

TARGET_APPROVAL = 0.8
ROUND_VOTES = 30
MAX_VOTES = 600
EVAL_PROMPTS = 400
"""Prompts of an estimate of true approval."""

LEARNING_RATES = (5e-4, 1e-3, 2e-3)
EPOCHS = 3
BATCH = 16
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": BATCH, "use_cpu": True, "report_to": "none", "save_strategy": "no",
    "logging_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False, "beta": 0.1,
    "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A policy's true approval, its KL to the base (nats per token), its drop in knowledge accuracy, and
    whether these two are within the gate's limits."""

    approval: float
    kl: float
    lost: float
    allowed: bool


class Evaluator:
    """The evaluator knows the simulated preference, which no trainer sees."""

    def __init__(
        self, backbone: Backbone, settings: TrainerSettings, people: list[Person], seed: int
    ) -> None:
        self.questions = KnowledgeEval(backbone, settings)
        self.seed = seed
        self._settings = settings
        self._judge = next(person for person in people if not person.contrarian)

    def evaluate(self) -> Outcome:
        """Evaluates the current adapter."""
        backbone, rl, generator = (
            self.questions.backbone,
            self._settings.rl,
            torch.Generator().manual_seed(self.seed),
        )
        asked = [
            backbone.render([{"role": "user", "content": each.prompt}])
            for each in judgment(EVAL_PROMPTS, 20_000 + self.seed)
        ]
        samples = sample_eval(backbone, asked, SamplingSpec(1, REPLY_TOKENS), generator)
        kl = samples.per_reply(samples.kl_N).value
        after = self.questions.adapter_accuracy(generator)
        lost, _ = accuracy_drop(self.questions.base_accuracy(), after)
        allowed = (
            kl <= gate.GUARD_TOLERANCE * rl.kl_per_reply and lost <= self._settings.gate.max_knowledge_loss
        )
        approval = PolicySamples.draw(backbone, EVAL_PROMPTS, self.seed).approval(self._judge)
        return Outcome(approval, kl, lost, allowed)


def train_ours(
    evaluator: Evaluator, settings: TrainerSettings, people: list[Person], seed: int
) -> tuple[int, VoteHistory]:
    """Returns the number of votes needed, MAX_VOTES + 1 if those were not enough, and twice as many votes."""
    questions = evaluator.questions
    backbone = questions.backbone
    history, cache = VoteHistory(), FeatureCache(backbone)
    older = newer = backbone.snapshot()
    taken, lost = MAX_VOTES + 1, 0.0
    for number in range(1, MAX_VOTES // ROUND_VOTES + 1):
        backbone.restore(older)
        simulate_votes(backbone, history, people, ROUND_VOTES, 100 * seed + number)
        backbone.restore(newer)
        data = history.round_data(backbone, settings, 1000 * seed + number, lost)
        if data.skip_reason() is not None:
            continue
        _, verdict = train_round(data, history, cache, questions)
        lost = verdict.figures["knowledge_lost"]
        if verdict.refused:
            print(f"  ours, {len(history.examples)} votes: {'; '.join(verdict.reasons)}", flush=True)
            continue
        older, newer = newer, backbone.snapshot()
        reached = evaluator.evaluate()
        print(f"  ours, {len(history.examples)} votes: {reached}", flush=True)
        if reached.approval >= TARGET_APPROVAL and reached.allowed:
            taken = len(history.examples)
            simulate_votes(backbone, history, people, taken, 100 * seed + 99)
            break
    return taken, history


class TrlRows:
    """The votes of a corpus in TRL's data set formats."""

    def __init__(self, corpus: Corpus, backbone: Backbone) -> None:
        self.corpus = corpus
        self.backbone = backbone

    def pairs(self) -> list[dict[str, Any]]:
        return [
            {
                "prompt": self._prompt(better),
                "chosen": self._completion(better),
                "rejected": self._completion(worse),
            }
            for better, worse, _ in self.corpus.pairs((example, 1.0) for example in self.corpus.examples)
        ]

    def labelled(self) -> list[dict[str, Any]]:
        return [
            {"prompt": self._prompt(key), "completion": self._completion(key), "label": good}
            for key, good, _ in self.corpus.labelled((example, 1.0) for example in self.corpus.examples)
        ]

    def _prompt(self, key: Key) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": self.backbone.decode(self.corpus.replies[key].prompt_ids).strip()}
        ]

    def _completion(self, key: Key) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": self.backbone.decode(self.corpus.replies[key].token_ids)}]


def train_trl(kind: str, rate: float, rows: list[dict[str, Any]], people: list[Person], seed: int) -> Path:
    """Trains an adapter with TRL; returns its directory."""
    settings = TrainerSettings().rl
    folder = Path(tempfile.mkdtemp(prefix="hearken-trl-"))
    common = COMMON | {"output_dir": str(folder), "learning_rate": rate, "seed": seed}
    lora = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    parts: dict[str, Any] = {
        "model": AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        "processing_class": AutoTokenizer.from_pretrained(MODEL_DIR),
        "train_dataset": Dataset.from_list(rows),
        "peft_config": lora,
    }
    if kind == "dpo":
        trainer = DPOTrainer(args=DPOConfig(**common, num_train_epochs=EPOCHS), **parts)
    elif kind == "kto":
        trainer = KTOTrainer(args=KTOConfig(**common, num_train_epochs=EPOCHS), **parts)
    else:
        rng = random.Random(f"online {seed}")

        def compared(completions: list[Any], **_: Any) -> list[float]:
            """Returns the thumbs of one random person for each pair; ties are broken at random."""
            texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
            half = len(texts) // 2
            asked = [people[rng.randrange(len(people))] for _ in range(half)]
            return [asked[at % half].thumb(text, rng) + 0.1 * rng.random() for at, text in enumerate(texts)]

        trainer = OnlineDPOTrainer(
            args=OnlineDPOConfig(**common, num_train_epochs=1, max_new_tokens=REPLY_TOKENS),
            reward_funcs=compared,
            **parts,
        )
    trainer.train()
    trainer.save_model(str(folder))
    return folder


def evaluate_trl(
    evaluator: Evaluator, history: VoteHistory, taken: int, people: list[Person], seed: int
) -> dict[str, list[Outcome]]:
    """Returns the outcomes of each TRL method on twice the votes, one per learning rate."""
    backbone = evaluator.questions.backbone
    corpus = Corpus(history.examples[: 2 * taken], history.replies)
    rows = TrlRows(corpus, backbone)
    fresh = [{"prompt": [{"role": "user", "content": each.prompt}]} for each in traffic(2 * taken, seed + 7)]
    check_prompts(rows, [row["prompt"][0]["content"] for row in fresh], seed)
    sets = {"dpo": rows.pairs(), "kto": rows.labelled(), "online_dpo": fresh}
    found: dict[str, list[Outcome]] = {}
    for kind, of_kind in sets.items():
        for rate in LEARNING_RATES:
            backbone.load_adapter(train_trl(kind, rate, of_kind, people, seed))
            found.setdefault(kind, []).append(evaluator.evaluate())
            print(
                f"  {kind}, {len(of_kind)} rows of {2 * taken} votes, rate {rate}: {found[kind][-1]}",
                flush=True,
            )
    return found


def check_prompts(rows: TrlRows, fresh: list[str], seed: int) -> None:
    """Raises AssertionError when a prompt of the judgment, or of the gate's questions, is among those of the
    votes or of TRL's own samples."""
    judged = [*judgment(EVAL_PROMPTS, 10_000 + seed), *judgment(EVAL_PROMPTS, 20_000 + seed)]
    voted = [row["prompt"][0]["content"] for row in (*rows.pairs(), *rows.labelled())]
    assert_disjoint(
        sent=[*voted, *fresh],
        judged=[each.prompt for each in judged],
        asked_by_the_gate=trainer_questions(),
    )


def best(reached: Iterable[Outcome]) -> float:
    """Returns the highest approval, 0 without outcomes."""
    return max((each.approval for each in reached), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[543, 544, 545, 546, 547])
    args = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    settings = TrainerSettings()
    found = []
    for seed in args.seeds:
        print(f"seed {seed}", flush=True)
        people = draw_people(seed, 40)
        backbone = Backbone(MODEL_DIR, settings.rl)
        evaluator = Evaluator(backbone, settings, people, seed)
        taken, history = train_ours(evaluator, settings, people, seed)
        trl = evaluate_trl(evaluator, history, taken, people, seed) if taken <= MAX_VOTES else {}
        everything = [each for reached in trl.values() for each in reached]
        within = best(each for each in everything if each.allowed)
        half = taken <= MAX_VOTES and within < TARGET_APPROVAL
        found.append(
            {
                "seed": seed,
                "votes": taken,
                "trl_with_twice_within_limits": within,
                "trl_with_twice": {kind: best(reached) for kind, reached in trl.items()},
                "at_most_half": half,
            }
        )
        print(json.dumps(found[-1]), flush=True)
    print(json.dumps(found))
    return 0 if 2 * sum(bool(each["at_most_half"]) for each in found) > len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
