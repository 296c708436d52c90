"""The widget works in a page of another origin, under a strict Content-Security-Policy."""

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, expect

from tests.browser.chat import Database, active, check_accessible, eventually, say
from tests.browser.site import Site
from tests.installation import ADMIN_KEY, PUBLIC_KEY, Installation
from tests.recipes import recipe

MOST_BYTES = 40_000
"""What the widget may load before the first message."""

_LISTEN = """() => {
    window.heard = [];
    for (const name of ["ready", "reply", "vote", "learned", "error"])
        document.addEventListener(`hearken:${name}`,
            (event) => heard.push([name, Object.keys(event.detail)]));
    window.shift = 0;
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
    }).observe({type: "layout-shift", buffered: true});
}"""


_TAKE_ANOTHER_SESSION = """addEventListener("hearken:error", (event) => {
    if (event.detail.code === "invalid_session") event.target.dataset.session = "TOKEN";
});"""


# Presses the second reason before the service has answered to the first.
_PRESS_AT_ONCE = """(names) => {
    const chips = [...document.querySelector("hearken-vote").shadowRoot.querySelectorAll(".chip")];
    for (const name of names) chips.find((each) => each.textContent === name).click();
}"""


def tag(installation: Installation, **data: str) -> str:
    """The one tag that puts the widget into a page."""
    attributes = " ".join(f'data-{name.replace("_", "-")}="{value}"' for name, value in data.items())
    source = f"{installation.url}/widget.js"
    return f'<script type="module" src="{source}" data-key="{PUBLIC_KEY}" {attributes}></script>'


def elements(installation: Installation) -> str:
    """The tag that only defines the elements."""
    return f'<script type="module" src="{installation.url}/widget.js"></script>'


def test_the_static_page_of_the_documents(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    html = recipe("clients.md", "A static page", "html", url=installation.url, publishable=PUBLIC_KEY)
    site.pages |= {"/bakery": (html, ""), "/favicon.ico": ("none", "")}
    page = context.new_page()
    page.goto(f"{site.url}/bakery")
    page.get_by_role("button", name="Open the chat").click()
    say(page, "Do you bake rye?").get_by_role("button", name="Good reply").click()
    eventually(database, "thumb", "Do you bake rye?", value="up")


def test_one_tag_gives_a_page_a_chat_and_a_vote_by_a_signed_visitor(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    page = context.new_page()
    page.add_init_script(f"({_LISTEN})()")
    page.goto(site.add("/loaded", tag(installation, name="Baker"), installation.url))
    opener = page.get_by_role("button", name="Open the chat")
    expect(opener).to_be_visible()
    check_accessible(page)
    opener.click()
    expect(page.get_by_role("textbox", name="Your message")).to_be_focused()
    expect(page.get_by_role("heading", name="Baker")).to_be_visible()
    check_accessible(page)
    assert page.evaluate("shift") == 0
    turn = say(page, "Do you bake at night?")
    turn.get_by_role("button", name="Good reply").click()
    vote = eventually(database, "thumb", "Do you bake at night?", value="up")
    session = page.evaluate(
        "JSON.parse(Object.entries(localStorage).find(([name]) => name.endsWith('.session'))[1]).token"
    )
    with installation.client(PUBLIC_KEY) as client:
        client.headers["Hearken-Session"] = session
        same = client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Same person"}]}
        ).json()
    rows = database.execute("select rater from turns where id = %s", [same["id"]]).fetchall()
    assert rows == [{"rater": vote["rater"]}]
    heard = page.evaluate("heard")
    assert ["ready", []] in heard
    assert ["reply", ["completion_id", "conversation_id"]] in heard
    assert ["vote", ["id", "completion_id", "type"]] in heard

    page.get_by_role("button", name="1 vote").click()
    expect(page.get_by_role("dialog", name="Your votes")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Your votes")).to_have_count(0)
    page.get_by_role("textbox", name="Your message").press("Escape")
    expect(opener).to_be_focused()
    page.reload()
    opener.click()
    expect(page.locator(".turn")).to_contain_text("Do you bake at night?")


def test_a_users_session_makes_the_visitor_the_servers_user(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    with installation.client(ADMIN_KEY) as client:
        token = client.post("/v1/sessions", json={"user": "grace"}).json()["token"]
        body = {"messages": [{"role": "user", "content": "From the server"}], "user": "grace"}
        client.post("/v1/chat/completions", json=body)
    page = context.new_page()
    page.goto(site.add("/account", tag(installation, session=token), installation.url))
    page.get_by_role("button", name="Open the chat").click()
    say(page, "From the page")
    raters = database.execute(
        "select count(*) as turns, count(distinct rater) as people from turns"
        " where messages -> -1 ->> 'content' in ('From the server', 'From the page')"
    ).fetchone()
    assert raters == {"turns": 2, "people": 1}


def test_whose_session_has_ended_is_nobody_else(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    page = context.new_page()
    page.goto(site.add("/ended", tag(installation, session="hs_of.yesterday"), installation.url))
    page.get_by_role("button", name="Open the chat").click()
    expect(page.get_by_text("Your session has ended. Load this page again.")).to_be_visible()


def test_a_page_replaces_a_session_that_has_ended_and_the_person(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    with installation.client(ADMIN_KEY) as client:
        kept, other = (
            client.post("/v1/sessions", json={"user": user}).json()["token"] for user in ("kim", "lee")
        )
    said, signature = kept.rsplit(".", 1)
    ended = f"{said}.{signature[::-1]}"
    page = context.new_page()
    page.add_init_script(_TAKE_ANOTHER_SESSION.replace("TOKEN", kept))
    placed = f'<hearken-chat data-key="{PUBLIC_KEY}" data-session="{ended}"></hearken-chat>'
    page.goto(site.add("/replaced", placed + elements(installation), installation.url))
    say(page, "My session ended")
    page.evaluate("(token) => document.querySelector('hearken-chat').dataset.session = token", other)
    expect(page.locator(".turn")).to_have_count(0)
    say(page, "I am somebody else")
    page.evaluate("(token) => document.querySelector('hearken-chat').dataset.session = token", kept)
    expect(page.locator(".turn")).to_contain_text("My session ended")
    raters = database.execute(
        "select count(*) as turns, count(distinct rater) as people from turns"
        " where messages -> -1 ->> 'content' in ('My session ended', 'I am somebody else')"
    ).fetchone()
    assert raters == {"turns": 2, "people": 2}


def test_people_who_share_a_browser_see_their_own_conversations(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    page = context.new_page()
    for user, turns in (("ada", 0), ("bob", 0), ("ada", 1)):
        with installation.client(ADMIN_KEY) as client:
            token = client.post("/v1/sessions", json={"user": user}).json()["token"]
        placed = f'<hearken-chat data-key="{PUBLIC_KEY}" data-session="{token}"></hearken-chat>'
        page.goto(site.add(f"/of-{user}", placed + elements(installation), installation.url))
        expect(page.get_by_role("textbox", name="Your message")).to_be_visible()
        expect(page.locator(".turn")).to_have_count(turns)
        say(page, f"My name is {user}")


def test_little_is_loaded_before_the_first_message(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    page = context.new_page()
    session: CDPSession = context.new_cdp_session(page)
    session.send("Network.enable")
    loaded: list[int] = []
    session.on("Network.loadingFinished", lambda event: loaded.append(event["encodedDataLength"]))
    page.goto(site.add("/size", tag(installation), installation.url))
    page.get_by_role("button", name="Open the chat").click()
    expect(page.get_by_role("button", name="No votes yet")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert sum(loaded) < MOST_BYTES
    assert len(loaded) >= 4  # the page, the widget, its settings, the session


@pytest.mark.parametrize(
    ("lang", "direction", "message", "send"),
    [("de-AT", "ltr", "Deine Nachricht", "Senden"), ("ar", "rtl", "رسالتك", "إرسال")],
)
def test_it_speaks_the_language_of_the_page(
    context: BrowserContext,
    site: Site,
    installation: Installation,
    lang: str,
    direction: str,
    message: str,
    send: str,
) -> None:
    page = context.new_page()
    placed = f'<hearken-chat data-key="{PUBLIC_KEY}"></hearken-chat>' + elements(installation)
    page.goto(site.add("/languages", placed, installation.url, lang=lang))
    page.set_viewport_size({"width": 390, "height": 800})
    box = page.get_by_role("textbox", name=message)
    expect(page.locator(".chat")).to_have_attribute("dir", direction)
    box.fill("Hello")
    page.get_by_role("button", name=send, exact=True).click()
    expect(page.locator(".turn")).to_have_attribute("data-state", "done")
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_project_sets_how_it_looks_and_a_visitor_is_asked(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    look = {
        "name": "Miller",
        "accent": "#7a1f5c",
        "greeting": "Ask me about flour.",
        "examples": ["Rye?"],
        "reasons": {"up": {"crisp": "Crisp"}},
        "consent": "ask",
    }
    with installation.client(ADMIN_KEY) as client:
        assert client.put("/v1/widget", json=look).json() == look
        page = context.new_page()
        try:
            page.goto(site.add("/miller", tag(installation), installation.url))
            page.get_by_role("button", name="Open the chat").click()
            expect(page.get_by_role("heading", name="Ask me about flour.")).to_be_visible()
            check_accessible(page)
            page.get_by_role("button", name="Yes").click()
            page.get_by_role("button", name="Rye?").click()
            turn = page.locator(".turn")
            turn.get_by_role("button", name="Good reply").click()
            turn.get_by_role("button", name="Crisp").click()
            eventually(database, "thumb", "Rye?", reasons=["crisp"])
        finally:
            client.put("/v1/widget", json={})


def test_what_a_visitor_chose_in_one_browser_holds_in_others_and_on_the_server(
    chromium: Browser, context: BrowserContext, site: Site, installation: Installation
) -> None:
    elsewhere = chromium.new_context()
    with installation.client(ADMIN_KEY) as client:
        token = client.post("/v1/sessions", json={"user": "cleo"}).json()["token"]
        placed = f'<hearken-chat data-key="{PUBLIC_KEY}" data-session="{token}"></hearken-chat>'
        address = site.add("/cleo", placed + elements(installation), installation.url)
        for browser, before, after in ((context, "teach it", "kept"), (elsewhere, "kept", "teach it")):
            page = browser.new_page()
            page.goto(address)
            page.get_by_role("button", name=re.compile(before)).click()
            page.get_by_role("switch", name="Learn from my chats").click()
            page.keyboard.press("Escape")
            expect(page.get_by_role("button", name=re.compile(after))).to_be_visible()
            turn = say(page, "Learn from this, or not")
            expect(turn.get_by_role("button", name="Good reply")).to_have_count(int(after == "teach it"))
            said = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "user": "cleo"}
            reply = client.post("/v1/chat/completions", json=said).json()
            assert ("nostore" in reply["id"]) == (after == "kept")
    elsewhere.close()


def test_where_no_chat_is_kept_any_more_a_visitor_is_forgotten_all_the_same(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    page = context.new_page()
    for consent in ("on", "off"):
        placed = f'<hearken-chat key="{PUBLIC_KEY}" consent="{consent}"></hearken-chat>'
        page.goto(site.add(f"/consent-{consent}", placed + elements(installation), installation.url))
        say(page, f"The zebra is {consent}")
    page.get_by_role("button", name="Nothing is kept.").click()
    dialog = page.get_by_role("dialog", name="Privacy")
    expect(dialog.get_by_role("switch")).to_have_count(0)
    check_accessible(page)
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download what is kept of me").click()
    held = download.value.path().read_text()
    assert ("The zebra is on" in held, "The zebra is off" in held) == (True, False)
    dialog.get_by_role("button", name="Forget me").click()
    dialog.get_by_role("button", name="Yes, forget me").click()
    expect(dialog).to_contain_text("You are forgotten.")


def test_of_three_replies_one_is_best(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    page = context.new_page()
    placed = f'<hearken-chat key="{PUBLIC_KEY}" choices="3"></hearken-chat>{elements(installation)}'
    page.goto(site.add("/three", placed, installation.url))
    page.get_by_role("button", name="Compare", exact=True).click()
    turn = say(page, "Which of three?")
    expect(turn.locator(".card")).to_have_count(3)
    turn.get_by_role("button", name="C is better").click()
    vote = eventually(database, "ranking", "Which of three?", acceptable=True)["value"]
    best = vote["shown"][2]
    assert vote["ranking"] == [[best], [choice for choice in range(3) if choice != best]]


def test_it_works_where_storage_is_denied(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    """A sandboxed frame has no localStorage and no origin."""
    inner = site.add("/inner", tag(installation), None)
    page = context.new_page()
    page.goto(site.add("/outer", f'<iframe title="chat" sandbox="allow-scripts" src="{inner}"></iframe>'))
    page.set_viewport_size({"width": 900, "height": 900})
    page.evaluate("Object.assign(document.querySelector('iframe').style, {width: '800px', height: '700px'})")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Open the chat").click()
    frame.get_by_role("textbox", name="Your message").fill("Anybody home?")
    frame.get_by_role("textbox", name="Your message").press("Enter")
    expect(frame.locator(".turn")).to_have_attribute("data-state", "done")
    frame.get_by_role("button", name="Good reply").click()
    expect(frame.get_by_role("button", name="1 vote")).to_be_visible()


def test_votes_on_a_chat_of_ones_own(
    context: BrowserContext, site: Site, installation: Installation, database: Database
) -> None:
    with installation.client(ADMIN_KEY) as client:
        completion = client.post(
            "/v1/chat/completions",
            json={"messages": [{"role": "user", "content": "My own chat"}], "user": "ada", "n": 2},
        ).json()
    token = completion["hearken"]["feedback_token"]
    on = f'completion="{completion["id"]}" token="{token}"'
    page = context.new_page()
    page.goto(
        site.add(
            "/own",
            f'<hearken-vote {on} text="Hello."></hearken-vote><hearken-vote {on} choices="2"></hearken-vote>'
            + elements(installation),
            installation.url,
        )
    )
    thumbs, pair = page.locator("hearken-vote").first, page.locator("hearken-vote").last
    thumbs.get_by_role("button", name="Bad reply").click()
    expect(thumbs.get_by_role("button", name="Cold")).to_be_visible()
    page.evaluate(_PRESS_AT_ONCE, ["Cold", "Wrong"])
    eventually(database, "thumb", "My own chat", value="down", reasons=["cold", "wrong"])
    thumbs.get_by_role("button", name="Edit").click()
    thumbs.get_by_role("textbox").fill("Hello, dear.")
    thumbs.get_by_role("button", name="Save").click()
    assert eventually(database, "edit", "My own chat")["text"] == "Hello, dear."
    thumbs.get_by_role("button", name="Bad reply").click()
    expect(thumbs.get_by_role("button", name="Bad reply")).to_have_attribute("aria-pressed", "false")
    assert active(database, "thumb", "My own chat") == []
    pair.get_by_role("button", name="B is better").click()
    expect(pair.get_by_role("button", name="B is better")).to_have_attribute("aria-pressed", "true")
    pair.get_by_role("button", name="Friendly").click()
    said = {"ranking": [[1], [0]], "reasons": ["friendly"]}
    older = eventually(database, "ranking", "My own chat", **said)["id"]
    expect(pair.get_by_role("button", name="Friendly")).to_have_attribute("aria-pressed", "true")
    page.evaluate("document.body.style.background = 'canvas'")  # axe takes it for white where nothing says it
    check_accessible(page)

    thumbs.get_by_role("button", name="Good reply").click()
    thumbs.get_by_role("button", name="Clear").click()
    eventually(database, "thumb", "My own chat", value="up", reasons=["clear"])
    with installation.client(ADMIN_KEY) as client:
        newer = {"completion_id": completion["id"], "type": "ranking", "ranking": [[0], [1]], "user": "ada"}
        assert client.post("/v1/feedback", json=newer).status_code == 201
    with page.expect_response(re.compile(older)):
        page.reload()
    for name in ("Good reply", "Clear"):
        expect(thumbs.get_by_role("button", name=name)).to_have_attribute("aria-pressed", "true")
    expect(thumbs.get_by_text("Edited by you.")).to_be_visible()
    thumbs.get_by_role("button", name="Edit").click()
    expect(thumbs.get_by_role("textbox")).to_have_value("Hello, dear.")
    thumbs.get_by_role("textbox").fill("Hello.")
    thumbs.get_by_role("button", name="Save").click()
    expect(thumbs.get_by_text("Edited by you.")).to_have_count(0)
    thumbs.get_by_role("button", name="Good reply").click()
    expect(thumbs.get_by_role("button", name="Clear")).to_have_count(0)
    assert active(database, "thumb", "My own chat") == active(database, "edit", "My own chat") == []
    expect(pair.get_by_role("button", name="B is better")).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("localStorage.getItem('hearken.vote.votes')") == "[]"


def test_votes_are_dark_only_where_the_page_around_them_is(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    vote = '<hearken-vote completion="chatcmpl-1" token="t"></hearken-vote>'
    body = f'{vote}<div style="color-scheme: dark">{vote}</div>{elements(installation)}'
    head = '<!doctype html><title>A light shop</title><link rel="icon" href="data:,">'
    site.pages["/light"] = (head + body, "")
    page = context.new_page()
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site.url}/light")
    thumbs = page.get_by_role("button", name="Good reply")
    expect(thumbs.first).to_have_css("color", "rgb(99, 93, 82)")
    expect(thumbs.last).to_have_css("color", "rgb(177, 170, 155)")


def test_an_error_is_said_in_the_language_of_the_visitor(
    context: BrowserContext, site: Site, installation: Installation
) -> None:
    """The service's own words only where the code is unknown."""
    page = context.new_page()
    placed = '<hearken-vote completion="chatcmpl-1" token="t"></hearken-vote>' + elements(installation)
    answer, said = {}, {}
    page.route("**/v1/feedback", lambda route: route.fulfill(status=429, json=answer))
    for code in (
        "body_too_large", "completion_not_found", "context_length_exceeded", "database_unavailable",
        "erased", "invalid_feedback_token", "invalid_text", "invalid_value", "origin_not_allowed",
        "rate_limit_exceeded", "new_in_a_later_release",
    ):  # fmt: skip
        answer["error"] = {"code": code, "message": "No."}
        page.goto(site.add("/refused", placed, installation.url, lang="de"))
        page.get_by_role("button", name="Gute Antwort").click()
        said[code] = page.locator(".problem").inner_text()
    assert [code for code, text in said.items() if "No." in text] == ["new_in_a_later_release"]
    assert all(text.startswith("Deine Stimme wurde nicht angenommen.") for text in said.values())


def test_where_the_browser_forbids_to_copy_or_to_save_the_text_is_selected(
    chromium: Browser, site: Site, installation: Installation
) -> None:
    """Chromium complains in the console, so this is no page of `context`."""
    inner = site.add("/inner-copy", tag(installation), None)
    framed = f'<iframe title="chat" sandbox="allow-scripts" src="{inner}"></iframe>'
    page = chromium.new_page(locale="en-GB", viewport={"width": 900, "height": 900})
    page.goto(site.add("/outer-copy", framed))
    page.evaluate("Object.assign(document.querySelector('iframe').style, {width: '800px', height: '700px'})")
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Open the chat").click()
    frame.get_by_role("textbox", name="Your message").fill("Copy this")
    frame.get_by_role("button", name="Send", exact=True).click()
    frame.get_by_role("button", name="Copy", exact=True).click()
    field = frame.get_by_label("The browser does not let this page copy.")
    expect(field).to_be_focused()
    selected = field.evaluate("(field) => field.value.slice(field.selectionStart, field.selectionEnd)")
    assert selected == field.input_value() != ""
    frame.get_by_role("textbox", name="Your message").focus()
    expect(field).to_have_count(0)

    frame.get_by_role("button", name="Edit: show how it should have been").click()
    frame.get_by_role("textbox", name="How the reply should have been").fill("Like this.")
    frame.get_by_role("button", name="Save", exact=True).click()
    expect(frame.get_by_text("Edited by you.")).to_be_visible()
    frame.get_by_role("button", name="Chats and votes teach it.").click()
    frame.get_by_role("button", name="Download what is kept of me").click()
    held = frame.get_by_label("Was no file saved?")
    expect(held).to_be_focused()
    assert "Copy this" in held.input_value()
    page.close()


def test_a_wrong_key_is_said(chromium: Browser, site: Site, installation: Installation) -> None:
    page = chromium.new_page(locale="en-GB")
    wrong = tag(installation).replace(PUBLIC_KEY, "pk-wrong-0123456789abcdef")
    page.goto(site.add("/wrong", wrong, installation.url))
    page.get_by_role("button", name="Open the chat").click()
    expect(page.get_by_text(re.compile("does not accept this page’s key"))).to_be_visible()
    page.close()
