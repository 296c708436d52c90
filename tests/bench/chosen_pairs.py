"""This bench asks how many votes fewer a reward model needs where the pairs that people compare are chosen.

    python -m tests.bench.chosen_pairs --seeds 1321 1322 1323 1324 1325

Twenty people with one preference (three style axes, drawn for each seed) compare pairs of replies of the
starter's base, in batches of twenty, from a pool of prompts with four replies each; the ensemble is fitted
anew after each batch. Pairs are chosen by the information that serving expects of them
(`serving.person_weights`), one for a prompt; or they are drawn at random. People compare two replies by how
many wants each meets and err in one of ten answers. The accuracy is the share of held-out pairs (a liked
reply, another) that the reward orders correctly. The figure is how many chosen pairs reach the accuracy that
random ones reach with 240 (the mean of the last three batches, since one wavers), relative to 240. Target: at
most 0.6 at the median. About 5 minutes a seed on one core.
"""

import argparse
import json
import random
import statistics
import sys
from itertools import combinations

import torch

from deploy.simulation.people import Preference, draw_preference
from schemas import logs
from schemas.settings import TrainerSettings
from serving.person_weights import information
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.reward import accuracy
from tests.bench.ten_clicks import Sampled
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.starter import MODEL_DIR

POOL, CHOICES, HELD_OUT, BASE_PROMPTS = 300, 4, 400, 64
BATCH, FIRST, LAST = 20, 40, 240
PEOPLE, NOISE = 20, 0.1

Asked = tuple[int, int]


def compared(preference: Preference, texts: list[str], rng: random.Random) -> list[list[int]]:
    """Returns the groups of two replies, the better first."""
    met = [sum(Preference((want,)).likes(text) for want in preference.wants) for text in texts]
    if met[0] == met[1]:
        return [[0, 1]]
    better = 0 if (met[0] > met[1]) != (rng.random() < NOISE) else 1
    return [[better], [1 - better]]


def chosen_pairs(model: RewardModel, pool: Sampled, left: set[int]) -> list[Asked]:
    """Returns the pairs with the most information, one for each prompt."""
    scale = float(torch.stack([each.nuisance.ranking_scale for each in model.members]).mean())
    values_NMC = scale * pool.values_NMC(model)
    best: list[tuple[float, Asked]] = []
    for prompt in sorted(left):
        replies = range(CHOICES * prompt, CHOICES * (prompt + 1))
        pairs = [each for each in combinations(replies, 2) if pool.texts[each[0]] != pool.texts[each[1]]]
        if pairs:
            best.append(max((information(values_NMC[a] - values_NMC[b]), (a, b)) for a, b in pairs))
    return [pair for _, pair in sorted(best, reverse=True)[:BATCH]]


def random_pairs(pool: Sampled, left: set[int], rng: random.Random, count: int) -> list[Asked]:
    found = []
    for prompt in rng.sample(sorted(left), count):
        first, second = rng.sample(range(CHOICES), 2)
        found.append((CHOICES * prompt + first, CHOICES * prompt + second))
    return found


def curve(pool: Sampled, held_out: Sampled, base: BaseFeatures, seed: int, *, choose: bool) -> list[float]:
    """Returns the accuracy after FIRST, FIRST + BATCH, … votes; the first pairs are drawn at random."""
    preference, rng = draw_preference(seed), random.Random(f"pairs {seed}")
    liked = [preference.likes(text) for text in held_out.texts]
    left, votes, model = set(range(POOL)), Votes(PEOPLE), None
    votes.tastes_UT = torch.zeros(PEOPLE, 0, dtype=torch.float64)
    found = []
    while votes.count < LAST:
        count = BATCH if votes.count else FIRST
        pairs = (
            chosen_pairs(model, pool, left)
            if choose and model is not None
            else random_pairs(pool, left, rng, count)
        )
        for a, b in pairs:
            left.discard(a // CHOICES)
            groups = compared(preference, [pool.texts[a], pool.texts[b]], rng)
            ranking = [[(a, b)[each] for each in group] for group in groups]
            votes.ranking(votes.count % PEOPLE, ranking, a)
        generator = torch.Generator().manual_seed(seed)
        model = ensemble.fit(pool.features, votes, base, TrainerSettings().reward, generator)
        found.append(accuracy(model.reward(held_out.features), liked))
    return found


def needed(chosen: list[float], target: float) -> int:
    """Returns the votes after which the accuracy is the target, by straight lines between batches."""
    for number, value in enumerate(chosen):
        if value >= target:
            before = chosen[number - 1] if number else value
            part = (value - target) / (value - before) if value > before else 0.0
            return round(FIRST + BATCH * (number - part))
    return LAST + BATCH


def run(backbone: Backbone, seed: int) -> float:
    sent = [each.prompt for each in world_prompts.traffic(POOL + BASE_PROMPTS, seed)]
    asked = [each.prompt for each in world_prompts.judgment(HELD_OUT, 10_000 + seed)]
    assert_disjoint(sent=sent, judged=asked)
    base = BaseFeatures(Sampled.of(backbone, sent[POOL:], BASE_SAMPLES, seed).features, BASE_SAMPLES)
    pool = Sampled.of(backbone, sent[:POOL], CHOICES, seed + 1)
    held_out = Sampled.of(backbone, asked, 1, seed + 2)
    by_chance = curve(pool, held_out, base, seed, choose=False)
    chosen = curve(pool, held_out, base, seed, choose=True)
    target = statistics.fmean(by_chance[-3:])
    ratio = needed(chosen, target) / LAST
    for name, values in (("random", by_chance), ("chosen", chosen)):
        print(f"  {name}: {' '.join(f'{value:.3f}' for value in values)}", flush=True)
    print(f"seed {seed}: {draw_preference(seed)}; {target:.3f} with {ratio:.2f} of the votes", flush=True)
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1321, 1322, 1323, 1324, 1325])
    args = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    ratios = [run(backbone, seed) for seed in args.seeds]
    print(json.dumps(ratios))
    return 0 if statistics.median(ratios) <= 0.6 else 1


if __name__ == "__main__":
    sys.exit(main())
