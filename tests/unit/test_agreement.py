"""Agreement is a share of pairs, and Krippendorff's alpha beside it."""

import pytest

from feedback.agreement import agreement


def test_full_agreement_and_none() -> None:
    assert agreement([["up", "up"], ["down", "down"]]).alpha == pytest.approx(1)
    assert agreement([["up", "down"], ["down", "up"]]).share == 0


def test_without_two_answers_or_two_opinions_nothing_is_said() -> None:
    assert agreement([["up"], [], ["down"]]) == agreement([])
    same = agreement([["up", "up"], ["up", "up"]])
    assert (same.compared, same.share, same.alpha) == (2, 1, None)


def test_krippendorffs_own_example_with_missing_answers() -> None:
    """The nominal data of Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C."""
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    items = [[str(answer) for answer in item if answer is not None] for item in zip(*raters, strict=True)]
    found = agreement(items)
    assert found.compared == 11
    assert found.alpha == pytest.approx(0.743, abs=0.001)
