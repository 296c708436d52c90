"""What the reward model makes of 400 thumbs: `python -m tests.bench.reward`.

Replies of the starter's base to prompts, judged by people with a hidden taste (three axes, drawn at random
for each seed): 20 people, 20 thumbs each, one in ten not meant. Held out: how often a reply that it likes
has more reward than one that it does not, over all such pairs of other prompts. The taste itself is always
right, so this is the share of what the truth allows. Then three of ten people vote against the taste or at
random; the same votes also go to a model that knows nothing of raters. Promised: 0.90; 0.95 of that with the
hostile ones, and at most half of the error that the model without raters makes. And how well its probability
of a thumb up is calibrated: by how much it is off the share of such votes of an honest person, on average
over tenths of the scale (expected calibration error: Naeini, Cooper and Hauskrecht 2015). About 4 minutes.
"""

import argparse
import json
import random
import statistics
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from deploy.simulation.people import Preference, draw_preference
from schemas.settings import TrainerSettings
from trainer.model.backbone import Backbone
from trainer.model.rollouts import sample
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import Views
from trainer.reward.likelihood import LAPSE, Votes
from trainer.reward.scoring import measure
from trainer.round import BASE_PROMPTS, BASE_REPLIES
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts

SEEDS = tuple(range(925, 949))
PEOPLE, EACH = 20, 20
NOISE = 0.1
HOSTILE = 0.3  # half of them against the taste, half at random
HELD_OUT = 800


@dataclass(frozen=True, slots=True)
class Replies:
    texts: list[str]
    views: Views

    def part(self, start: int, end: int) -> "Replies":
        return Replies(self.texts[start:end], {name: view[start:end] for name, view in self.views.items()})


def replies(backbone: Backbone, settings: TrainerSettings, voted: int = PEOPLE * EACH) -> Replies:
    """One of the base's to each prompt, but BASE_REPLIES to each of the last
    BASE_PROMPTS; `voted` come before HELD_OUT."""
    asked = [each.prompt for each in prompts(voted + HELD_OUT + BASE_PROMPTS, seed=600)]
    ids = [backbone.render([{"role": "user", "content": prompt}]) for prompt in asked]
    generator = torch.Generator().manual_seed(600)
    single, several = ids[:-BASE_PROMPTS], ids[-BASE_PROMPTS:]
    with backbone.reference():
        found = sample(backbone, single, 1, settings.rl.max_tokens, generator)
        found += sample(backbone, several, BASE_REPLIES, settings.rl.max_tokens, generator)
    rows = [*single, *(prompt for prompt in several for _ in range(BASE_REPLIES))]
    token_ids = [rollout.token_ids for rollout in found]
    return Replies(
        [backbone.decode(tokens) for tokens in token_ids], measure(backbone, rows, token_ids).views
    )


def thumbs(taste: Preference, texts: list[str], hostile: bool, rng: random.Random) -> list[tuple[int, bool]]:
    """Who votes on each reply, and whether up."""
    bad = round(HOSTILE * PEOPLE) if hostile else 0
    found = []
    for number, text in enumerate(texts):
        person = number % PEOPLE
        up = taste.likes(text) != (rng.random() < NOISE)
        if person < bad:
            up = (not taste.likes(text)) if person % 2 else rng.random() < 0.5
        found.append((person, up))
    return found


def accuracy(reward_N: Tensor, liked: list[bool]) -> float:
    """Over all pairs of a liked reply and another."""
    good_N = torch.tensor(liked)
    gaps = reward_N[good_N].unsqueeze(1) - reward_N[~good_N].unsqueeze(0)
    return float((gaps > 0).float().mean() + 0.5 * (gaps == 0).float().mean())


def calibration_error(model: RewardModel, held_out: Replies, liked: list[bool]) -> float:
    """Expected, of the probability that an honest person's vote is up, slips included."""
    meant_N = model.logits(held_out.views).sigmoid().mean(1)
    said_N = (1 - LAPSE) * meant_N + LAPSE / 2
    up_N = torch.tensor(liked).float() * (1 - 2 * NOISE) + NOISE
    tenth_N = (said_N * 10).long()
    gaps = [abs(float((said_N - up_N)[tenth_N == tenth].sum())) for tenth in range(10)]
    return sum(gaps) / len(liked)


def learned(
    training: Replies, found: list[tuple[int, bool]], base: Replies, held_out: Replies, taste: Preference,
    settings: TrainerSettings, seed: int, raters: bool,
) -> tuple[float, float]:  # fmt: skip
    """Accuracy and calibration error on what was held out."""
    votes = Votes(PEOPLE if raters else 1)
    for number, (person, up) in enumerate(found):
        votes.thumb(person if raters else 0, number, up)
    generator = torch.Generator().manual_seed(seed)
    model = ensemble.fit(training.views, votes, base.views, BASE_REPLIES, settings.reward, generator)
    liked = [taste.likes(text) for text in held_out.texts]
    return accuracy(model.reward(held_out.views), liked), calibration_error(model, held_out, liked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    seeds = parser.parse_args().seeds
    settings = TrainerSettings()
    torch.set_num_threads(1)
    everything = replies(Backbone(MODEL_DIR, settings.rl), settings)
    count = PEOPLE * EACH
    training, held_out = everything.part(0, count), everything.part(count, count + HELD_OUT)
    base = everything.part(count + HELD_OUT, len(everything.texts))
    rows: dict[str, list[float]] = {"clean": [], "hostile": [], "hostile_without_raters": []}
    off: dict[str, list[float]] = {name: [] for name in rows}
    for seed in seeds:
        taste = draw_preference(seed)
        for name, values in rows.items():
            rng = random.Random(seed)
            found = thumbs(taste, training.texts, name != "clean", rng)
            right, error = learned(
                training, found, base, held_out, taste, settings, seed, name != "hostile_without_raters"
            )
            values.append(right)
            off[name].append(error)
        figures = "  ".join(f"{name} {values[-1]:.3f}" for name, values in rows.items())
        print(f"{seed}  {figures}  {taste}", flush=True)
    middle = {name: statistics.median(values) for name, values in rows.items()}
    for name, values in rows.items():
        print(
            f"{name.replace('_', ' '):24} median {middle[name]:.3f}  ({min(values):.3f} to {max(values):.3f})"
            f"  calibration error {statistics.median(off[name]):.3f}"
        )
    by_seed = list(zip(*rows.values(), strict=True))
    kept = [hostile / clean for clean, hostile, _ in by_seed]
    errors = [(1 - ours) / (1 - plain) for _, ours, plain in by_seed]
    ratio, error = statistics.median(kept), statistics.median(errors)
    print(f"hostile against clean {ratio:.3f}; error against a model without raters {error:.2f}")
    calibration = {f"{name}_calibration_error": values for name, values in off.items()}
    print(json.dumps({**rows, **calibration, "hostile_to_clean": kept, "error_ratio": errors}))
    return 0 if middle["clean"] >= 0.9 and ratio >= 0.95 and error <= 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
