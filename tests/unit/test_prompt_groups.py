"""Conversations and equal openings stay in one cross-validation fold."""

from collections import Counter
from datetime import UTC, datetime

import pytest
import torch

from schemas.settings import TrainerSettings
from tests.service import write_base
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.prompt_groups import Opening, PromptGroup, fold_of, group, normalised
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.model.backbone import Backbone

torch.set_num_threads(1)

FOLDS = 5
NOW = datetime(2026, 5, 1, tzinfo=UTC)


def folds(openings: dict[str, Opening]) -> dict[str, int]:
    """Returns the fold of each turn, where each has a vote."""
    groups = group(openings, list(openings))
    return {turn: fold_of(turn, groups[turn], FOLDS) for turn in openings}


@pytest.mark.parametrize("text", ["Hi", "hi!", "  HI \n", "“Hi”…", "Ｈｉ"])
def test_openings_that_differ_in_form_only_are_equal(text: str) -> None:
    assert normalised(text) == "hi"


def test_openings_of_other_scripts_or_without_words_keep_what_they_say() -> None:
    assert normalised("Привет, мир!") == "привет мир"
    assert normalised("你好。") == "你好"
    assert normalised("🙂 ?!") == "🙂 ?!"
    assert normalised(" \n") == ""


def test_a_conversation_is_in_one_fold() -> None:
    turns = {f"t{number}": Opening(f"c{number // 10}", f"topic {number // 10}") for number in range(200)}
    found = folds(turns)
    for conversation in range(20):
        assert len({found[f"t{10 * conversation + turn}"] for turn in range(10)}) == 1
    assert len(set(found.values())) == FOLDS


def test_equal_openings_of_different_people_are_in_one_fold() -> None:
    turns = {f"t{number}": Opening(f"c{number}", f"question {number // 4}") for number in range(400)}
    found = folds(turns)
    assert all(
        len({found[f"t{4 * question + person}"] for person in range(4)}) == 1 for question in range(100)
    )
    sizes = Counter(found.values())
    assert max(sizes.values()) < 0.35 * len(turns)


def test_a_common_opening_makes_no_giant_fold_and_its_votes_are_not_unseen() -> None:
    turns = {f"t{number}": Opening(f"c{number}", "hi") for number in range(1000)}
    turns |= {f"u{number}": Opening(f"d{number}", f"question {number}") for number in range(500)}
    groups = group(turns, list(turns))
    assert max(Counter(folds(turns).values()).values()) < 0.3 * len(turns)
    assert all(groups[f"t{number}"].common for number in range(1000))
    assert not any(groups[f"u{number}"].common for number in range(500))


def test_one_long_conversation_is_not_common() -> None:
    turns = {f"t{number}": Opening("c", "hi") for number in range(100)}
    assert not any(found.common for found in group(turns, list(turns)).values())


def test_a_turn_without_an_opening_goes_with_its_conversation() -> None:
    turns = {"t1": Opening("c1", ""), "t2": Opening("c1", ""), "t3": Opening("c2", "")}
    groups = group(turns, [])
    assert groups["t1"] == groups["t2"] != groups["t3"]
    assert groups["t1"].common


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("groups") / "tiny"), TrainerSettings().rl)


def data(backbone: Backbone, examples: list[Example], draw: int, fold: int | None = None) -> RoundData:
    replies: dict[Key, Reply] = {example.reply_keys[0]: Reply([1], [2]) for example in examples}
    groups = {example.turn_id: example.group for example in examples if example.group is not None}
    inputs = RoundInputs(draw=draw, fold=fold, parent="p0", votes=0, events=[], turns=[], positions={})
    prompts = {example.turn_id: [5, 6, 7 + number] for number, example in enumerate(examples)}
    return RoundData(backbone, TrainerSettings(), inputs, Corpus(examples, replies, groups=groups), prompts)


def thumb(number: int, group: PromptGroup | None, *, seen: bool = False, rater: str = "ann") -> Example:
    turn = f"t{number}"
    return Example(f"e{number}", turn, "thumb", {"value": "up"}, rater, ((turn, "0"),), NOW, seen, group)


def test_a_group_is_held_out_as_a_whole_with_its_prompts(backbone: Backbone) -> None:
    split = data(backbone, [thumb(number, PromptGroup(number // 5, False)) for number in range(50)], draw=3)
    assert {example.group.id % FOLDS for example in split.held_out if example.group} == {3}
    assert len(split.held_out) == 10
    assert sorted(prompt[-1] - 7 for prompt in split.eval_prompts) == sorted(
        int(example.turn_id[1:]) for example in split.held_out
    )


def test_the_fold_that_is_named_is_held_out(backbone: Backbone) -> None:
    votes = [thumb(number, PromptGroup(number // 5, False)) for number in range(50)]
    split = data(backbone, votes, draw=3, fold=FOLDS + 1)
    assert {example.group.id % FOLDS for example in split.held_out if example.group} == {1}


def test_unseen_are_votes_of_people_that_no_policy_learned_from_on_no_common_prompt(
    backbone: Backbone,
) -> None:
    held_out, common, other = PromptGroup(3, False), PromptGroup(8, True), PromptGroup(4, False)
    split = data(
        backbone,
        [
            thumb(0, held_out),
            thumb(1, held_out, seen=True),
            thumb(2, held_out, rater="judge:strict"),
            thumb(3, common),
            *(thumb(number, other) for number in range(4, 20)),
        ],
        draw=3,
    )
    assert [example.event_id for example in split.held_out] == ["e0", "e1", "e2", "e3"]
    assert [example.event_id for example in split.unseen] == ["e0"]


def test_a_fold_with_most_of_the_votes_is_trained_on(backbone: Backbone) -> None:
    """A single long conversation, say."""
    split = data(backbone, [thumb(number, PromptGroup(3, False)) for number in range(10)], draw=3)
    assert (len(split.training), split.held_out) == (10, [])
    assert len(split.train_prompts) == len(split.eval_prompts) == 10
