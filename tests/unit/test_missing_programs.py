"""A test run without Chromium or promtool ends with a line that says what was not run."""

from tests.missing_programs import skip_reason, summary


def test_it_counts_the_skipped_tests_and_names_the_command() -> None:
    page, alert = skip_reason("Chromium"), skip_reason("promtool")
    assert summary([f"Skipped: {page}", f"Skipped: {alert}", f"Skipped: {alert}"]) == (
        "Not run: 1 tests of the chat page (no Chromium), 2 tests of the alerts (no promtool)."
        " To install: apt-get install chromium prometheus"
    )
    assert summary([page]) == (
        "Not run: 1 tests of the chat page (no Chromium). To install: apt-get install chromium"
    )


def test_other_skips_are_left_alone() -> None:
    assert summary(["Skipped: needs a GPU"]) is None
    assert summary([]) is None
