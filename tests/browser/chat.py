"""What a visitor does in a chat, and what is stored of it."""

import time
from pathlib import Path
from typing import Any

import psycopg
from playwright.sync_api import Locator, Page, expect
from psycopg.rows import DictRow

Database = psycopg.Connection[DictRow]

_AXE = Path(__file__).parents[2] / "serving" / "web" / "node_modules" / "axe-core" / "axe.min.js"


def say(page: Page, text: str) -> Locator:
    """Sends a message with the keyboard; returns the turn once its replies have ended."""
    box = page.get_by_role("textbox", name="Your message")
    box.fill(text)
    box.press("Enter")
    turn = page.locator(".turn", has_text=text).last
    expect(turn).to_have_attribute("data-state", "done")
    return turn


def active(database: Database, kind: str, prompt: str) -> list[dict[str, Any]]:
    """Returns the active feedback of a type on a prompt, as it is stored."""
    return database.execute(
        "select feedback.*, turns.rater as asker from feedback join turns on turns.id = turn_id"
        " where type = %s and turns.messages -> -1 ->> 'content' = %s"
        " and superseded_by is null and retracted_at is null",
        [kind, prompt],
    ).fetchall()


def eventually(database: Database, kind: str, prompt: str, **value: Any) -> dict[str, Any]:
    """Returns the one active feedback, once its value contains `value`."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = active(database, kind, prompt)
        if len(rows) == 1 and value.items() <= rows[0]["value"].items():
            return rows[0]
        time.sleep(0.05)
    raise AssertionError(f"{rows} is not one {kind} with {value}")


def check_accessible(page: Page) -> None:
    """Fails where axe finds a violation, in light or dark."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(_AXE.read_text("utf-8"))
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(
            """async () => (await axe.run(document, {resultTypes: ["violations"]})).violations.map(
                (each) => `${each.id}: ${each.nodes.map((node) => node.target.join(" ")).slice(0, 3)}`)"""
        )
        assert found == [], f"{scheme}: {found}"
    page.emulate_media(color_scheme="light")


def wide(page: Page) -> list[str]:
    """Returns what is wider than the chat that it is in; empty where everything fits."""
    found: list[str] = page.evaluate(
        """() => {
            const root = document.querySelector("hearken-chat").shadowRoot;
            const wider = (box) => box.scrollWidth > box.clientWidth;
            if (![document.documentElement, root.querySelector(".scroller")].some(wider)) return [];
            const edge = root.querySelector(".scroller").getBoundingClientRect();
            return [...root.querySelectorAll(".scroller *")]
                .filter((each) => !each.parentElement.closest(".scrolling, .math"))
                .filter((each) => each.getBoundingClientRect().right > edge.right
                    || each.getBoundingClientRect().left < edge.left)
                .map((each) => `${each.tagName} ${each.className}: ${each.textContent.slice(0, 40)}`);
        }"""
    )
    return found
