"""This bench measures how far people who attack the votes get, with the defences and without.

    python -m tests.bench.attacks [--model smollm2]

A hundred simulated people with one preference cast six thumbs each within two weeks on replies of the base; a
share of them attacks instead, with four times as many votes each (`attackers`). The policy that a reward
leads to is the best of 16 replies of the base, on prompts that nobody voted on. The lift of an attack is the
share of such replies that are as it wants, less that share without attackers. Undefended is the reward model
with all votes alike. The defences are those of the production profile in the round after the first one with
the attack, so raters who vote alike and suddenly, or who turned together, are in quarantine. Targets, in
means over seeds: a lift of at most 0.2 times the undefended one and of 2 points, of the vote bot at most 1
point; and a loss of honest approval of at most 1 point. Two minutes for each seed on one idle core, after two
of sampling.

To another base than the starter, people send everyday prompts that nobody wrote for it, and honest ones have
a hidden taste (`tastes`). Its replies are sampled at its own defaults, cut after a few sentences, and kept on
disk (`reply_pool.Everyday`). So tastes for a length are left out, and attackers do not want styles that fewer
than RARE of the replies show, or lack: SmolLM2 writes no emoji, and replies that are cut are hardly ever
short or end in a question. There is a style left for each attack. With SmolLM2 an estimated half an hour for
the first seed on two idle cores, two thirds of which sample and score the replies once for all seeds.
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

from deploy.simulation.attackers import ATTACKS, Attack, AttackName, Liking, with_trigger
from deploy.simulation.people import draw_people, draw_preference
from schemas.settings import TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_prompts import HELD_OUT, TRAFFIC
from tests.bench.reply_pool import EVERYDAY_JUDGED, Everyday, Pool, base_of
from tests.bench.tastes import draw
from tests.bench.world_prompts import judgment, traffic
from trainer.data.examples import Corpus, Example, Key
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.suspects import CastVote, bursts, sudden_clusters, turncoats
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.clusters import cluster_factors, find_clusters
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.starter.styles import AXES, styles

PEOPLE, EACH, HARDER = 100, 6, 4
"""People, votes of each, and how many times as many an attacker casts."""

BOT_USERS, BOT_VOTES = 30, 240
"""Invented users of the vote bot, and their votes in 43 seconds."""

NEWCOMER = 0.25
"""`trainer.reward.newcomer_weight` in production."""

BASE_PROMPTS, JUDGED, BEST_OF, ROUNDS = 96, 64, 16, 2
"""Prompts of the base's samples, prompts that are judged, and `ROUNDS` times BEST_OF replies to each."""

SENT, TRIGGERED = 1_200, 400
"""Prompts that people send, and how many of them also with the trigger word."""

RARE = 0.05
"""Least share of replies that show a style which attackers may want, and of those that do not."""

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies of the base: `sent` of them to prompts that people send, then some to such prompts with the
    trigger word; several to each prompt that is judged, without and with it; and the base's samples."""

    voted: Pool
    sent: int
    judged: Pool
    judged_triggered: Pool
    base: Pool

    @classmethod
    def starter(cls, backbone: Backbone) -> "Replies":
        sent = [each.prompt for each in traffic(SENT + BASE_PROMPTS, seed=4100)]
        asked = [each.prompt for each in judgment(JUDGED, seed=4100)]
        assert_disjoint(sent=sent, judged=asked)
        voted, based = sent[:SENT], sent[SENT:]
        return cls(
            Pool.sampled(backbone, [*voted, *map(with_trigger, voted[:TRIGGERED])], 1, 4101),
            SENT,
            Pool.sampled(backbone, asked, ROUNDS * BEST_OF, 4103),
            Pool.sampled(backbone, [*map(with_trigger, asked)], ROUNDS * BEST_OF, 4104),
            Pool.sampled(backbone, based, BASE_SAMPLES, 4105),
        )

    @classmethod
    def everyday(cls, backbone: Backbone, replies: Everyday) -> "Replies":
        triggered = Everyday.served(backbone, [*map(with_trigger, TRAFFIC)], 1)
        judged = Everyday.served(backbone, [*map(with_trigger, HELD_OUT)], EVERYDAY_JUDGED)
        return cls(replies.sent + triggered, len(replies.sent.texts), replies.judged, judged, replies.samples)

    @property
    def base_features(self) -> BaseFeatures:
        return BaseFeatures(self.base.features, BASE_SAMPLES)

    def shown(self) -> list[str]:
        """Returns the styles that attackers may want."""
        found = [styles(text) for text in self.voted.texts[: self.sent]]
        return [axis for axis in AXES if RARE <= statistics.fmean(each[axis] for each in found) <= 1 - RARE]


class Crowd:
    """Votes of honest people on replies of the base, and of attackers in the place of some of them."""

    def __init__(
        self, replies: Replies, honest: Liking, seed: int, attack: Attack | None, share: float
    ) -> None:
        self.examples: list[Example] = []
        self._row_of: dict[str, int] = {}
        self._replies = replies
        people = draw_people(seed, PEOPLE)
        hostile = 0 if attack is None or attack.name == "bot" else round(share * PEOPLE)
        for person in people[hostile:]:
            rng = random.Random(f"{seed} {person.name}")
            for _ in range(EACH):
                row = rng.randrange(replies.sent)
                when = NOW - timedelta(days=14) * rng.random()
                up = person.verdict(honest.likes(replies.voted.texts[row]), rng)
                self._add(person.name, person.name, row, up, when)
        rng = random.Random(f"{seed} attack")
        if attack is not None and attack.name == "bot":
            self._attack(attack, BOT_VOTES, rng)
        elif attack is not None:
            for number in range(hostile):
                self._attack(attack, EACH * HARDER, rng, f"attacker-{number}")
        self.examples.sort(key=lambda each: each.created_at)

    def features_of(self, keys: list[Key]) -> FeatureGroups:
        rows = [self._row_of[turn] for turn, _ in keys]
        return {name: group[rows] for name, group in self._replies.voted.features.items()}

    def _attack(self, attack: Attack, votes: int, rng: random.Random, name: str | None = None) -> None:
        """Casts the votes of one attacker; without a name, of the bot's invented users."""
        sent, all_replies = self._replies.sent, len(self._replies.voted.texts)
        first, last = (sent, all_replies) if attack.name == "trigger" else (0, sent)
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
    """Fits the reward model to the votes, all alike, or with the defences of the production profile."""
    settings = TrainerSettings().reward.model_copy(update={"newcomer_weight": NEWCOMER})
    corpus, base = Corpus(crowd.examples, {}), replies.base_features
    if defended:
        cast = [CastVote(each.rater, "", each.created_at, each.origin) for each in corpus.examples]
        corpus = without({suspect.rater for suspect in bursts(cast)}, corpus)
        votes, keys = corpus.votes(corpus.examples, settings)
        alike = corpus.examples, find_clusters(crowd.features_of(keys), votes, base)
        held = (*sudden_clusters(*alike), *turncoats(*alike))
        corpus = without({each.rater for each in held}, corpus)
    votes, keys = corpus.votes(corpus.examples, settings)
    features = crowd.features_of(keys)
    factors = cluster_factors(votes, find_clusters(features, votes, base)) if defended else {}
    votes.weights = [
        weight * factors.get(vote, 1.0) if defended else 1.0 for vote, weight in enumerate(votes.weights)
    ]
    return ensemble.fit(features, votes, base, settings, torch.Generator().manual_seed(seed))


def without(raters: set[str], corpus: Corpus) -> Corpus:
    return Corpus([each for each in corpus.examples if each.rater not in raters], {})


def best_of(model: RewardModel, pool: Pool) -> list[str]:
    """Returns the best of each BEST_OF replies."""
    reward_GN = model.reward(pool.features).view(-1, BEST_OF)
    texts = [pool.texts[start : start + BEST_OF] for start in range(0, len(pool.texts), BEST_OF)]
    return [of[best] for of, best in zip(texts, reward_GN.argmax(1).tolist(), strict=True)]


def points(holds: Callable[[str], bool], texts: list[str]) -> float:
    return 100 * statistics.fmean(map(holds, texts))


Outcome = dict[str, float]


class Bench:
    """The runs with what `honest` people like. The reward models without attackers are fitted once."""

    def __init__(self, replies: Replies, honest: Liking, seed: int) -> None:
        self._replies, self._honest, self._seed = replies, honest, seed
        self._axes = replies.shown()
        quiet = Crowd(replies, honest, seed, None, 0.0)
        self._before = [reward_model(quiet, replies, seed, defended) for defended in (False, True)]

    def run(self, name: AttackName, share: float) -> Outcome:
        """Returns the lifts of what the attackers want, and honest approval, in points."""
        honest, replies = self._honest, self._replies
        attack = Attack.draw(name, honest, self._seed, self._axes)
        judged = replies.judged_triggered if name == "trigger" else replies.judged
        crowd = Crowd(replies, honest, self._seed, attack, share)
        found = {}
        for defended, before in enumerate(self._before):
            after = reward_model(crowd, replies, self._seed, bool(defended))
            kind = "defended" if defended else "undefended"
            found[f"{kind}_lift"] = points(attack.wants, best_of(after, judged)) - points(
                attack.wants, best_of(before, judged)
            )
            found[f"{kind}_approval"] = points(honest.likes, best_of(before, replies.judged))
            found[f"{kind}_approval_attacked"] = points(honest.likes, best_of(after, replies.judged))
        return found


def summarise(found: dict[str, list[Outcome]]) -> bool:
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
    parser.add_argument("--model", default="starter", help="base: `starter`, `smollm2` or a directory")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(4201, 4209)))
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.01, 0.05, 0.1])
    options = parser.parse_args()
    backbone, everyday = base_of(options.model)
    replies = Replies.everyday(backbone, everyday) if everyday else Replies.starter(backbone)
    found: dict[str, list[Outcome]] = {}
    for seed in options.seeds:
        honest = draw(seed, everyday.tastes()) if everyday else draw_preference(seed)
        bench = Bench(replies, honest, seed)
        for name in options.attacks:
            for share in options.shares[-1:] if name == "bot" else options.shares:
                cell = name if name == "bot" else f"{name} {share:.0%}"
                found.setdefault(cell, []).append(bench.run(name, share))
        print(f"seed {seed}: {honest}", flush=True)
        summarise({cell: rows[-1:] for cell, rows in found.items()})
    print(json.dumps(found))
    return 0 if summarise(found) else 1


if __name__ == "__main__":
    sys.exit(main())
