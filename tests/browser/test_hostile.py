"""Nothing in a message, a reply, a title or a comment runs, loads anything, or breaks the page."""

import json
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Request, expect

from tests.browser.chat import say, wide
from tests.browser.hostile import hostile
from tests.browser.site import Site
from tests.installation import PUBLIC_KEY, Installation

TEXTS = list(hostile())
ALLOWED = {
    "A", "BDI", "BLOCKQUOTE", "BR", "BUTTON", "CODE", "DIV", "EM", "H3", "H4", "H5", "H6", "HR", "LI", "OL",
    "P", "PRE", "S", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL",
}  # fmt: skip

_FINDINGS = """() => {
    const root = document.querySelector("hearken-chat").shadowRoot;
    const inside = [...root.querySelectorAll(".text *")].filter((each) => !each.closest("math"));
    return {
        pwned: window.pwned ?? 0,
        tags: [...new Set(inside.map((each) => each.tagName))],
        links: [...new Set([...root.querySelectorAll(".text a")].map((each) => each.protocol))],
        unsafe: [...root.querySelectorAll(".text a")].filter((each) =>
            !each.rel.includes("noopener") || !each.rel.includes("nofollow")).length,
        handlers: inside.flatMap((each) => each.getAttributeNames()).filter((one) => /^on|^style$/.test(one)),
        shown: root.querySelectorAll(".turn").length,
    };
}"""


def conversation(texts: list[str]) -> dict[str, Any]:
    """A conversation of this browser, with each text as a message, and as its reply."""
    reply = {"original": None, "thumb": "up", "reasons": [], "comment": ""}
    turn = {
        "shown": [0], "state": "done", "problem": None, "token": "token", "picked": None, "verdict": None,
        "forgot": False, "again": None,
    }  # fmt: skip
    turns = [
        {**turn, "id": f"t{number}", "completion": f"c{number}", "prompt": text,
         "replies": [{**reply, "text": text, "comment": text}]}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    return {"id": "conv-x", "title": texts[0], "turns": turns, "start": 0}


@pytest.mark.parametrize("width", [360, 1280])
def test_hostile_text_does_nothing(
    context: BrowserContext, site: Site, installation: Installation, width: int
) -> None:
    """The page has no Content-Security-Policy of its own, which would hide what runs."""
    assert len(TEXTS) >= 100
    scope = f"hearken.{PUBLIC_KEY[-12:]}."
    kept = {
        "conversation.conv-x": conversation(TEXTS),
        "current": "conv-x",
        "conversations": [
            {"id": f"conv-{number}", "title": text, "changed": 0} for number, text in enumerate(TEXTS)
        ],
    }
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 900})
    elsewhere: list[str] = []

    def watch(request: Request) -> None:
        if not request.url.startswith((installation.url, site.url, "data:")):
            elsewhere.append(request.url)

    page.on("request", watch)
    page.on("dialog", lambda dialog: elsewhere.append(f"dialog: {dialog.message}"))
    widget = f'<script type="module" src="{installation.url}/widget.js"></script>'
    address = site.add("/hostile", f'<hearken-chat data-key="{PUBLIC_KEY}"></hearken-chat>{widget}')
    page.add_init_script(
        f"for (const [name, value] of Object.entries({json.dumps(kept)}))"
        f" localStorage.setItem({json.dumps(scope)} + name, JSON.stringify(value));"
    )
    page.goto(address)
    expect(page.locator(".turn")).to_have_count(len(TEXTS), timeout=60_000)
    expect(page.locator("math").first).to_be_attached()
    found = page.evaluate(_FINDINGS)
    assert set(found.pop("tags")) <= ALLOWED
    assert set(found.pop("links")) <= {"https:", "http:"}
    assert found == {"pwned": 0, "unsafe": 0, "handlers": [], "shown": len(TEXTS)}
    assert elsewhere == []
    assert page.url == address
    assert wide(page)[:5] == []
    if width < 1000:
        page.get_by_role("button", name="Conversations").click()
    expect(page.get_by_role("navigation", name="Conversations").get_by_role("listitem")).to_have_count(
        len(TEXTS)
    )
    assert wide(page)[:5] == []
    page.get_by_role("button", name="New chat").click()
    say(page, "Are you still there?")
    assert page.evaluate("window.pwned ?? 0") == 0
