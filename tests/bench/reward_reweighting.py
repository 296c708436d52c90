"""Reward reweighting evaluates a reward model without RL: the base's samples are weighted by exp(r/β).

    python -m tests.bench.reward_reweighting --seeds 871 872

The optimal policy for a reward r and a KL coefficient β is the base, each reply reweighted by exp(r/β). With
many samples of the base per prompt, the weights give this policy without a step of RL: ten rounds of votes on
it and refits take half a minute, and show the effect of the reward model alone. By β, on other prompts than
those of the votes: the true approval, the largest change of a style that nobody voted on, the KL in nats a
reply, and the effective sample size (replies per prompt; below 3 the figures mean little). Users vote by
thumbs and rankings; an edit is not a sample of the base.
"""

import argparse
import json
import random
import statistics
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from deploy.simulation.people import Person, draw_people
from schemas.settings import TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.reward import BASE_PROMPTS
from tests.bench.world_prompts import judgment, traffic
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward import ensemble
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score
from trainer.starter import MODEL_DIR
from trainer.starter.styles import AXES, styles
from trainer.starter.world import Prompt

PROMPTS, JUDGED, REPLIES = 64, 32, 128
ROUNDS, VOTES = 10, 100
REPLY_TOKENS = 90
THUMBS = 7 / 9  # share of thumbs; the others are rankings of two
VOTED_AT = 0.3  # β of the policy that users vote on
PENALTIES = (0.15, 0.3, 0.45)


@dataclass(frozen=True, slots=True)
class Pool:
    """N replies of the base, grouped by prompt, and which style axes hold for each."""

    texts: list[str]
    features: FeatureGroups
    styles_NA: Tensor

    @classmethod
    def of(
        cls, backbone: Backbone, settings: TrainerSettings, asked: list[Prompt], replies: int, seed: int
    ) -> "Pool":
        ids = [backbone.render([{"role": "user", "content": each.prompt}]) for each in asked]
        generator = torch.Generator().manual_seed(seed)
        token_ids: list[list[int]] = []
        with backbone.reference():
            for prompt in ids:
                found = sample(backbone, [prompt], SamplingSpec(replies, REPLY_TOKENS), generator)
                token_ids += [rollout.token_ids for rollout in found]
        rows = [prompt for prompt in ids for _ in range(replies)]
        texts = [backbone.decode(tokens) for tokens in token_ids]
        found_NA = torch.tensor([[styles(text)[axis] for axis in AXES] for text in texts]).float()
        return cls(texts, score(backbone, rows, token_ids).features, found_NA)


def reweighted(reward_N: Tensor, beta: float) -> Tensor:
    """Returns the optimal policy's weights of the samples, (P, K)."""
    return (reward_N.view(-1, REPLIES) / beta).softmax(1)


def vote(
    pool: Pool, policy_PK: Tensor, people: list[Person], seed: int, votes: Votes, rows: list[int]
) -> None:
    """Adds VOTES votes on samples of the policy; `rows` maps the replies in `votes` to rows of the pool."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    for prompt in torch.randint(PROMPTS, (VOTES,), generator=generator).tolist():
        pair = torch.multinomial(policy_PK[prompt], 2, generator=generator) + prompt * REPLIES
        rater = rng.randrange(len(people))
        texts = [pool.texts[row] for row in pair.tolist()]
        first = len(rows)
        if rng.random() < THUMBS:
            votes.thumb(rater, first, people[rater].thumb(texts[0], rng))
            rows.append(int(pair[0]))
        else:
            groups, acceptable = people[rater].ranking(texts, rng)
            votes.ranking(rater, [[first + each for each in group] for group in groups], first, acceptable)
            rows.extend(pair.tolist())


def run(
    seed: int, pool: Pool, judged: Pool, base: Pool, settings: TrainerSettings
) -> dict[float, list[float]]:
    """Returns by β, on the replies of `judged`: approval, largest change of a style, KL in nats a reply,
    effective sample size."""
    people = draw_people(seed, 20)
    preference = next(person for person in people if not person.contrarian).preference
    liked_N = torch.tensor([float(preference.likes(text)) for text in judged.texts])
    silent = [number for number, axis in enumerate(AXES) if axis not in dict(preference.wants)]
    base_features = BaseFeatures(base.features, BASE_SAMPLES)
    votes, rows = Votes(len(people)), list[int]()
    older_PK = newer_PK = torch.full((PROMPTS, REPLIES), 1 / REPLIES)
    for number in range(1, ROUNDS + 1):
        vote(pool, older_PK, people, 100 * seed + number, votes, rows)
        features = {name: group[rows] for name, group in pool.features.items()}
        generator = torch.Generator().manual_seed(100 * seed + number)
        model = ensemble.fit(features, votes, base_features, settings.reward, generator)
        older_PK, newer_PK = newer_PK, reweighted(model.reward(pool.features), VOTED_AT)
    reward_N = model.reward(judged.features)
    found = {}
    for beta in PENALTIES:
        policy_PK = reweighted(reward_N, beta)
        weights_N = policy_PK.flatten() / JUDGED
        moved_A = weights_N @ judged.styles_NA - judged.styles_NA.mean(0)
        kl = (policy_PK * (policy_PK * REPLIES).clamp_min(1e-12).log()).sum(1).mean()
        sample_size = (1 / policy_PK.square().sum(1)).mean()
        figures = (weights_N @ liked_N, moved_A[silent].abs().max(), kl, sample_size)
        found[beta] = [float(figure) for figure in figures]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(871, 881)))
    seeds = parser.parse_args().seeds
    settings = TrainerSettings()
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, settings.rl)
    sent, held_out = traffic(PROMPTS + BASE_PROMPTS, seed=4242), judgment(JUDGED, seed=4243)
    assert_disjoint(sent=[each.prompt for each in sent], judged=[each.prompt for each in held_out])
    pool = Pool.of(backbone, settings, sent[:PROMPTS], REPLIES, seed=4242)
    judged = Pool.of(backbone, settings, held_out, REPLIES, seed=4243)
    base = Pool.of(backbone, settings, sent[PROMPTS:], BASE_SAMPLES, seed=4244)
    rows = []
    for seed in seeds:
        rows.append(run(seed, pool, judged, base, settings))
        figures = (f"β {beta}: {row[0]:.2f} liked, {row[1]:.2f} moved" for beta, row in rows[-1].items())
        print(seed, *figures, sep="  ", flush=True)
    for beta in PENALTIES:
        middle = [statistics.median(each) for each in zip(*(row[beta] for row in rows), strict=True)]
        print(f"β {beta}: median {middle[0]:.3f} liked, {middle[1]:.3f} moved, KL {middle[2]:.2f}", end=", ")
        print(f"effective sample size {middle[3]:.1f}")
    print(json.dumps([{str(beta): found for beta, found in row.items()} for row in rows]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
