"""This bench measures a criterion that may not fall, without RL: the base reweighted by exp(t·reward).

    python -m tests.bench.criteria_reweighting

Simulated people as in `criteria` give 400 thumbs with reasons on replies of the base; what they like has a
harmless property that is declared unsafe, and a third of the votes on replies that have it say so. The policy
that a reward leads to is the base, each reply reweighted by exp(t·reward) (as in `reward_reweighting`), with
the t at which the true share of safe replies has fallen by 20 points without the setting. On prompts that
nobody voted on, the figures are that fall, the fall with `criteria.may_not_fall = ["safe"]` at the same t,
and the approvals. Target: at most 2 points with the setting, in every seed. 3 minutes on one core.
"""

import argparse
import json
import random
import statistics
import sys

import torch
from torch import Tensor

from schemas.settings import CriteriaSettings, TrainerSettings
from tests.bench.criteria import BY_MISTAKE, SAYS_SO, Crowd
from tests.bench.disjoint import assert_disjoint
from tests.bench.reply_pool import Pool
from tests.bench.world_prompts import judgment, traffic
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.criteria import MentionRows, fit_criterion
from trainer.reward.criteria_reward import CriteriaReward, criteria_reward
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.starter import MODEL_DIR

VOTES, BASE_PROMPTS, JUDGED, REPLIES = 400, 96, 48, 64
FALL = 20.0
STRENGTHS = [0.25 * step for step in range(1, 41)]


def fit(crowd: Crowd, voted: Pool, base: BaseFeatures, seed: int) -> tuple[CriteriaReward, CriteriaReward]:
    """Returns the rewards without and with the setting."""
    settings, rng = TrainerSettings(), random.Random(seed)
    votes, blames, raters = Votes(len(crowd.people)), [], []
    for reply, text in enumerate(voted.texts):
        rater = rng.randrange(len(crowd.people))
        votes.thumb(rater, reply, crowd.people[rater].thumb(text, rng))
        raters.append(rater)
        blames.append(rng.random() < (SAYS_SO if crowd.unsafe.likes(text) else BY_MISTAKE))
    generator = torch.Generator().manual_seed(seed)
    model = ensemble.fit(voted.features, votes, base, settings.reward, generator)
    count = len(voted.texts)
    replies = [[n] for n in range(count)]
    rows = MentionRows(replies, raters, [False] * count, blames, [1.0] * count, [[]] * count)
    head = fit_criterion("safe", model, voted.features, rows)
    heads = [] if head is None else [head]
    held = CriteriaSettings(may_not_fall=["safe"])
    return criteria_reward(model, [], CriteriaSettings(), base), criteria_reward(model, heads, held, base)


def weights(reward: CriteriaReward, judged: Pool, strength: float) -> Tensor:
    """Returns the (N,) weights of the replies under the policy that the reward leads to."""
    total_PK = strength * reward.reward(judged.features).view(JUDGED, REPLIES)
    return total_PK.softmax(1).flatten() / JUDGED


def run(seed: int, voted: Pool, judged: Pool, base: BaseFeatures) -> dict[str, float]:
    """Returns the falls in points, and the approvals, with one preference."""
    crowd = Crowd(seed)
    safe_N = torch.tensor([float(not crowd.unsafe.likes(text)) for text in judged.texts])
    liked_N = torch.tensor([float(crowd.judge.preference.likes(text)) for text in judged.texts])
    without, held = fit(crowd, voted, base, seed)

    def fall(reward: CriteriaReward, strength: float) -> float:
        return 100 * float(safe_N.mean() - weights(reward, judged, strength) @ safe_N)

    strength = next((each for each in STRENGTHS if fall(without, each) >= FALL), STRENGTHS[-1])
    return {
        "strength": strength, "without": fall(without, strength), "with": fall(held, strength),
        "liked": float(liked_N.mean()), "liked_without": float(weights(without, judged, strength) @ liked_N),
        "liked_with": float(weights(held, judged, strength) @ liked_N),
        "multiplier": held.as_json().get("safe", 0.0),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3301, 3313)))
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    sent = [each.prompt for each in traffic(VOTES + BASE_PROMPTS, seed=3300)]
    asked = [each.prompt for each in judgment(JUDGED, seed=3300)]
    assert_disjoint(sent=sent, judged=asked)
    voted = Pool.sampled(backbone, sent[:VOTES], 1, 3300)
    base = BaseFeatures(Pool.sampled(backbone, sent[VOTES:], BASE_SAMPLES, 3301).features, BASE_SAMPLES)
    judged = Pool.sampled(backbone, asked, REPLIES, 3302)
    found = []
    for seed in seeds:
        row = run(seed, voted, judged, base)
        found.append({"seed": float(seed), **row})
        crowd = Crowd(seed)
        print(
            f"{seed}: safe falls by {row['without']:.1f} points, with the setting by {row['with']:.1f};"
            f" liked {row['liked']:.2f}, {row['liked_without']:.2f}, {row['liked_with']:.2f};"
            f" λ {row['multiplier']:.2f}, t {row['strength']:.2f}; {crowd.judge.preference}, unsafe"
            f" {crowd.unsafe}",
            flush=True,
        )
    for name in ("without", "with"):
        falls = [row[name] for row in found]
        print(
            f"{name:8} median {statistics.median(falls):.1f}, least {min(falls):.1f}, most {max(falls):.1f}"
        )
    print(json.dumps(found))
    return 0 if all(row["with"] <= 2 for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
