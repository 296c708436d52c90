"""This bench measures the off-policy estimate without RL: candidates are the base reweighted by its reward.

    python -m tests.bench.off_policy_reweighting

Simulated people with one preference for each seed give 400 thumbs on replies of the base. The reward model
of the votes on four fifths of the prompts makes the candidates: the base, each reply reweighted by
exp(t·reward), with four values of t. So the importance weights, and the truth (the mean probability of a
thumb up over all people and all replies), are known exactly. Each candidate is estimated from 64 samples of
its own and from the votes on the other fifth. 5 preferences are 20 candidates; target: the 90% interval
contains the truth in at least 16. 4 minutes on one core. `off_policy` does the same with candidates that RL
has trained.
"""

import argparse
import json
import random
import statistics
import sys

import torch
from torch import Tensor

from deploy.simulation.people import draw_people
from schemas.settings import TrainerSettings
from tests.bench.off_policy import up_probability
from tests.bench.reply_pool import Pool
from tests.bench.world_prompts import traffic
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples
from trainer.evaluation.off_policy import VotedReplies, direct_approval, estimate_approval
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.starter import MODEL_DIR

PROMPTS, REPLIES, BASE_PROMPTS = 50, 64, 96
VOTES_EACH, HELD_OUT, EVALUATED = 8, 10, 32
PEOPLE = 40
STRENGTHS = (0.25, 0.5, 1.0, 2.0)


def sampled(pool: Pool, policy_PK: Tensor, prompts: list[int], generator: torch.Generator) -> EvalSamples:
    """Returns samples of a policy to these prompts of the pool."""
    rows = [
        prompt * REPLIES + reply
        for prompt in prompts
        for reply in torch.multinomial(
            policy_PK[prompt], SAMPLES_PER_PROMPT, replacement=True, generator=generator
        ).tolist()
    ]
    features = {name: group[rows] for name, group in pool.features.items()}
    count = len(rows)
    return EvalSamples([[1]] * count, [True] * count, [0.0] * count, [0.0] * count, features)


def run(seed: int, pool: Pool, base: BaseFeatures) -> list[dict[str, float]]:
    """Returns the estimates of one preference's candidates, with the truth."""
    people, rng = draw_people(seed, PEOPLE), random.Random(f"off-policy {seed}")
    generator = torch.Generator().manual_seed(seed)
    likes = next(person for person in people if not person.contrarian).preference.likes
    up_N = torch.tensor([up_probability(people, likes(text)) for text in pool.texts])
    rows = [
        prompt * REPLIES + reply
        for prompt in range(PROMPTS)
        for reply in rng.sample(range(REPLIES), VOTES_EACH)
    ]
    cast = [(row, rng.randrange(PEOPLE)) for row in rows]
    thumbs = [(row, rater, people[rater].thumb(pool.texts[row], rng)) for row, rater in cast]
    training = [each for each in thumbs if each[0] >= HELD_OUT * REPLIES]
    held_out = [each for each in thumbs if each[0] < HELD_OUT * REPLIES]
    votes = Votes(PEOPLE)
    for number, (_, rater, up) in enumerate(training):
        votes.thumb(rater, number, up)
    trained = {name: group[[row for row, _, _ in training]] for name, group in pool.features.items()}
    model = ensemble.fit(trained, votes, base, TrainerSettings().reward, generator)
    reward_PK = model.reward(pool.features).view(PROMPTS, REPLIES)
    uniform_PK = torch.full((PROMPTS, REPLIES), 1 / REPLIES)
    live = sampled(pool, uniform_PK, list(range(EVALUATED)), generator)
    kept = [row for row, _, _ in held_out]
    found = []
    for strength in STRENGTHS:
        policy_PK = (strength * reward_PK).softmax(1)
        voted = VotedReplies(
            [people[rater].name for _, rater, _ in held_out],
            torch.tensor([float(up) for _, _, up in held_out]),
            {name: group[kept] for name, group in pool.features.items()},
            (REPLIES * policy_PK).flatten()[kept],
            torch.ones(len(kept)),
            torch.ones(len(kept)),
        )
        candidate = sampled(pool, policy_PK, list(range(EVALUATED)), generator)
        estimate = estimate_approval(model, list(range(PEOPLE)), voted, candidate, live)
        truth = float(policy_PK.flatten() @ up_N) / PROMPTS
        lower, upper = estimate.interval
        found.append(
            {
                "seed": float(seed), "strength": strength, "truth": truth,
                "estimate": estimate.candidate.value, "lower": lower, "upper": upper,
                "inside": float(lower <= truth <= upper), "coverage": estimate.coverage,
                "direct": direct_approval(model, list(range(PEOPLE)), candidate),
            }
        )  # fmt: skip
        print(
            f"{seed}, t {strength}: true {truth:.2f}, estimate {estimate.candidate.value:.2f} ({lower:.2f} to"
            f" {upper:.2f}), without votes {found[-1]['direct']:.2f}, coverage {estimate.coverage:.2f}"
            f"{'' if found[-1]['inside'] else '  outside'}",
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[3401, 3402, 3403, 3404, 3405])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    sent = [each.prompt for each in traffic(PROMPTS + BASE_PROMPTS, seed=3400)]
    pool = Pool.sampled(backbone, sent[:PROMPTS], REPLIES, 3400)
    base = BaseFeatures(Pool.sampled(backbone, sent[PROMPTS:], BASE_SAMPLES, 3401).features, BASE_SAMPLES)
    found = [each for seed in seeds for each in run(seed, pool, base)]
    inside = sum(each["inside"] for each in found)
    width = statistics.median(each["upper"] - each["lower"] for each in found)
    print(f"{inside:.0f} of {len(found)} intervals contain the truth; median width {width:.2f}")
    for name in ("estimate", "direct"):
        error = statistics.fmean(abs(each[name] - each["truth"]) for each in found)
        print(f"mean absolute error of the {name}: {error:.3f}")
    print(json.dumps(found))
    return 0 if inside >= 0.8 * len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
