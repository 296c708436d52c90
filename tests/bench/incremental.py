"""What an update of the reward model costs, and whether it agrees with a full refit:
`python -m tests.bench.incremental`. About 20 minutes.

Accuracy: thumbs of people with a hidden taste, drawn at random for each seed, on replies of the starter's
base, one in ten not meant; then with three of ten people against the taste or at random, and fewer votes of
each. Held-out pairwise accuracy after so many votes, folded on the way, less that of a model fitted to all of
them. Promised: the median is at most one point below.

Time: a trainer's own code on a real database, up to the two models of a round: read what is left of older
votes, load the newer ones, fit members and judges, fold when it is time. After 1,000 votes with 100 new ones,
and after 100,000 with 100 new ones each time until it has folded again, interleaved; views of replies, which
are computed once for each new reply, are at hand. Promised: at most 1.5 times the time, on average, folding
included.
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
from tests.bench.reward import HELD_OUT, NOISE, Replies, accuracy, replies
from trainer.data import examples
from trainer.data.examples import Corpus, Example, Key
from trainer.data.round_inputs import Inputs
from trainer.data.vote_summary import Past, made_for, oldest
from trainer.model.backbone import Backbone
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import Views
from trainer.reward.projection import DIRECTIONS, lenses
from trainer.round import BASE_PROMPTS, BASE_REPLIES, Round, Seen
from trainer.starter import MODEL_DIR

VOTED = 4_000  # replies that are voted on, again and again
SEEDS = (611, 612, 613, 614, 615)
SIZES = (5_000, 10_000, 20_000)
CROWDS = {"clean": (20, 0.0), "hostile": (200, 0.3)}  # people, and the share of them that is hostile
FEW, MANY, NEW, UPDATES = 1_000, 100_000, 100, 20
FOLDS = TrainerSettings().gate.folds
START = datetime(2026, 1, 1, tzinfo=UTC)


def of_base(everything: Replies) -> Views:
    """Of the base's replies that set the scale."""
    return {name: view[-BASE_REPLIES * BASE_PROMPTS :] for name, view in everything.views.items()}


class AtHand(Seen):
    """Views that are there already, of replies named by turns that end in their number."""

    def __init__(self, everything: Replies) -> None:
        self._everything = everything.views

    def of(self, keys: Sequence[Key]) -> Views:
        rows = [int(turn.rpartition("-")[2]) for turn, _ in keys]
        return {name: view[rows] for name, view in self._everything.items()}


def thumbs(
    everything: Replies, name: str, seed: int, count: int, people: int, hostile: float
) -> list[Example]:
    """A second apart, each on a reply at random; `name` tells votes of one project from those of another."""
    taste, rng = draw_preference(seed), random.Random(seed)
    liked = [taste.likes(text) for text in everything.texts[:VOTED]]
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


def as_they_come(
    votes: list[Example], seen: AtHand, past: Past, reward: RewardSettings
) -> Iterator[tuple[int, Past, list[Example]]]:
    """After every NEW votes: how many there are, what is left of older ones, and the newer ones."""
    folded = 0
    for arrived in range(NEW, len(votes) + 1, NEW):
        window = votes[folded:arrived]
        past = past.on(window[-1].created_at, reward)
        yield arrived, past, window
        if events := oldest([each.event_id for each in window]):
            generator = torch.Generator().manual_seed(arrived)
            past = past.fold(Corpus(window, {}), events, seen.of, reward, generator)
            folded += len(events)


def fitted(
    votes: list[Example], past: Past | None, seen: AtHand, base: Views, reward: RewardSettings, seed: int
) -> RewardModel:
    numbers, keys = Corpus(votes, {}).votes(votes, reward)
    older = past.recall(range(FOLDS), examples.raters(votes)) if past else None
    generator = torch.Generator().manual_seed(seed)
    return ensemble.fit(seen.of(keys), numbers, base, BASE_REPLIES, reward, generator, older)


Accuracies = dict[int, tuple[float, float]]
"""By number of votes: when older ones were folded on the way, and of a full refit."""


def accuracies(everything: Replies, seed: int, people: int, hostile: float) -> Accuracies:
    reward, seen, base = RewardSettings(), AtHand(everything), of_base(everything)
    held_out = everything.part(VOTED, VOTED + HELD_OUT)
    truth = [draw_preference(seed).likes(text) for text in held_out.texts]
    votes = thumbs(everything, "bench", seed, max(SIZES), people, hostile)
    found = {}
    for arrived, past, window in as_they_come(votes, seen, nothing(base, ""), reward):
        if arrived in SIZES:
            models = [
                fitted(window, past, seen, base, reward, arrived),
                fitted(votes[:arrived], None, seen, base, reward, arrived),
            ]
            one, full = (accuracy(model.reward(held_out.views), truth) for model in models)
            found[arrived] = (one, full)
    return found


def nothing(base: Views, made: str) -> Past:
    return Past.none(
        made, START, lenses(base, BASE_REPLIES, max(DIRECTIONS)), FOLDS, RewardSettings().members
    )


class Project:
    """The trainer's side of a project, as its votes come."""

    def __init__(self, pool: Pool, name: str, everything: Replies, backbone: Backbone, folder: Path) -> None:
        self.pool, self.name, self.backbone = pool, name, backbone
        self.settings = TrainerSettings()
        self.seen, self.base = AtHand(everything), of_base(everything)
        self.path = folder / f"{name}.safetensors"
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
                "examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
                " conversation_id, created_at)"
                " select id, project, id, turn, 0, 'thumb', value, rater, turn, created",
            ):
                connection.execute(f"{given} insert into {insert} from vote".encode(), columns)

    def update(self, draw: int) -> float:
        """Seconds that a round needs for its reward models."""
        begun = time.perf_counter()
        past = Past.read(self.path, made_for(self.backbone.digest, self.settings))
        if past is not None and not past.stands(self.pool, self.name):
            raise RuntimeError("the past does not stand")
        events = examples.standing(self.pool, self.name)
        corpus = examples.load(self.pool, self.name, self.backbone, events)
        inputs = Inputs(draw=draw, parent="p0", votes=0, events=events, turns=[], positions={})
        work = Round(self.backbone, self.settings, inputs, corpus, {}, past)
        model = work.fit(self.base, self.seen)
        work.fit(self.base, self.seen, held_out=True)
        if model is not None and (folded := work.fold(self.seen, model)) is not None:
            folded.keep(self.pool, self.name, self.path)
        return time.perf_counter() - begun


Times = tuple[list[float], list[float]]
"""Seconds of updates after FEW votes, always the same one, and of those after MANY."""


def times(everything: Replies, backbone: Backbone, pool: Pool, folder: Path) -> Times:
    few, many = (Project(pool, name, everything, backbone, folder) for name in ("few", "many"))
    votes = thumbs(everything, "many", SEEDS[0], MANY + UPDATES * NEW, people=200, hostile=0.0)
    few.arrive(thumbs(everything, "few", SEEDS[0], FEW + NEW, people=200, hostile=0.0))
    for start in range(0, MANY, 10_000):
        many.arrive(votes[start : start + 10_000])
    older = nothing(many.base, made_for(backbone.digest, many.settings))
    for arrived, past, _ in as_they_come(votes[:MANY], many.seen, older, many.settings.reward):
        if arrived % 10_000 == 0:
            print(f"{arrived} votes, {len(past.events)} folded", flush=True)
    past.keep(pool, many.name, many.path)
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
