"""A candidate whose requests fail loses its traffic; a visitor whose requests fail does not take it away."""

import pytest

from serving.hard_failure import LEAST, PEOPLE, Failures
from serving.router import Route

LIVE, NEW = "p1-aaaaaa", "p2-bbbbbb"
ROUTE = Route("default", LIVE, "p0", NEW, 0.3, 0.0, 1, None, {})


class Noted(Failures):
    """Failures with the reasons for which the trial ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        super().__init__(lambda project, policy, reason: self.ended.append(reason))

    def asked(
        self, policy: str, person: str, *, failed: bool = False, origin: str | None = None, drawn: bool = True
    ) -> None:
        self.note(ROUTE, policy, person, origin, failed=failed, drawn=drawn)


@pytest.fixture
def failures() -> Noted:
    """Yields the requests of a project in which one person was answered by the live policy."""
    found = Noted()
    found.asked(LIVE, "ada")
    return found


def test_the_only_visitor_tells_after_three_failures_in_a_row(failures: Noted) -> None:
    for failed in (True, True, False, True, True):
        failures.asked(NEW, "bob", failed=failed)
    assert failures.ended == []
    failures.asked(NEW, "bob", failed=True)
    assert failures.ended == [f"a hard failure: {LEAST} requests of one person failed in a row"]
    assert len(failures.take()) == 5


def test_one_network_does_not_end_the_trial_of_a_policy_that_answers_others(failures: Noted) -> None:
    failures.asked(NEW, "bob")
    for number in range(1_000):
        failures.asked(NEW, f"v_{number}", failed=True, origin="network")
    failures.asked(NEW, "cyd", failed=True)  # by chance
    assert failures.ended == []


def test_failures_of_several_people_in_a_row_end_it_whatever_was_before(failures: Noted) -> None:
    for number in range(50):
        failures.asked(NEW, f"u_{number}")
    for number in range(PEOPLE):
        assert failures.ended == []
        failures.asked(NEW, f"u_{number}", failed=True)
    assert failures.ended == [f"a hard failure: {PEOPLE} requests of {PEOPLE} people failed in a row"]


def test_where_the_live_policy_fails_too_the_candidate_is_not_at_fault(failures: Noted) -> None:
    for number in range(20):
        for policy in (LIVE, NEW):
            failures.asked(policy, f"u_{number}", failed=True)
    assert failures.ended == []


def test_what_was_not_drawn_is_no_statistic(failures: Noted) -> None:
    """Nor are the replies to such requests: an operator pins a policy, or the live one answers for
    a candidate that no engine serves."""
    for policy in (LIVE, NEW):
        failures.asked(policy, "ada", failed=True, drawn=False)
    failures.asked(LIVE, "bob", failed=True)
    assert [failure.rater for failure in failures.take()] == ["bob"]
