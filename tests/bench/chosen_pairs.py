"""This bench asks how many votes fewer a reward model needs where the pairs that people compare are chosen.

    python -m tests.bench.chosen_pairs --seeds 1321 1322 1323 1324 1325 [--model smollm2]

Twenty people want the same of a reply (drawn for each seed) and compare pairs of the base's replies, in
batches of twenty, from a pool of prompts with four replies each; the ensemble is fitted anew after each
batch. Pairs are chosen by the information that serving expects of them (`serving.person_weights`), one of
four replies; or they are drawn at random. The accuracy is the share of held-out pairs (a liked reply,
another) that the reward orders correctly. The figure is how many chosen pairs reach the accuracy that random
ones reach with 240 (the mean of the last three batches, since one wavers), relative to 240. Target: at most
0.6 at the median. About 5 minutes a seed on one core with the starter.

What people want of the starter's replies is a preference among its styles. To another base, people send
everyday prompts, with eight replies each, and want two hidden tastes (`reply_pool.Everyday`).
"""

import argparse
import json
import random
import statistics
import sys
from dataclasses import dataclass
from itertools import combinations

import torch

from deploy.simulation.people import draw_preference
from schemas import logs
from schemas.settings import TrainerSettings
from serving.person_weights import information
from tests.bench import world_prompts
from tests.bench.comparing_people import Person
from tests.bench.disjoint import assert_disjoint
from tests.bench.reply_pool import Everyday, Pool, base_of
from tests.bench.reward import accuracy
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures

PROMPTS, CHOICES, HELD_OUT, BASE_PROMPTS = 300, 4, 400, 64
BATCH, FIRST, LAST = 20, 40, 240
PEOPLE, WANTS = 20, 2

Asked = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Replies:
    """`CHOICES` replies of the base for each question that may be asked, replies that are judged, the base's
    samples, and somebody like all who are asked."""

    pool: Pool
    judged: Pool
    base: BaseFeatures
    person: Person

    @classmethod
    def starter(cls, backbone: Backbone, seed: int) -> "Replies":
        sent = [each.prompt for each in world_prompts.traffic(PROMPTS + BASE_PROMPTS, seed)]
        judged = [each.prompt for each in world_prompts.judgment(HELD_OUT, 10_000 + seed)]
        assert_disjoint(sent=sent, judged=judged)
        base = Pool.sampled(backbone, sent[PROMPTS:], BASE_SAMPLES, seed)
        return cls(
            Pool.sampled(backbone, sent[:PROMPTS], CHOICES, seed + 1),
            Pool.sampled(backbone, judged, 1, seed + 2),
            BaseFeatures(base.features, BASE_SAMPLES),
            Person.of_styles(draw_preference(seed)),
        )

    @classmethod
    def everyday(cls, replies: Everyday, seed: int) -> "Replies":
        tastes = replies.tastes()
        names = random.Random(f"pairs {seed}").sample(sorted(tastes), WANTS)
        person = Person({name: tastes[name].likes for name in names})
        return cls(replies.sent, replies.judged, replies.base, person)


def chosen_pairs(model: RewardModel, pool: Pool, left: set[int]) -> list[Asked]:
    """Returns the pairs with the most information, one for each of the questions that are left."""
    scale = float(torch.stack([each.nuisance.ranking_scale for each in model.members]).mean())
    values_NMC = scale * pool.values_NMC(model)
    best: list[tuple[float, Asked]] = []
    for question in sorted(left):
        replies = range(CHOICES * question, CHOICES * (question + 1))
        pairs = [each for each in combinations(replies, 2) if pool.texts[each[0]] != pool.texts[each[1]]]
        if pairs:
            best.append(max((information(values_NMC[a] - values_NMC[b]), (a, b)) for a, b in pairs))
    return [pair for _, pair in sorted(best, reverse=True)[:BATCH]]


def random_pairs(left: set[int], rng: random.Random, count: int) -> list[Asked]:
    found = []
    for question in rng.sample(sorted(left), count):
        first, second = rng.sample(range(CHOICES), 2)
        found.append((CHOICES * question + first, CHOICES * question + second))
    return found


def curve(replies: Replies, seed: int, *, choose: bool) -> list[float]:
    """Returns the accuracy after FIRST, FIRST + BATCH, … votes; the first pairs are drawn at random."""
    pool, rng = replies.pool, random.Random(f"pairs {seed}")
    liked = [*map(replies.person.likes, replies.judged.texts)]
    left, votes, model = set(range(len(pool.texts) // CHOICES)), Votes(PEOPLE), None
    votes.tastes_UT = torch.zeros(PEOPLE, 0, dtype=torch.float64)
    found = []
    while votes.count < LAST:
        count = BATCH if votes.count else FIRST
        pairs = (
            chosen_pairs(model, pool, left)
            if choose and model is not None
            else random_pairs(left, rng, count)
        )
        for a, b in pairs:
            left.discard(a // CHOICES)
            groups = replies.person.ranking([pool.texts[a], pool.texts[b]], rng)
            ranking = [[(a, b)[each] for each in group] for group in groups]
            votes.ranking(votes.count % PEOPLE, ranking, a)
        generator = torch.Generator().manual_seed(seed)
        model = ensemble.fit(pool.features, votes, replies.base, TrainerSettings().reward, generator)
        found.append(accuracy(model.reward(replies.judged.features), liked))
    return found


def needed(chosen: list[float], target: float) -> int:
    """Returns the votes after which the accuracy is the target, by straight lines between batches."""
    for number, value in enumerate(chosen):
        if value >= target:
            before = chosen[number - 1] if number else value
            part = (value - target) / (value - before) if value > before else 0.0
            return round(FIRST + BATCH * (number - part))
    return LAST + BATCH


def run(replies: Replies, seed: int) -> float:
    by_chance = curve(replies, seed, choose=False)
    chosen = curve(replies, seed, choose=True)
    target = statistics.fmean(by_chance[-3:])
    ratio = needed(chosen, target) / LAST
    for name, values in (("random", by_chance), ("chosen", chosen)):
        print(f"  {name}: {' '.join(f'{value:.3f}' for value in values)}", flush=True)
    print(f"seed {seed}: {replies.person}; {target:.3f} with {ratio:.2f} of the votes", flush=True)
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter", help="base: `starter`, `smollm2` or a directory")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1321, 1322, 1323, 1324, 1325])
    args = parser.parse_args()
    logs.configure("warning")
    backbone, everyday = base_of(args.model)
    ratios = [
        run(Replies.everyday(everyday, seed) if everyday else Replies.starter(backbone, seed), seed)
        for seed in args.seeds
    ]
    print(json.dumps(ratios))
    return 0 if statistics.median(ratios) <= 0.6 else 1


if __name__ == "__main__":
    sys.exit(main())
