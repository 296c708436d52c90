"""How well the trainer learns a hidden taste, without the service around it: votes are cast directly on
sampled replies, and rounds follow each other as they do under `hearken up`.

    python -m tests.bench.offline_learning --seeds 956 957

Rounds and gate are the trainer's own (`trainer.round`, `trainer.gate`). The tastes and the noise are those of
the simulated people (`deploy.simulation.people`); the trainer never sees them. While a round trains, people vote on the
policy before it, so a batch of votes is one policy old, as live. In the end: which part of the way to full
approval was gone, and what it cost: knowledge, KL in nats per token, different pairs of words against the
base's, and by how much a style changed that nobody voted on. Promised after ten rounds of 100 votes: in every
seed at most 2 points of knowledge lost, KL within budget, 0.8 of the pairs; 10 points at the median. About 12
minutes a seed on one core.
"""

import argparse
import json
import random
import resource
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

import torch

from deploy.simulation.people import Person, draw_people
from schemas.settings import TrainerSettings
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.round_inputs import Inputs
from trainer.evaluation import gate, knowledge
from trainer.evaluation.knowledge import Exam
from trainer.model.backbone import Backbone
from trainer.model.rollouts import in_process, sample
from trainer.rl.optimize import Improvement
from trainer.round import Round, Seen
from trainer.starter import MODEL_DIR
from trainer.starter.styles import AXES, styles
from trainer.starter.world import probes as world_probes
from trainer.starter.world import prompts as world_prompts

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ROUND_VOTES = 100
SAID = 1200  # replies before and after: a style's share is known to two points
PROBES = 1024  # of knowledge, before and after: what was lost is known to 0.6 points


class Ballots:
    """All votes so far."""

    def __init__(self) -> None:
        self.examples: list[Example] = []
        self.replies: dict[Key, Reply] = {}
        self.prompts: dict[str, list[int]] = {}  # of the turns, newest first

    def cast(self, turn: str, type: str, value: dict[str, Any], rater: str, about: tuple[Key, ...]) -> None:
        event = f"e{len(self.examples)}"
        self.examples.append(Example(event, turn, type, value, rater, about, NOW, learned=False))

    def round(
        self, backbone: Backbone, settings: TrainerSettings, draw: int, knowledge_lost: float = 0.0
    ) -> Round:
        events = [example.event_id for example in self.examples]
        inputs = Inputs(
            draw=draw,
            parent="p",
            votes=len(events),
            events=events,
            turns=list(self.prompts),
            positions={},
            knowledge_lost=knowledge_lost,
        )
        corpus = Corpus(list(self.examples), dict(self.replies))
        return Round(backbone, settings, inputs, corpus, dict(self.prompts))


def vote(backbone: Backbone, ballots: Ballots, people: list[Person], count: int, seed: int) -> None:
    """`count` votes on the policy as it is: 70% thumbs, 20% side by side, 10% edits."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    asked = world_prompts(count, seed)
    ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
    with backbone.merged():
        rollouts = sample(backbone, ids, 2, 90, generator)
    for index, prompt in enumerate(asked):
        turn, person = f"chatcmpl-{seed}-{index}", people[rng.randrange(len(people))]
        pair = [rollout.token_ids for rollout in rollouts[2 * index : 2 * index + 2]]
        texts = [backbone.decode(tokens) for tokens in pair]
        keys: list[Key] = [(turn, "0"), (turn, "1")]
        ballots.replies |= {key: Reply(ids[index], tokens) for key, tokens in zip(keys, pair, strict=True)}
        kind = rng.random()
        if kind < 0.7:
            value = "up" if person.thumb(texts[0], rng) else "down"
            ballots.cast(turn, "thumb", {"value": value}, person.name, (keys[0],))
        elif kind < 0.9:
            groups, acceptable = person.ranking(texts, rng)
            ranking = {"ranking": groups, "acceptable": acceptable}
            ballots.cast(turn, "ranking", ranking, person.name, (keys[0], keys[1]))
        else:
            edited = person.edit(texts[0], prompt.accept or (), rng)
            ballots.replies[turn, "edit"] = Reply(ids[index], backbone.encode_reply(edited))
            ballots.cast(turn, "edit", {}, person.name, ((turn, "edit"), keys[0]))
        ballots.prompts = {turn: ids[index]} | ballots.prompts


def learn(work: Round, settings: TrainerSettings, seen: Seen, exam: Exam) -> tuple[Improvement, gate.Verdict]:
    """A round as the trainer does it; a candidate that the gate rejects is taken back."""
    backbone, rl = exam.backbone, settings.rl
    sampler = in_process(backbone, rl.replies, rl.max_tokens, work.generator("rollouts"))

    def answers(purpose: str) -> gate.Answers:
        return gate.answer(backbone, work.exam, gate.REPLIES, rl.max_tokens, work.generator(purpose))

    before, live = backbone.snapshot(), answers("live")
    learned = work.learn(seen, exam, sampler)
    knows = (exam.of_adapter(work.generator("knowledge")), exam.of_base())
    verdict = gate.judge(
        answers("candidate"), live, learned.base, learned.model, learned.judge, knows, settings.gate, rl
    )
    if not verdict.passed:
        backbone.restore(before)
    return learned.improvement, verdict


@dataclass(frozen=True)
class Sayings:
    """What a policy says to `count` prompts that were never seen in training."""

    token_ids: list[list[int]]
    texts: list[str]

    @classmethod
    def of(cls, backbone: Backbone, count: int, seed: int) -> "Sayings":
        asked = world_prompts(count, 10_000 + seed)
        ids = [backbone.render([{"role": "user", "content": prompt.prompt}]) for prompt in asked]
        with backbone.merged():
            rollouts = sample(backbone, ids, 1, 90, torch.Generator().manual_seed(seed))
        tokens = [rollout.token_ids for rollout in rollouts]
        return cls(tokens, [backbone.decode(each) for each in tokens])

    def approval(self, person: Person) -> float:
        """The true share of liked replies."""
        return sum(map(person.preference.likes, self.texts)) / len(self.texts)

    def rates(self) -> dict[str, float]:
        """How often each axis holds."""
        found = [styles(text) for text in self.texts]
        return {axis: sum(each[axis] for each in found) / len(found) for axis in AXES}


def known_share(backbone: Backbone, probes: list[knowledge.Probe], generator: torch.Generator) -> float:
    """Share of the probes that the policy answers rightly, over two replies to each."""
    with backbone.merged():
        return sum(knowledge.ask(backbone, probes, 2, 90, generator)) / len(probes)


def distinct_ratio(replies: list[list[int]], base: list[list[int]]) -> float:
    """Different pairs of tokens against the base's, in as much text: the more there is, the fewer are new."""
    tokens = min(sum(map(len, replies)), sum(map(len, base)))
    return gate.distinct(first(replies, tokens)) / gate.distinct(first(base, tokens))


def first(replies: list[list[int]], tokens: int) -> list[list[int]]:
    """The first `tokens` of them."""
    ends = list(accumulate(map(len, replies)))
    return [reply[: max(0, tokens - end + len(reply))] for reply, end in zip(replies, ends, strict=True)]


def run(seed: int, args: argparse.Namespace, settings: TrainerSettings) -> dict[str, float]:
    """One taste: what was won, and what was lost for it."""
    backbone = Backbone(MODEL_DIR, settings.rl)
    people = draw_people(seed, 20)
    judge = next(person for person in people if not person.contrarian)
    ballots = Ballots()
    seen, exam = Seen(backbone), Exam(backbone, settings)
    probes = [knowledge.Probe(p.prompt, p.accept or ()) for p in world_probes(PROBES, 77)]
    before = Sayings.of(backbone, SAID, seed)
    known = known_share(backbone, probes, torch.Generator().manual_seed(1))
    print(
        f"seed {seed}: {judge.preference}; base approval {before.approval(judge):.3f}, knowledge {known:.3f}",
        flush=True,
    )
    older = newer = backbone.snapshot()
    kl = lost = 0.0
    for number in range(1, args.votes // ROUND_VOTES + 1):
        backbone.restore(older)
        vote(backbone, ballots, people, ROUND_VOTES, 100 * seed + number)
        backbone.restore(newer)
        wall = time.monotonic()
        work = ballots.round(backbone, settings, 1000 * seed + number, lost)
        if work.useless():
            continue
        result, verdict = learn(work, settings, seen, exam)
        wall = time.monotonic() - wall
        lost = verdict.figures["knowledge_lost"]
        if verdict.passed:
            older, newer, kl = newer, backbone.snapshot(), verdict.figures["kl"]
        said = Sayings.of(backbone, 200, seed)
        axes = " ".join(
            f"{rate if wanted else 1 - rate:.2f}"
            for axis, wanted in judge.preference.wants
            for rate in [said.rates()[axis]]
        )
        first, last = result.steps[0], result.steps[-1]
        print(
            f"  {number * ROUND_VOTES:4d} votes: approval {said.approval(judge):.3f} ({axes})"
            f"  reward {first.reward:+.2f}→{last.reward:+.2f}  KL {last.kl:.3f}  entropy {last.entropy:.2f}"
            f"  length {last.length:.0f}  lost {lost:+.3f}  {wall:.0f} s"
            f"  {result.stopped or ''} {'; '.join(verdict.reasons)}",
            flush=True,
        )
    after = Sayings.of(backbone, SAID, seed)
    knows = known_share(backbone, probes, torch.Generator().manual_seed(1))
    voted_on = {axis for axis, _ in judge.preference.wants}
    rates, base_rates = after.rates(), before.rates()
    figures = {
        "way": (after.approval(judge) - before.approval(judge)) / (1 - before.approval(judge)),
        "knowledge": knows - known,
        "kl": kl,
        "distinct": distinct_ratio(after.token_ids, before.token_ids),
        "other_styles": max(abs(rates[axis] - base_rates[axis]) for axis in AXES if axis not in voted_on),
    }
    moved = " ".join(f"{axis} {rates[axis] - base_rates[axis]:+.2f}" for axis in AXES if axis not in voted_on)
    found = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
    print(f"seed {seed}: {found} ({moved})", flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[956, 957, 958, 959, 960])
    parser.add_argument("--votes", type=int, default=1000)
    parser.add_argument("--set", nargs="*", default=[], help="rl.steps=6 rl.algorithm=grpo …")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainerSettings()
    for assignment in args.set:
        path, value = assignment.split("=")
        section, name = path.split(".")
        holder = getattr(settings, section)
        kind = type(getattr(holder, name))
        setattr(holder, name, value if kind is str else kind(float(value)))
    rows = [run(seed, args, settings) for seed in args.seeds]
    for name in rows[0]:
        values = sorted(row[name] for row in rows)
        print(
            f"{name:13} least {values[0]:.3f}, median {statistics.median(values):.3f}, most {values[-1]:.3f}"
        )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps({name: [row[name] for row in rows] for name in rows[0]}))
    kept = [
        row["knowledge"] >= -0.02 and row["kl"] <= settings.rl.kl_budget and row["distinct"] >= 0.8
        for row in rows
    ]
    moved = statistics.median(row["other_styles"] for row in rows)
    return 0 if all(kept) and moved <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
