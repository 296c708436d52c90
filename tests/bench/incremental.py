"""This bench compares incremental updates of the reward model with full refits, in accuracy and time.

    python -m tests.bench.incremental

Accuracy: simulated people with one preference, drawn for each seed, vote by thumbs on replies of the
starter's base, one in ten random; then also with three of ten people hostile, and fewer votes of each. The
figure is the held-out pairwise accuracy, with older votes compacted on the way, less a full refit's. Target:
the median is at most one point below.

Time: a round's two reward models by the trainer's own code on a real database: read the vote summary, load
newer votes, fit both models, compact when it is time. The update takes 100 new votes, after 1,000 votes and
after 100,000, interleaved, until the latter has compacted again. Features of replies, which are computed once
for each new reply, are precomputed. Target: at most 1.5 times the time, on average. About 20 minutes.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch
from psycopg.types.json import Jsonb

from deploy.local.postgres import database
from deploy.simulation.people import draw_preference
from schemas.database import Pool, migrate, open_pool
from schemas.settings import RewardSettings, Settings, TrainerSettings
from tests.bench.reward import BASE_PROMPTS, HELD_OUT, NOISE, Replies, accuracy, replies
from trainer.data import examples, summary_store
from trainer.data.examples import Corpus, Example, Key
from trainer.data.feature_cache import FeatureCache
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.vote_summary import VoteSummary, to_compact
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import COMPONENTS, BaseFeatures, fit_projections
from trainer.starter import MODEL_DIR

VOTED = 4_000  # replies that are voted on, again and again
SEEDS = (611, 612, 613, 614, 615)
SIZES = (5_000, 10_000, 20_000)
CROWDS = {"clean": (20, 0.0), "hostile": (200, 0.3)}  # people, and the share of them that is hostile
FEW, MANY, NEW, UPDATES = 1_000, 100_000, 100, 20
FOLDS = TrainerSettings().gate.folds
START = datetime(2026, 1, 1, tzinfo=UTC)


def base_features(everything: Replies) -> BaseFeatures:
    """Returns the features of the base's replies on which the reward is standardised."""
    groups = {name: group[-BASE_SAMPLES * BASE_PROMPTS :] for name, group in everything.features.items()}
    return BaseFeatures(groups, BASE_SAMPLES)


class Precomputed(FeatureCache):
    """Precomputed features, of replies whose turn's id ends in their row."""

    def __init__(self, everything: Replies) -> None:
        self._everything = everything.features

    def features(self, keys: Sequence[Key]) -> FeatureGroups:
        rows = [int(turn.rpartition("-")[2]) for turn, _ in keys]
        return {name: group[rows] for name, group in self._everything.items()}


def thumbs(
    everything: Replies, name: str, seed: int, count: int, people: int, hostile: float
) -> list[Example]:
    """Returns thumbs a second apart, each on a random reply; `name` makes ids distinct between projects."""
    preference, rng = draw_preference(seed), random.Random(seed)
    liked = [preference.likes(text) for text in everything.texts[:VOTED]]
    found = []
    for number in range(count):
        person, reply = rng.randrange(people), rng.randrange(VOTED)
        up = liked[reply] != (rng.random() < NOISE)
        if person < hostile * people:
            up = (not liked[reply]) if person % 2 else rng.random() < 0.5
        turn, when = f"chatcmpl-{name}-{number}-{reply}", START + timedelta(seconds=number)
        value = {"value": "up" if up else "down"}
        found.append(
            Example(f"{name}-{number}", turn, "thumb", value, f"u{person}", ((turn, "0"),), when, False)
        )
    return found


def stream(
    votes: list[Example], cache: Precomputed, summary: VoteSummary, rows_folder: Path | None = None
) -> Iterator[tuple[int, VoteSummary, list[Example]]]:
    """Yields after every NEW votes: their count, the summary of older ones, and the newer ones. The rows of
    compacted votes are written to a folder."""
    compacted = 0
    for arrived in range(NEW, len(votes) + 1, NEW):
        window = votes[compacted:arrived]
        summary = summary.aged_to(window[-1].created_at)
        yield arrived, summary, window
        if events := to_compact([each.event_id for each in window]):
            generator = torch.Generator().manual_seed(arrived)
            summary, rows = summary.compact(Corpus(window, {}), events, cache.features, generator)
            if rows_folder is not None:
                rows.write(rows_folder)
            compacted += len(events)


def fitted(
    votes: list[Example],
    summary: VoteSummary | None,
    cache: Precomputed,
    base: BaseFeatures,
    reward: RewardSettings,
    seed: int,
) -> RewardModel:
    numbers, keys = Corpus(votes, {}).votes(votes, reward)
    older = summary.prior(range(FOLDS), examples.raters(votes)) if summary else None
    generator = torch.Generator().manual_seed(seed)
    return ensemble.fit(cache.features(keys), numbers, base, reward, generator, older)


Accuracies = dict[int, tuple[float, float]]
"""By number of votes: the accuracy with older votes compacted on the way, and of a full refit."""


def accuracies(everything: Replies, seed: int, people: int, hostile: float) -> Accuracies:
    reward, cache, base = RewardSettings(), Precomputed(everything), base_features(everything)
    held_out = everything.part(VOTED, VOTED + HELD_OUT)
    truth = [draw_preference(seed).likes(text) for text in held_out.texts]
    votes = thumbs(everything, "bench", seed, max(SIZES), people, hostile)
    found = {}
    for arrived, summary, window in stream(votes, cache, empty_summary(base, "")):
        if arrived in SIZES:
            models = [
                fitted(window, summary, cache, base, reward, arrived),
                fitted(votes[:arrived], None, cache, base, reward, arrived),
            ]
            one, full = (accuracy(model.reward(held_out.features), truth) for model in models)
            found[arrived] = (one, full)
    return found


def empty_summary(base: BaseFeatures, digest: str) -> VoteSummary:
    return VoteSummary(digest, TrainerSettings(), START, fit_projections(base, max(COMPONENTS)))


class Project:
    """A project's votes in the database, and its updates of the reward model."""

    def __init__(self, pool: Pool, name: str, everything: Replies, backbone: Backbone, folder: Path) -> None:
        self.pool, self.name, self.backbone = pool, name, backbone
        self.settings = TrainerSettings()
        self.cache, self.base = Precomputed(everything), base_features(everything)
        self.folder = folder / name
        self.folder.mkdir()
        with pool.connection() as connection:
            connection.execute("insert into projects (id) values (%s) on conflict do nothing", [name])
            connection.execute(
                "insert into keys (id, project, kind, hash) values (%s, %s, 'admin', %s)", [name, name, name]
            )

    def arrive(self, votes: list[Example]) -> None:
        columns = [
            self.name, list(range(10, 40)), [each.event_id for each in votes],
            [each.turn_id for each in votes], [Jsonb(each.value) for each in votes],
            [each.rater for each in votes], [each.created_at for each in votes],
        ]  # fmt: skip
        given = (
            "with vote as (select *, %s::text as project, %s::integer[] as tokens from"
            " unnest(%s::text[], %s::text[], %s::jsonb[], %s::text[], %s::timestamptz[])"
            " as given (id, turn, value, rater, created))"
        )
        with self.pool.connection() as connection:
            for insert in (
                "turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling,"
                " created_at) select turn, project, turn, rater, project, '[]', tokens, '{}', created",
                "replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
                " finish_reason) select turn, 0, project, 'p0', 1, '', tokens, '{}', 'stop'",
                "feedback (id, event_id, project, turn_id, choice, type, value, rater, slot, created_at)"
                " select id, id, project, turn, 0, 'thumb', value, rater, '0', created",
                "training_examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
                " conversation_id, created_at)"
                " select id, project, id, turn, 0, 'thumb', value, rater, turn, created",
            ):
                connection.execute(f"{given} insert into {insert} from vote".encode(), columns)

    def update(self, draw: int) -> float:
        """Fits a round's reward models; returns the seconds that it took."""
        begun = time.perf_counter()
        summary = VoteSummary.read(self.folder, self.backbone.digest, self.settings)
        if summary is not None:
            summary = summary_store.revise(summary, self.pool, self.name, self.folder)
        events = examples.active_events(self.pool, self.name)
        corpus = examples.load(self.pool, self.name, self.backbone, events)
        inputs = RoundInputs(draw=draw, parent="p0", votes=0, events=events, turns=[], positions={})
        data = RoundData(self.backbone, self.settings, inputs, corpus, {}, summary)
        model = data.fit_reward_model(self.base, self.cache)
        data.fit_reward_model(self.base, self.cache, held_out=True)
        if model is not None and (compacted := data.compact(self.cache, model)) is not None:
            summary, rows = compacted
            summary_store.save(summary, self.pool, self.name, self.folder, rows)
        return time.perf_counter() - begun


Times = tuple[list[float], list[float]]
"""Seconds of updates after FEW votes, always the same one, and of updates after MANY."""


def times(everything: Replies, backbone: Backbone, pool: Pool, folder: Path) -> Times:
    few, many = (Project(pool, name, everything, backbone, folder) for name in ("few", "many"))
    votes = thumbs(everything, "many", SEEDS[0], MANY + UPDATES * NEW, people=200, hostile=0.0)
    few.arrive(thumbs(everything, "few", SEEDS[0], FEW + NEW, people=200, hostile=0.0))
    for start in range(0, MANY, 10_000):
        many.arrive(votes[start : start + 10_000])
    older = empty_summary(many.base, backbone.digest)
    for arrived, summary, _ in stream(votes[:MANY], many.cache, older, many.folder):
        if arrived % 10_000 == 0:
            print(f"{arrived} votes, {len(summary.events)} compacted", flush=True)
    summary_store.save(summary, pool, many.name, many.folder)
    with pool.connection() as connection:
        connection.execute("analyze")
    of_few, of_many = [], []
    for number in range(UPDATES):
        start = MANY + number * NEW
        many.arrive(votes[start : start + NEW])
        of_few.append(few.update(number))
        of_many.append(many.update(number))
    return of_few, of_many


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    everything = replies(backbone, TrainerSettings(), VOTED)
    kept: dict[str, float] = {}
    for crowd, (people, hostile) in CROWDS.items():
        found = []
        for seed in seeds:
            found.append(accuracies(everything, seed, people, hostile))
            print(
                crowd,
                seed,
                {size: f"{one:.4f} / {full:.4f}" for size, (one, full) in found[-1].items()},
                flush=True,
            )
        for size in SIZES if found else ():
            points = sorted(100 * (one - full) for each in found for one, full in [each[size]])
            kept[f"{crowd}_{size}"] = statistics.median(points)
            print(
                f"{crowd}, {size} votes: median {kept[f'{crowd}_{size}']:+.2f} points"
                f" ({points[0]:+.2f} to {points[-1]:+.2f})",
                flush=True,
            )
    with tempfile.TemporaryDirectory(prefix="hearken-incremental-") as folder:
        settings = Settings(data_dir=Path(folder))
        with database(settings) as url, open_pool(url) as pool:
            migrate(url)
            of_few, of_many = times(everything, backbone, pool, Path(folder))
    ratio = statistics.mean(of_many) / statistics.mean(of_few)
    for name, seconds in (("few", of_few), ("many", of_many)):
        print(
            f"after {name}: mean {statistics.mean(seconds):.2f} s, median {statistics.median(seconds):.2f} s"
        )
    print(f"ratio {ratio:.2f}")
    print(json.dumps({**kept, "ratio": ratio}))
    return 0 if ratio <= 1.5 and all(points >= -1 for points in kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
