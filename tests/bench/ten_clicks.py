"""This bench asks what ten answers about pairs do for people who differ, with no training.

    python -m tests.bench.ten_clicks --seeds 1311 1312 1313

Each person wants, or does not want, two of three properties of a reply, which the seed draws. Forty people
have voted on replies of the base (the starter's: twenty votes each; thumbs, three in ten of them a comparison
of two replies), to which the reward model is fitted once. Then twenty others answer ten pairs, picked as
serving picks them (`serving.questions`) from a pool of 24 prompts with four replies each; their weights are
serving's, too. The figure is how much more often a person likes the best of four replies to unseen prompts by
their own weights than a reply as it comes; `common` is the best of four by everybody's mean, and `random` the
same after ten pairs at random. Target: 15 points at the median of the twenty. About 3 minutes a seed on one
core.

The starter's properties are its styles. To another base, people send everyday prompts, and the properties are
hidden tastes (`reply_pool.Everyday`); each of 40 people has 13 votes then, or 14.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from feedback.person_votes import PersonVote
from schemas import logs
from schemas.settings import TrainerSettings
from schemas.turns import Reply
from serving.person_weights import Judgments, PersonPosterior, Values, posterior, reward
from serving.question_pool import CHOICES, MAX_PROMPTS, Candidate
from serving.questions import QUESTIONS, pick
from tests.bench import world_prompts
from tests.bench.comparing_people import Likes, Person, style_properties, without
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_prompts import TRAFFIC
from tests.bench.reply_pool import EVERYDAY_REPLIES, Everyday, Pool, base_of
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures

VOTERS, EACH, PAIRS = 40, 20, 0.3
PEOPLE, JUDGED, BASE_PROMPTS = 20, 100, 64


def draw_people(properties: dict[str, Likes], seed: int, count: int, part: str) -> list[Person]:
    """Draws people who each want, or do not want, two of the seed's three properties."""
    names = random.Random(f"clicks {seed}").sample([*properties], 3)
    rng = random.Random(f"clicks {seed} {part}")
    people = []
    for _ in range(count):
        wants = {}
        for name in rng.sample(names, 2):
            wanted = rng.random() < 0.5
            wants[name] = properties[name] if wanted else without(properties[name])
        people.append(Person(wants))
    return people


def candidates_of(prompts: Sequence[str], pool: Pool, model: RewardModel) -> list[Candidate]:
    """Returns what serving may ask about CHOICES replies to each prompt."""
    values_NMC = pool.values_NMC(model)
    return [
        Candidate(
            prompt, [], [], {},
            [Reply(at, "p", 1.0, pool.texts[CHOICES * number + at], [], [], "") for at in range(CHOICES)],
            values_NMC[CHOICES * number : CHOICES * (number + 1)],
        )
        for number, prompt in enumerate(prompts)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replies:
    """Replies of the base: pairs of them that the voters see, `CHOICES` to each of the prompts that are asked
    about (`asked`) and that are judged, and the base's samples; and what people may want of them."""

    properties: dict[str, Likes]
    voted: Pool
    asked: list[str]
    choices: Pool
    judged: Pool
    base: BaseFeatures

    @classmethod
    def starter(cls, backbone: Backbone, seed: int) -> "Replies":
        wanted = VOTERS * EACH + BASE_PROMPTS + MAX_PROMPTS
        sent = [each.prompt for each in world_prompts.traffic(wanted, seed)]
        judged = [each.prompt for each in world_prompts.judgment(JUDGED, 10_000 + seed)]
        assert_disjoint(sent=sent, judged=judged)
        start, end = VOTERS * EACH, VOTERS * EACH + BASE_PROMPTS
        base = Pool.sampled(backbone, sent[start:end], BASE_SAMPLES, seed)
        return cls(
            style_properties(),
            Pool.sampled(backbone, sent[:start], 2, seed + 1),
            sent[end:],
            Pool.sampled(backbone, sent[end:], CHOICES, seed + 2),
            Pool.sampled(backbone, judged, CHOICES, seed + 3),
            BaseFeatures(base.features, BASE_SAMPLES),
        )

    @classmethod
    def everyday(cls, replies: Everyday) -> "Replies":
        """People are asked about the last prompts that were sent, and vote on replies to the others."""
        first = len(TRAFFIC) - MAX_PROMPTS
        asked = range(first, len(TRAFFIC))
        return cls(
            {name: taste.likes for name, taste in sorted(replies.tastes().items())},
            replies.sent.of(range(EVERYDAY_REPLIES * first)),
            TRAFFIC[first:],
            replies.sent.of([EVERYDAY_REPLIES * number + at for number in asked for at in range(CHOICES)]),
            replies.judged,
            replies.base,
        )


def fitted(replies: Replies, seed: int) -> RewardModel:
    """Fits the reward model to the votes of the voters, one on each pair of replies."""
    voters, rng = draw_people(replies.properties, seed, VOTERS, "voters"), random.Random(f"votes {seed}")
    votes = Votes(VOTERS)
    for at in range(0, len(replies.voted.texts), 2):
        rater = at // 2 % VOTERS
        texts = replies.voted.texts[at : at + 2]
        if rng.random() < PAIRS:
            groups = voters[rater].ranking(texts, rng)
            votes.ranking(rater, [[at + each for each in group] for group in groups], at)
        else:
            votes.thumb(rater, at, voters[rater].thumb(texts[0], rng))
    generator = torch.Generator().manual_seed(seed)
    return ensemble.fit(replies.voted.features, votes, replies.base, TrainerSettings().reward, generator)


def answers(
    person: Person, candidates: list[Candidate], scale: float, rng: random.Random, *, chosen: bool
) -> PersonPosterior | None:
    """Returns what ten answers say about a person; with `chosen`, the pairs are picked by serving."""
    votes: list[PersonVote] = []
    values: dict[tuple[str, int], Values] = {}
    left, known = list(candidates), None
    for _ in range(QUESTIONS):
        if chosen:
            pair = pick(left, known)
            assert pair is not None
            candidate, shown = pair.candidate, [pair.first, pair.second]
        else:
            candidate = rng.choice(left)
            shown = rng.sample(range(CHOICES), 2)
        left.remove(candidate)
        ranking = person.ranking([candidate.replies[each].text for each in shown], rng)
        value = {"ranking": ranking, "acceptable": True}
        votes.append(PersonVote(candidate.prompt, None, "ranking", value, [], {0: [0], 1: [0]}))
        for at, each in enumerate(shown):
            values[candidate.prompt, at] = candidate.values_NMC[each].mean(0)
        judgments = Judgments.of(votes, values, scale)
        known = posterior(judgments) if len(judgments.offset_B) else known
    return known


def run(replies: Replies, seed: int) -> dict[str, list[float]]:
    """Returns by way of choosing the share that each person likes."""
    model = fitted(replies, seed)
    print(f"seed {seed}: {model.describe_tastes()}", flush=True)
    if model.people is None:  # nothing is asked, and replies stay as they come
        return {name: [0.0] * PEOPLE for name in ("as it comes", "common", "random", "own")}
    pool = candidates_of(replies.asked, replies.choices, model)
    values_NMC, none = replies.judged.values_NMC(model), np.zeros(1 + model.people.mean_UT.shape[1])
    judged = len(replies.judged.texts) // CHOICES
    scale = float(torch.stack([each.nuisance.ranking_scale for each in model.members]).mean())
    caution, rng = model.uncertainty_penalty, random.Random(f"answers {seed}")
    found: dict[str, list[float]] = {name: [] for name in ("as it comes", "common", "random", "own")}
    for person in draw_people(replies.properties, seed, PEOPLE, "people"):
        liked_PK = np.array([*map(person.likes, replies.judged.texts)]).reshape(judged, CHOICES)
        found["as it comes"].append(float(liked_PK.mean()))
        for name, weights_T in (
            ("common", none),
            ("random", _weights(answers(person, pool, scale, rng, chosen=False), none)),
            ("own", _weights(answers(person, pool, scale, rng, chosen=True), none)),
        ):
            best_P = reward(values_NMC, weights_T, caution).reshape(judged, CHOICES).argmax(1)
            found[name].append(float(liked_PK[np.arange(judged), best_P].mean()))
    return found


def _weights(known: PersonPosterior | None, none: Values) -> Values:
    return none if known is None else known.weights_T


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="starter", help="base: `starter`, `smollm2` or a directory")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1311, 1312, 1313])
    args = parser.parse_args()
    logs.configure("warning")
    backbone, everyday = base_of(args.model)
    medians = []
    for seed in args.seeds:
        found = run(Replies.everyday(everyday) if everyday else Replies.starter(backbone, seed), seed)
        gains = {
            name: [after - before for after, before in zip(values, found["as it comes"], strict=True)]
            for name, values in found.items()
        }
        medians.append({name: statistics.median(values) for name, values in gains.items()})
        said = ", ".join(f"{name} {value:+.3f}" for name, value in medians[-1].items())
        print(f"  median of {PEOPLE}: {said}; likes as it comes"
              f" {statistics.fmean(found['as it comes']):.3f}", flush=True)  # fmt: skip
    print(json.dumps(medians))
    return 0 if statistics.median(each["own"] for each in medians) >= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
