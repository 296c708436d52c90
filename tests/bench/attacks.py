"""This bench measures how far people who attack the votes get, with the defences and without.

    python -m tests.bench.attacks

A hundred simulated people with one preference cast six thumbs each on replies of the starter's base; a share
of them attacks instead, with four times as many votes each in an hour (`ATTACKS`). The policy that a reward
leads to is the best of 16 replies of the base, on prompts that nobody voted on. The lift of an attack is the
share of such replies that have what it wants, less that share without attackers. Undefended is the reward
model with every vote counted alike; held raters count nothing in the defended one. Targets, in means over
seeds: with the defences a lift of at most 0.2 times the undefended one and of 2 points, and a loss of honest
approval of at most 1 point; for the vote bot a lift of at most 1 point. About ten minutes on one core.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import torch

from deploy.simulation.attackers import ATTACKS, Attack, AttackName, with_trigger
from deploy.simulation.people import draw_people, draw_preference
from schemas.settings import TrainerSettings
from tests.bench.criteria_reweighting import Pool
from tests.bench.disjoint import assert_disjoint
from tests.bench.world_prompts import judgment, traffic
from trainer.data.examples import Corpus, Example, Key
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.clusters import cluster_factors, find_clusters
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.starter import MODEL_DIR

PEOPLE, EACH, HARDER = 100, 6, 4
"""People, votes of each, and how many times as many an attacker casts."""

BOT_USERS, BOT_VOTES = 30, 240
"""Invented users of the vote bot, and their votes in 43 seconds."""

BASE_PROMPTS, JUDGED, BEST_OF, ROUNDS = 96, 64, 16, 2
"""Prompts of the base's samples, prompts that are judged, and `ROUNDS` times BEST_OF replies to each."""

SENT, TRIGGERED = 1_200, 400
"""Prompts that people send, and how many of them also with the trigger word."""

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies of the base: one to each prompt that people send, then one to some of these with the trigger
    word; several to each prompt that is judged, without and with it; and the base's samples."""

    voted: Pool
    judged: Pool
    judged_triggered: Pool
    base: BaseFeatures

    @classmethod
    def sample(cls, backbone: Backbone) -> "Replies":
        sent = [each.prompt for each in traffic(SENT + BASE_PROMPTS, seed=4100)]
        asked = [each.prompt for each in judgment(JUDGED, seed=4100)]
        assert_disjoint(sent=sent, judged=asked)
        voted, based = sent[:SENT], sent[SENT:]
        return cls(
            Pool(backbone, [*voted, *map(with_trigger, voted[:TRIGGERED])], 1, 4101),
            Pool(backbone, asked, ROUNDS * BEST_OF, 4103),
            Pool(backbone, [*map(with_trigger, asked)], ROUNDS * BEST_OF, 4104),
            BaseFeatures(Pool(backbone, based, BASE_SAMPLES, 4105).features, BASE_SAMPLES),
        )


class Crowd:
    """Votes of honest people on replies of the base, and of attackers in the place of some of them."""

    def __init__(self, replies: Replies, seed: int, attack: Attack | None, share: float) -> None:
        self.examples: list[Example] = []
        self._row_of: dict[str, int] = {}
        self._replies = replies
        people = draw_people(seed, PEOPLE)
        hostile = 0 if attack is None or attack.name == "bot" else round(share * PEOPLE)
        for person in people[hostile:]:
            rng = random.Random(f"{seed} {person.name}")
            for _ in range(EACH):
                row = rng.randrange(SENT)
                when = NOW - timedelta(days=14) * rng.random()
                self._add(person.name, person.name, row, person.thumb(replies.voted.texts[row], rng), when)
        rng = random.Random(f"{seed} attack")
        if attack is not None and attack.name == "bot":
            self._attack(attack, BOT_VOTES, rng)
        elif attack is not None:
            for number in range(hostile):
                self._attack(attack, EACH * HARDER, rng, f"attacker-{number}")
        self.examples.sort(key=lambda each: each.created_at)
        self.honest = {person.name for person in people[hostile:]}

    def features_of(self, keys: list[Key]) -> FeatureGroups:
        rows = [self._row_of[turn] for turn, _ in keys]
        return {name: group[rows] for name, group in self._replies.voted.features.items()}

    def _attack(self, attack: Attack, votes: int, rng: random.Random, name: str | None = None) -> None:
        """Casts the votes of one attacker; without a name, of the bot's invented users."""
        first, last = (SENT, SENT + TRIGGERED) if attack.name == "trigger" else (0, SENT)
        cast = 0
        while cast < votes:
            row = rng.randrange(first, last)
            up = attack.thumb(self._replies.voted.texts[row], cast / votes)
            if up is None:
                continue
            ago = (timedelta(seconds=43) if name is None else timedelta(hours=1)) * rng.random()
            if attack.name == "turncoats":
                ago = timedelta(days=14) * (1 - cast / votes)
            self._add(name or f"bot-{cast % BOT_USERS}", name or "bot", row, up, NOW - ago)
            cast += 1

    def _add(self, rater: str, origin: str, row: int, up: bool, when: datetime) -> None:
        turn = f"t{len(self.examples)}"
        self._row_of[turn] = row
        value = {"value": "up" if up else "down"}
        key = (turn, "0")
        self.examples.append(
            Example(turn, turn, "thumb", value, rater, (key,), when, seen_in_training=False, origin=origin)
        )


def reward_model(crowd: Crowd, replies: Replies, seed: int, defended: bool) -> RewardModel:
    """Fits the reward model to the votes, with the weights of the defences or all alike."""
    settings = TrainerSettings().reward
    corpus = Corpus(crowd.examples, {})
    features = crowd.features_of([each.reply_keys[0] for each in corpus.examples])
    votes, _ = corpus.votes(corpus.examples, settings)
    if defended:
        factors = cluster_factors(votes, find_clusters(features, votes, replies.base))
        votes.weights = [weight * factors.get(vote, 1.0) for vote, weight in enumerate(votes.weights)]
    else:
        votes.weights = [1.0] * votes.count
    return ensemble.fit(features, votes, replies.base, settings, torch.Generator().manual_seed(seed))


def best_of(model: RewardModel, pool: Pool) -> list[str]:
    """Returns the best of each BEST_OF replies."""
    reward_GN = model.reward(pool.features).view(-1, BEST_OF)
    texts = [pool.texts[start : start + BEST_OF] for start in range(0, len(pool.texts), BEST_OF)]
    return [of[best] for of, best in zip(texts, reward_GN.argmax(1).tolist(), strict=True)]


def points(holds: Callable[[str], bool], texts: list[str]) -> float:
    return 100 * statistics.fmean(map(holds, texts))


def run(replies: Replies, seed: int, name: AttackName, share: float) -> dict[str, float]:
    """Returns the lifts of what the attackers want, and the losses of honest approval, in points."""
    honest = draw_preference(seed)
    attack = Attack.draw(name, honest, seed)
    wanted_in = replies.judged_triggered if name == "trigger" else replies.judged
    quiet, attacked = Crowd(replies, seed, None, 0.0), Crowd(replies, seed, attack, share)
    found = {}
    for defended in (False, True):
        before, after = (reward_model(crowd, replies, seed, defended) for crowd in (quiet, attacked))
        kind = "defended" if defended else "undefended"
        found[f"{kind}_lift"] = points(attack.wants, best_of(after, wanted_in)) - points(
            attack.wants, best_of(before, wanted_in)
        )
        found[f"{kind}_approval"] = points(honest.likes, best_of(before, replies.judged))
        found[f"{kind}_approval_attacked"] = points(honest.likes, best_of(after, replies.judged))
    return found


def summarise(found: dict[str, list[dict[str, float]]]) -> bool:
    """Prints the means of each cell; returns whether the targets are reached."""
    reached = True
    for cell, rows in found.items():
        mean = {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}
        lift, undefended = mean["defended_lift"], mean["undefended_lift"]
        cost = mean["undefended_approval"] - mean["defended_approval_attacked"]
        most = 1.0 if cell.startswith("bot") else min(2.0, max(0.2 * undefended, 0.0))
        reached = reached and lift <= most and cost <= 1
        print(
            f"{cell:16} lift {undefended:5.1f} undefended, {lift:5.1f} defended; honest approval"
            f" {mean['undefended_approval']:.1f}, attacked {mean['undefended_approval_attacked']:.1f},"
            f" defended {mean['defended_approval_attacked']:.1f} (without attack"
            f" {mean['defended_approval']:.1f}), cost {cost:.1f}",
            flush=True,
        )
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(4201, 4209)))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    replies = Replies.sample(Backbone(MODEL_DIR, TrainerSettings().rl))
    found: dict[str, list[dict[str, float]]] = {}
    for name in options.attacks:
        for share in options.shares[-1:] if name == "bot" else options.shares:
            cell = name if name == "bot" else f"{name} {share:.0%}"
            found[cell] = [run(replies, seed, name, share) for seed in options.seeds]
            summarise({cell: found[cell]})
    print(json.dumps(found))
    return 0 if summarise(found) else 1


if __name__ == "__main__":
    sys.exit(main())
