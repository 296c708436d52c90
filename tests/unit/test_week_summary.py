"""Compacted votes are kept by week, and any of them can be taken out again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from schemas.turns import new_id
from tests.vote_crowd import FOLDS, REWARD, TRAINER, Crowd, tensors
from trainer.data.examples import Corpus, Example
from trainer.data.vote_rows import RowsMissing, VoteRows
from trainer.data.vote_summary import VoteSummary, events_in, files
from trainer.data.week_summary import WeekSummary
from trainer.data.weeks import OLDER, QUARTERS, WEEKS, group_of, week_of

torch.set_num_threads(1)

HOURS = timedelta(hours=2)
"""Between two votes: 84 a week."""


def compacted(crowd: Crowd, votes: int, without: set[str] = frozenset()) -> tuple[VoteSummary, VoteRows]:
    """Returns the summary of the first votes, but for some, expanded with the same mode, bootstrap weights
    and ageing."""
    events = [each.event_id for each in crowd.examples[:votes] if each.event_id not in without]
    corpus = Corpus(crowd.examples, {})
    generator = torch.Generator().manual_seed(0)
    return crowd.empty().aged_to(corpus.newest).compact(corpus, events, crowd.features_of, generator)


def test_a_turn_is_of_the_week_in_which_it_expires() -> None:
    sunday, monday = datetime(2026, 11, 29, 23, 59, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)
    assert week_of("chatcmpl-1-2", monday) == week_of("chatcmpl-1-2", sunday) + 1
    assert group_of(week_of("imported", monday), week_of("imported", monday)) == "20261130"
    now = datetime.now(UTC)
    assert week_of(new_id(), datetime(2020, 1, 1, tzinfo=UTC)) in (
        week_of("", now), week_of("", now + timedelta(seconds=5)),
    )  # fmt: skip
    assert week_of("chatcmpl-tzz", monday) == week_of("", monday)


def test_groups_are_bounded_and_each_week_has_one() -> None:
    groups = [group_of(week, 1_000) for week in range(1_001)]
    assert len(set(groups)) <= WEEKS + QUARTERS + 1
    assert len(set(groups[-WEEKS:])) == WEEKS
    assert groups[0] == OLDER
    assert all(groups[week] == groups[week + 1] for week in range(900, 910))


def test_a_vote_that_is_taken_out_leaves_the_sum_of_the_others() -> None:
    crowd = Crowd(200, seed=1, step=HOURS)
    gone = {"e3", "e40", "e41", "e100"}
    whole, rows = compacted(crowd, 160)
    expected, _ = compacted(crowd, 160, without=gone)
    assert len(whole.weeks) == 2
    left = replace(whole, weeks=tuple(week.without(gone, lambda name: rows, REWARD) for week in whole.weeks))
    assert sorted(left.events) == sorted(expected.events)
    assert left.weights(range(FOLDS)) == pytest.approx(expected.weights(range(FOLDS)))
    for one, two, before in zip(tensors(left), tensors(expected), tensors(whole), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        assert one.shape == before.shape
    assert any(
        not torch.allclose(one, two, rtol=1e-3, atol=1e-3)
        for one, two in zip(tensors(whole), tensors(expected), strict=True)
    )


def test_votes_are_taken_out_of_a_week_of_two_compactions_after_it_has_aged() -> None:
    crowd = Crowd(300, seed=2)
    one, first = crowd.with_rows(crowd.empty(), crowd.examples[:150], 100)
    later = [replace(each, created_at=each.created_at + timedelta(days=3)) for each in crowd.examples[100:]]
    both, second = crowd.with_rows(one, later, 100)
    [week] = both.weeks
    batches = {rows.name: rows for rows in (first, second)}
    assert week.batches == [first.name, second.name]
    left = week.without({f"e{number}" for number in range(100)}, batches.__getitem__, REWARD)
    assert sorted(left.events) == sorted(f"e{number}" for number in range(100, 200))
    assert left.batches == [second.name]
    assert float(left.weights_F2.sum()) == pytest.approx(
        float(second.weights([second.events]).sum()), rel=1e-6
    )
    alone = WeekSummary.of(second, week.week, [left.events_of_folds([fold]) for fold in range(FOLDS)])
    for kept, expected in zip(left.members, alone.members, strict=True):
        torch.testing.assert_close(
            kept.unpack().precision_DD, expected.unpack().precision_DD, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(kept.linear_GD, expected.linear_GD, rtol=1e-6, atol=1e-6)


def test_a_rater_without_votes_leaves_no_name() -> None:
    crowd = Crowd(60, seed=3)
    summary, rows = compacted(crowd, 40)
    [week] = summary.weeks
    own = {each.event_id for each in crowd.examples[:40] if each.rater == "u3"}
    left = week.without(own, lambda name: rows, REWARD)
    assert "u3" in week.raters
    assert "u3" not in left.raters
    assert len(left.raters) == len(week.raters) - 1
    assert "u3" not in rows.without(own).raters
    assert not own & set(rows.without(own).events)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=4)
    summary, rows = compacted(crowd, 40)
    rows.write(tmp_path)
    read = VoteRows.read(tmp_path, rows.name)
    [week] = summary.weeks
    one, two = (week.without({"e1", "e2"}, lambda name, found=found: found, REWARD) for found in (rows, read))
    for left, right in zip(one.members, two.members, strict=True):
        assert torch.equal(left.triangle_GT, right.triangle_GT)
        assert torch.equal(left.linear_GD, right.linear_GD)
    rows.without(rows.events).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def of_each_kind(crowd: Crowd) -> list[Example]:
    """Returns the crowd's thumbs, some as signals, rankings, edits and a judge's thumbs."""
    found = list(crowd.examples)
    for number in range(0, len(found), 8):
        thumb, pair = found[number], (("t1", "0"), (f"t{number}", "0"))
        found[number] = replace(thumb, type="signal", value={"signal": "copied"})
        ranking = {"ranking": [[1], [0]] if number % 16 else [[0, 1]], "acceptable": number % 16 > 0}
        found[number + 1] = replace(found[number + 1], type="ranking", value=ranking, reply_keys=pair)
        found[number + 2] = replace(found[number + 2], type="edit", value={}, reply_keys=pair)
        found[number + 3] = replace(found[number + 3], rater="judge:m")
    return found


def test_votes_of_each_kind_are_taken_out(tmp_path: Path) -> None:
    crowd = Crowd(96, seed=9)
    crowd.examples = of_each_kind(crowd)
    gone = {f"e{number}" for number in (8, 9, 10, 11, 12, 17)}
    whole, rows = compacted(crowd, 80)
    expected, _ = compacted(crowd, 80, without=gone)
    rows.write(tmp_path)
    left = replace(
        whole,
        weeks=tuple(
            week.without(gone, lambda name: VoteRows.read(tmp_path, name), REWARD) for week in whole.weeks
        ),
    )
    assert left.weights(range(FOLDS)) == pytest.approx(expected.weights(range(FOLDS)))
    assert left.weights(range(FOLDS))[1] > 0
    for one, two in zip(tensors(left), tensors(expected), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_missing_rows_are_told(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=5)
    summary, rows = compacted(crowd, 40)
    [week] = summary.weeks
    with pytest.raises(RowsMissing, match=rf"vote_rows-{rows.name}"):
        week.without({"e1"}, lambda name: VoteRows.read(tmp_path, name), REWARD)
    with pytest.raises(RowsMissing, match="'e1' is not in"):
        week.without({"e1"}, lambda name: rows.without({"e1"}), REWARD)
    with pytest.raises(RowsMissing, match="no longer kept"):
        week.without_rows().without({"e1"}, lambda name: rows, REWARD)
    path = tmp_path / f"vote_rows-{rows.name}.safetensors"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(RowsMissing):
        VoteRows.read(tmp_path, rows.name)


@pytest.mark.slow
def test_old_weeks_are_merged_and_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    crowd = Crowd(300, seed=6, step=timedelta(days=3.5))  # 150 weeks
    summary = crowd.empty()
    for start in range(0, 300, 100):
        summary = crowd.compact(summary, crowd.examples[start : start + 100], 100, seed=start)
    assert len(summary.weeks) <= WEEKS + QUARTERS + 1
    assert sorted(summary.events) == sorted(f"e{number}" for number in range(300))
    assert len({week.name for week in summary.weeks}) == len(summary.weeks)
    oldest, newest = summary.weeks[0], summary.weeks[-1]
    assert len(oldest.events) > 100
    assert oldest.batches == []
    assert newest.batches != []
    assert len(newest.events) == 2
    summary.write(tmp_path)
    assert len(files(tmp_path)) == len(summary.weeks) + 1


def test_a_week_whose_file_is_damaged_is_lost_alone(tmp_path: Path) -> None:
    crowd = Crowd(200, seed=7, step=HOURS)
    summary, _ = compacted(crowd, 168)
    summary.write(tmp_path)
    assert events_in(tmp_path) == summary.events
    first, second = files(tmp_path)[1:]
    whole = first.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100, None):
        first.write_bytes(broken) if broken is not None else first.unlink()
        found = VoteSummary.read(tmp_path, "this", TRAINER)
        assert found is not None
        assert (found.lost, [week.file for week in found.weeks]) == (1, [second.name])
        assert found.weeks[0].events == summary.weeks[1].events
        assert events_in(tmp_path) is None, "whose votes were in it is not known"
    summary.weeks[0].members[0].linear_GD[0, 0] = torch.nan
    summary.write(tmp_path)
    found = VoteSummary.read(tmp_path, "this", TRAINER)
    assert found is not None
    assert found.lost == 1


def test_only_the_files_of_weeks_that_changed_are_new(tmp_path: Path) -> None:
    crowd = Crowd(300, seed=8, step=HOURS)
    summary, _ = compacted(crowd, 168)
    summary.write(tmp_path)
    before = VoteSummary.read(tmp_path, "this", TRAINER)
    assert before is not None
    after = crowd.compact(before, crowd.examples[168:], 60)
    after.write(tmp_path)
    assert [week.file for week in after.weeks[:2]] == [path.name for path in files(tmp_path)[1:3]]
    assert len(files(tmp_path)) == 4
