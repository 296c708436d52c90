"""Simulated users draw from all preferences, err at the stated rates and edit to their preference."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from deploy.simulation.people import Person, Preference, all_preferences, draw_people, draw_preference
from trainer.starter.dialogues import draw_style, reply
from trainer.starter.styles import AXES, styles
from trainer.starter.topics import Topic
from trainer.starter.world import Prompt, correct, draw_topic

LIKED, DISLIKED = "It is Paris! 🙂", "It is Paris."
PREFERENCE = Preference((("short", True), ("exclamation", True), ("emoji", True)))
FAULTLESS = Person("ada", PREFERENCE, noise=0, leniency=0, contrarian=False)


def thumbs_up(person: Person, text: str, count: int = 20_000) -> float:
    rng = random.Random(7)
    return sum(person.thumb(text, rng) for _ in range(count)) / count


def replies(count: int, seed: int) -> Iterator[tuple[Topic, str]]:
    """Replies in every manner, about half of them to factual questions."""
    rng = random.Random(seed)
    for _ in range(count):
        topic, style = draw_topic(rng, factual=rng.random() < 0.5), draw_style(rng)
        with suppress(ValueError):  # the grammar cannot say everything in every manner
            yield topic, reply(topic, style, rng)


def test_the_preferences_are_every_conjunction_of_three_axis_values() -> None:
    preferences = list(all_preferences())
    assert len(set(preferences)) == len(preferences) == 56 * 8
    assert all(len({axis for axis, _ in preference.wants} & set(AXES)) == 3 for preference in preferences)


def test_a_preference_is_drawn_uniformly_and_is_the_same_for_the_same_seed() -> None:
    drawn = [draw_preference(seed) for seed in range(8_000)]
    assert drawn[:50] == [draw_preference(seed) for seed in range(50)]
    axes = Counter(axis for preference in drawn for axis, _ in preference.wants)
    assert all(count / len(drawn) == pytest.approx(3 / 8, abs=0.03) for count in axes.values())
    wanted = sum(value for preference in drawn for _, value in preference.wants) / (3 * len(drawn))
    assert wanted == pytest.approx(0.5, abs=0.02)
    assert len(set(drawn)) == 448


def test_a_reply_is_liked_when_all_three_hold_and_not_otherwise() -> None:
    assert PREFERENCE.likes(LIKED)
    assert not PREFERENCE.likes("It is Paris!")
    assert not PREFERENCE.likes(LIKED + " word" * 18)
    assert PREFERENCE.inverted().likes("word " * 19)
    assert str(PREFERENCE.inverted()) == "not short, not exclamation, not emoji"


def test_a_faultless_person_votes_by_the_preference_and_a_contrarian_against_it() -> None:
    contrarian = replace(FAULTLESS, contrarian=True)
    assert (thumbs_up(FAULTLESS, LIKED, 50), thumbs_up(FAULTLESS, DISLIKED, 50)) == (1, 0)
    assert (thumbs_up(contrarian, LIKED, 50), thumbs_up(contrarian, DISLIKED, 50)) == (0, 1)


def test_noise_flips_votes_as_often_as_stated() -> None:
    noisy = replace(FAULTLESS, noise=0.08)
    assert thumbs_up(noisy, LIKED) == pytest.approx(0.92, abs=0.01)
    assert thumbs_up(noisy, DISLIKED) == pytest.approx(0.08, abs=0.01)


def test_leniency_lets_pass_and_its_opposite_finds_fault() -> None:
    lenient, harsh = replace(FAULTLESS, leniency=0.15), replace(FAULTLESS, leniency=-0.15)
    assert thumbs_up(lenient, DISLIKED) == pytest.approx(0.15, abs=0.01)
    assert thumbs_up(lenient, LIKED) == 1
    assert thumbs_up(harsh, LIKED) == pytest.approx(0.85, abs=0.01)
    assert thumbs_up(harsh, DISLIKED) == 0


def test_rankings_put_the_liked_first_and_tie_what_is_equal() -> None:
    rng = random.Random(0)
    assert FAULTLESS.ranking([DISLIKED, LIKED], rng) == ([[1], [0]], True)
    assert FAULTLESS.ranking([LIKED, LIKED], rng) == ([[0, 1]], True)
    assert FAULTLESS.ranking([DISLIKED, DISLIKED], rng) == ([[0, 1]], False)
    assert replace(FAULTLESS, contrarian=True).ranking([DISLIKED, LIKED], rng) == ([[0], [1]], True)


def test_a_crowd_shares_one_preference_and_has_a_few_contrarians() -> None:
    people = draw_people(seed=5, users=40)
    assert people == draw_people(seed=5, users=40) != draw_people(seed=6, users=40)
    assert {person.preference for person in people} == {draw_preference(5)}
    assert sum(person.contrarian for person in people) == 2
    assert len({person.name for person in people}) == 40
    assert all(0 <= person.noise <= 0.1 and abs(person.leniency) <= 0.15 for person in people)
    assert len({(person.noise, person.leniency) for person in people}) == 40


def test_edits_satisfy_the_preference_and_keep_the_answer() -> None:
    rng, preferences = random.Random(3), list(all_preferences())
    edits = wanted = kept = answered = 0
    for topic, text in replies(1_200, seed=4):
        preference = rng.choice(preferences)
        if preference.likes(text):
            continue
        better = Person("bo", preference, 0, 0, contrarian=False).edit(text, topic.accept or (), rng)
        edits += 1
        wanted += preference.likes(better)
        question = Prompt("", topic.accept)
        if topic.accept and correct(question, text):
            answered += 1
            kept += correct(question, better)
    assert edits > 800
    assert answered > 300
    assert wanted / edits >= 0.95
    assert kept == answered


def test_edits_say_nothing_of_what_the_preference_is_silent_about() -> None:
    rng, preferences = random.Random(5), list(all_preferences())
    changes: dict[str, list[int]] = {axis: [] for axis in AXES}
    for topic, text in replies(1_200, seed=6):
        preference = rng.choice(preferences)
        better = Person("bo", preference, 0, 0, contrarian=False).edit(text, topic.accept or (), rng)
        before, after = styles(text), styles(better)
        for axis in set(AXES) - {axis for axis, _ in preference.wants}:
            changes[axis].append(after[axis] - before[axis])
    for axis, found in changes.items():
        assert sum(map(abs, found)) / len(found) < 0.04, axis
        assert abs(sum(found)) / len(found) < 0.02, axis


def test_a_contrarian_edits_away_from_the_preference() -> None:
    better = replace(FAULTLESS, contrarian=True).edit(LIKED, ("Paris",), random.Random(1))
    assert PREFERENCE.inverted().likes(better)
    assert "Paris" in better


@pytest.mark.parametrize(
    "text", ["", "🙂", "- ", "?", "!!!", "word " * 60, "I think I guess", "a\n\n- b\n1. c\n"]
)
def test_edits_make_something_of_any_reply(text: str) -> None:
    for preference in all_preferences():
        better = Person("bo", preference, 0, 0, contrarian=False).edit(text, (), random.Random(2))
        assert preference.likes(better), (str(preference), better)
