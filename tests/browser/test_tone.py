"""A visitor finds their tone: ten pairs by mouse and keyboard, and the next reply is chosen for them."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import BrowserContext, expect
from psycopg.rows import dict_row

from schemas.taste_model import TASTES
from serving.questions import QUESTIONS
from tests.browser.chat import check_accessible, say
from tests.installation import Installation, wait
from tests.tastes import write_tastes
from trainer.starter import MODEL_DIR

POLICY = "p1-aaaaaa"


def publish_tastes(installation: Installation) -> None:
    """Publishes the base's own adapter once more, with a taste model, and waits until it is live."""

    def taste_model(directory: Path) -> str:
        write_tastes(MODEL_DIR, directory)
        return TASTES

    installation.publish_again("p0", POLICY, taste_model)

    def live() -> bool:
        with psycopg.connect(installation.database_url()) as connection:
            row = connection.execute("select live from routes").fetchone()
        return row is not None and row[0] == POLICY

    wait(live, f"{POLICY} is live")


@pytest.fixture(scope="module")
def tasteful(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    data_dir: Path = tmp_path_factory.mktemp("tone") / "data"
    with Installation(data_dir, HEARKEN_SERVING__BASE_SHARE="0") as installation:
        publish_tastes(installation)
        yield installation


def test_ten_pairs_find_a_visitors_tone(context: BrowserContext, tasteful: Installation) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(tasteful.url)
    refused = {"error": {"code": "rate_limit_exceeded", "message": "Too many."}}
    page.route("**/v1/tastes/questions", lambda route: route.fulfill(status=429, json=refused), times=1)
    page.get_by_role("button", name="Find your tone").click()
    dialog = page.get_by_role("dialog", name="Find your tone")
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog.get_by_text(f"Pair 1 of {QUESTIONS}")).to_be_visible(timeout=60_000)
    check_accessible(page)
    skipped = dialog.locator(".prompt").inner_text()
    dialog.get_by_role("button", name="Skip this one").click()
    expect(dialog.locator(".prompt")).not_to_have_text(skipped)
    expect(dialog.get_by_text(f"Pair 1 of {QUESTIONS}")).to_be_visible()
    dialog.get_by_role("button", name="A is better").click()
    expect(dialog.get_by_text(f"Pair 2 of {QUESTIONS}")).to_be_visible()
    for number in range(3, QUESTIONS + 1):
        page.keyboard.press("b")
        expect(dialog.get_by_text(f"Pair {number} of {QUESTIONS}")).to_be_visible()
    dialog.get_by_role("button", name="Equally good").click()
    expect(dialog.get_by_text("replies are chosen for you")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    with psycopg.connect(tasteful.database_url(), row_factory=dict_row) as database:

        def known() -> bool:
            row = database.execute("select max(votes) as votes from person_tastes").fetchone()
            return row is not None and row["votes"] == QUESTIONS

        wait(known, "the visitor's weights follow from ten answers")
        say(page, "Good morning to you")
        row = database.execute(
            "select request -> 'best_of' as best_of, rater from turns"
            " where messages -> -1 ->> 'content' = 'Good morning to you'"
        ).fetchone()
        assert row is not None
        assert row["best_of"] == 4
        asked = database.execute("select distinct rater from turns where request ? 'question'").fetchall()
        assert asked == [{"rater": row["rater"]}]
