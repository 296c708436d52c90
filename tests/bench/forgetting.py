"""This bench measures what one retraction, or one expired week, costs the next round at 100,000 votes.

    python -m tests.bench.forgetting

A project has 100,000 thumbs of 2,000 people in 20 weeks, all but the newest 2,100 compacted, on a real
database, with synthetic features of the starter's widths. Each update is a round's part of learning from
votes by the trainer's own code: read the vote summary and bring it in step with the database, load newer
votes, fit both reward models. Updates after 100 new votes alternate with updates before which also one old
vote was retracted, one person was erased, or the oldest week expired. Targets: at most 1.5 times the CPU
time in the median after a retraction and after an expired week, and no other vote forgotten; an erased person
is reported. About 10 minutes.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import torch

from deploy.local.postgres import database
from schemas.database import Pool, migrate, open_pool
from schemas.settings import Settings, TrainerSettings
from tests.bench.incremental import START, VOTED, Precomputed, Project, empty_summary
from tests.bench.reward import BASE_PROMPTS, Replies
from trainer.data import examples, summary_store
from trainer.data.examples import Corpus, Example
from trainer.data.hyperparameters import BASE_SAMPLES
from trainer.data.vote_summary import VoteSummary
from trainer.model.backbone import Backbone
from trainer.reward.features import LENGTH_THRESHOLDS, MAX_TOKENS
from trainer.starter import MODEL_DIR

VOTES, RECENT, WEEKS, PEOPLE, NEW = 100_000, 2_100, 20, 2_000, 100
AT_ONCE = 10_000
"""Votes that the bench compacts at a time to get there."""

TARGET = 1.5


def synthetic(seed: int) -> tuple[Replies, list[bool]]:
    """Returns replies with random features of the starter's widths, the last ones the base's, and which are
    liked."""
    generator = torch.Generator().manual_seed(seed)
    count = VOTED + BASE_PROMPTS * BASE_SAMPLES
    hidden_NH = torch.randn(count, 40, generator=generator)

    def view(width: int) -> torch.Tensor:
        mixed = hidden_NH @ torch.randn(40, width, generator=generator) / 40**0.5
        return (mixed + 0.5 * torch.randn(count, width, generator=generator)).half()

    features = {name: view(5 * 256) for name in ("mean", "peak", "last")}
    features["length"] = torch.rand(count, len(LENGTH_THRESHOLDS), generator=generator).half()
    features["tokens"] = torch.randint(0, 2_000, (count, MAX_TOKENS), generator=generator).int()
    return Replies([""] * count, features), (hidden_NH[:, 0] > 0).tolist()


def thumbs(liked: list[bool], count: int, seed: int) -> list[Example]:
    """Returns thumbs at equal times, WEEKS weeks to each VOTES, one in ten random."""
    rng, step = random.Random(seed), timedelta(weeks=WEEKS) / VOTES
    found = []
    for number in range(count):
        reply, person = rng.randrange(VOTED), rng.randrange(PEOPLE)
        up = liked[reply] != (rng.random() < 0.1)
        when = START + number * step
        turn = f"chatcmpl-{number}-{reply}"
        value = {"value": "up" if up else "down"}
        found.append(Example(f"e{number}", turn, "thumb", value, f"u{person}", ((turn, "0"),), when, False))
    return found


def prepare(project: Project, votes: list[Example]) -> None:
    """Puts the votes into the database and compacts all but the newest RECENT."""
    summary = empty_summary(project.base, project.backbone.digest)
    for start in range(0, VOTES, AT_ONCE):
        window = votes[start : start + AT_ONCE]
        project.arrive(window)
        chosen = [each.event_id for each in window if each.event_id not in project.recent]
        corpus, generator = Corpus(window, {}), torch.Generator().manual_seed(start)
        summary, rows = summary.aged_to(corpus.newest).compact(
            corpus, chosen, project.cache.features, generator
        )
        rows.write(project.folder)
        print(f"{start + len(window)} votes, {len(summary.weeks)} weeks", flush=True)
    summary_store.save(summary, project.pool, project.name, project.folder)
    with project.pool.connection() as connection:
        connection.execute("analyze")


class Forgetting(Project):
    """A project whose compacted votes are retracted, erased or expire."""

    recent: frozenset[str] = frozenset()

    def summary(self) -> VoteSummary:
        found = VoteSummary.read(self.folder, self.backbone.digest, self.settings)
        assert found is not None
        return found

    def retract(self, rng: random.Random) -> set[str]:
        event = rng.choice(self.summary().events)
        self._execute("update training_examples set superseded_by = 'x' where event_id = any(%s)", [event])
        return {event}

    def erase(self, rng: random.Random) -> set[str]:
        events = self.summary().events
        with self.pool.connection() as connection:
            rows = connection.execute(
                "select event_id from training_examples where event_id = any(%s) and rater = %s",
                [events, f"u{rng.randrange(PEOPLE)}"],
            ).fetchall()
        return self._delete({row["event_id"] for row in rows})

    def expire(self, rng: random.Random) -> set[str]:
        return self._delete(set(min(self.summary().weeks, key=lambda week: week.week).events))

    def _delete(self, events: set[str]) -> set[str]:
        self._execute(
            "delete from turns where id in (select turn_id from training_examples where event_id = any(%s))",
            list(events),
        )
        return events

    def _execute(self, statement: str, events: list[str]) -> None:
        with self.pool.connection() as connection:
            connection.execute(statement.encode(), [events])


def measure(project: Forgetting, new: list[Example], repeats: int) -> dict[str, list[float]]:
    """Returns the CPU seconds of plain updates and of those after something was forgotten."""
    rng = random.Random(1)
    seconds: dict[str, list[float]] = {"plain": [], "retracted": [], "erased": [], "expired": []}
    ways = {"retracted": project.retract, "erased": project.erase, "expired": project.expire}
    for number in range(repeats * 6):
        project.arrive(new[number * NEW : (number + 1) * NEW])
        way = list(ways)[number // 2 % 3] if number % 2 else "plain"
        before = set(project.summary().events)
        gone = ways[way](rng) if way != "plain" else set()
        begun = time.process_time()
        wall = project.update(number)
        seconds[way].append(time.process_time() - begun)
        kept = set(project.summary().events)
        waiting = set(examples.active_events(project.pool, project.name))
        lost = before - kept - waiting - gone
        assert not lost, f"{len(lost)} votes were forgotten"
        assert not gone & kept
        print(
            f"{way:9} {seconds[way][-1]:6.2f} s ({wall:.2f} s by the clock), {len(gone)} gone,"
            f" {len(kept)} kept",
            flush=True,
        )
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=621)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone(MODEL_DIR, TrainerSettings().rl)
    replies, liked = synthetic(given.seed)
    votes = thumbs(liked, VOTES + given.repeats * 6 * NEW, given.seed)
    with tempfile.TemporaryDirectory(prefix="hearken-forgetting-") as folder:
        settings = Settings(data_dir=Path(folder))
        with database(settings) as url, open_pool(url) as pool:
            migrate(url)
            project = project_of(pool, replies, backbone, Path(folder), votes)
            seconds = measure(project, votes[VOTES:], given.repeats)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: medians[name] / medians["plain"] for name in medians if name != "plain"}
    print(json.dumps({"seconds": medians, "ratios": ratios}))
    return 0 if max(ratios["retracted"], ratios["expired"]) <= TARGET else 1


def project_of(
    pool: Pool, replies: Replies, backbone: Backbone, folder: Path, votes: list[Example]
) -> Forgetting:
    """Returns the project with its votes."""
    project = Forgetting(pool, "forgetting", replies, backbone, folder)
    project.recent = frozenset(each.event_id for each in votes[VOTES - RECENT : VOTES])
    assert isinstance(project.cache, Precomputed)
    prepare(project, votes)
    return project


if __name__ == "__main__":
    sys.exit(main())
