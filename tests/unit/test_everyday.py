"""The parts of the bench of hidden tastes that decide its figures: tastes, top-p, votes as pairs, targets."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.feedback import Ranking, Thumb, Vote
from schemas.settings import Settings
from serving.router import Assignment
from tests.bench import served_replies
from tests.bench.everyday_outcome import Outcome, targets_reached
from tests.bench.judgment import BEST_OF, judge_base, judge_policy
from tests.bench.overrides import trainer_settings
from tests.bench.preference_rows import preference_rows
from tests.bench.served_replies import BaseReplies, ServedAt
from tests.bench.tastes import Taste, draw, tastes, with_room
from tests.bench.voters import NOISE, Visit, Voters
from tests.voting import a_turn
from trainer.model.backbone import Backbone

CLEAN = {"no list", "no exclamation mark", "no preamble"}


@pytest.mark.parametrize(
    ("text", "liked"),
    [
        ("Boil it for 7 minutes.", {"concrete", *CLEAN}),
        ("Sure, boil it!", {"no list"}),
        ("Try, for example, tea. Do you like it?", {"concrete", "asks back", *CLEAN}),
        ("Do this:\n1. Boil it\n2. Eat", {"no exclamation mark", "no preamble"}),
        ("I'm sorry", {"no list", "no exclamation mark"}),
        ("Surely not.", CLEAN),
        ("- tea", {"no exclamation mark", "no preamble"}),
    ],
)  # fmt: skip
def test_properties(text: str, liked: set[str]) -> None:
    found = tastes(["a"])
    names = {"concrete", "asks back", *CLEAN}
    assert {name for name in names if found[name].likes(text)} == liked


def test_thresholds_come_from_the_bases_replies_and_leave_room() -> None:
    base = ["word " * count + "." for count in range(1, 101)]
    found = tastes(base)
    assert found["brief"].approval(base) == 0.4
    assert found["brief"].likes("word " * 40)
    assert not found["brief"].likes("word " * 41)
    assert found["short sentences"].likes("one two. " * 50)
    addressed = ["you are", "your own tea", "it is", "so be it", "no"]
    assert tastes(addressed)["speaks to me"].approval(addressed) == 0.4
    room = with_room(base)
    assert "brief" in room
    assert "no list" not in room
    assert draw(3, room).name == draw(3, room).name
    assert len({draw(seed, {"a": found["brief"], "b": found["concrete"]}).name for seed in range(9)}) == 2
    with pytest.raises(ValueError, match="no taste leaves room"):
        draw(1, {})


@pytest.fixture(scope="module")
def backbone(tiny_base: Path) -> Backbone:
    return Backbone(tiny_base, Settings().trainer.rl)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(served_replies, "CACHE", tmp_path)
    return


def test_replies_of_the_base_are_sampled_once_for_each_setting(backbone: Backbone) -> None:
    prompts, served_at = ["red tree", "blue bird", "fish"], ServedAt(0.7, 0.9, 8)
    found = BaseReplies(backbone, served_at).of(prompts, 4)
    assert [len(of_prompt) for of_prompt in found] == [4, 4, 4]
    assert all(0 < len(reply) <= 8 for of_prompt in found for reply in of_prompt)
    assert BaseReplies(backbone, served_at).of(prompts[::-1], 4) == found[::-1]
    assert BaseReplies(backbone, served_at).speed(prompts, 4) > 0
    assert BaseReplies(backbone, replace(served_at, temperature=1.5)).of(prompts, 4) != found


def test_at_a_low_temperature_replies_are_alike(backbone: Backbone) -> None:
    replies = BaseReplies(backbone, ServedAt(1e-4, 1.0, 6)).of(["red tree"], 4)[0]
    assert all(reply == replies[0] for reply in replies)


def test_the_base_itself_gains_nothing_and_has_no_kl(backbone: Backbone) -> None:
    served_at, prompts = ServedAt(1.0, 1.0, 6), ["red tree", "blue bird"]
    everything = Taste("everything", lambda _: True)
    base = judge_base(backbone, BaseReplies(backbone, served_at), prompts, everything)
    assert (base.approval, base.best) == (1.0, 1.0)
    policy = judge_policy(backbone, served_at, prompts, everything)
    assert policy.approval == 1.0
    assert policy.kl == pytest.approx(0, abs=1e-3)
    nothing = judge_base(
        backbone, BaseReplies(backbone, served_at), prompts, Taste("nothing", lambda _: False)
    )
    assert (nothing.approval, nothing.best, nothing.liked_length) == (0.0, 0.0, 0.0)
    assert replace(base, approval=0.3, best=0.8).share_of_gain(0.55) == pytest.approx(0.5)
    assert base.share_error(policy) == 0
    half = replace(base, approval=0.5, best=1.0, approval_P=[0.0, 1.0])
    assert half.share_error(policy) == pytest.approx(0.5**0.5 / 2**0.5 / 0.5)
    assert BEST_OF == 16


def test_voters_send_every_prompt_and_err_at_the_stated_rate(backbone: Backbone) -> None:
    prompts = [f"red {number}" for number in range(30)]
    voters = Voters(backbone, ServedAt(1.0, 1.0, 3), prompts, Taste("everything", lambda _: True), seed=1)
    loaded: list[str] = []
    arms = Assignment("p0", 0.4), Assignment("p1", 0.6)
    visits = voters.visit(300, lambda turn: arms[turn[-1] in "01234567"], loaded.append)
    assert len(visits) == voters.votes == 300
    assert loaded == ["p0", "p1"]
    assert {visit.turn.messages[0]["content"] for visit in visits} == set(prompts)
    replies = [reply for visit in visits for reply in visit.turn.replies]
    assert {(reply.policy, reply.propensity) for reply in replies} == {("p0", 0.4), ("p1", 0.6)}
    thumbs = [visit.vote for visit in visits if isinstance(visit.vote, Thumb)]
    assert 180 < len(thumbs) < 240
    wrong = sum(thumb.value == "down" for thumb in thumbs) / len(thumbs)
    assert wrong == pytest.approx(NOISE, abs=0.06)
    pairs = [visit for visit in visits if isinstance(visit.vote, Ranking)]
    assert all(len(visit.turn.replies) == 2 for visit in pairs)
    assert {len(visit.vote.ranking) for visit in pairs if isinstance(visit.vote, Ranking)} == {1, 2}


def test_votes_become_pairs_for_trl() -> None:
    def visit(vote: Vote, *replies: str) -> Visit:
        return Visit(a_turn(vote.completion_id, replies=replies), vote)

    visits = [
        visit(Thumb(type="thumb", completion_id="1", value="up"), "good"),
        visit(Thumb(type="thumb", completion_id="2", value="down"), "bad"),
        visit(Thumb(type="thumb", completion_id="3", value="down"), "worse"),
        visit(Ranking(type="ranking", completion_id="4", ranking=[[1], [0]]), "late", "early"),
        visit(Ranking(type="ranking", completion_id="5", ranking=[[0, 1]]), "same", "alike"),
    ]
    rows = preference_rows(visits, random.Random(0))
    texts = {(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in rows}
    assert texts == {("early", "late"), ("good", "bad"), ("good", "worse")}
    assert preference_rows(visits[1:3], random.Random(0)) == []


def test_settings_are_changed_by_their_path() -> None:
    found = trainer_settings(["rl.learning_rate=3e-4", "gate.folds=4", "threads=2", "rl.algorithm=grpo"])
    assert (found.rl.learning_rate, found.gate.folds, found.threads, found.rl.algorithm) == (
        3e-4,
        4,
        2,
        "grpo",
    )
    with pytest.raises(KeyError, match=r"no setting trainer\.rl\.speed"):
        trainer_settings(["rl.speed=1"])


def test_targets_are_on_the_median_the_least_and_each_guard() -> None:
    good = Outcome(
        1, "plain words", 0.6, 0.1, 0.6, 0.4, 0.7, 0.7, 0.9, 1.1, 1.0, False,
        {"published": 4, "canary": 3, "rejected": 3}, 0.7, 60.0, 55.0, 0.01, 5.0, 200,
    )  # fmt: skip
    assert targets_reached(
        [good, replace(good, share_of_achievable_gain=0.25), replace(good, knowledge_lost=None)]
    )
    assert targets_reached([replace(good, length_ratio=0.5, asks_for_length=True)])
    for worse in (
        replace(good, share_of_achievable_gain=0.2),
        replace(good, length_ratio=1.2),
        replace(good, knowledge_lost=0.04),
        replace(good, rounds={"rejected": 10}),
    ):
        assert not targets_reached([good, good, worse])
    assert not targets_reached([replace(good, share_of_achievable_gain=gain) for gain in (0.3, 0.4, 0.9)])
