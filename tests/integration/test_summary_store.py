"""The vote summary agrees with the database: one vote that is gone, a week that expired, a trainer that was
killed."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from psycopg.types.json import Jsonb

from feedback import quarantine
from schemas.database import Pool
from tests.training import add_key
from tests.vote_crowd import TRAINER, Crowd, tensors
from trainer.data import examples, summary_store, vote_rows, vote_summary
from trainer.data.examples import Corpus, Example
from trainer.data.vote_rows import VoteRows
from trainer.data.vote_summary import VoteSummary

torch.set_num_threads(1)

VOTES = 200
"""Votes of the crowd, 84 a week; all but the newest 20 are compacted, so there are three weeks."""


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


class Kept:
    """A crowd whose votes are in the database and compacted, and the directory of the summary."""

    def __init__(self, pool: Pool, directory: Path) -> None:
        self.pool, self.directory = pool, directory
        self.crowd = Crowd(VOTES, seed=1, step=timedelta(hours=2))
        add_key(pool)
        for example in self.crowd.examples:
            self.add(example)

    def add(self, example: Example) -> None:
        values = {
            "event": example.event_id, "turn": example.turn_id, "value": Jsonb(example.value),
            "rater": example.rater, "created": example.created_at,
        }  # fmt: skip
        with self.pool.connection() as connection:
            for statement in (
                "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
                " sampling) values (%(turn)s, 'default', %(turn)s, %(rater)s, 'default-admin', '[]', '{}',"
                " '{}')",
                "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
                " values (%(event)s, %(event)s, 'default', %(turn)s, 0, 'thumb', %(value)s, %(rater)s, '0')",
                "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
                " rater, conversation_id, created_at) values (%(event)s, 'default', %(event)s, %(turn)s, 0,"
                " 'thumb', %(value)s, %(rater)s, %(turn)s, %(created)s)",
            ):
                connection.execute(statement.encode(), values)

    def compact(self, count: int = VOTES - 20) -> None:
        """Compacts the oldest votes, expanded at the mode of all."""
        self.save(*self.crowd.with_rows(self.crowd.empty(), self.crowd.examples, count))

    def save(self, summary: VoteSummary, rows: VoteRows) -> None:
        summary_store.save(summary, self.pool, "default", self.directory, rows)

    def compact_again(self) -> None:
        """Compacts what a round would load and compact after `revise`."""
        summary, events = self.read(), set(self.active())
        chosen = [each for each in self.crowd.examples if each.event_id in events]
        recompact = [each.event_id for each in chosen if each.event_id in self.to_recompact()]
        generator = torch.Generator().manual_seed(1)
        corpus = Corpus(chosen, {})
        aged = summary.aged_to(corpus.newest)
        self.save(*aged.compact(corpus, recompact, self.crowd.features_of, generator))

    def read(self) -> VoteSummary:
        found = VoteSummary.read(self.directory, "this", TRAINER)
        assert found is not None
        return found

    def revise(self) -> VoteSummary:
        return summary_store.revise(self.read(), self.pool, "default", self.directory)

    def execute(self, statement: str, *values: object) -> None:
        with self.pool.connection() as connection:
            connection.execute(statement.encode(), values)

    def retract(self, event: str) -> None:
        self.execute("update training_examples set superseded_by = 'x' where event_id = %s", event)

    def active(self) -> list[str]:
        return examples.active_events(self.pool, "default")

    def to_recompact(self) -> set[str]:
        with self.pool.connection() as connection:
            rows = connection.execute("select event_id from training_examples where recompact").fetchall()
        return {row["event_id"] for row in rows}

    def rows(self) -> list[Path]:
        return sorted(self.directory.glob(vote_rows.PATTERN))


@pytest.fixture
def kept(pool: Pool, tmp_path: Path) -> Kept:
    found = Kept(pool, tmp_path)
    found.compact()
    return found


NEWEST = {f"e{number}" for number in range(VOTES - 20, VOTES)}


def test_the_votes_of_a_held_rater_are_taken_out_until_they_are_accepted(kept: Kept) -> None:
    before = set(kept.read().events)
    with kept.pool.connection() as connection:
        assert quarantine.hold(connection, "default", "u3", "burst", {"votes": 25})
    held = {example.event_id for example in kept.crowd.examples if example.rater == "u3"}
    assert set(kept.revise().events) == before - held
    assert not held & set(kept.active())
    kept.execute("update quarantine set state = 'accepted'")
    assert set(kept.revise().events) == before - held
    assert held <= set(kept.active())
    assert set(examples.trusted_events(kept.pool, "default", sorted(held))) == held


def test_a_summary_that_is_active_stays_as_it_is(kept: Kept) -> None:
    before = {path: path.stat().st_ino for path in kept.directory.iterdir()}
    assert len(kept.revise().weeks) == 3
    assert {path: path.stat().st_ino for path in kept.directory.iterdir()} == before
    assert set(kept.active()) == NEWEST


def test_a_retraction_costs_this_vote_only(kept: Kept) -> None:
    whole = kept.read()
    kept.retract("e10")
    after = kept.revise()
    assert set(whole.events) - set(after.events) == {"e10"}
    assert [week.file == old.file for week, old in zip(kept.read().weeks, whole.weeks, strict=True)] == [
        False, True, True,
    ]  # fmt: skip
    assert set(kept.active()) == NEWEST
    assert kept.to_recompact() == set()
    events = [each.event_id for each in kept.crowd.examples[: VOTES - 20] if each.event_id != "e10"]
    expected, _ = kept.crowd.empty().aged_to(whole.newest).compact(
        Corpus(kept.crowd.examples, {}), events, kept.crowd.features_of, torch.Generator().manual_seed(0)
    )  # fmt: skip
    for one, two in zip(tensors(after.aged_to(whole.newest)), tensors(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    [rows] = kept.rows()
    assert b'"e10"' not in rows.read_bytes()
    assert kept.revise().weeks[0].name == whole.weeks[0].name


def test_a_person_who_is_erased_leaves_nothing(kept: Kept) -> None:
    own = [each for each in kept.crowd.examples if each.rater == "u3"]
    for example in own:
        kept.execute("delete from turns where id = %s", example.turn_id)
    after = kept.revise()
    assert len(after.weeks) == 3
    assert set(after.events).isdisjoint(each.event_id for each in own)
    for path in kept.directory.iterdir():
        assert b'"u3"' not in path.read_bytes()


def test_an_expired_week_leaves_the_others(kept: Kept) -> None:
    first, *others = kept.read().weeks
    for event in first.events:
        kept.execute("delete from turns where id = %s", f"t{event[1:]}")
    assert [week.file for week in kept.revise().weeks] == [week.file for week in others]
    assert set(kept.active()) == NEWEST
    assert kept.to_recompact() == set()
    assert not (kept.directory / str(first.file)).exists()
    [rows] = kept.rows()
    assert set(VoteRows.read(kept.directory, rows.stem.removeprefix("vote_rows-")).events) == {
        event for week in others for event in week.events
    }


def lose_rows(kept: Kept) -> None:
    for path in kept.rows():
        path.unlink()
    kept.retract("e10")


def lose_file(kept: Kept) -> None:
    (kept.directory / str(kept.read().weeks[0].file)).write_bytes(b"damaged")


def lose_marks(kept: Kept) -> None:
    kept.execute("update training_examples set vote_summary = 'other' where event_id = 'e11'")
    for path in kept.rows():
        path.unlink()


@pytest.mark.parametrize("lose", [lose_rows, lose_file, lose_marks])
def test_a_week_that_cannot_be_mended_is_compacted_anew_and_the_others_stay(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Kept], None]
) -> None:
    first, *others = kept.read().weeks
    lose(kept)
    left = set(first.events) - ({"e10"} if lose is lose_rows else set())
    assert [week.file for week in kept.revise().weeks] == [week.file for week in others]
    assert kept.to_recompact() == left
    monkeypatch.setattr(examples, "REBUILT", 30)
    monkeypatch.setattr(examples, "MAX_EXAMPLES", 20)
    for round_number in range(3):
        loaded = set(kept.active())
        assert loaded >= NEWEST, "votes to be compacted anew pushed out new ones"
        assert len(loaded - NEWEST) == min(30, len(left) - 30 * round_number)
        kept.compact_again()
    assert kept.to_recompact() == set()
    after = kept.revise()
    assert set(after.events) == {event for week in (first, *others) for event in week.events} - (
        {"e10"} if lose is lose_rows else set()
    )
    assert [week.file for week in after.weeks if week.week != first.week] == [week.file for week in others]


def test_a_trainer_killed_between_the_file_and_the_database_loses_nothing(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.read()
    written = VoteSummary.write

    def die(summary: VoteSummary, directory: Path) -> None:
        written(summary, directory)
        raise Killed

    window = kept.crowd.examples[VOTES - 20 :]
    with monkeypatch.context() as patch:
        patch.setattr(VoteSummary, "write", die)
        with pytest.raises(Killed):
            kept.save(*kept.crowd.with_rows(before, window, 10))
    assert len(kept.read().events) == VOTES - 10
    after = kept.revise()
    assert sorted(after.events) == sorted(before.events)
    assert [week.name for week in after.weeks] == [week.name for week in before.weeks]
    assert set(kept.active()) == NEWEST


def test_a_trainer_killed_while_it_takes_a_vote_out_costs_its_week(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    first, *others = kept.read().weeks
    kept.retract("e10")
    with monkeypatch.context() as patch:
        patch.setattr(summary_store, "save", die)
        with pytest.raises(Killed):
            kept.revise()
    assert [week.file for week in kept.revise().weeks] == [week.file for week in others]
    assert kept.to_recompact() == set(first.events) - {"e10"}


def test_a_discarded_summary_leaves_no_files_and_no_marks(kept: Kept) -> None:
    lose_rows(kept)
    kept.revise()
    (kept.directory / summary_store.FILE_BEFORE).touch()
    summary_store.discard(kept.pool, "default", kept.directory)
    assert list(kept.directory.iterdir()) == []
    assert kept.to_recompact() == set()
    assert len(kept.active()) == VOTES - 1
    assert VoteSummary.read(kept.directory, "this", TRAINER) is None
    assert vote_summary.FILE == "vote_summary.safetensors"
