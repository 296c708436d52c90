"""What is left of older votes, against all of them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.data import examples, vote_summary
from trainer.data.examples import Corpus, Example, Key
from trainer.data.vote_summary import UNREAD, Past, oldest
from trainer.reward import ensemble
from trainer.reward.ensemble import RewardModel
from trainer.reward.features import Views
from trainer.reward.projection import lenses

torch.set_num_threads(1)

FOLDS, RATERS = 5, 8
START = datetime(2026, 3, 1, tzinfo=UTC)
REWARD = RewardSettings(members=2)


class Crowd:
    """Thumbs by a hidden linear taste, one every minute, each on a reply of its own; one rater in eight votes
    against it."""

    def __init__(self, votes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        hidden_N6 = torch.randn(votes + 200, 6, generator=generator)
        self.truth_N = hidden_N6[:, 0] - hidden_N6[:, 1]
        self.all_views: Views = {
            "mean": torch.cat([hidden_N6, torch.randn(len(hidden_N6), 8, generator=generator)], 1).half(),
            "peak": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "last": (hidden_N6 @ torch.randn(6, 12, generator=generator)).half(),
            "tokens": (hidden_N6 > 0).half(),
            "length": torch.randn(len(hidden_N6), 1, generator=generator).half(),
        }
        luck_N = torch.rand(votes, generator=generator)
        self.examples = []
        for number in range(votes):
            up = bool(luck_N[number] < torch.sigmoid(2 * self.truth_N[number])) != (number % RATERS == 0)
            self.examples.append(self.thumb(number, up, f"u{number % RATERS}"))
        self.base = {name: view[-200:] for name, view in self.all_views.items()}
        self.lenses = lenses(self.base, 4, directions=24)

    @staticmethod
    def thumb(number: int, up: bool, rater: str) -> Example:
        when = START + timedelta(minutes=number)
        value = {"value": "up" if up else "down"}
        return Example(f"e{number}", f"t{number}", "thumb", value, rater, ((f"t{number}", "0"),), when, False)

    def views(self, keys: Sequence[Key]) -> Views:
        rows = [int(turn[1:]) for turn, _ in keys]
        return {name: view[rows] for name, view in self.all_views.items()}

    def none(self) -> Past:
        return Past.none("this", self.examples[0].created_at, self.lenses, FOLDS, REWARD.members)

    def fold(self, before: Past, window: list[Example], folded: int, seed: int = 0) -> Past:
        corpus = Corpus(window, {})
        events = [example.event_id for example in window[:folded]]
        generator = torch.Generator().manual_seed(seed)
        return before.on(corpus.newest, REWARD).fold(corpus, events, self.views, REWARD, generator)

    def fit(self, window: list[Example], before: Past | None = None) -> RewardModel:
        votes, keys = Corpus(window, {}).votes(window, REWARD)
        older = before.recall(range(FOLDS), examples.raters(window)) if before else None
        return ensemble.fit(
            self.views(keys), votes, self.base, 4, REWARD, torch.Generator().manual_seed(1), older
        )

    def skill(self, model: RewardModel) -> float:
        """Correlation with the truth, on replies that nobody voted on."""
        reward_N = model.reward(self.base)
        return float(torch.corrcoef(torch.stack([reward_N, self.truth_N[-200:]]))[0, 1])


def parts(of: Past) -> list[Tensor]:
    return [part for member in of.members for part in member.parts()]


def test_few_votes_are_not_folded() -> None:
    events = [str(number) for number in range(vote_summary.WINDOW + 1)]
    assert oldest(events[:-1]) == []
    assert oldest(events) == events[: vote_summary.WINDOW // 2 + 1]


def test_beside_no_older_votes_a_model_is_what_it_is_without() -> None:
    crowd = Crowd(120, seed=1)
    alone, beside = crowd.fit(crowd.examples), crowd.fit(crowd.examples, crowd.none())
    torch.testing.assert_close(beside.reward(crowd.base), alone.reward(crowd.base), atol=0.02, rtol=0)


def test_the_folded_and_the_rest_teach_what_all_do() -> None:
    crowd = Crowd(900, seed=2)
    before = crowd.none()
    for start in (0, 200, 400):
        before = crowd.fold(before, crowd.examples[start : start + 400], 200, seed=start)
    found, full = crowd.fit(crowd.examples[600:], before), crowd.fit(crowd.examples)
    assert crowd.skill(found) > crowd.skill(full) - 0.02
    assert crowd.skill(found) > crowd.skill(crowd.fit(crowd.examples[600:])) + 0.01
    both = torch.stack([found.reward(crowd.base), full.reward(crowd.base)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.95


def test_what_was_known_of_a_rater_is_known_still() -> None:
    crowd = Crowd(800, seed=3)
    before = crowd.fold(crowd.none(), crowd.examples[:700], 600)
    rest = crowd.examples[700:]
    reliability_U = crowd.fit(rest, before).reliability_U
    raters = examples.raters(rest)
    assert float(reliability_U[raters.index("u0")]) < 0.3
    assert min(float(reliability_U[raters.index(f"u{number}")]) for number in range(1, RATERS)) > 0.5


def test_each_fold_has_its_own_votes() -> None:
    crowd = Crowd(150, seed=4)
    kept = 3
    others = [each for each in crowd.examples if each.fold(FOLDS) != kept]
    whole = crowd.fold(crowd.none(), crowd.examples, 100)
    assert not set(whole.of_folds([kept])) & {each.event_id for each in others}
    assert sorted(whole.of_folds(range(FOLDS))) == sorted(each.event_id for each in crowd.examples[:100])
    one, two = whole.recall([0, 1], ["u1"]).members[0], whole.members[0]
    torch.testing.assert_close(one.linear_D, two.linear_D[0] + two.linear_D[1])
    assert whole.weights(range(FOLDS))[0] == pytest.approx(100, rel=0.01)


def test_a_fold_knows_nothing_of_a_vote_in_another() -> None:
    crowd = Crowd(150, seed=5)
    two = [each for each in crowd.examples[:100] if each.fold(FOLDS) == 2]
    events = [each.event_id for each in two]
    corpus = Corpus(crowd.examples, {})
    only = crowd.none().fold(corpus, events, crowd.views, REWARD, torch.Generator().manual_seed(0))
    for member in only.members:
        assert member.linear_D[2].any()
        assert not member.linear_D[[0, 1, 3, 4]].any()
        assert not member.precision_U22[[0, 1, 3, 4]].any()


def test_what_is_folded_later_leaves_the_earlier_as_it_was() -> None:
    crowd = Crowd(300, seed=6)
    before = crowd.fold(crowd.none(), crowd.examples[:150], 100)
    after = crowd.fold(before, crowd.examples[100:], 100)
    assert after.events == [f"e{number}" for number in range(200)]
    assert after.name == before.name
    for old, new in zip(before.members, after.members, strict=True):
        assert (
            new.precision_DD.diagonal(dim1=1, dim2=2).sum() > old.precision_DD.diagonal(dim1=1, dim2=2).sum()
        )


def test_after_a_half_life_all_of_it_weighs_half() -> None:
    crowd = Crowd(120, seed=7)
    now = crowd.fold(crowd.none(), crowd.examples, 80)
    later = now.on(now.newest + timedelta(days=REWARD.half_life_days), REWARD)
    for one, two in zip(parts(now), parts(later), strict=True):
        torch.testing.assert_close(one / 2, two)
    assert later.weights([0, 1]) == pytest.approx(tuple(weight / 2 for weight in now.weights([0, 1])))


def test_judges_are_capped_with_what_they_said_before() -> None:
    crowd = Crowd(100, seed=8)
    judge = [Crowd.thumb(100 + number, bool(number % 2), "judge:m") for number in range(60)]
    folded = crowd.fold(crowd.none(), [*crowd.examples, *judge], 130)
    people, judges = folded.weights(range(FOLDS))
    assert people == pytest.approx(100, rel=0.01)
    assert 0 < judges < REWARD.judge_weight_cap * people
    rest = judge[30:]
    votes, _ = Corpus(rest, {}).votes(rest, REWARD, (people, judges))
    assert sum(votes.weights) == pytest.approx(REWARD.judge_weight_cap * people - judges)


def test_a_vote_that_the_base_cannot_read_is_folded_with_the_others() -> None:
    crowd = Crowd(100, seed=9)
    events = ["unread", *(each.event_id for each in crowd.examples[:50])]
    found = crowd.none().fold(
        Corpus(crowd.examples, {}, unreadable=1),
        events,
        crowd.views,
        REWARD,
        torch.Generator().manual_seed(0),
    )
    assert found.events == events
    assert int(found.folds_E[0]) == UNREAD
    assert "unread" not in found.of_folds(range(FOLDS))


def test_it_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    crowd = Crowd(120, seed=10)
    kept = crowd.fold(crowd.none(), crowd.examples, 80)
    for name in ("one", "two"):
        kept.write(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    found = Past.read(tmp_path / "one.safetensors", "this")
    assert found is not None
    assert (found.name, found.newest, found.events, found.raters) == (
        kept.name, kept.newest, kept.events, kept.raters,
    )  # fmt: skip
    for one, two in zip([*parts(kept), kept.weights_F2], [*parts(found), found.weights_F2], strict=True):
        assert torch.equal(one, two)
    rest = crowd.examples[80:]
    assert torch.equal(crowd.fit(rest, found).reward(crowd.base), crowd.fit(rest, kept).reward(crowd.base))


def test_what_is_broken_or_made_for_something_else_is_not_read(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=11)
    path = tmp_path / "past.safetensors"
    assert Past.read(path, "this") is None
    crowd.fold(crowd.none(), crowd.examples, 40).write(path)
    assert Past.read(path, "another base") is None
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\x00" * 100, b"{}" + whole):
        path.write_bytes(broken)
        assert Past.read(path, "this") is None


def test_a_past_that_is_not_finite_is_not_read(tmp_path: Path) -> None:
    crowd = Crowd(60, seed=12)
    kept = crowd.fold(crowd.none(), crowd.examples, 40)
    kept.members[0].linear_D[0, 0] = torch.nan
    kept.write(tmp_path / "past.safetensors")
    assert Past.read(tmp_path / "past.safetensors", "this") is None


def test_killed_while_it_is_written_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd(100, seed=13)
    path = tmp_path / "past.safetensors"
    first = crowd.fold(crowd.none(), crowd.examples, 40)
    first.write(path)
    before = path.read_bytes()

    def die(tensors: object, draft: Path, metadata: object) -> None:
        draft.write_bytes(b"half of")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(vote_summary, "save_file", die)
        with pytest.raises(KeyboardInterrupt):
            crowd.fold(first, crowd.examples[40:], 40).write(path)
    assert path.read_bytes() == before
