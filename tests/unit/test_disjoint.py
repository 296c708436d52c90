"""Sets of prompts of a bench share no normalised text, and the assertion that says so can fail."""

import pytest

from deploy.simulation.prompt_text import normalised
from tests.bench import world_prompts
from tests.bench.disjoint import assert_disjoint
from tests.bench.everyday_prompts import HELD_OUT, SPARE, TRAFFIC
from trainer.evaluation.knowledge import SAMPLE_PROMPTS


@pytest.mark.parametrize(
    "variant",
    [
        "What is rust?",
        "what is rust",
        "  What   IS\nrust?! ",
        "What's rust?",
        "what’s rust…",
        "What is, rust",
    ],
)
def test_case_spaces_punctuation_and_short_forms_make_no_other_prompt(variant: str) -> None:
    assert normalised(variant) == "what is rust"


def test_signs_of_arithmetic_and_words_make_another_prompt() -> None:
    texts = ("What is 3 + 4?", "What is 3 * 4?", "What is 3 - 4?", "What is rust", "Was ist Rost?", "3 % 4")
    assert len(set(map(normalised, texts))) == len(texts)


def test_shared_prompts_are_named_with_their_sets() -> None:
    assert_disjoint(train=["a b", "c"], judged=["d"], probes=["e", "E"])
    assert_disjoint(train=[], judged=[])
    with pytest.raises(
        AssertionError, match=r"1 of 2 prompts of probes are prompts of train, too: \['a b'\]"
    ):
        assert_disjoint(train=["A b?", "c"], judged=["d"], probes=(each for each in ("a, B", "e")))


def test_parts_of_the_starters_world_are_disjoint_and_depend_on_the_seed_alone() -> None:
    sent, judged, asked = (
        [prompt.prompt for prompt in draw(300, 7)]
        for draw in (world_prompts.traffic, world_prompts.judgment, world_prompts.questions)
    )
    assert_disjoint(sent=sent, judged=judged, asked=asked, gate=world_prompts.trainer_questions())
    assert sent == [prompt.prompt for prompt in world_prompts.traffic(300, 7)]
    assert sent[:50] == [prompt.prompt for prompt in world_prompts.traffic(50, 7)]
    assert sent != [prompt.prompt for prompt in world_prompts.traffic(300, 8)]
    factual = sum(prompt.accept is not None for prompt in world_prompts.traffic(300, 7))
    assert 100 < factual < 200
    assert all(prompt.accept for prompt in world_prompts.questions(300, 7))


def test_everyday_prompts_are_distinct_and_disjoint() -> None:
    sets = {"traffic": TRAFFIC, "spare": SPARE, "held_out": HELD_OUT}
    assert_disjoint(**sets, shown=SAMPLE_PROMPTS)
    assert [len(set(map(normalised, each))) for each in sets.values()] == [160, 40, 40]
