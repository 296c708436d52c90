"""This bench asks what ten answers about pairs do for people who differ, with no training.

    python -m tests.bench.ten_clicks --seeds 1311 1312 1313

Each person wants certain values on two of three style axes, which the seed draws; the axes and values are
their own. Forty people have cast twenty votes each on replies of the starter's base (thumbs, three in ten of
them a comparison of two replies), to which the reward model is fitted once. Then twenty others answer ten
pairs, picked as serving picks them (`serving.questions`) from a pool of 24 prompts with four replies each;
their weights are serving's, too. A person compares two replies by how many of their wants each meets, and
errs in one of ten answers. The figure is how much more often a person likes the best of four replies to
unseen prompts by their own weights than a reply as it comes; `common` is the best of four by everybody's
mean, and `random` the same after ten pairs at random. Target: 15 points at the median of the twenty. About 3
minutes a seed on one core.
"""

import argparse
import json
import random
import statistics
import sys
from dataclasses import dataclass

import numpy as np
import torch

from deploy.simulation.people import Preference
from feedback.person_votes import PersonVote
from schemas import logs
from schemas.settings import TrainerSettings
from schemas.turns import Reply
from serving.person_weights import Judgments, PersonPosterior, Values, posterior, reward
from serving.question_pool import CHOICES, MAX_PROMPTS, Candidate
from serving.questions import QUESTIONS, pick
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.offline_learning import REPLY_TOKENS
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score
from trainer.starter import MODEL_DIR
from trainer.starter.styles import AXES

VOTERS, EACH, PAIRS, NOISE = 40, 20, 0.3, 0.1
PEOPLE, JUDGED, BASE_PROMPTS = 20, 100, 64


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a preference on two axes, who errs in NOISE of their answers."""

    preference: Preference

    def met(self, text: str) -> int:
        return sum(Preference((want,)).likes(text) for want in self.preference.wants)

    def likes(self, text: str, rng: random.Random) -> bool:
        return self.preference.likes(text) != (rng.random() < NOISE)

    def ranking(self, texts: list[str], rng: random.Random) -> list[list[int]]:
        """Returns the groups of two replies, the better first."""
        first, second = map(self.met, texts)
        if first == second:
            return [[0, 1]]
        better = 0 if (first > second) != (rng.random() < NOISE) else 1
        return [[better], [1 - better]]


def draw_people(seed: int, count: int, part: str) -> list[Person]:
    axes = random.Random(f"clicks {seed}").sample(AXES, 3)
    rng = random.Random(f"clicks {seed} {part}")
    return [
        Person(Preference(tuple((axis, rng.random() < 0.5) for axis in rng.sample(axes, 2))))
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Sampled:
    """`CHOICES` replies of the base to each of some prompts, in order."""

    prompts: list[str]
    texts: list[str]
    features: FeatureGroups

    @classmethod
    def of(cls, backbone: Backbone, prompts: list[str], replies: int, seed: int) -> "Sampled":
        ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in prompts]
        spec, generator = SamplingSpec(replies, REPLY_TOKENS), torch.Generator().manual_seed(seed)
        with backbone.reference():
            rollouts = sample(backbone, ids, spec, generator)
        tokens = [rollout.token_ids for rollout in rollouts]
        features = score(backbone, [ids[rollout.prompt] for rollout in rollouts], tokens).features
        return cls(prompts, [backbone.decode(each) for each in tokens], features)

    def values_NMC(self, model: RewardModel) -> Values:
        """Returns the (N, M, C) values of the taste model that the trainer would publish."""
        found = torch.stack([member.values(self.features) for member in model.members], 1)
        if model.people is not None:
            bias_M1 = torch.tensor([[member.bias] for member in model.members])
            found = torch.cat([found, found[..., :1] - bias_M1], 2)
        return found.double().numpy()

    def candidates(self, model: RewardModel) -> list[Candidate]:
        values_NMC = self.values_NMC(model)
        return [
            Candidate(
                prompt, [], [], {},
                [Reply(at, "p", 1.0, self.texts[CHOICES * number + at], [], [], "") for at in range(CHOICES)],
                values_NMC[CHOICES * number : CHOICES * (number + 1)],
            )
            for number, prompt in enumerate(self.prompts)
        ]  # fmt: skip


def fitted(backbone: Backbone, base: BaseFeatures, voted: Sampled, seed: int) -> RewardModel:
    """Fits the reward model to the votes of the voters."""
    voters, rng = draw_people(seed, VOTERS, "voters"), random.Random(f"votes {seed}")
    votes = Votes(VOTERS)
    for number in range(VOTERS * EACH):
        rater, at = number % VOTERS, 2 * number
        texts = voted.texts[at : at + 2]
        if rng.random() < PAIRS:
            groups = voters[rater].ranking(texts, rng)
            votes.ranking(rater, [[at + each for each in group] for group in groups], at)
        else:
            votes.thumb(rater, at, voters[rater].likes(texts[0], rng))
    generator = torch.Generator().manual_seed(seed)
    return ensemble.fit(voted.features, votes, base, TrainerSettings().reward, generator)


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


def run(backbone: Backbone, seed: int) -> dict[str, list[float]]:
    """Returns by way of choosing the share that each person likes."""
    sent = [each.prompt for each in world_prompts.traffic(VOTERS * EACH + BASE_PROMPTS + MAX_PROMPTS, seed)]
    asked = [each.prompt for each in world_prompts.judgment(JUDGED, 10_000 + seed)]
    assert_disjoint(sent=sent, judged=asked)
    start, end = VOTERS * EACH, VOTERS * EACH + BASE_PROMPTS
    base = BaseFeatures(Sampled.of(backbone, sent[start:end], BASE_SAMPLES, seed).features, BASE_SAMPLES)
    model = fitted(backbone, base, Sampled.of(backbone, sent[:start], 2, seed + 1), seed)
    print(f"seed {seed}: {model.describe_tastes()}", flush=True)
    if model.people is None:  # nothing is asked, and replies stay as they come
        return {name: [0.0] * PEOPLE for name in ("as it comes", "common", "random", "own")}
    pool = Sampled.of(backbone, sent[end:], CHOICES, seed + 2).candidates(model)
    judged = Sampled.of(backbone, asked, CHOICES, seed + 3)
    values_NMC, none = judged.values_NMC(model), np.zeros(1 + model.people.mean_UT.shape[1])
    scale = float(torch.stack([each.nuisance.ranking_scale for each in model.members]).mean())
    caution, rng = model.uncertainty_penalty, random.Random(f"answers {seed}")
    found: dict[str, list[float]] = {name: [] for name in ("as it comes", "common", "random", "own")}
    for person in draw_people(seed, PEOPLE, "people"):
        liked_PK = np.array([person.preference.likes(text) for text in judged.texts]).reshape(JUDGED, CHOICES)
        found["as it comes"].append(float(liked_PK.mean()))
        for name, weights_T in (
            ("common", none),
            ("random", _weights(answers(person, pool, scale, rng, chosen=False), none)),
            ("own", _weights(answers(person, pool, scale, rng, chosen=True), none)),
        ):
            best_P = reward(values_NMC, weights_T, caution).reshape(JUDGED, CHOICES).argmax(1)
            found[name].append(float(liked_PK[np.arange(JUDGED), best_P].mean()))
    return found


def _weights(known: PersonPosterior | None, none: Values) -> Values:
    return none if known is None else known.weights_T


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1311, 1312, 1313])
    args = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    medians = []
    for seed in args.seeds:
        found = run(backbone, seed)
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
