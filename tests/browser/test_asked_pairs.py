"""The service answers a message with two replies, and the visitor may say "Not now"."""

from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect
from psycopg.rows import dict_row

from tests.browser.chat import check_accessible, eventually, say
from tests.installation import Installation

MESSAGES = 60
"""Each becomes a pair with a probability of a fifth."""

SETTINGS = {"HEARKEN_SERVING__PAIRS_PER_DAY": "5", "HEARKEN_SERVING__BASE_SHARE": "0"}


@pytest.fixture(scope="module")
def asking(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("pairs") / "data", **SETTINGS) as installation:
        yield installation


def test_a_message_becomes_a_pair_and_not_now_ends_it_for_the_day(
    context: BrowserContext, asking: Installation
) -> None:
    page = context.new_page()
    page.goto(asking.url)

    def until_asked(name: str) -> str:
        for number in range(MESSAGES):
            turn = say(page, f"{name} {number}.")
            if turn.locator(".card").count() == 2:
                return f"{name} {number}."
        raise AssertionError("no message became a pair")

    with psycopg.connect(asking.database_url(), row_factory=dict_row, autocommit=True) as database:
        first = until_asked("First")
        check_accessible(page)
        page.get_by_role("button", name="B is better").click()
        eventually(database, "ranking", first, acceptable=True)

        second = until_asked("Second")
        turn = page.locator(".turn", has_text=second)
        turn.get_by_role("button", name="Not now").click()
        expect(turn).to_contain_text("You did not compare them.")
        expect(turn.get_by_role("button", name="Change")).to_be_focused()
        check_accessible(page)
        for number in range(12):
            assert say(page, f"Third {number}.").locator(".card").count() == 0
        rows = database.execute(
            "select messages -> -1 ->> 'content' as text, request -> 'pair' as pair from turns"
            " where request ? 'pair' order by created_at"
        ).fetchall()
        asked = [row["text"] for row in rows if row["pair"]["asked"]]
        assert asked == [first, second]
        assert {row["pair"]["propensity"] for row in rows if row["pair"]["asked"]} == {0.5}
