"""Votes needed to reach 80% approval, against TRL: `python -m tests.bench.sample_efficiency --seeds 543 544`.

First ours: rounds as the trainer does them, on votes of people with a hidden taste (`offline_learning`), till
the policy is liked at 80% within the limits of our gate, which are what it costs in KL to the base and in
knowledge; say after n votes. People then go on voting on it, up to 2n votes. TRL's DPO and KTO learn from
those 2n votes, its online DPO from 2n comparisons of its own samples by the same people, all from the same
base with the same LoRA, each with every learning rate of a grid. We need at most half the votes of the best
of them if none reaches 80% so, within the same limits. What the best reaches beyond them is printed too.
The later half of those votes is about replies of a policy that is liked at 80%, which only our loop has made:
that is what "the same votes" means, and it helps KTO. Promised of the median, so of most seeds. 25 to
45 minutes a seed on one core.
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
from schemas.settings import TrainerSettings
from tests.bench.offline_learning import Ballots, Sayings, learn, vote
from trainer.data.examples import Corpus, Key
from trainer.evaluation import gate
from trainer.evaluation.knowledge import Exam, loss
from trainer.model.backbone import Backbone
from trainer.round import Seen
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts as world_prompts

AIM = 0.8
ROUND_VOTES = 30
MOST_VOTES = 600
ASKED = 400  # prompts of an estimate of true approval
RATES = (5e-4, 1e-3, 2e-3)
EPOCHS = 3
BATCH = 16
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": BATCH, "use_cpu": True, "report_to": "none", "save_strategy": "no",
    "logging_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False, "beta": 0.1,
    "bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
}  # fmt: skip


@dataclass(frozen=True)
class Reached:
    """What a policy is worth and what it costs: the share of replies that is liked, nats per token from the
    base, the share of the knowledge probes that it lost, and whether our gate would let it pass for these."""

    liked: float
    kl: float
    lost: float
    allowed: bool


class Examiner:
    """Knows the taste, as nobody who learns does."""

    def __init__(
        self, backbone: Backbone, settings: TrainerSettings, people: list[Person], seed: int
    ) -> None:
        self.exam = Exam(backbone, settings)
        self.seed = seed
        self._settings = settings
        self._judge = next(person for person in people if not person.contrarian)

    def look(self) -> Reached:
        """At the adapter as it is now."""
        backbone, rl, generator = (
            self.exam.backbone,
            self._settings.rl,
            torch.Generator().manual_seed(self.seed),
        )
        asked = [
            backbone.render([{"role": "user", "content": each.prompt}])
            for each in world_prompts(ASKED, 20_000 + self.seed)
        ]
        kl = gate.answer(backbone, asked, 1, rl.max_tokens, generator).kl
        lost, _ = loss(self.exam.of_base(), self.exam.of_adapter(generator))
        allowed = kl <= gate.SLACK * rl.kl_budget and lost <= self._settings.gate.knowledge_loss
        liked = Sayings.of(backbone, ASKED, self.seed).approval(self._judge)
        return Reached(liked, kl, lost, allowed)


def ours(
    examiner: Examiner, settings: TrainerSettings, people: list[Person], seed: int
) -> tuple[int, Ballots]:
    """Votes that it took, MOST_VOTES + 1 if those were not enough, and twice as many of them."""
    exam = examiner.exam
    backbone = exam.backbone
    ballots, seen = Ballots(), Seen(backbone)
    older = newer = backbone.snapshot()
    taken, lost = MOST_VOTES + 1, 0.0
    for number in range(1, MOST_VOTES // ROUND_VOTES + 1):
        backbone.restore(older)
        vote(backbone, ballots, people, ROUND_VOTES, 100 * seed + number)
        backbone.restore(newer)
        work = ballots.round(backbone, settings, 1000 * seed + number, lost)
        if work.useless() is not None:
            continue
        _, verdict = learn(work, settings, seen, exam)
        lost = verdict.figures["knowledge_lost"]
        if not verdict.passed:
            print(f"  ours, {len(ballots.examples)} votes: {'; '.join(verdict.reasons)}", flush=True)
            continue
        older, newer = newer, backbone.snapshot()
        reached = examiner.look()
        print(f"  ours, {len(ballots.examples)} votes: {reached}", flush=True)
        if reached.liked >= AIM and reached.allowed:
            taken = len(ballots.examples)
            vote(backbone, ballots, people, taken, 100 * seed + 99)
            break
    return taken, ballots


class Rows:
    """The votes of a corpus in TRL's layouts."""

    def __init__(self, corpus: Corpus, backbone: Backbone) -> None:
        self.corpus = corpus
        self.backbone = backbone

    def pairs(self) -> list[dict[str, Any]]:
        return [
            {"prompt": self._prompt(better), "chosen": self._says(better), "rejected": self._says(worse)}
            for better, worse, _ in self.corpus.pairs((example, 1.0) for example in self.corpus.examples)
        ]

    def judged(self) -> list[dict[str, Any]]:
        return [
            {"prompt": self._prompt(key), "completion": self._says(key), "label": good}
            for key, good, _ in self.corpus.judged((example, 1.0) for example in self.corpus.examples)
        ]

    def _prompt(self, key: Key) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": self.backbone.decode(self.corpus.replies[key].prompt_ids).strip()}
        ]

    def _says(self, key: Key) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": self.backbone.decode(self.corpus.replies[key].token_ids)}]


def theirs(kind: str, rate: float, rows: list[dict[str, Any]], people: list[Person], seed: int) -> Path:
    """Train with TRL; returns the adapter's directory."""
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
            """Each by whoever it is shown to; who cannot tell says either."""
            texts = [each if isinstance(each, str) else each[0]["content"] for each in completions]
            half = len(texts) // 2
            asked = [people[rng.randrange(len(people))] for _ in range(half)]
            return [asked[at % half].thumb(text, rng) + 0.1 * rng.random() for at, text in enumerate(texts)]

        trainer = OnlineDPOTrainer(
            args=OnlineDPOConfig(**common, num_train_epochs=1, max_new_tokens=settings.max_tokens),
            reward_funcs=compared,
            **parts,
        )
    trainer.train()
    trainer.save_model(str(folder))
    return folder


def against(
    examiner: Examiner, ballots: Ballots, taken: int, people: list[Person], seed: int
) -> dict[str, list[Reached]]:
    """What each of TRL's reaches on twice the votes, with each learning rate."""
    backbone = examiner.exam.backbone
    corpus = Corpus(ballots.examples[: 2 * taken], ballots.replies)
    rows = Rows(corpus, backbone)
    fresh = [
        {"prompt": [{"role": "user", "content": each.prompt}]} for each in world_prompts(2 * taken, seed + 7)
    ]
    sets = {"dpo": rows.pairs(), "kto": rows.judged(), "online_dpo": fresh}
    found: dict[str, list[Reached]] = {}
    for kind, of_kind in sets.items():
        for rate in RATES:
            backbone.load_adapter(theirs(kind, rate, of_kind, people, seed))
            found.setdefault(kind, []).append(examiner.look())
            print(
                f"  {kind}, {len(of_kind)} rows of {2 * taken} votes, rate {rate}: {found[kind][-1]}",
                flush=True,
            )
    return found


def best(reached: Iterable[Reached]) -> float:
    """The highest approval, 0 of none."""
    return max((each.liked for each in reached), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[543, 544, 545, 546, 547])
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainerSettings()
    found = []
    for seed in args.seeds:
        print(f"seed {seed}", flush=True)
        people = draw_people(seed, 40)
        backbone = Backbone(MODEL_DIR, settings.rl)
        examiner = Examiner(backbone, settings, people, seed)
        taken, ballots = ours(examiner, settings, people, seed)
        trl = against(examiner, ballots, taken, people, seed) if taken <= MOST_VOTES else {}
        everything = [each for reached in trl.values() for each in reached]
        within = best(each for each in everything if each.allowed)
        half = taken <= MOST_VOTES and within < AIM
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
