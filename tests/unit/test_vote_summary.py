"""Vote summaries are compared with a fit to all votes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from schemas.settings import TrainerSettings
from tests.vote_crowd import FOLDS, RATERS, REWARD, TRAINER, Crowd, tensors
from trainer.data import examples, vote_summary
from trainer.data.examples import Corpus
from trainer.data.round_inputs import RoundInputs
from trainer.data.vote_rows import VoteRows
from trainer.data.vote_summary import FILE, VoteSummary, compatibility_key, files, to_compact
from trainer.data.week_summary import WeekSummary

torch.set_num_threads(1)


def read(directory: Path) -> VoteSummary | None:
    return VoteSummary.read(directory, "this", TRAINER)


def test_few_votes_are_not_compacted() -> None:
    events = [str(number) for number in range(vote_summary.WINDOW + 1)]
    assert to_compact(events[:-1]) == []
    assert to_compact(events) == events[: vote_summary.WINDOW // 2 + 1]


def test_an_empty_summary_does_not_change_the_fit() -> None:
    crowd = Crowd(120, seed=1)
    alone = crowd.fit(crowd.examples)
    empty = replace(crowd.empty(), projections=alone.members[0].projections)
    beside = crowd.fit(crowd.examples, empty)
    torch.testing.assert_close(beside.reward(crowd.base), alone.reward(crowd.base), atol=0.02, rtol=0)


def test_a_compacted_history_agrees_with_a_full_refit() -> None:
    crowd = Crowd(900, seed=2, step=timedelta(minutes=50))  # a month
    before = crowd.empty()
    for start in (0, 200, 400):
        before = crowd.compact(before, crowd.examples[start : start + 400], 200, seed=start)
    assert len(before.weeks) == 3
    found, full = crowd.fit(crowd.examples[600:], before), crowd.fit(crowd.examples)
    assert crowd.skill(found) > crowd.skill(full) - 0.02
    assert crowd.skill(found) > crowd.skill(crowd.fit(crowd.examples[600:])) + 0.01
    both = torch.stack([found.reward(crowd.base), full.reward(crowd.base)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_the_reliability_of_raters_is_kept() -> None:
    crowd = Crowd(800, seed=3)
    before = crowd.compact(crowd.empty(), crowd.examples[:700], 600)
    rest = crowd.examples[700:]
    reliability_U = crowd.fit(rest, before).reliability_U
    raters = examples.raters(rest)
    assert float(reliability_U[raters.index("u0")]) < 0.3
    assert min(float(reliability_U[raters.index(f"u{number}")]) for number in range(1, RATERS)) > 0.5


def test_each_fold_has_its_own_votes() -> None:
    crowd = Crowd(150, seed=4)
    kept = 3
    others = [each for each in crowd.examples if each.fold(FOLDS) != kept]
    whole = crowd.compact(crowd.empty(), crowd.examples, 100)
    assert not set(whole.events_of_folds([kept])) & {each.event_id for each in others}
    assert sorted(whole.events_of_folds(range(FOLDS))) == sorted(
        each.event_id for each in crowd.examples[:100]
    )
    one, (week,) = whole.prior([0, 1], ["u1"]).members[0], whole.weeks
    torch.testing.assert_close(one.linear_D, week.members[0].linear_GD[:2].sum(0))
    assert whole.weights(range(FOLDS))[0] == pytest.approx(100, rel=0.01)


def test_a_vote_is_in_the_summary_of_its_fold_only() -> None:
    crowd = Crowd(150, seed=5)
    two = [each for each in crowd.examples[:100] if each.fold(FOLDS) == 2]
    events = [each.event_id for each in two]
    corpus = Corpus(crowd.examples, {})
    only, _ = crowd.empty().compact(corpus, events, crowd.features_of, torch.Generator().manual_seed(0))
    [week] = only.weeks
    for member in week.members:
        assert member.linear_GD[2].any()
        assert not member.linear_GD[[0, 1, 3, 4]].any()
        assert not member.precision_GU22[[0, 1, 3, 4]].any()


def test_later_votes_are_added_to_the_earlier() -> None:
    crowd = Crowd(300, seed=6)
    before = crowd.compact(crowd.empty(), crowd.examples[:150], 100)
    after = crowd.compact(before, crowd.examples[100:], 100)
    [old], [new] = before.weeks, after.weeks
    assert sorted(after.events) == sorted(f"e{number}" for number in range(200))
    assert (new.name, new.events[:100]) == (old.name, old.events)
    for one, two in zip(old.members, new.members, strict=True):
        assert two.triangle_GT.sum() != one.triangle_GT.sum()
        whole, part = two.sum_groups(range(FOLDS)), one.sum_groups(range(FOLDS))
        assert whole.precision_DD.trace() > part.precision_DD.trace()


def test_after_a_half_life_a_summary_weighs_half() -> None:
    crowd = Crowd(120, seed=7)
    now = crowd.compact(crowd.empty(), crowd.examples, 80)
    later = now.aged_to(now.newest + timedelta(days=REWARD.half_life_days))
    for one, two in zip(tensors(now), tensors(later), strict=True):
        torch.testing.assert_close(one / 2, two)
    assert later.weights([0, 1]) == pytest.approx(tuple(weight / 2 for weight in now.weights([0, 1])))


def test_the_cap_of_judges_includes_their_compacted_votes() -> None:
    crowd = Crowd(100, seed=8)
    judge = [Crowd.thumb(100 + number, bool(number % 2), "judge:m") for number in range(60)]
    summary = crowd.compact(crowd.empty(), [*crowd.examples, *judge], 130)
    people, judges = summary.weights(range(FOLDS))
    assert people == pytest.approx(100, rel=0.01)
    assert 0 < judges < REWARD.judge_weight_cap * people
    rest = judge[30:]
    history = summary.history_weights(range(FOLDS))
    assert history.raters == pytest.approx({f"u{number}": 12.5 for number in range(8)}, rel=0.05)
    votes, _ = Corpus(rest, {}).votes(rest, REWARD, history)
    assert sum(votes.weights) == pytest.approx(REWARD.judge_weight_cap * people - judges)


def test_an_unreadable_vote_is_compacted_without_a_fold() -> None:
    crowd = Crowd(100, seed=9)
    events = ["unread", *(each.event_id for each in crowd.examples[:50])]
    corpus = Corpus(crowd.examples, {}, unreadable=1)
    found, _ = crowd.empty().compact(corpus, events, crowd.features_of, torch.Generator().manual_seed(0))
    assert sorted(found.events) == sorted(events)
    assert sorted(found.events_of_folds(range(FOLDS))) == sorted(events[1:])
    assert found.weights(range(FOLDS))[0] == pytest.approx(50, rel=0.01)


@pytest.mark.parametrize("failure", ["not finite", "singular"])
def test_of_a_week_that_fails_numerically_only_its_new_votes_are_lost(
    monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    crowd = Crowd(300, seed=11, step=timedelta(hours=1))
    before = crowd.compact(crowd.empty(), crowd.examples[:150], 100)
    whole = crowd.compact(before, crowd.examples[100:], 200)
    of, last = WeekSummary.of, max(week.week for week in whole.weeks)

    def failing(rows: VoteRows, week: int, folds: Sequence[Sequence[str]]) -> WeekSummary:
        found = of(rows, week, folds)
        if week != last:
            return found
        if failure == "singular":
            raise torch.linalg.LinAlgError
        return replace(found, weights_F2=found.weights_F2 * torch.inf)

    monkeypatch.setattr(WeekSummary, "of", failing)
    left, rows = crowd.with_rows(before, crowd.examples[100:], 200)
    lost = {event for week in whole.weeks if week.week == last for event in week.events}
    assert 0 < len(lost) < 150
    assert sorted(left.events) == sorted(whole.events)  # so that none of them is loaded again
    assert set(left.events_of_folds(range(FOLDS))) == set(whole.events) - lost
    assert lost.isdisjoint(rows.events)
    assert all(week.is_finite for week in left.weeks)


def test_where_no_vote_can_be_fitted_compaction_says_so() -> None:
    crowd = Crowd(100, seed=12)
    crowd.all_features["length"][3] = torch.nan
    with pytest.raises(FloatingPointError):
        crowd.compact(crowd.empty(), crowd.examples, 50)


def test_writing_is_deterministic_and_reading_inverts_it(tmp_path: Path) -> None:
    crowd = Crowd(120, seed=10)
    kept = crowd.compact(crowd.empty(), crowd.examples, 80)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        kept.write(tmp_path / name)
    one, two = ([path.read_bytes() for path in files(tmp_path / name)] for name in ("one", "two"))
    assert one == two
    found = read(tmp_path / "one")
    assert found is not None
    assert (found.newest, found.events, found.lost) == (kept.newest, kept.events, 0)
    assert [week.raters for week in found.weeks] == [week.raters for week in kept.weeks]
    assert found.weights(range(FOLDS)) == kept.weights(range(FOLDS))
    for left, right in zip(tensors(kept), tensors(found), strict=True):
        assert torch.equal(left, right)
    rest = crowd.examples[80:]
    assert torch.equal(crowd.fit(rest, found).reward(crowd.base), crowd.fit(rest, kept).reward(crowd.base))


def test_a_summary_depends_on_the_base_and_the_settings() -> None:
    key = compatibility_key("base", TrainerSettings())
    assert key != compatibility_key("other", TrainerSettings())
    assert key != compatibility_key("base", TRAINER)


def test_inputs_of_the_release_before_are_read() -> None:
    inputs = RoundInputs(draw=3, parent="p0", votes=9, events=[], turns=[], positions={}, vote_summary="ab")
    before = inputs.model_dump_json().replace('"vote_summary"', '"past"')
    assert '"past":"ab"' in before
    assert RoundInputs.model_validate_json(before) == inputs
    assert RoundInputs.model_validate_json(inputs.model_dump_json()) == inputs


def test_a_broken_or_incompatible_file_is_not_read(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=11)
    assert read(tmp_path) is None
    crowd.compact(crowd.empty(), crowd.examples, 40).write(tmp_path)
    assert VoteSummary.read(tmp_path, "another base", TRAINER) is None
    path = tmp_path / FILE
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100, b"{}" + whole):
        path.write_bytes(broken)
        assert read(tmp_path) is None
        assert vote_summary.events_in(tmp_path) is None


def test_an_interrupted_write_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(100, seed=13)
    first = crowd.compact(crowd.empty(), crowd.examples, 40)
    first.write(tmp_path)
    before = {path: path.read_bytes() for path in files(tmp_path)}

    def die(tensors: object, draft: Path, metadata: object) -> None:
        draft.write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vote_summary, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            crowd.compact(first, crowd.examples[40:], 40).write(tmp_path)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    assert read(tmp_path) is not None
