"""Vote summaries are compared with a fit to all votes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.settings import RewardSettings, TrainerSettings
from tests.training import write_summary_as_before
from trainer.data import examples, vote_summary
from trainer.data.examples import Corpus, Example, Key
from trainer.data.round_inputs import RoundInputs
from trainer.data.vote_summary import (
    FILE,
    OLD_FILE,
    UNREADABLE,
    VoteSummary,
    compatibility_key,
    find,
    to_compact,
)
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import NO_TOKEN, FeatureGroups
from trainer.reward.projection import BaseFeatures, fit_projections

torch.set_num_threads(1)

FOLDS, RATERS = 5, 8
START = datetime(2026, 3, 1, tzinfo=UTC)
REWARD = RewardSettings(members=2)


class Crowd:
    """Thumbs by a hidden linear preference, one a minute, each on its own reply. One rater in eight votes
    against it."""

    def __init__(self, votes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        hidden_N6 = torch.randn(votes + 200, 6, generator=generator)
        self.truth_N = hidden_N6[:, 0] - hidden_N6[:, 1]
        self.all_features: FeatureGroups = {
            "mean": torch.cat([hidden_N6, torch.randn(len(hidden_N6), 8, generator=generator)], 1).half(),
            "peak": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "last": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "tokens": torch.where(hidden_N6 > 0, torch.arange(6), NO_TOKEN).int(),
            "length": torch.randn(len(hidden_N6), 1, generator=generator).half(),
        }
        luck_N = torch.rand(votes, generator=generator)
        self.examples = []
        for number in range(votes):
            up = bool(luck_N[number] < torch.sigmoid(2 * self.truth_N[number])) != (number % RATERS == 0)
            self.examples.append(self.thumb(number, up, f"u{number % RATERS}"))
        self.base = {name: group[-200:] for name, group in self.all_features.items()}
        self.projections = fit_projections(BaseFeatures(self.base, 4), components=24)

    @staticmethod
    def thumb(number: int, up: bool, rater: str) -> Example:
        when = START + timedelta(minutes=number)
        value = {"value": "up" if up else "down"}
        return Example(f"e{number}", f"t{number}", "thumb", value, rater, ((f"t{number}", "0"),), when, False)

    def features_of(self, keys: Sequence[Key]) -> FeatureGroups:
        rows = [int(turn[1:]) for turn, _ in keys]
        return {name: group[rows] for name, group in self.all_features.items()}

    def empty(self) -> VoteSummary:
        return VoteSummary.empty("this", self.examples[0].created_at, self.projections, FOLDS, REWARD.members)

    def compact(
        self, before: VoteSummary, window: list[Example], compacted: int, seed: int = 0
    ) -> VoteSummary:
        corpus = Corpus(window, {})
        events = [example.event_id for example in window[:compacted]]
        generator = torch.Generator().manual_seed(seed)
        return before.aged_to(corpus.newest, REWARD).compact(
            corpus, events, self.features_of, REWARD, generator
        )

    def fit(self, window: list[Example], before: VoteSummary | None = None) -> RewardModel:
        votes, keys = Corpus(window, {}).votes(window, REWARD)
        older = before.prior(range(FOLDS), examples.raters(window)) if before else None
        return ensemble.fit(
            self.features_of(keys),
            votes,
            BaseFeatures(self.base, 4),
            REWARD,
            torch.Generator().manual_seed(1),
            older,
        )

    def skill(self, model: RewardModel) -> float:
        """Returns the correlation with the true preference, on replies without votes."""
        reward_N = model.reward(self.base)
        return float(torch.corrcoef(torch.stack([reward_N, self.truth_N[-200:]]))[0, 1])


def tensors(of: VoteSummary) -> list[Tensor]:
    return [tensor for member in of.members for tensor in member.tensors()]


def test_few_votes_are_not_compacted() -> None:
    events = [str(number) for number in range(vote_summary.WINDOW + 1)]
    assert to_compact(events[:-1]) == []
    assert to_compact(events) == events[: vote_summary.WINDOW // 2 + 1]


def test_an_empty_summary_does_not_change_the_fit() -> None:
    crowd = Crowd(120, seed=1)
    alone, beside = crowd.fit(crowd.examples), crowd.fit(crowd.examples, crowd.empty())
    torch.testing.assert_close(beside.reward(crowd.base), alone.reward(crowd.base), atol=0.02, rtol=0)


def test_a_compacted_history_agrees_with_a_full_refit() -> None:
    crowd = Crowd(900, seed=2)
    before = crowd.empty()
    for start in (0, 200, 400):
        before = crowd.compact(before, crowd.examples[start : start + 400], 200, seed=start)
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
    one, two = whole.prior([0, 1], ["u1"]).members[0], whole.members[0]
    torch.testing.assert_close(one.linear_D, two.linear_D[0] + two.linear_D[1])
    assert whole.weights(range(FOLDS))[0] == pytest.approx(100, rel=0.01)


def test_a_vote_is_in_the_summary_of_its_fold_only() -> None:
    crowd = Crowd(150, seed=5)
    two = [each for each in crowd.examples[:100] if each.fold(FOLDS) == 2]
    events = [each.event_id for each in two]
    corpus = Corpus(crowd.examples, {})
    only = crowd.empty().compact(corpus, events, crowd.features_of, REWARD, torch.Generator().manual_seed(0))
    for member in only.members:
        assert member.linear_D[2].any()
        assert not member.linear_D[[0, 1, 3, 4]].any()
        assert not member.precision_U22[[0, 1, 3, 4]].any()


def test_later_votes_are_added_to_the_earlier() -> None:
    crowd = Crowd(300, seed=6)
    before = crowd.compact(crowd.empty(), crowd.examples[:150], 100)
    after = crowd.compact(before, crowd.examples[100:], 100)
    assert after.events == [f"e{number}" for number in range(200)]
    assert after.name == before.name
    for old, new in zip(before.members, after.members, strict=True):
        assert (
            new.precision_DD.diagonal(dim1=1, dim2=2).sum() > old.precision_DD.diagonal(dim1=1, dim2=2).sum()
        )


def test_after_a_half_life_a_summary_weighs_half() -> None:
    crowd = Crowd(120, seed=7)
    now = crowd.compact(crowd.empty(), crowd.examples, 80)
    later = now.aged_to(now.newest + timedelta(days=REWARD.half_life_days), REWARD)
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
    votes, _ = Corpus(rest, {}).votes(rest, REWARD, (people, judges))
    assert sum(votes.weights) == pytest.approx(REWARD.judge_weight_cap * people - judges)


def test_an_unreadable_vote_is_compacted_without_a_fold() -> None:
    crowd = Crowd(100, seed=9)
    events = ["unread", *(each.event_id for each in crowd.examples[:50])]
    found = crowd.empty().compact(
        Corpus(crowd.examples, {}, unreadable=1),
        events,
        crowd.features_of,
        REWARD,
        torch.Generator().manual_seed(0),
    )
    assert found.events == events
    assert int(found.folds_E[0]) == UNREADABLE
    assert "unread" not in found.events_of_folds(range(FOLDS))


def test_writing_is_deterministic_and_reading_inverts_it(tmp_path: Path) -> None:
    crowd = Crowd(120, seed=10)
    kept = crowd.compact(crowd.empty(), crowd.examples, 80)
    for name in ("one", "two"):
        kept.write(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    found = VoteSummary.read(tmp_path / "one.safetensors", "this")
    assert found is not None
    assert (found.name, found.newest, found.events, found.raters) == (
        kept.name, kept.newest, kept.events, kept.raters,
    )  # fmt: skip
    for one, two in zip([*tensors(kept), kept.weights_F2], [*tensors(found), found.weights_F2], strict=True):
        assert torch.equal(one, two)
    rest = crowd.examples[80:]
    assert torch.equal(crowd.fit(rest, found).reward(crowd.base), crowd.fit(rest, kept).reward(crowd.base))


def test_a_file_of_the_release_before_is_read(tmp_path: Path) -> None:
    crowd = Crowd(120, seed=10)
    kept = crowd.compact(crowd.empty(), crowd.examples, 80)
    write_summary_as_before(kept, tmp_path / OLD_FILE)
    assert VoteSummary.read(find(tmp_path), "another base") is None
    found = VoteSummary.read(find(tmp_path), "this")
    assert found is not None
    assert (found.name, found.newest, found.events) == (kept.name, kept.newest, kept.events)
    for one, two in zip(tensors(kept), tensors(found), strict=True):
        assert torch.equal(one, two)
    rest = crowd.examples[80:]
    assert torch.equal(crowd.fit(rest, found).reward(crowd.base), crowd.fit(rest, kept).reward(crowd.base))
    found.write(tmp_path / "new.safetensors")
    kept.write(tmp_path / "kept.safetensors")
    assert (tmp_path / "new.safetensors").read_bytes() == (tmp_path / "kept.safetensors").read_bytes()


def test_the_file_of_this_release_is_preferred(tmp_path: Path) -> None:
    assert find(tmp_path) == tmp_path / FILE
    (tmp_path / OLD_FILE).touch()
    assert find(tmp_path) == tmp_path / OLD_FILE
    (tmp_path / FILE).touch()
    assert find(tmp_path) == tmp_path / FILE


def test_the_compatibility_key_of_the_release_before_holds() -> None:
    assert compatibility_key("base", TrainerSettings()) == (
        '6 base 5 {"members":5,"caution":0.3,"half_life_days":60.0,"judges_share":0.25}'
    )


def test_inputs_of_the_release_before_are_read() -> None:
    inputs = RoundInputs(draw=3, parent="p0", votes=9, events=[], turns=[], positions={}, vote_summary="ab")
    before = inputs.model_dump_json().replace('"vote_summary"', '"past"')
    assert '"past":"ab"' in before
    assert RoundInputs.model_validate_json(before) == inputs
    assert RoundInputs.model_validate_json(inputs.model_dump_json()) == inputs


def test_a_broken_or_incompatible_file_is_not_read(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=11)
    path = tmp_path / "vote_summary.safetensors"
    assert VoteSummary.read(path, "this") is None
    crowd.compact(crowd.empty(), crowd.examples, 40).write(path)
    assert VoteSummary.read(path, "another base") is None
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100, b"{}" + whole):
        path.write_bytes(broken)
        assert VoteSummary.read(path, "this") is None


def test_a_summary_that_is_not_finite_is_not_read(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=12)
    kept = crowd.compact(crowd.empty(), crowd.examples, 40)
    kept.members[0].linear_D[0, 0] = torch.nan
    kept.write(tmp_path / "vote_summary.safetensors")
    assert VoteSummary.read(tmp_path / "vote_summary.safetensors", "this") is None


def test_an_interrupted_write_keeps_the_previous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(100, seed=13)
    path = tmp_path / "vote_summary.safetensors"
    first = crowd.compact(crowd.empty(), crowd.examples, 40)
    first.write(path)
    before = path.read_bytes()

    def die(tensors: object, draft: Path, metadata: object) -> None:
        draft.write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vote_summary, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            crowd.compact(first, crowd.examples[40:], 40).write(path)
    assert path.read_bytes() == before
