"""This bench asks whether two groups with opposite tones are both pleased, by replies of their own.

    python -m tests.bench.groups_of_taste --seeds 1301 1302 1303

Twenty people vote on replies of the starter, as in `offline_learning`. All want the same value on one style
axis (the content); on another (the tone) twelve want one value and eight the opposite. A person likes a reply
if both hold. One run learns one taste for all, as if people did not differ; the other finds their tastes, its
policy learns everybody's mean, and each person's replies are the best of four by their own weights from the
last round. The figure is the share of replies to unseen prompts that a person likes, by group. `common` is
the best of four by everybody's mean on the same replies. Targets, in each seed: 15 points more for the
smaller group, no loss for the larger one. About 10 minutes a seed on one core.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from deploy.simulation.people import MAX_NOISE, Person, Preference
from schemas import logs
from schemas.settings import TrainerSettings
from tests.bench import world_prompts
from tests.bench.offline_learning import (
    REPLY_TOKENS,
    ROUND_VOTES,
    VoteHistory,
    check_prompts,
    simulate_votes,
    train_round,
)
from trainer.data import examples
from trainer.data.feature_cache import FeatureCache
from trainer.data.split import RoundData
from trainer.evaluation.knowledge import KnowledgeEval
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward.ensemble import RewardModel
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score
from trainer.starter import MODEL_DIR
from trainer.starter.styles import AXES

Reward = Callable[[Person, Tensor], Tensor]

PEOPLE, MINORITY = 20, 8
CHOICES = 4
JUDGED = 200


def draw_groups(seed: int) -> list[Person]:
    """Draws the axes and the people, the smaller group first."""
    rng = random.Random(f"groups {seed}")
    content, tone = rng.sample(AXES, 2)
    wanted, larger = rng.random() < 0.5, rng.random() < 0.5
    return [
        Person(
            name=f"person-{seed}-{number}",
            preference=Preference(((content, wanted), (tone, larger != (number < MINORITY)))),
            noise=rng.uniform(0, MAX_NOISE),
            leniency=0.0,
            contrarian=False,
        )
        for number in range(PEOPLE)
    ]


def trained(
    backbone: Backbone, people: list[Person], seed: int, rounds: int, *, one_taste: bool
) -> tuple[RoundData, FeatureCache]:
    """Trains the backbone's adapter on votes of the people; returns the last round's data."""
    settings = TrainerSettings()
    history, cache, questions = VoteHistory(), FeatureCache(backbone), KnowledgeEval(backbone, settings)
    older = newer = backbone.snapshot()
    for number in range(1, rounds + 1):
        backbone.restore(older)
        simulate_votes(backbone, history, people, ROUND_VOTES, 100 * seed + number)
        backbone.restore(newer)
        data = history.round_data(backbone, settings, 1000 * seed + number)
        data._directions = 0 if one_taste else None
        _, verdict = train_round(data, history, cache, questions)
        if not verdict.refused:
            older, newer = newer, backbone.snapshot()
        tastes = "one taste" if one_taste else "tastes"
        verdict_said = "; ".join(verdict.reasons) or "live"
        print(f"  {tastes}, {number * ROUND_VOTES} votes: {verdict_said}", flush=True)
    return data, cache


def judged(
    backbone: Backbone, people: list[Person], seed: int, reward: Reward | None = None,
    model: RewardModel | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Returns for each way to choose among four replies to each unseen prompt the share that each person
    likes; without a model only that of all replies."""
    asked = [each.prompt for each in world_prompts.judgment(JUDGED, 10_000 + seed)]
    ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in asked]
    rollouts = sample(backbone, ids, SamplingSpec(CHOICES, REPLY_TOKENS), torch.Generator().manual_seed(seed))
    texts = [backbone.decode(rollout.token_ids) for rollout in rollouts]
    liked = [
        torch.tensor([person.preference.likes(text) for text in texts]).view(JUDGED, CHOICES).float()
        for person in people
    ]
    found = {"policy": [float(each.mean()) for each in liked]}
    if model is not None and reward is not None:
        rows = [ids[number // CHOICES] for number in range(len(rollouts))]
        values_NC = model.values(score(backbone, rows, [each.token_ids for each in rollouts]).features)
        found["common"] = [_best(each, values_NC[:, 0]) for each in liked]
        own = [reward(person, values_NC) for person in people]
        found["own"] = [_best(each, mine_N) for each, mine_N in zip(liked, own, strict=True)]
    return found


def _best(liked_PK: Tensor, reward_N: Tensor) -> float:
    """Returns the share of prompts whose best reply by the reward is liked."""
    best_P1 = reward_N.view(liked_PK.shape).argmax(1, keepdim=True)
    return float(liked_PK.gather(1, best_P1).mean())


def last_model(data: RoundData, cache: FeatureCache) -> RewardModel:
    """Fits the last round's reward model again."""
    backbone, prompts = data.backbone, data.train_prompts[: data.rl.base_prompts]
    with backbone.reference():
        rollouts = sample(backbone, prompts, SamplingSpec(4, REPLY_TOKENS), data.generator("base"))
    rows = [prompts[rollout.prompt] for rollout in rollouts]
    features = score(backbone, rows, [rollout.token_ids for rollout in rollouts]).features
    model = data.fit_reward_model(BaseFeatures(features, 4), cache)
    assert model is not None
    return model


def run(seed: int, rounds: int) -> dict[str, float]:
    """Returns the shares liked by group."""
    check_prompts(seed, [100 * seed + number for number in range(1, rounds + 1)])
    people = draw_groups(seed)
    print(f"seed {seed}: {people[0].preference} against {people[-1].preference}", flush=True)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    start = backbone.snapshot()
    base = judged(backbone, people, seed)["policy"]
    trained(backbone, people, seed, rounds, one_taste=True)
    one = judged(backbone, people, seed)["policy"]
    backbone.restore(start)
    data, cache = trained(backbone, people, seed, rounds, one_taste=False)
    model = last_model(data, cache)
    raters = examples.raters(data.training)
    print(f"  {model.describe_tastes()}", flush=True)

    def own(person: Person, values_NC: Tensor) -> Tensor:
        if model.people is None or person.name not in raters:
            return values_NC[:, 0]
        weights_T = model.people.mean_UT[raters.index(person.name)].float()
        return values_NC[:, 0] + values_NC[:, 1:] @ weights_T

    found = {"base": base, "one": one}
    found |= {f"tastes_{name}": each for name, each in judged(backbone, people, seed, own, model).items()}
    return {
        f"{name}_{group}": statistics.fmean(values[part])
        for name, values in found.items()
        for group, part in (("smaller", slice(None, MINORITY)), ("larger", slice(MINORITY, None)))
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1301, 1302, 1303])
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    logs.configure("warning")
    torch.set_num_threads(1)
    rows = []
    for seed in args.seeds:
        rows.append(run(seed, args.rounds))
        print(f"  {json.dumps({name: round(value, 3) for name, value in rows[-1].items()})}", flush=True)
    gains = [row["tastes_own_smaller"] - row["one_smaller"] for row in rows]
    losses = [row["tastes_own_larger"] - row["one_larger"] for row in rows]
    print(f"smaller group {[round(gain, 3) for gain in gains]}, larger {[round(loss, 3) for loss in losses]}")
    print(json.dumps(rows))
    return 0 if min(gains) >= 0.15 and min(losses) >= 0 else 1


if __name__ == "__main__":
    sys.exit(main())
