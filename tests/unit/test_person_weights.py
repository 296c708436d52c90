"""A person's weights follow from few votes, and little from votes that contradict each other."""

import numpy as np
import pytest

from feedback.person_votes import PersonVote
from schemas.turns import Reply
from serving.person_weights import Judgments, information, posterior, reward
from serving.question_pool import Candidate
from serving.questions import pick

VALUES = {
    ("turn", 0): np.array([0.0, 1.5, 0.0]),
    ("turn", 1): np.array([0.0, -1.5, 0.0]),
    ("turn", 2): np.array([0.0, 0.0, 1.5]),
}


def ranked(ranking: list[list[int]], acceptable: bool = True) -> PersonVote:
    value = {"ranking": ranking, "acceptable": acceptable}
    return PersonVote("turn", None, "ranking", value, [1], {0: [2], 1: [3]})


def thumb(choice: int, value: str) -> PersonVote:
    return PersonVote("turn", choice, "thumb", {"value": value}, [1], {0: [2], 1: [3], 2: [4]})


def test_preferences_give_weights_and_certainty() -> None:
    few = posterior(Judgments.of([ranked([[0], [1]])] * 2, VALUES, 1.0))
    many = posterior(Judgments.of([ranked([[0], [1]])] * 10, VALUES, 1.0))
    assert 0 < few.weights_T[0] < many.weights_T[0]
    assert many.covariance_TT[0, 0] < few.covariance_TT[0, 0] < 1
    assert few.weights_T[1] == pytest.approx(0)
    assert few.covariance_TT[1, 1] == pytest.approx(1)


def test_contradictions_ties_and_unknown_replies_say_nothing() -> None:
    both = posterior(Judgments.of([ranked([[0], [1]]), ranked([[1], [0]])], VALUES, 1.0))
    assert both.weights_T == pytest.approx([0, 0], abs=1e-6)
    assert len(Judgments.of([ranked([[0, 1]])], VALUES, 1.0).offset_B) == 0
    assert len(Judgments.of([thumb(7, "up")], VALUES, 1.0).offset_B) == 0


def test_who_dislikes_everything_has_no_taste_by_it() -> None:
    glum = posterior(Judgments.of([thumb(0, "down"), thumb(1, "down")] * 5, VALUES, 1.0))
    assert glum.weights_T == pytest.approx([0, 0], abs=1e-6)
    none_good = posterior(Judgments.of([ranked([[0, 1]], acceptable=False)] * 5, VALUES, 1.0))
    assert none_good.weights_T == pytest.approx([0, 0], abs=1e-6)
    picky = posterior(Judgments.of([thumb(0, "down"), thumb(1, "up")] * 5, VALUES, 1.0))
    assert picky.weights_T[0] < -0.5


def test_the_members_disagreement_lowers_the_reward() -> None:
    agreed = np.array([[1.0, 0.5], [1.0, 0.5]])
    torn = np.array([[2.0, 0.5], [0.0, 0.5]])
    found = reward(np.stack([agreed, torn]), np.array([2.0]), 0.3)
    assert found[0] == pytest.approx(2.0)
    assert found[1] == pytest.approx(2.0 - 0.3)


def candidate(prompt: str, *values: list[list[float]]) -> Candidate:
    replies = [Reply(at, "p1", 1.0, f"{prompt} {at}", [at], [0.0], "stop") for at in range(len(values))]
    return Candidate(prompt, [], [1], {}, replies, np.array(values))


def test_the_pair_that_says_most_is_picked() -> None:
    alike = candidate("alike", [[0.0, 0.2, 0.1]], [[0.0, 0.2, 0.0]])
    clear = candidate("clear", [[0.0, 2.0, 0.0]], [[0.0, -2.0, 0.0]])
    other = candidate("other", [[0.0, 0.0, 1.5]], [[0.0, 0.0, -1.5]])
    foregone = candidate("foregone", [[9.0, 2.0, 0.0]], [[-9.0, -2.0, 0.0]])
    first = pick([alike, other, foregone, clear], None)
    assert first is not None
    assert first.candidate is clear
    known = posterior(Judgments.of([ranked([[0], [1]])] * 8, VALUES, 1.0))
    second = pick([alike, other, foregone, clear], known)
    assert second is not None
    assert second.candidate is other
    assert pick([], None) is None


def test_pairs_on_which_the_members_disagree_say_more() -> None:
    agreed = np.array([[0.5, 0.5], [0.5, 0.5]])
    torn = np.array([[2.0, 0.5], [-1.0, 0.5]])
    assert information(torn) > information(agreed) == 0
