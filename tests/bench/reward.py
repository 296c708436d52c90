"""This bench measures the accuracy and calibration of the reward model after 400 thumbs.

    python -m tests.bench.reward

Simulated people with one preference (three style axes, drawn for each seed) vote on replies of the starter's
base: 20 people, 20 thumbs each, one in ten random. Accuracy is the share of held-out pairs (a liked reply,
another) that the reward orders correctly; the preference itself would score 1. Then three of ten people vote
against the preference or at random, and the same votes are also fitted without rater parameters. Targets:
0.90; 0.95 of that with hostile people; and at most half the error of the model without rater parameters. The
expected calibration error (Naeini, Cooper and Hauskrecht 2015) is of the probability of a thumb up by an
honest person, in ten bins. About 4 minutes. With `--auxiliary` another model's hidden states are features,
too.
"""

import argparse
import json
import random
import statistics
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from deploy.local.base_model import base_directory
from deploy.simulation.people import Preference, draw_preference
from schemas.settings import TrainerSettings
from tests.bench.disjoint import assert_disjoint
from tests.bench.world_prompts import judgment, traffic
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.model.auxiliary import AuxiliaryModel
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.likelihood import LAPSE_RATE, Votes
from trainer.reward.projection import BaseFeatures
from trainer.reward.scoring import score
from trainer.starter import MODEL_DIR

REPLY_TOKENS = 90
BASE_PROMPTS = 128
SEEDS = tuple(range(925, 949))
PEOPLE, EACH = 20, 20
NOISE = 0.1
HOSTILE = 0.3  # half of them vote against the preference, half at random
HELD_OUT = 800


@dataclass(frozen=True, slots=True)
class Replies:
    """N replies of the base."""

    texts: list[str]
    features: FeatureGroups

    def part(self, start: int, end: int) -> "Replies":
        return Replies(
            self.texts[start:end], {name: group[start:end] for name, group in self.features.items()}
        )


def replies(backbone: Backbone, settings: TrainerSettings, voted: int = PEOPLE * EACH) -> Replies:
    """Samples one reply of the base to each of `voted` and HELD_OUT prompts, and BASE_SAMPLES to each of
    BASE_PROMPTS more."""
    sent, held_out = traffic(voted + BASE_PROMPTS, seed=600), judgment(HELD_OUT, seed=600)
    assert_disjoint(sent=[each.prompt for each in sent], held_out=[each.prompt for each in held_out])
    asked = [each.prompt for each in (*sent[:voted], *held_out, *sent[voted:])]
    ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in asked]
    generator = torch.Generator().manual_seed(600)
    single, several = ids[:-BASE_PROMPTS], ids[-BASE_PROMPTS:]
    with backbone.reference():
        found = sample(backbone, single, SamplingSpec(1, REPLY_TOKENS), generator)
        found += sample(backbone, several, SamplingSpec(BASE_SAMPLES, REPLY_TOKENS), generator)
    rows = [*single, *(prompt for prompt in several for _ in range(BASE_SAMPLES))]
    token_ids = [rollout.token_ids for rollout in found]
    return Replies(
        [backbone.decode(tokens) for tokens in token_ids], score(backbone, rows, token_ids).features
    )


def thumbs(
    preference: Preference, texts: list[str], hostile: bool, rng: random.Random
) -> list[tuple[int, bool]]:
    """Returns for each reply the person who votes on it, and whether the thumb is up."""
    bad = round(HOSTILE * PEOPLE) if hostile else 0
    found = []
    for number, text in enumerate(texts):
        person = number % PEOPLE
        up = preference.likes(text) != (rng.random() < NOISE)
        if person < bad:
            up = (not preference.likes(text)) if person % 2 else rng.random() < 0.5
        found.append((person, up))
    return found


def accuracy(reward_N: Tensor, liked: list[bool]) -> float:
    """Returns the pairwise accuracy over all pairs of a liked reply and another."""
    good_N = torch.tensor(liked)
    gaps = reward_N[good_N].unsqueeze(1) - reward_N[~good_N].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())


def calibration_error(model: RewardModel, held_out: Replies, liked: list[bool]) -> float:
    """Returns the expected calibration error of the probability that an honest person's thumb is up, lapses
    included."""
    p_N = model.logits(held_out.features).sigmoid().mean(1)
    predicted_N = (1 - LAPSE_RATE) * p_N + LAPSE_RATE / 2
    up_N = torch.tensor(liked).float() * (1 - 2 * NOISE) + NOISE
    bin_N = (predicted_N * 10).long()
    gaps = [abs(float((predicted_N - up_N)[bin_N == each].sum())) for each in range(10)]
    return sum(gaps) / len(liked)


def fitted(
    training: Replies,
    found: list[tuple[int, bool]],
    base: BaseFeatures,
    settings: TrainerSettings,
    seed: int,
    raters: bool,
) -> RewardModel:
    """Fits the reward model to thumbs, with parameters for each rater or as of one rater."""
    votes = Votes(PEOPLE if raters else 1)
    for number, (person, up) in enumerate(found):
        votes.thumb(person if raters else 0, number, up)
    generator = torch.Generator().manual_seed(seed)
    return ensemble.fit(training.features, votes, base, settings.reward, generator)


def report(rows: dict[str, list[float]], errors: dict[str, list[float]]) -> bool:
    """Prints medians and the figures by seed; returns whether the targets are reached."""
    middle = {name: statistics.median(values) for name, values in rows.items()}
    for name, values in rows.items():
        print(
            f"{name.replace('_', ' '):24} median {middle[name]:.3f}  ({min(values):.3f} to {max(values):.3f})"
            f"  calibration error {statistics.median(errors[name]):.3f}"
        )
    by_seed = list(zip(*rows.values(), strict=True))
    kept = [hostile / clean for clean, hostile, _ in by_seed]
    error_ratios = [(1 - ours) / (1 - plain) for _, ours, plain in by_seed]
    ratio, error = statistics.median(kept), statistics.median(error_ratios)
    print(f"hostile relative to clean {ratio:.3f}; error relative to no rater parameters {error:.2f}")
    calibration = {f"{name}_calibration_error": values for name, values in errors.items()}
    print(json.dumps({**rows, **calibration, "hostile_to_clean": kept, "error_ratio": error_ratios}))
    return middle["clean"] >= 0.9 and ratio >= 0.95 and error <= 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--auxiliary", help="auxiliary model: `smollm2` or a directory")
    options = parser.parse_args()
    seeds = options.seeds
    settings = TrainerSettings()
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, settings.rl)
    if options.auxiliary:
        backbone.auxiliary = AuxiliaryModel(base_directory(options.auxiliary), backbone.device)
    everything = replies(backbone, settings)
    count = PEOPLE * EACH
    training, held_out = everything.part(0, count), everything.part(count, count + HELD_OUT)
    base = BaseFeatures(everything.part(count + HELD_OUT, len(everything.texts)).features, BASE_SAMPLES)
    rows: dict[str, list[float]] = {"clean": [], "hostile": [], "hostile_without_raters": []}
    errors: dict[str, list[float]] = {name: [] for name in rows}
    for seed in seeds:
        preference = draw_preference(seed)
        liked = [preference.likes(text) for text in held_out.texts]
        for name, values in rows.items():
            found = thumbs(preference, training.texts, name != "clean", random.Random(seed))
            model = fitted(training, found, base, settings, seed, name != "hostile_without_raters")
            values.append(accuracy(model.reward(held_out.features), liked))
            errors[name].append(calibration_error(model, held_out, liked))
        figures = "  ".join(f"{name} {values[-1]:.3f}" for name, values in rows.items())
        print(f"{seed}  {figures}  {preference}", flush=True)
    return 0 if report(rows, errors) else 1


if __name__ == "__main__":
    sys.exit(main())
