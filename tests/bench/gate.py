"""This bench measures how often the gate is wrong about candidates worse than the live policy or equal.

    python -m tests.bench.gate

Simulated people with one preference (drawn for each seed) vote on replies of the starter's base. The "live
policy" and the "candidate" are replies of the base to other prompts, chosen by the true preference: the
candidate is liked less by 20, 40 or 100 points, equally (A/A), or more by 40. A flattering candidate takes,
of the replies with the approval that it must have, those that the reward model of the training votes likes
best, as a policy that exploits this model would. Everything else is the trainer's own: folds, reward models,
vetoes.
Targets at 40, 100, 200 and 400 votes: wrongly live for all at most 5%, wrongly refused (A/A) at most 10%.
About 10 minutes for 40 seeds on one core.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from deploy.simulation.people import Person, draw_people
from schemas.settings import TrainerSettings
from tests.bench.reward import BASE_PROMPTS, REPLY_TOKENS
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.prompt_groups import PromptGroup
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.evaluation.eval_samples import SAMPLES_PER_PROMPT, EvalSamples, sample_eval
from trainer.evaluation.evidence import unseen_evidence
from trainer.evaluation.gate import GateModels, GateSamples, evaluate
from trainer.evaluation.knowledge import KnowledgeAccuracy
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures
from trainer.starter import MODEL_DIR
from trainer.starter.world import prompts

VOTES = (40, 100, 200, 400)
GAINS = (40, 0, -20, -40, -100)
"""Points of approval by which the candidate differs from the live policy."""

EVAL_PROMPTS, EVAL_REPLIES = 64, 12
"""Prompts from whose replies live policy and candidate are chosen, and replies to each."""

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pool:
    """Replies of the base with their texts."""

    asked: list[list[int]]
    samples: EvalSamples
    texts: list[str]

    @classmethod
    def draw(cls, backbone: Backbone, asked: list[list[int]], replies: int, seed: int) -> "Pool":
        spec = SamplingSpec(replies, REPLY_TOKENS)
        generator = torch.Generator().manual_seed(seed)
        samples = sample_eval(backbone, asked, spec, generator, base=True)
        return cls(asked, samples, [backbone.decode(reply) for reply in samples.token_ids])

    def chosen(self, rows: Sequence[int]) -> EvalSamples:
        """Returns these replies as the samples of a policy."""
        all_of = self.samples
        return EvalSamples(
            [all_of.token_ids[row] for row in rows], [all_of.ended[row] for row in rows],
            [all_of.kl_N[row] for row in rows], [all_of.entropy_N[row] for row in rows],
            {name: group[list(rows)] for name, group in all_of.features.items()}, SAMPLES_PER_PROMPT,
        )  # fmt: skip


class PoolFeatures(FeatureCache):
    """The features of voted replies, which the pool has already."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def features(self, keys: list[Key]) -> FeatureGroups:
        rows = [int(turn[1:]) for turn, _ in keys]
        return {name: group[rows] for name, group in self._pool.samples.features.items()}


def voted(
    backbone: Backbone, settings: TrainerSettings, pool: Pool, people: Sequence[Person], votes: int, seed: int
) -> RoundData:
    """Returns a round of `votes` thumbs, each on the reply to another prompt."""
    rng = random.Random(f"gate {seed} {votes}")
    rows = rng.sample(range(len(pool.texts)), votes)
    examples, replies, groups = [], {}, {}
    for row in rows:
        turn, person = f"t{row}", people[rng.randrange(len(people))]
        key, groups[turn] = (turn, "0"), PromptGroup(rng.getrandbits(60), common=False)
        value = {"value": "up" if person.thumb(pool.texts[row], rng) else "down"}
        replies[key] = Reply(pool.asked[row], pool.samples.token_ids[row])
        examples.append(
            Example(f"e{row}", turn, "thumb", value, person.name, (key,), NOW, False, groups[turn])
        )
    inputs = RoundInputs(draw=seed, parent="p0", votes=votes, events=[], turns=[], positions={})
    prompts_of = {f"t{row}": pool.asked[row] for row in rows}
    return RoundData(backbone, settings, inputs, Corpus(examples, replies, groups=groups), prompts_of)


def policies(
    pool: Pool, person: Person, gain: int, model: RewardModel, *, flattering: bool, rng: random.Random
) -> tuple[list[int], list[int]]:
    """Returns the replies of a live policy and of a candidate, SAMPLES_PER_PROMPT to each prompt that has
    liked and disliked ones."""
    rewards_N = model.reward(pool.samples.features).tolist()
    live, candidate = [], []
    limit = TrainerSettings().gate.eval_prompts
    for start in range(0, len(pool.texts), EVAL_REPLIES):
        rows = range(start, start + EVAL_REPLIES)
        by_liking = {
            liked: [row for row in rows if person.preference.likes(pool.texts[row]) is liked]
            for liked in (True, False)
        }
        if not all(by_liking.values()) or len(live) == limit * SAMPLES_PER_PROMPT:
            continue
        for _ in range(SAMPLES_PER_PROMPT):
            live.append(rng.choice(by_liking[rng.random() < 0.5 - gain / 200]))
            found = by_liking[rng.random() < 0.5 + gain / 200]
            candidate.append(max(found, key=rewards_N.__getitem__) if flattering else rng.choice(found))
    return live, candidate


def run(seed: int, backbone: Backbone, pools: tuple[Pool, Pool, Pool]) -> list[tuple[int, str, str]]:
    """Returns (votes, candidate, outcome) of all verdicts with one preference."""
    train, evaluated, base = pools
    settings = TrainerSettings()
    people = draw_people(seed, 20)
    judge = next(person for person in people if not person.contrarian)
    base_features = BaseFeatures(base.samples.features, BASE_SAMPLES)
    found = []
    for votes in VOTES:
        data = voted(backbone, settings, train, people, votes, seed)
        if data.skip_reason():
            continue
        cache = PoolFeatures(train)
        trained = data.fit_reward_model(base_features, cache)
        assert trained is not None
        models = GateModels(
            trained,
            data.fit_reward_model(base_features, cache, held_out=True),
            unseen_evidence(data, base_features, cache),
        )
        for gain in GAINS:
            for flattering in (False, True):
                rng = random.Random(f"policies {seed} {votes} {gain} {flattering}")
                live, candidate = policies(evaluated, judge, gain, trained, flattering=flattering, rng=rng)
                if len(live) < 8 * SAMPLES_PER_PROMPT:
                    continue
                samples = GateSamples(evaluated.chosen(candidate), evaluated.chosen(live), base.samples)
                verdict = evaluate(samples, models, KnowledgeAccuracy([], []), settings)
                kind = f"{f'{gain:+}' if gain else 'A/A'}{' flattering' if flattering else ''}"
                found.append((votes, kind, verdict.outcome))
                if kind == "A/A" and verdict.reasons:
                    print(f"  seed {seed}, {votes} votes, A/A refused: {verdict.reasons}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=int, nargs=2, default=(2100, 2140), help="first, and one after the last"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    asked = [
        backbone.render([{"role": "user", "content": each.prompt}])
        for each in prompts(max(VOTES) + EVAL_PROMPTS + BASE_PROMPTS, seed=2100)
    ]
    parts = asked[: max(VOTES)], asked[max(VOTES) : -BASE_PROMPTS], asked[-BASE_PROMPTS:]
    counts = (1, EVAL_REPLIES, BASE_SAMPLES)
    train, evaluated, base = (
        Pool.draw(backbone, part, count, 2100 + count) for part, count in zip(parts, counts, strict=True)
    )
    found = [
        verdict
        for seed in range(*arguments.seeds)
        for verdict in run(seed, backbone, (train, evaluated, base))
    ]
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))
    print(f"\n{'candidate':>16} {'votes':>6} {'verdicts':>9} {'live':>7} {'canary':>7} {'refused':>8}")
    wrong_live, wrong_refused = [], []
    for kind in kinds:
        for votes in VOTES:
            outcomes = Counter(outcome for number, name, outcome in found if (number, name) == (votes, kind))
            live, unknown, refused = (
                outcomes[name] / max(1, outcomes.total()) for name in ("passed", "unknown", "refused")
            )
            print(f"{kind:>16} {votes:>6} {outcomes.total():>9} {live:>7.1%} {unknown:>7.1%} {refused:>8.1%}")
            if kind[0] != "+":
                wrong_live.append(live)
            if kind == "A/A":
                wrong_refused.append(refused)
    figures = {"wrongly_live": max(wrong_live), "wrongly_refused": max(wrong_refused)}
    print(json.dumps(figures))
    return 0 if figures["wrongly_live"] <= 0.05 and figures["wrongly_refused"] <= 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())
