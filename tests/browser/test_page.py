"""The page at `/` works in a real browser against a real service."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import BrowserContext, Page, WebSocketRoute, expect

from feedback import receipt
from tests.browser.chat import Database, active, check_accessible, eventually, say, wide
from tests.installation import ADMIN_KEY, Installation

RICH = """### A heading

##### Another, two levels below

A **bold** start with [a link](https://example.org/), and $a^2$.

1. first
   - nested

```python
def greet():
    return 1
```

| City | Country |
|---|---|
| Lisbon | Portugal |

$$\\frac{1}{2}$$
"""

# Counts in `window.partial` how often an unfinished reply was on show.
_WATCH = """() => {
    window.partial = 0;
    const root = document.querySelector("hearken-chat").shadowRoot;
    new MutationObserver(() => {
        if (root.querySelector("[aria-busy=true] .text")?.textContent) window.partial += 1;
    }).observe(root, {subtree: true, childList: true, characterData: true});
}"""

# Presses the button as soon as it says Stop.
_STOP_AT_ONCE = """() => {
    const send = document.querySelector("hearken-chat").shadowRoot.querySelector(".send");
    new MutationObserver((_, watching) => {
        if (send.getAttribute("aria-label") !== "Stop") return;
        watching.disconnect();
        send.click();
    }).observe(send, {attributes: true});
}"""

# Deletes the conversation as soon as a reply to it is being written.
_DELETE_AT_ONCE = """() => {
    const root = document.querySelector("hearken-chat").shadowRoot;
    new MutationObserver((_, watching) => {
        const bin = root.querySelector('.conversation[data-current="true"] .icon:last-child');
        if (!bin || !root.querySelector(".body.writing")) return;
        watching.disconnect();
        bin.click();
    }).observe(root, {subtree: true, childList: true, attributes: true});
}"""

# Sends chats of one token as this visitor until one is refused, and presses the button while more are sent.
# Returns whether the page says that it waits.
_WAITS_OVER_THE_LIMIT = """async () => {
    const { publishable_key } = await (await fetch("/config.json")).json();
    const { token } = JSON.parse(localStorage.getItem("hearken.page.session"));
    const headers = {Authorization: `Bearer ${publishable_key}`, "Hearken-Session": token};
    const chat = (n) => fetch("/v1/chat/completions", {method: "POST", headers, body: JSON.stringify(
        {messages: [{role: "user", content: "Again"}], max_tokens: 1, n, store: false})});
    for (const n of [8, 1]) while ((await chat(n)).ok) ;
    const others = setInterval(() => chat(1), 20);
    const root = document.querySelector("hearken-chat").shadowRoot;
    return new Promise((resolve) => {
        new MutationObserver(() => {
            if (root.textContent.includes("Many messages at once. Yours is sent again in")) resolve(true);
        }).observe(root, {subtree: true, childList: true, characterData: true});
        setTimeout(() => resolve(false), 10_000);
        root.querySelector(".send").click();
    }).finally(() => clearInterval(others));
}"""


def test_the_page_says_that_the_starter_is_a_toy(page: Page) -> None:
    expect(page.get_by_text("This is the starter, a toy")).to_contain_text("make up MODEL=smollm2")


def test_a_reply_streams_in_and_a_thumb_with_a_reason_and_a_comment_is_recorded(
    page: Page, database: Database
) -> None:
    expect(page.get_by_role("button", name="No votes yet")).to_be_visible()
    check_accessible(page)
    page.evaluate(_WATCH)
    page.get_by_role("button", name="How can I sleep better?").click()
    turn = page.locator(".turn").first
    turn.get_by_role("button", name="Good reply").click()
    turn.get_by_role("button", name="Friendly").click()
    expect(turn.get_by_role("button", name="Friendly")).to_have_attribute("aria-pressed", "true")
    vote = eventually(database, "thumb", "How can I sleep better?", value="up", reasons=["friendly"])
    assert vote["rater"] == vote["asker"]
    expect(page.get_by_role("button", name="1 vote")).to_be_visible()
    turn.get_by_role("button", name="Say more").click()
    turn.get_by_label("Your comment on this reply").fill("Just right.")
    turn.get_by_label("Your comment on this reply").press("Enter")
    expect(page.get_by_text("Your comment is kept with your vote.")).to_be_attached()
    comments = database.execute("select comment from feedback where comment is not null").fetchall()
    assert {"comment": "Just right."} in comments
    check_accessible(page)

    turn.get_by_role("button", name="Bad reply").click()
    turn.get_by_role("button", name="Too long").click()
    vote = eventually(database, "thumb", "How can I sleep better?", value="down", reasons=["too-long"])

    turn.get_by_role("button", name="Bad reply").click()
    expect(page.get_by_role("button", name="No votes yet")).to_be_visible()
    assert active(database, "thumb", "How can I sleep better?") == []

    say(page, "Thank you")
    assert page.evaluate("window.partial") > 0


def test_a_team_gets_from_nothing_to_its_page_and_first_vote(
    context: BrowserContext, installation: Installation, database: Database
) -> None:
    """Within two minutes, and without SQL."""
    began = time.monotonic()
    with installation.client() as operator:
        made = operator.post("/v1/projects", json={"id": "team-from-nothing"}).json()
    page = context.new_page()
    page.goto(installation.url + made["page"])
    turn = say(page, "Are you our own?")
    turn.get_by_role("button", name="Good reply").click()
    vote = eventually(database, "thumb", "Are you our own?", value="up")
    assert (vote["project"], time.monotonic() - began < 120) == ("team-from-nothing", True)


def test_the_conversation_continues_with_the_preferred_reply(page: Page, database: Database) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    turn = say(page, "Tell me about cats")
    check_accessible(page)
    second = turn.locator(".card").nth(1).locator(".text").inner_text()
    turn.get_by_role("button", name="B is better").click()
    expect(turn).to_contain_text("You preferred B.")
    expect(turn.get_by_role("button", name="Change")).to_be_focused()
    vote = eventually(database, "ranking", "Tell me about cats", acceptable=True)
    [best], [other] = vote["value"]["ranking"]
    assert vote["value"]["shown"] == [other, best]
    why = turn.get_by_role("group", name="Why is B better?")
    why.get_by_role("button", name="Friendly").click()
    eventually(database, "ranking", "Tell me about cats", ranking=[[best], [other]], reasons=["friendly"])
    expect(why.get_by_role("button", name="Friendly")).to_have_attribute("aria-pressed", "true")
    check_accessible(page)
    better = database.execute(
        "select text from replies where turn_id = %s and choice = %s", [vote["turn_id"], best]
    ).fetchone()
    assert better is not None
    assert better["text"].split() == second.split() or "-" in better["text"]

    page.get_by_role("button", name="Compare", exact=True).click()
    say(page, "And dogs?")
    row = database.execute(
        "select messages from turns where messages -> -1 ->> 'content' = 'And dogs?'"
    ).fetchone()
    assert row is not None
    assert row["messages"] == [
        {"role": "user", "content": "Tell me about cats"},
        {"role": "assistant", "content": better["text"]},
        {"role": "user", "content": "And dogs?"},
    ]


def test_none_of_two_replies_was_good(page: Page, database: Database) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    turn = say(page, "Tell me about frogs")
    turn.get_by_role("button", name="None is good").click()
    turn.get_by_role("group", name="What was wrong?").get_by_role("button", name="Too long").click()
    wrong = {"ranking": [[0, 1]], "acceptable": False, "reasons": ["too-long"]}
    eventually(database, "ranking", "Tell me about frogs", **wrong)

    turn.get_by_role("button", name="Change").click()
    expect(turn.get_by_role("button", name="A is better")).to_be_focused()
    turn.get_by_role("button", name="Equally good").click()
    vote = eventually(database, "ranking", "Tell me about frogs", ranking=[[0, 1]], acceptable=True)
    assert "reasons" not in vote["value"]
    expect(turn.get_by_role("button", name="Too long")).to_have_count(0)


def test_an_edit_is_recorded_and_shown_and_a_rewritten_message_starts_anew(
    page: Page, database: Database
) -> None:
    turn = say(page, "What is the capital of Portugal?")
    turn.get_by_role("button", name="Edit").click()
    check_accessible(page)
    page.get_by_label("How the reply should have been").fill("Lisbon. <b>Of course</b>.")
    page.get_by_role("button", name="Save").click()
    expect(turn.locator(".text")).to_have_text("Lisbon. <b>Of course</b>.")
    expect(turn.get_by_role("button", name="Edit")).to_be_focused()
    row = eventually(database, "edit", "What is the capital of Portugal?")
    assert row["text"] == "Lisbon. <b>Of course</b>."

    say(page, "Are you sure?")
    turn.get_by_role("button", name="Rewrite this message").click()
    page.get_by_role("textbox", name="Rewrite this message").fill("What is the capital of Spain?")
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".turn")).to_have_attribute("data-state", "done")
    expect(page.locator(".message")).to_have_text("What is the capital of Spain?")


def test_a_rewritten_message_is_sent_with_what_came_before_it(page: Page, database: Database) -> None:
    """Also where the model no longer saw that, in the conversation as it was."""
    say(page, "My name is Ann")
    say(page, "I like tea")
    page.evaluate(
        """() => {
            const name = Object.keys(localStorage).find((each) => each.includes(".conversation."));
            const kept = JSON.parse(localStorage.getItem(name));
            localStorage.setItem(name, JSON.stringify({...kept, start: 2}));
        }"""
    )
    page.reload()
    turn = page.locator(".turn").nth(1)
    turn.get_by_role("button", name="Rewrite this message").click()
    page.get_by_role("textbox", name="Rewrite this message").press("Escape")
    expect(turn.get_by_role("button", name="Rewrite this message")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("textbox", name="Rewrite this message").fill("I like milk")
    page.get_by_role("button", name="Send again").click()
    expect(turn.locator(".message")).to_have_text("I like milk")
    expect(turn).to_have_attribute("data-state", "done")
    row = database.execute(
        "select messages from turns where messages -> -1 ->> 'content' = 'I like milk'"
    ).fetchone()
    assert row is not None
    assert [each["content"] for each in row["messages"]][::2] == ["My name is Ann", "I like milk"]


def test_a_conversation_of_more_bytes_than_a_request_may_have_goes_on(page: Page) -> None:
    say(page, "Hello")
    page.evaluate(
        """() => {
            const name = Object.keys(localStorage).find((each) => each.includes(".conversation."));
            const kept = JSON.parse(localStorage.getItem(name));
            const turns = ["t1", "t2"].map((id) => ({...kept.turns[0], id, prompt: "word ".repeat(120_000)}));
            localStorage.setItem(name, JSON.stringify({...kept, turns}));
        }"""
    )
    page.reload()
    turn = say(page, "And now?")
    expect(turn).to_contain_text("it no longer sees the beginning of this chat")


def test_replies_are_markdown(page: Page) -> None:
    turn = say(page, "Show me what you can write")
    turn.get_by_role("button", name="Edit").click()
    page.get_by_label("How the reply should have been").fill(RICH)
    page.get_by_role("button", name="Save").click()
    text = turn.locator(".text")
    expect(text.locator("ol > li > ul > li").first).to_have_text("nested")
    expect(text.get_by_role("region", name="Table").locator("td").first).to_have_text("Lisbon")
    expect(text.locator("pre")).to_have_text("def greet():\n    return 1\n")
    expect(text.locator("pre .hljs-keyword").first).to_have_text("def")
    expect(text.locator("math")).to_have_count(2)
    expect(text.locator(".math.display")).to_have_count(1)
    expect(text.locator("p").first).to_have_attribute("dir", "auto")
    expect(text.get_by_role("heading", level=3)).to_have_text("A heading")
    expect(text.get_by_role("heading", level=4)).to_have_text("Another, two levels below")
    link = text.get_by_role("link", name="a link")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(link).to_have_attribute("target", "_blank")
    check_accessible(page)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text.get_by_role("button", name="Copy code").click()
    expect(text.get_by_role("button", name="Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "def greet():\n    return 1\n"


def test_another_reply_is_an_implicit_signal(page: Page, database: Database) -> None:
    turn = say(page, "Tell me a joke")
    turn.get_by_role("button", name="Another reply").click()
    eventually(database, "signal", "Tell me a joke", signal="regenerated")
    expect(turn.get_by_role("button", name="Good reply")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(1)


def test_the_keyboard_is_enough(page: Page, database: Database) -> None:
    """Shift+Enter breaks the line, Enter sends, Tab reaches what can be done, Space does it."""

    def tab_to(label: str, key: str = "Shift+Tab") -> None:
        for _ in range(40):
            if page.evaluate(
                "document.activeElement.shadowRoot?.activeElement?.getAttribute('aria-label')"
            ) in (label,):
                return
            page.keyboard.press(key)
        raise AssertionError(f"Tab does not reach {label}")

    tab_to("Your message", "Tab")
    page.keyboard.type("Good evening")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("friend")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Good reply")).to_be_visible()
    tab_to("Bad reply")
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Bad reply")).to_be_focused()
    eventually(database, "thumb", "Good evening\nfriend", value="down")

    tab_to("Your message", "Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # compare two
    tab_to("Your message")
    page.keyboard.type("Tell me about owls")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="A is better")).to_be_visible()
    tab_to("A is better")
    page.keyboard.press("Enter")
    eventually(database, "ranking", "Tell me about owls", acceptable=True)


def test_stop_ends_the_reply_and_nothing_is_stored(page: Page, database: Database) -> None:
    box = page.get_by_role("textbox", name="Your message")
    box.fill("Tell me a long story")
    page.evaluate(_STOP_AT_ONCE)
    box.press("Enter")
    expect(page.locator(".turn")).to_contain_text("Stopped.")
    say(page, "Never mind")
    asked = database.execute("select messages -> -1 ->> 'content' as text from turns").fetchall()
    assert {"text": "Never mind"} in asked
    assert {"text": "Tell me a long story"} not in asked


def test_a_reply_that_is_cut_says_so_and_goes_on(context: BrowserContext, installation: Installation) -> None:
    with installation.client() as operator:
        short = {"id": "short-replies", "sampling": {"max_tokens": 2}}
        made = operator.post("/v1/projects", json=short).json()
    page = context.new_page()
    page.goto(installation.url + made["page"])
    turn = say(page, "Tell me about cats")
    expect(turn).to_contain_text("as long as it may be")
    turn.get_by_role("button", name="Go on").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect(page.locator(".turn .message").last).to_have_text("Go on")
    expect(page.locator(".turn").last).to_have_attribute("data-state", "done")


def test_conversations_are_kept_renamed_deleted_and_the_same_in_every_tab(
    page: Page, installation: Installation
) -> None:
    say(page, "Tell me about bees")
    conversations = page.get_by_role("navigation", name="Conversations")
    conversations.get_by_role("button", name="Rename: Tell me about bees").click()
    conversations.get_by_role("textbox").fill("Bees")
    conversations.get_by_role("textbox").press("Enter")
    expect(conversations.get_by_role("button", name="Rename: Bees")).to_be_focused()
    other = page.context.new_page()
    other.goto(installation.url)
    expect(other.locator(".turn")).to_contain_text("Tell me about bees")
    other.get_by_role("button", name="New chat").click()
    say(other, "Tell me about ants")
    expect(conversations.locator("li")).to_have_count(2)
    check_accessible(page)

    conversations.get_by_role("button", name="Delete: Bees").click()
    expect(page.locator(".turn")).to_have_count(0)
    expect(other.get_by_role("navigation").get_by_role("listitem")).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".turn")).to_contain_text("Tell me about bees")
    expect(other.get_by_role("navigation").get_by_role("listitem")).to_have_count(2)


def test_two_tabs_lose_nothing_of_each_other(context: BrowserContext, installation: Installation) -> None:
    first, second = context.new_page(), context.new_page()
    sockets: list[WebSocketRoute] = []
    held: list[str | bytes] = []
    holds = False

    def connect(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        sockets.append(socket)

        def forward(said: str | bytes) -> None:
            if holds:
                held.append(said)
            else:
                socket.send(said)

        server.on_message(forward)

    first.route_web_socket(re.compile("/v1/live"), connect)
    first.goto(installation.url)
    say(first, "One")
    second.goto(installation.url)
    expect(second.locator(".turn")).to_have_count(1)
    holds = True
    first.get_by_role("textbox", name="Your message").fill("Two")
    first.get_by_role("textbox", name="Your message").press("Enter")
    expect(second.locator(".turn")).to_have_count(2)
    say(second, "Three")
    holds = False
    for said in held:
        sockets[-1].send(said)
    for page in (first, second):
        expect(page.locator(".turn")).to_have_count(3)
        expect(page.locator(".turn[data-state=done]")).to_have_count(3)
        expect(page.locator(".turn .message")).to_have_text(["One", "Two", "Three"])


def test_a_conversation_that_is_deleted_while_its_reply_is_written_stays_deleted(page: Page) -> None:
    page.evaluate(_DELETE_AT_ONCE)
    box = page.get_by_role("textbox", name="Your message")
    box.fill("Tell me about wasps")
    box.press("Enter")
    expect(page.get_by_text("“Tell me about wasps” was deleted.")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(0)
    say(page, "Tell me about flies")
    expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(1)
    assert "wasps" not in page.evaluate("JSON.stringify(localStorage)")


def test_who_is_forgotten_in_one_tab_is_somebody_new_in_every_tab(
    page: Page, installation: Installation, database: Database
) -> None:
    say(page, "Forget the okapi")
    other = page.context.new_page()
    other.goto(installation.url)
    expect(other.locator(".turn")).to_contain_text("Forget the okapi")
    before = page.evaluate("localStorage.getItem('hearken.page.session')")
    page.get_by_role("button", name="Chats and votes teach it.").click()
    dialog = page.get_by_role("dialog", name="Privacy")
    dialog.get_by_role("button", name="Forget me").click()
    dialog.get_by_role("button", name="Yes, forget me").click()
    expect(dialog).to_contain_text("You are forgotten.")
    expect(other.locator(".turn")).to_have_count(0)
    deadline = time.monotonic() + 20
    while other.evaluate("localStorage.getItem('hearken.page.session')") == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    say(other, "Who am I now?")
    raters = database.execute(
        "select t.rater, e.id is not null as erased from turns t left join erasures e"
        " on person_hash(t.project, t.rater) = any(e.hashes)"
        " where t.messages -> -1 ->> 'content' = 'Who am I now?'"
    ).fetchall()
    assert [row["erased"] for row in raters] == [False]


def test_a_vote_on_a_reply_that_is_gone_leads_nowhere_and_says_so(page: Page) -> None:
    say(page, "Tell me about newts").get_by_role("button", name="Good reply").click()
    page.get_by_role("button", name="Delete: Tell me about newts").click()
    page.get_by_role("button", name="1 vote").click()
    page.get_by_role("button", name="Show the reply").click()
    expect(page.get_by_text("This reply is no longer in this browser.")).to_be_visible()
    expect(page.get_by_role("navigation").get_by_role("listitem")).to_have_count(0)


def test_what_became_of_a_vote_is_told_in_words_and_the_message_is_asked_again(
    page: Page, database: Database
) -> None:
    """The test writes the trainer's rows itself; the whole loop has tests of its own."""
    turn = say(page, "Who are you?")
    before = turn.locator(".text").inner_text()
    turn.get_by_role("button", name="Good reply").click()
    vote = eventually(database, "thumb", "Who are you?", value="up")
    page.get_by_role("button", name="1 vote · 1 being learned").click()
    dialog = page.get_by_role("dialog", name="Your votes")
    expect(dialog).to_contain_text(re.compile("recorded; [0-9]+ more votes until the next round"))
    check_accessible(page)
    page.keyboard.press("Escape")
    database.execute(
        "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
        " conversation_id, created_at, first_policy)"
        " select event_id, project, id, turn_id, choice, type, value, rater, 'conv', created_at, 'p0'"
        " from feedback where id = %s on conflict (event_id) do update set first_policy = 'p0'",
        [vote["id"]],
    )
    page.get_by_role("button", name="New chat").click()
    page.reload()
    expect(page.get_by_text("It has learned from your vote on “Who are you?”. Live since")).to_be_visible()
    page.get_by_role("button", name="1 vote").click()
    expect(dialog).to_contain_text("live since")
    dialog.get_by_role("button", name="Show the reply").click()
    expect(turn).to_be_focused()
    expect(turn).to_contain_text("It has learned from your vote. Live since")
    turn.get_by_role("button", name="Ask it again").click()
    again = page.locator(".turn").last
    expect(again).to_have_attribute("data-state", "done")
    assert again.locator(".before .text").inner_text() == before
    expect(again.get_by_role("button", name="Good reply")).to_be_visible()
    check_accessible(page)

    page.get_by_role("button", name="1 vote").click()
    dialog.get_by_role("button", name="Take back").click()
    expect(dialog).to_contain_text("None yet.")
    assert active(database, "thumb", "Who are you?") == []
    page.keyboard.press("Escape")
    expect(turn.first.get_by_role("button", name="Good reply").first).to_have_attribute(
        "aria-pressed", "false"
    )


def test_who_opts_out_is_not_kept_and_cannot_vote(page: Page, database: Database) -> None:
    page.get_by_role("button", name="Chats and votes teach it.").click()
    check_accessible(page)
    page.get_by_role("switch", name="Learn from my chats").click()
    page.keyboard.press("Escape")
    turn = say(page, "Keep this to yourself")
    expect(turn).to_contain_text("Nothing of this chat is kept, so it cannot be voted on.")
    expect(turn.get_by_role("button", name="Good reply")).to_have_count(0)
    asked = database.execute("select messages -> -1 ->> 'content' as text from turns").fetchall()
    assert {"text": "Keep this to yourself"} not in asked


def test_a_visitor_gets_what_is_kept_and_is_forgotten(page: Page, database: Database) -> None:
    turn = say(page, "Forget the aardvark")
    turn.get_by_role("button", name="Good reply").click()
    eventually(database, "thumb", "Forget the aardvark", value="up")
    page.get_by_role("button", name="Chats and votes teach it.").click()
    dialog = page.get_by_role("dialog", name="Privacy")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download what is kept of me").click()
    assert "Forget the aardvark" in download.value.path().read_text()
    dialog.get_by_role("button", name="Forget me").click()
    check_accessible(page)
    dialog.get_by_role("button", name="Yes, forget me").click()
    expect(dialog).to_contain_text("You are forgotten.")
    page.reload()

    expect(page.locator(".turn")).to_have_count(0)
    expect(page.get_by_role("button", name="No votes yet")).to_be_visible()
    stored = "select 1 from turns where messages::text like '%%aardvark%%'"
    deadline = time.monotonic() + 60
    while database.execute(stored).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "aardvark" not in page.evaluate("JSON.stringify(localStorage)")
    assert active(database, "thumb", "Forget the aardvark") == []
    say(page, "Somebody new asks")

    page.get_by_role("button", name="Chats and votes teach it.").click()
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download the receipt").click()
    signed = json.loads(download.value.path().read_text())
    receipt.verify(signed, signed["public_key"])
    expect(dialog).to_contain_text(f"Erasure {signed['id']}")
    assert [step["step"] for step in signed["steps"]] == ["began", "database", "exports"]
    check_accessible(page)


def test_where_cards_are_public_privacy_leads_to_the_live_policys(
    page: Page, installation: Installation
) -> None:
    with httpx.Client(base_url=installation.url, headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as client:
        client.patch("/v1/projects/default", json={"public_cards": True}).raise_for_status()
        try:
            page.evaluate("localStorage.clear()")
            page.reload()
            page.get_by_role("button", name="Chats and votes teach it.").click()
            with page.expect_popup() as opened:
                page.get_by_role("link", name="What the model learned from").click()
            card = opened.value
            expect(card.get_by_role("heading", level=1)).to_contain_text("Policy p")
            expect(card.get_by_role("heading", name="Opt out")).to_be_visible()
            width = card.locator("body").evaluate("(body) => getComputedStyle(body).maxWidth")
            assert width != "none"  # its style is allowed
            check_accessible(page)
        finally:
            client.patch("/v1/projects/default", json={"public_cards": False})


def test_a_message_waits_for_the_connection_and_goes_out_by_itself(
    context: BrowserContext, installation: Installation
) -> None:
    page = context.new_page()
    sockets: list[WebSocketRoute] = []
    away = False

    def connect(socket: WebSocketRoute) -> None:
        if away:
            socket.close(code=1011)
            return
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket(re.compile("/v1/live"), connect)
    page.goto(installation.url)
    say(page, "Are you there?")
    away = True
    sockets[-1].close(code=1011)
    expect(page.get_by_text("The connection was lost. Trying again…")).to_be_visible()
    box = page.get_by_role("textbox", name="Your message")
    box.fill("Still there?")
    box.press("Enter")
    expect(page.locator(".turn").last).to_have_attribute("data-state", "waiting")
    check_accessible(page)
    away = False
    expect(page.locator(".turn").last).to_have_attribute("data-state", "done")
    expect(page.get_by_text("The connection was lost. Trying again…")).to_have_count(0)


def intercept_votes(page: Page, take: Callable[[dict[str, Any], Callable[[], None]], None]) -> None:
    """Keeps votes from the service; `take` gets each, with what refuses it."""

    def connect(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def ask(said: str | bytes) -> None:
            frame = json.loads(said)
            if frame["type"] != "feedback":
                server.send(said)
                return
            error = {"code": "internal_error", "message": "No."}
            refusal = json.dumps({"type": "error", "id": frame["id"], "error": error})
            take(frame["feedback"], lambda: socket.send(refusal))

        socket.on_message(ask)

    page.route_web_socket(re.compile("/v1/live"), connect)


def test_votes_that_are_not_taken_are_not_shown(context: BrowserContext, installation: Installation) -> None:
    page = context.new_page()
    refused: list[str] = []

    def refuse(vote: dict[str, Any], refusal: Callable[[], None]) -> None:
        refusal()
        refused.append(vote["value"])

    intercept_votes(page, refuse)
    page.goto(installation.url)
    say(page, "Is this recorded?")
    page.evaluate(
        """() => document.querySelector("hearken-chat").shadowRoot.querySelectorAll("[part=thumb]")
            .forEach((each) => each.click())"""
    )
    expect(page.get_by_text("Your vote was not taken.")).to_be_visible()
    while len(refused) < 2:
        page.wait_for_timeout(10)
    assert refused == ["up", "down"]
    expect(page.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "false")


def test_a_vote_that_is_refused_after_another_conversation_was_opened_is_not_shown(
    context: BrowserContext, installation: Installation
) -> None:
    page = context.new_page()
    refusals: list[Callable[[], None]] = []
    intercept_votes(page, lambda _, refusal: refusals.append(refusal))
    page.goto(installation.url)
    thumb = page.get_by_role("button", name="Good reply")
    say(page, "Is this one kept?")
    thumb.click()
    page.get_by_role("button", name="New chat").click()
    expect(page.locator(".turn")).to_have_count(0)
    while not refusals:
        page.wait_for_timeout(10)
    refusals.pop()()
    expect(page.get_by_text("Your vote was not taken.")).to_be_visible()
    page.get_by_role("button", name="Is this one kept?", exact=True).click()
    expect(thumb).to_have_attribute("aria-pressed", "false")
    page.reload()
    expect(thumb).to_have_attribute("aria-pressed", "false")


def test_a_vote_that_waits_on_a_disk_says_so(context: BrowserContext, installation: Installation) -> None:
    page = context.new_page()
    later = {"error": {"code": "rate_limit_exceeded", "message": "Later."}}

    def connect(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(
            lambda said: socket.send(str(said).replace('"status":"recorded"', '"status":"spooled"'))
        )

    page.route_web_socket(re.compile("/v1/live"), connect)
    page.route("**/v1/feedback/*", lambda route: route.fulfill(status=429, json=later))
    page.goto(installation.url)
    say(page, "Is it on a disk?").get_by_role("button", name="Good reply").click()
    page.get_by_role("button", name="1 vote").click()
    dialog = page.get_by_role("dialog", name="Your votes")
    expect(dialog).to_contain_text("received, waiting to be stored")


def test_a_message_over_the_rate_limit_says_when_it_goes_out_and_does(page: Page) -> None:
    say(page, "Hello")
    page.get_by_role("textbox", name="Your message").fill("And now?")
    assert page.evaluate(_WAITS_OVER_THE_LIMIT)
    expect(page.locator(".turn").last).to_have_attribute("data-state", "done")


def test_it_fits_small_screens_and_large_text(page: Page) -> None:
    for width, height in ((360, 740), (320, 480), (740, 360)):
        page.set_viewport_size({"width": width, "height": height})
        expect(page.get_by_role("heading", name="Talk to it. Vote. It learns.")).to_be_in_viewport()
        assert wide(page) == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.get_by_role("button", name="Compare", exact=True).click()
    turn = say(page, "What should I cook tonight?")
    turn.get_by_role("button", name="A is better").click()
    turn.get_by_role("button", name="Good reply").click()
    assert wide(page) == []
    small = page.evaluate(
        """() => [...document.querySelector("hearken-chat").shadowRoot
            .querySelectorAll("button:not(.link), .choice > .link, .other summary")]
            .filter((each) => each.checkVisibility())
            .map((each) => [each.className, each.getBoundingClientRect()])
            .filter(([, box]) => box.height < 44 || box.width < 40).map(([name]) => name)"""
    )
    assert small == []
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    expect(page.get_by_role("textbox", name="Your message")).to_be_in_viewport()
    assert wide(page) == []


def test_too_long_a_message_is_not_cut(page: Page) -> None:
    text = "word " * 40_000
    page.get_by_role("textbox", name="Your message").fill(text)
    expect(page.get_by_text("This is too long to send")).to_be_visible()
    check_accessible(page)
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    assert page.get_by_role("textbox", name="Your message").input_value() == text
