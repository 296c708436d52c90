"""This bench measures how well the trainer learns a simulated preference, without the service.

    python -m tests.bench.offline_learning --seeds 956 957

Simulated people (`deploy.simulation.people`) vote directly on sampled replies, and rounds follow each other
as under `hearken up`: the rounds and the gate are the trainer's own, and while a round trains, people vote on
the policy before it, so a batch of votes is one policy old. The trainer never sees the preference, and nobody
sends a prompt of the final figures or of the gate's knowledge questions (`world_prompts`). The
figures after the last round are the share of the achievable gain (from the base's true approval to 1), the
change in knowledge, the KL to the base in nats per token, distinct-2 against the base's, and the largest
change of a style that the preference does not mention. Targets after ten rounds of 100 votes: in every seed
at most 2 points of knowledge lost, KL within the budget and 0.8 of the base's distinct-2; at the median at
most 10 points of change in another style. About 12 minutes a seed on one core.
"""

import argparse
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import torch

from deploy.simulation.people import Person, draw_people
from schemas import logs
from schemas.settings import TrainerSettings
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.overrides import trainer_settings
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import Derivation, Model
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.traffic import Traffic
from trainer.evaluation import gate
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples, sample_eval
from trainer.evaluation.knowledge import KnowledgeAccuracy, KnowledgeEval, Question, answer_accuracy
from trainer.evaluation.style_stats import distinct_2
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, adapter_sampler, sample
from trainer.model.speed import Speed
from trainer.rl.batch import OptimizeResult
from trainer.round import run_round
from trainer.starter import MODEL_DIR
from trainer.starter.styles import AXES, styles

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ROUND_VOTES = 100
REPLY_TOKENS = 90  # the longest reply of the simulated service and of the evaluation
SPEED = Speed(4_000, 10_000, 30_000)  # of a machine on which a step has 32 prompts
EVAL_REPLIES = 1200
"""Replies before and after: a style's share is known to two points."""

QUESTIONS = 1024
"""Knowledge questions before and after: the drop is known to 0.6 points."""


class VoteHistory:
    """All votes so far, with the replies and prompts that they are on."""

    def __init__(self) -> None:
        self.examples: list[Example] = []
        self.replies: dict[Key, Reply] = {}
        self.prompts: dict[str, list[int]] = {}  # by turn, newest first
        self.learning_rate: float | None = None  # that the last round found

    def add(
        self, turn: str, type: str, value: dict[str, Any], rater: str, reply_keys: tuple[Key, ...]
    ) -> None:
        event = f"e{len(self.examples)}"
        self.examples.append(
            Example(event, turn, type, value, rater, reply_keys, NOW, seen_in_training=False)
        )

    def round_data(
        self, backbone: Backbone, settings: TrainerSettings, draw: int, knowledge_lost: float = 0.0
    ) -> RoundData:
        events = [example.event_id for example in self.examples]
        lengths = sorted(len(reply.token_ids) for reply in self.replies.values())
        traffic = Traffic(
            prompt_length=statistics.fmean(map(len, self.prompts.values())),
            reply_length=statistics.fmean(lengths),
            longest_reply=lengths[int(0.99 * (len(lengths) - 1))],
            new_votes=ROUND_VOTES,
        )
        derivation = Derivation(settings, Model.of(backbone), traffic, SPEED, self.learning_rate)
        inputs = RoundInputs(
            draw=draw,
            parent="p",
            votes=len(events),
            events=events,
            turns=list(self.prompts),
            positions={},
            knowledge_lost=knowledge_lost,
            rl=derivation.hyperparameters(),
        )
        corpus = Corpus(list(self.examples), dict(self.replies))
        return RoundData(backbone, settings, inputs, corpus, dict(self.prompts))


def simulate_votes(
    backbone: Backbone, history: VoteHistory, people: list[Person], count: int, seed: int
) -> None:
    """Adds `count` votes on replies of the current adapter: 70% thumbs, 20% rankings of two, 10% edits."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    asked = world_prompts.traffic(count, seed)
    ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
    rollouts = sample(backbone, ids, SamplingSpec(2, REPLY_TOKENS), generator)
    for index, prompt in enumerate(asked):
        turn, person = f"chatcmpl-{seed}-{index}", people[rng.randrange(len(people))]
        pair = [rollout.token_ids for rollout in rollouts[2 * index : 2 * index + 2]]
        texts = [backbone.decode(tokens) for tokens in pair]
        keys: list[Key] = [(turn, "0"), (turn, "1")]
        history.replies |= {key: Reply(ids[index], tokens) for key, tokens in zip(keys, pair, strict=True)}
        kind = rng.random()
        if kind < 0.7:
            value = "up" if person.thumb(texts[0], rng) else "down"
            history.add(turn, "thumb", {"value": value}, person.name, (keys[0],))
        elif kind < 0.9:
            groups, acceptable = person.ranking(texts, rng)
            ranking = {"ranking": groups, "acceptable": acceptable}
            history.add(turn, "ranking", ranking, person.name, (keys[0], keys[1]))
        else:
            edited = person.edit(texts[0], prompt.accept or (), rng)
            history.replies[turn, "edit"] = Reply(ids[index], backbone.encode_reply(edited))
            history.add(turn, "edit", {}, person.name, ((turn, "edit"), keys[0]))
        history.prompts = {turn: ids[index]} | history.prompts


def train_round(
    data: RoundData, history: VoteHistory, cache: FeatureCache, questions: KnowledgeEval
) -> tuple[OptimizeResult, gate.Verdict]:
    """Runs one round as the trainer does; the adapter is restored when the gate refuses the candidate."""
    backbone = questions.backbone
    spec = data.spec(data.rl.samples_per_prompt)
    sampler = adapter_sampler(backbone, spec, data.generator("rollouts"))

    def samples(purpose: str) -> EvalSamples:
        return sample_eval(
            backbone, data.eval_prompts, data.spec(SAMPLES_PER_PROMPT), data.generator(purpose)
        )

    before, live = backbone.snapshot(), samples("live")
    result = run_round(data, cache, questions, sampler)
    accuracy = KnowledgeAccuracy(
        candidate=questions.adapter_accuracy(data.generator("knowledge")), base=questions.base_accuracy()
    )
    verdict = gate.evaluate(
        gate.GateSamples(samples("candidate"), live, result.base),
        gate.GateModels(result.model, result.held_out_model, result.evidence, result.criteria),
        accuracy,
        data.settings,
    )
    history.learning_rate = result.optimized.learning_rate
    if verdict.refused:
        backbone.restore(before)
    return result.optimized, verdict


@dataclass(frozen=True)
class PolicySamples:
    """A policy's replies, one to each of `count` prompts that nobody sends."""

    token_ids: list[list[int]]
    texts: list[str]

    @classmethod
    def draw(cls, backbone: Backbone, count: int, seed: int) -> "PolicySamples":
        asked = world_prompts.judgment(count, 10_000 + seed)
        ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
        rollouts = sample(backbone, ids, SamplingSpec(1, REPLY_TOKENS), torch.Generator().manual_seed(seed))
        tokens = [rollout.token_ids for rollout in rollouts]
        return cls(tokens, [backbone.decode(each) for each in tokens])

    def approval(self, person: Person) -> float:
        """Returns the true share of liked replies."""
        return sum(map(person.preference.likes, self.texts)) / len(self.texts)

    def style_rates(self) -> dict[str, float]:
        """Returns how often each style axis holds."""
        found = [styles(text) for text in self.texts]
        return {axis: sum(each[axis] for each in found) / len(found) for axis in AXES}


def check_prompts(seed: int, sent: Iterable[int]) -> None:
    """Raises AssertionError when people send a prompt of the final figures or one of the gate's questions;
    `sent` has the seeds of the votes."""
    assert_disjoint(
        sent=[each.prompt for draw in sent for each in world_prompts.traffic(ROUND_VOTES, draw)],
        judged=[each.prompt for each in world_prompts.judgment(EVAL_REPLIES, 10_000 + seed)],
        asked_in_the_end=[each.prompt for each in world_prompts.questions(QUESTIONS, 77)],
        asked_by_the_gate=world_prompts.trainer_questions(),
    )


def mean_accuracy(backbone: Backbone, questions: list[Question]) -> float:
    """Returns the current adapter's accuracy on the questions, with two replies to each."""
    generator = torch.Generator().manual_seed(1)
    accuracies = answer_accuracy(backbone, questions, SamplingSpec(2, REPLY_TOKENS), generator)
    return sum(accuracies) / len(questions)


def distinct_ratio(replies: list[list[int]], base: list[list[int]]) -> float:
    """Returns distinct-2 against the base's, on as many tokens: it falls with the amount of text."""
    tokens = min(sum(map(len, replies)), sum(map(len, base)))
    return distinct_2(truncate(replies, tokens)) / distinct_2(truncate(base, tokens))


def truncate(replies: list[list[int]], tokens: int) -> list[list[int]]:
    """Returns the first `tokens` tokens of the replies together."""
    ends = list(accumulate(map(len, replies)))
    return [reply[: max(0, tokens - end + len(reply))] for reply, end in zip(replies, ends, strict=True)]


def run(seed: int, args: argparse.Namespace, settings: TrainerSettings) -> dict[str, float]:
    """Returns the figures of one seed, which draws one preference."""
    backbone = Backbone(MODEL_DIR, settings.rl)
    people = draw_people(seed, 20)
    judge = next(person for person in people if not person.contrarian)
    history = VoteHistory()
    cache, gate_questions = FeatureCache(backbone), KnowledgeEval(backbone, settings)
    questions = [Question(each.prompt, each.accept or ()) for each in world_prompts.questions(QUESTIONS, 77)]
    rounds = range(1, args.votes // ROUND_VOTES + 1)
    check_prompts(seed, [100 * seed + number for number in rounds])
    before = PolicySamples.draw(backbone, EVAL_REPLIES, seed)
    known = mean_accuracy(backbone, questions)
    print(
        f"seed {seed}: {judge.preference}; base approval {before.approval(judge):.3f}, knowledge {known:.3f}",
        flush=True,
    )
    older = newer = backbone.snapshot()
    kl = lost = 0.0
    for number in rounds:
        backbone.restore(older)
        simulate_votes(backbone, history, people, ROUND_VOTES, 100 * seed + number)
        backbone.restore(newer)
        wall = time.monotonic()
        data = history.round_data(backbone, settings, 1000 * seed + number, lost)
        if data.skip_reason():
            continue
        result, verdict = train_round(data, history, cache, gate_questions)
        wall = time.monotonic() - wall
        lost = verdict.figures["knowledge_lost"]
        if not verdict.refused:
            older, newer, kl = newer, backbone.snapshot(), verdict.figures["kl"]
        approval = describe_approval(PolicySamples.draw(backbone, 200, seed), judge)
        first, last = result.steps[0], result.steps[-1]
        print(
            f"  {number * ROUND_VOTES:4d} votes: {approval}"
            f"  reward {first.reward:+.2f}→{last.reward:+.2f}  KL {last.kl_per_reply:.2f},"
            f" {statistics.fmean(result.step_kl):.3f} a step, rate {result.learning_rate:.1e}"
            f"  entropy {last.entropy:.2f}  length {last.mean_length:.0f}  lost {lost:+.3f}  {wall:.0f} s"
            f"  {result.stopped or ''} {'; '.join(verdict.reasons)}",
            flush=True,
        )
    after = PolicySamples.draw(backbone, EVAL_REPLIES, seed)
    knows = mean_accuracy(backbone, questions)
    voted_on = {axis for axis, _ in judge.preference.wants}
    rates, base_rates = after.style_rates(), before.style_rates()
    figures = {
        "share_of_achievable_gain": (after.approval(judge) - before.approval(judge))
        / (1 - before.approval(judge)),
        "knowledge": knows - known,
        "kl": kl,
        "distinct": distinct_ratio(after.token_ids, before.token_ids),
        "other_styles": max(abs(rates[axis] - base_rates[axis]) for axis in AXES if axis not in voted_on),
    }
    moved = " ".join(f"{axis} {rates[axis] - base_rates[axis]:+.2f}" for axis in AXES if axis not in voted_on)
    found = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"seed {seed}: {found} ({moved})", flush=True)
    return figures


def describe_approval(samples: PolicySamples, judge: Person) -> str:
    """Returns the approval of the samples, and how often each axis has the value that the judge prefers."""
    rates = samples.style_rates()
    axes = " ".join(
        f"{rates[axis] if wanted else 1 - rates[axis]:.2f}" for axis, wanted in judge.preference.wants
    )
    return f"approval {samples.approval(judge):.3f} ({axes})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[956, 957, 958, 959, 960])
    parser.add_argument("--votes", type=int, default=1000)
    parser.add_argument("--set", nargs="*", default=[], help="rl.steps_per_round=6 rl.algorithm=grpo …")
    args = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    settings = trainer_settings(args.set)
    rows = [run(seed, args, settings) for seed in args.seeds]
    for name in rows[0]:
        values = sorted(row[name] for row in rows)
        print(
            f"{name:24} least {values[0]:.3f}, median {statistics.median(values):.3f}, most {values[-1]:.3f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))
    kept = [
        row["knowledge"] >= -0.02 and row["kl"] <= settings.rl.kl_per_reply and row["distinct"] >= 0.8
        for row in rows
    ]
    moved = statistics.median(row["other_styles"] for row in rows)
    return 0 if all(kept) and moved <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
