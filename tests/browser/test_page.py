"""The page at `/` works in a real browser against a real service."""

import time
from typing import Any

import psycopg
from playwright.sync_api import Locator, Page, expect
from psycopg.rows import DictRow

Database = psycopg.Connection[DictRow]

# Counts in `window.partial` how often an unfinished reply was on show.
_WATCH = """() => {
    window.partial = 0;
    new MutationObserver(() => {
        if (document.querySelector("#turns [aria-busy=true] .text")?.textContent) window.partial += 1;
    }).observe(document.getElementById("turns"), {subtree: true, childList: true});
}"""

# Presses the button as soon as it says Stop.
_STOP_AT_ONCE = """() => {
    const send = document.getElementById("send");
    new MutationObserver((_, watching) => {
        if (send.getAttribute("aria-label") !== "Stop") return;
        watching.disconnect();
        send.click();
    }).observe(send, {attributes: true});
}"""


def say(page: Page, text: str) -> Locator:
    """Sends a message with the keyboard; returns the turn once its replies have ended."""
    box = page.get_by_label("Your message")
    box.fill(text)
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    box.press("Enter")
    turn = page.locator(".turn", has_text=text)
    expect(turn).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return turn


def active(database: Database, kind: str, prompt: str) -> list[dict[str, Any]]:
    """Returns the active feedback of a type on a prompt, as it is stored."""
    return database.execute(
        "select feedback.* from feedback join turns on turns.id = turn_id"
        " where type = %s and turns.messages -> -1 ->> 'content' = %s"
        " and superseded_by is null and retracted_at is null",
        [kind, prompt],
    ).fetchall()


def eventually(database: Database, kind: str, prompt: str, **value: Any) -> dict[str, Any]:
    """Returns the one active feedback, once its value contains `value`."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        rows = active(database, kind, prompt)
        if len(rows) == 1 and value.items() <= rows[0]["value"].items():
            return rows[0]
        time.sleep(0.05)
    raise AssertionError(f"{rows} is not one {kind} with {value}")


def test_a_reply_streams_in_and_a_thumb_with_a_reason_is_recorded(page: Page, database: Database) -> None:
    page.evaluate(_WATCH)
    page.get_by_role("button", name="How can I sleep better?").click()
    turn = page.locator(".turn").first
    turn.get_by_role("button", name="Good reply").click()
    turn.get_by_role("button", name="Friendly").click()
    expect(turn.get_by_role("button", name="Friendly")).to_have_attribute("aria-pressed", "true")
    vote = eventually(database, "thumb", "How can I sleep better?", value="up", reasons=["friendly"])
    assert vote["rater"] == rater_of(database, vote["turn_id"])
    expect(page.get_by_role("button", name="1 vote from you")).to_be_visible()

    turn.get_by_role("button", name="Bad reply").click()
    turn.get_by_role("button", name="Too long").click()
    eventually(database, "thumb", "How can I sleep better?", value="down", reasons=["too-long"])

    turn.get_by_role("button", name="Bad reply").click()
    expect(page.get_by_role("button", name="No votes from you yet")).to_be_visible()
    assert active(database, "thumb", "How can I sleep better?") == []

    say(page, "Thank you")
    assert page.evaluate("window.partial") > 0


def rater_of(database: Database, turn: str) -> str:
    row = database.execute("select rater from turns where id = %s", [turn]).fetchone()
    assert row is not None
    return str(row["rater"])


def test_the_conversation_continues_with_the_preferred_reply(page: Page, database: Database) -> None:
    page.get_by_role("button", name="Compare two").click()
    turn = say(page, "Tell me about cats")
    turn.get_by_role("button", name="B", exact=True).click()
    expect(turn).to_contain_text("You preferred B.")
    vote = eventually(database, "ranking", "Tell me about cats", ranking=[[1], [0]], acceptable=True)

    page.get_by_role("button", name="Compare two").click()
    say(page, "And dogs?")
    row = database.execute(
        "select messages from turns where messages -> -1 ->> 'content' = 'And dogs?'"
    ).fetchone()
    better = database.execute(
        "select text from replies where turn_id = %s and choice = 1", [vote["turn_id"]]
    ).fetchone()
    assert row is not None
    assert better is not None
    assert row["messages"] == [
        {"role": "user", "content": "Tell me about cats"},
        {"role": "assistant", "content": better["text"]},
        {"role": "user", "content": "And dogs?"},
    ]


def test_neither_of_two_replies_was_good(page: Page, database: Database) -> None:
    page.get_by_role("button", name="Compare two").click()
    turn = say(page, "Tell me about frogs")
    turn.get_by_role("button", name="Neither").click()
    eventually(database, "ranking", "Tell me about frogs", ranking=[[0, 1]], acceptable=False)

    turn.get_by_role("button", name="Change").click()
    turn.get_by_role("button", name="Tie").click()
    eventually(database, "ranking", "Tell me about frogs", ranking=[[0, 1]], acceptable=True)


def test_an_edit_is_recorded_and_shown(page: Page, database: Database) -> None:
    turn = say(page, "What is the capital of Portugal?")
    turn.get_by_role("button", name="Edit").click()
    page.get_by_label("How the reply should have been").fill("Lisbon. <b>Of course</b>.")
    page.get_by_role("button", name="Save").click()
    expect(turn.locator(".text")).to_have_text("Lisbon. <b>Of course</b>.")
    row = eventually(database, "edit", "What is the capital of Portugal?")
    assert row["text"] == "Lisbon. <b>Of course</b>."


def test_another_reply_is_an_implicit_signal(page: Page, database: Database) -> None:
    turn = say(page, "Tell me a joke")
    turn.get_by_role("button", name="Another reply").click()
    eventually(database, "signal", "Tell me a joke", signal="regenerated")
    expect(turn.get_by_role("button", name="Good reply")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(1)


def test_the_keyboard_is_enough(page: Page, database: Database) -> None:
    """Shift+Enter breaks the line, Enter sends, Tab reaches what can be done, Space does it."""

    def tab_to(label: str) -> None:
        for _ in range(20):
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == label:
                return
            page.keyboard.press("Shift+Tab")
        raise AssertionError(f"Tab does not reach {label}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the message box")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("Good evening")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("friend")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Good reply")).to_be_visible()
    tab_to("Bad reply")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Bad reply")).to_be_focused()
    eventually(database, "thumb", "Good evening\nfriend", value="down")


def test_a_reload_keeps_the_conversation_and_tells_when_the_vote_went_live(
    page: Page, database: Database
) -> None:
    """The test writes the trainer's rows itself; the whole loop has tests of its own."""
    turn = say(page, "Who are you?")
    turn.get_by_role("button", name="Good reply").click()
    vote = eventually(database, "thumb", "Who are you?", value="up")
    expect(page.get_by_role("button", name="1 being learned")).to_be_visible()
    database.execute(
        "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
        " conversation_id, created_at, first_policy)"
        " select event_id, project, id, turn_id, choice, type, value, rater, 'conv', created_at, 'p0'"
        " from feedback where id = %s on conflict (event_id) do update set first_policy = 'p0'",
        [vote["id"]],
    )
    page.reload()
    expect(page.locator(".turn")).to_contain_text("Who are you?")
    expect(page.get_by_role("status")).to_contain_text(
        "Your vote on “Who are you?” is part of policy p0, live since"
    )
    expect(page.locator(".turn")).to_contain_text("Your vote is part of policy p0, live since")


def test_stop_ends_the_reply_and_nothing_is_stored(page: Page, database: Database) -> None:
    box = page.get_by_label("Your message")
    box.fill("Tell me a long story")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    page.evaluate(_STOP_AT_ONCE)
    box.press("Enter")
    expect(page.locator(".turn")).to_contain_text("Stopped.")
    say(page, "Never mind")
    asked = database.execute("select messages -> -1 ->> 'content' as text from turns").fetchall()
    assert {"text": "Never mind"} in asked
    assert {"text": "Tell me a long story"} not in asked


def test_it_fits_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Compare two").click()
    say(page, "What should I cook tonight?")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
