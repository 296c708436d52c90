"""This bench compares the ways in which edits teach, at equal numbers of edits.

    python -m tests.bench.demonstrations --seeds 4111 4112 4113
    python -m tests.bench.demonstrations --model smollm2 --set rl.prompts_per_step=8

Simulated people share a hidden preference (three style axes, drawn for each seed), and rewrite replies of the
base to it; one in twenty rewrites to the opposite. Every arm gets the same edits and as many rounds of the
trainer, gate included, from the base: with the reward model alone (`none`), with each way of `rl.edits`
beside it, and with the edits as demonstrations of a supervised stage. `plain_sft` is what needs no service:
three epochs of SFT on the edits with AdamW, at the rate of a grid whose held-out edits are likeliest. Nobody
sends a prompt of the figures, which are the share of the achievable gain (from the base's true approval to
1), the likelihood of held-out edits (nats per token more than the base's), knowledge lost (points), and the
KL to the base (nats a reply). Seeds below 4110 are for development. About ten minutes a seed on one idle
core.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from deploy.local.base_model import base_directory
from deploy.simulation.people import Person, draw_people
from schemas import logs
from schemas.settings import TrainerSettings
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_prompts import HELD_OUT, TRAFFIC
from tests.bench.offline_learning import VoteHistory, mean_accuracy, train_round
from tests.bench.overrides import trainer_settings
from tests.bench.served_replies import CACHE
from trainer.data.examples import Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.evaluation.eval_samples import sample_eval
from trainer.evaluation.knowledge import KnowledgeEval
from trainer.evaluation.questions import Question, is_starter
from trainer.evaluation.screening import base_probes
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.rl.objectives import EpochSampler
from trainer.rl.sft import Demonstration, nll, sft_backward
from trainer.starter import MODEL_DIR
from trainer.starter.world import Prompt

WAYS = ("none", "imitation", "self_distillation", "preference", "demonstrations", "plain_sft")
SFT_RATES, SFT_EPOCHS, SFT_BATCH = (2e-4, 5e-4, 1e-3, 2e-3), 3, 16


@dataclass(frozen=True)
class Sent:
    """Prompts that people send, and those that the figures are of."""

    asked: Sequence[Prompt]
    judged: Sequence[Prompt]
    edited: Sequence[Prompt]
    questions: Sequence[Prompt]

    @classmethod
    def draw(cls, seed: int, arguments: argparse.Namespace, *, starter: bool) -> "Sent":
        """Draws them for the starter from its world, else from everyday prompts."""
        if not starter:
            rng = random.Random(seed)
            asked = [Prompt(text, None) for text in rng.sample(TRAFFIC, min(arguments.edits, len(TRAFFIC)))]
            held_out = [Prompt(text, None) for text in HELD_OUT]
            return cls(asked, held_out, held_out, [])
        found = cls(
            world_prompts.traffic(arguments.edits, seed),
            world_prompts.judgment(arguments.judged, 10_000 + seed),
            world_prompts.judgment(100, 30_000 + seed),
            world_prompts.questions(arguments.questions, 77),
        )
        assert_disjoint(
            sent=[each.prompt for each in found.asked],
            judged=[each.prompt for each in (*found.judged, *found.edited)],
            asked_in_the_end=[each.prompt for each in found.questions],
            asked_by_the_gate=world_prompts.trainer_questions(),
        )
        return found


@dataclass(frozen=True)
class Figures:
    approval: float
    held_out_nll: float
    knowledge: float
    kl: float


class Editors:
    """People with a hidden preference, and what they wrote about replies of the base."""

    def __init__(self, backbone: Backbone, seed: int, sent: Sent, tokens: int) -> None:
        self.people: list[Person] = draw_people(seed, 20)
        self.judge = next(person for person in self.people if not person.contrarian)
        self._spec = SamplingSpec(1, tokens, backbone.temperature, backbone.top_p)
        self._sent = sent
        self.seed = seed
        self.history = VoteHistory()
        self.edits: list[Reply] = []
        rng = random.Random(seed)
        for number, (prompt, ids, reply) in enumerate(self._replies(backbone, sent.asked, seed)):
            person, turn = rng.choice(self.people), f"chatcmpl-{seed}-{number}"
            edited = person.edit(backbone.decode(reply), prompt.accept or (), rng)
            self.edits.append(Reply(ids, backbone.encode_reply(edited)))
            self.history.replies |= {(turn, "0"): Reply(ids, reply), (turn, "edit"): self.edits[-1]}
            self.history.add(turn, "edit", {}, person.name, ((turn, "edit"), (turn, "0")))
            self.history.prompts = {turn: ids} | self.history.prompts
        self._held_out = [
            Demonstration(ids, backbone.encode_reply(edited), 1.0)
            for prompt, ids, reply in self._replies(backbone, sent.edited, seed + 1)
            for edited in [self.judge.edit(backbone.decode(reply), prompt.accept or (), rng)]
        ]

    def _replies(
        self, backbone: Backbone, prompts: Sequence[Prompt], seed: int
    ) -> list[tuple[Prompt, list[int], list[int]]]:
        ids = [backbone.render([{"role": "user", "content": each.prompt}]) for each in prompts]
        rollouts = sample(backbone, ids, self._spec, torch.Generator().manual_seed(seed))
        return [(prompts[each.prompt], ids[each.prompt], each.token_ids) for each in rollouts]

    def judged(self, backbone: Backbone, knowledge: KnowledgeEval) -> Figures:
        """Returns the figures of the current adapter; without questions that nobody else asks, its knowledge
        is by those of the gate."""
        ids = [backbone.render([{"role": "user", "content": each.prompt}]) for each in self._sent.judged]
        samples = sample_eval(backbone, ids, self._spec, torch.Generator().manual_seed(self.seed))
        liked = [self.judge.preference.likes(backbone.decode(reply)) for reply in samples.token_ids]
        questions = [Question(each.prompt, each.accept or ()) for each in self._sent.questions]
        return Figures(
            statistics.fmean(liked),
            nll(backbone, self._held_out, backbone.temperature),
            mean_accuracy(backbone, questions) if questions else accuracy(knowledge),
            statistics.fmean(samples.kl_N),
        )

    def held_out_nll(self, backbone: Backbone) -> float:
        return nll(backbone, self._held_out, backbone.temperature)


def accuracy(knowledge: KnowledgeEval) -> float:
    return statistics.fmean(knowledge.adapter_accuracy(torch.Generator().manual_seed(1)))


def learn(
    way: str, backbone: Backbone, editors: Editors, arguments: argparse.Namespace, questions: KnowledgeEval
) -> str:
    """Trains the rounds of one arm; returns what the gate said."""
    settings: TrainerSettings = trainer_settings(arguments.set)
    ways = ("none" if way == "demonstrations" else way), arguments.coef
    settings.rl = settings.rl.model_copy(update={"edits": ways[0], "edit_coef": ways[1]})
    cache, said = FeatureCache(backbone), []
    editors.history.learning_rate = None
    for number in range(1, arguments.rounds + 1):
        data: RoundData = editors.history.round_data(backbone, settings, 10 * editors.seed + number)
        if way == "demonstrations" and number == 1:
            data.demonstrations = editors.edits
        result, verdict = train_round(data, editors.history, cache, questions)
        said.append(f"{verdict.outcome} after {len(result.steps)} steps {'; '.join(verdict.reasons)}".strip())
    return ", ".join(said)


def plain_sft(backbone: Backbone, editors: Editors) -> str:
    """Trains by SFT alone, at the best rate of the grid."""
    start, found = backbone.snapshot(), []
    shown = [Demonstration(each.prompt_ids, each.token_ids, 1.0) for each in editors.edits]
    for rate in SFT_RATES:
        backbone.restore(start)
        optimizer = torch.optim.AdamW(backbone.trainable(), lr=rate, weight_decay=0.0)
        size = min(SFT_BATCH, len(shown))
        draw = EpochSampler(len(shown), size, torch.Generator().manual_seed(1))
        for _ in range(SFT_EPOCHS * -(-len(shown) // size)):
            sft_backward(backbone, [shown[index] for index in draw()], 1.0, backbone.temperature)
            torch.nn.utils.clip_grad_norm_(backbone.trainable(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found.append((editors.held_out_nll(backbone), rate, backbone.snapshot()))
    _, rate, best = min(found, key=lambda each: each[0])
    backbone.restore(best)
    return f"rate {rate:g}"


def run(seed: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns the figures of each arm for one seed."""
    directory = base_directory(arguments.model)
    starter = is_starter(directory)
    settings = trainer_settings(arguments.set)
    backbone = Backbone(directory, settings.rl)
    sent = Sent.draw(seed, arguments, starter=starter)
    editors = Editors(backbone, seed, sent, arguments.tokens)
    probes = None if starter else base_probes(backbone, CACHE)
    questions = KnowledgeEval(backbone, settings, probes)
    base, start = editors.judged(backbone, questions), backbone.snapshot()
    print(f"seed {seed}: {editors.judge.preference}; base {asdict(base)}", flush=True)
    found = {}
    for way in arguments.ways:
        backbone.restore(start)
        if way == "plain_sft":
            said = plain_sft(backbone, editors)
        else:
            said = learn(way, backbone, editors, arguments, questions)
        after = editors.judged(backbone, questions)
        found[way] = {
            "share_of_achievable_gain": (after.approval - base.approval) / (1 - base.approval),
            "held_out_likelihood": base.held_out_nll - after.held_out_nll,
            "knowledge_lost": 100 * (base.knowledge - after.knowledge),
            "kl": after.kl,
        }
        figures = ", ".join(f"{name} {value:.3f}" for name, value in found[way].items())
        print(f"  {way:18} {figures} ({said})", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(MODEL_DIR), help="base: a directory, or `smollm2`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4111, 4112, 4113])
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--judged", type=int, default=600, help="held-out prompts of the starter")
    parser.add_argument("--questions", type=int, default=512, help="knowledge questions of the starter")
    parser.add_argument("--tokens", type=int, default=90, help="longest reply")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--coef", type=float, help="rl.edit_coef of all ways; none: its defaults")
    parser.add_argument("--set", nargs="*", default=[], help="rl.steps_per_round=6 …")
    arguments = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    rows = [run(seed, arguments) for seed in arguments.seeds]
    for way in arguments.ways:
        medians = {name: statistics.median(row[way][name] for row in rows) for name in rows[0][way]}
        print(f"{way:18} " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items()))
    print(json.dumps(dict(zip(arguments.seeds, rows, strict=True))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
