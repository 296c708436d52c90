"""The console at `/console` in a real browser, over a database as after a week of use."""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from feedback import receipt
from schemas.settings import ServingSettings, Settings, VllmSettings
from tests import console_data
from tests.conftest import new_database
from tests.console_data import CANARY, LIVE, PREVIOUS
from tests.service import ADMIN, PUBLIC, make_keys, run_api
from tests.unlimited import UNLIMITED

AXE = Path(__file__).parents[2] / "serving" / "web" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = [
    "", "feedback", "feedback?show=approval", "feedback?show=conversations", "feedback/fb_00012", "rounds",
    "rounds/6", "policies", f"policies/{CANARY}", "rollouts", "queues", "usage", "project", "keys", "audit",
    "settings", "raters", "raters?state=rejected", f"raters/{console_data.person(console_data.HELD[1])}",
    "people", f"people/{console_data.person(9)}", f"erasures/{console_data.ERASED}",
    f"erasures/{console_data.ERASING}",
]  # fmt: skip
PHONE, DESK = (390, 844), (1280, 900)
SCROLLED = 8
"""Boxes of one page that scroll at most: browsers stop at these too."""

_WATCH_FOCUS = """() => {
    const label = (each) => each.getAttribute("aria-label") || each.labels?.[0]?.textContent;
    const name = (each) => `${each.tagName} ${(label(each) || each.textContent).slice(0, 20)}`;
    window.reached = {};
    const kinds = "a[href], button, input, select, textarea, summary";
    window.controls = () => [...document.querySelectorAll(kinds)]
        .filter((each) => !each.disabled && each.checkVisibility() && each.getClientRects().length)
        .filter((each) => each.tabIndex >= 0 && (each.type !== "radio" || each.checked));
    window.names = () => controls().map(name);
    addEventListener("focusin", (event) => {
        const style = getComputedStyle(event.target);
        reached[name(event.target)] = style.outlineStyle !== "none" || style.boxShadow !== "none";
    });
    controls()[0].focus();
}"""


@dataclass(frozen=True, slots=True)
class Console:
    """A service without an engine, and its database."""

    url: str
    database: str

    def execute(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(query.encode(), values)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}/v1/{path}", headers={"Authorization": f"Bearer {ADMIN}"}).json()


@pytest.fixture(scope="module")
def console(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One for all tests: those that change it leave what the others look for."""
    folder = tmp_path_factory.mktemp("console")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
    with new_database(postgres_url) as url:
        settings = Settings(
            database_url=url, data_dir=folder, model=str(folder), admin_key=ADMIN, public_key=PUBLIC,
            vllm=VllmSettings(urls=["http://127.0.0.1:9"]), serving=ServingSettings(**UNLIMITED),
        )  # fmt: skip
        with ThreadPoolExecutor(1) as apart:  # Playwright's own event loop runs in this thread
            apart.submit(asyncio.run, make_keys(settings)).result()
        console_data.fill(url)
        with run_api(settings) as (address, _):
            yield Console(address, url)


@pytest.fixture
def page(chromium: Browser, console: Console) -> Iterator[Page]:
    """Yields the console, signed in. Any error in the browser's own console fails the test."""
    context = chromium.new_context(reduced_motion="reduce", viewport={"width": DESK[0], "height": DESK[1]})
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    sign_in(page, console)
    yield page
    context.close()
    assert complaints == []


def sign_in(page: Page, console: Console, place: str = "") -> None:
    page.goto(f"{console.url}/console#/{place}")
    page.get_by_label("Admin key").fill(ADMIN)
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()


def test_the_key_is_tried_kept_for_the_tab_and_never_in_an_address(
    chromium: Browser, console: Console
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{console.url}/console")
    for wrong, said in (
        (PUBLIC, "needs a key with the role read"),
        ("sk-nobody-knows-this-one", "unknown or was revoked"),
    ):
        page.get_by_label("Admin key").fill(wrong)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text(said)
    sign_in(page, console, "rounds/6")
    expect(page.get_by_role("heading", name="Round 6")).to_be_visible()
    assert ADMIN not in page.url
    page.reload()
    expect(page.get_by_role("heading", name="Round 6")).to_be_visible()
    assert page.evaluate("Object.keys(localStorage).length") == 0
    page.get_by_role("button", name="Sign out").click()
    page.reload()
    expect(page.get_by_label("Admin key")).to_be_visible()
    context.close()


def test_votes_are_filtered_by_keyboard_opened_saved_and_exported(page: Page, console: Console) -> None:
    page.keyboard.press("g")
    page.keyboard.press("f")
    expect(page.get_by_role("heading", name="Feedback")).to_be_visible()
    page.keyboard.press("/")
    page.evaluate(
        """() => addEventListener("hashchange", () => {
            const box = document.querySelector("input[type=search]");
            box.value += "erra";
            box.dispatchEvent(new Event("input", { bubbles: true }));
        }, { once: true })"""
    )
    page.keyboard.type("canb")
    expect(page).to_have_url(re.compile("text=canberra"))
    page.get_by_label("Vote").select_option("down")
    expect(page).to_have_url(re.compile("value=down"))
    wanted = console.get("console/votes?text=canberra&value=down&limit=200")["data"]
    rows = page.locator("[data-row]")
    expect(rows).to_have_count(len(wanted))
    assert 0 < len(wanted) < 30

    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    exported = [json.loads(line)["id"] for line in download.value.path().read_text().splitlines()]
    assert sorted(exported) == sorted(vote["id"] for vote in wanted)

    page.get_by_role("button", name="Save this view").click()
    page.get_by_label("Name").fill("Wrong about Canberra")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Saved views")).to_have_value("Wrong about Canberra")

    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="The conversation")).to_be_visible()
    page.get_by_role("link", name="← Feedback").click()
    expect(page.get_by_label("Search")).to_have_value("canberra")
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_label("Vote")).to_have_value("")
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(100)
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_malformed_address_shows_the_page_without_its_broken_part(page: Page, console: Console) -> None:
    page.goto(f"{console.url}/console#/rounds/%")
    expect(page.get_by_role("heading", name="Rounds", level=1)).to_be_visible()
    page.goto(f"{console.url}/console#/feedback?since=garbage&until=2026-13-40&value=down")
    rows = page.locator("[data-row]")
    wanted = console.get("console/votes?value=down&limit=50")["data"]
    expect(rows).to_have_count(len(wanted))
    expect(page.get_by_label("Vote")).to_have_value("down")
    page.goto(f"{console.url}/console#/raters?state=toString")
    expect(page.get_by_role("row", name="All without a session in one network")).to_be_visible()


def test_older_pages_stay_when_something_changes(page: Page, console: Console) -> None:
    """The status, which every page shows, is read after the same change."""
    console.execute(
        "insert into audit_log (project, actor, action, target)"
        " select 'default', 'test', 'view.changed', 'v' || n from generate_series(1, 120) n"
    )
    page.goto(f"{console.url}/console#/audit")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(1 + 50)
    page.get_by_role("button", name="Show more").click()
    expect(rows).to_have_count(1 + 100)
    last = rows.last.inner_text()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with page.expect_response(re.compile("console/status")):
        console.execute("update projects set paused = not paused where id = 'default'")
    console.execute("update projects set paused = false where id = 'default'")
    assert not [url for url in asked if "/audit?" in url]
    expect(rows).to_have_count(1 + 100)
    assert rows.last.inner_text() == last


def test_a_new_vote_and_a_rounds_progress_appear_by_themselves(page: Page, console: Console) -> None:
    expect(page.get_by_text("step 4 of 8")).to_be_visible()
    hostile = "<img src=x onerror=alert(1)> \u202eevil"
    said = {"completion_id": "chatcmpl-00008", "type": "thumb", "value": "down", "comment": hostile}
    key = {"Authorization": f"Bearer {ADMIN}"}
    assert httpx.post(f"{console.url}/v1/feedback", json=said, headers=key).status_code == 201
    expect(page.get_by_text("<img src=x onerror=alert(1)>")).to_be_visible()
    console.execute(
        "update rounds set progress = jsonb_set(progress, '{done}', '6') where outcome = 'running'"
    )
    expect(page.get_by_text("step 7 of 8")).to_be_visible()


def test_what_was_expected_of_a_candidate_is_beside_what_people_say(page: Page, console: Console) -> None:
    page.goto(f"{console.url}/console#/rollouts")
    running = page.get_by_role("region", name="Canary")
    expect(running).to_contain_text("recorded votes let expect 71% thumbs up (62% to 80%), +3.4 ± 4.1 points")
    expect(running).to_contain_text("38 votes of 21 people")


def test_the_live_policy_is_taken_back_after_a_preview_and_there_is_a_way_back(
    page: Page, console: Console
) -> None:
    expect(page.get_by_role("heading", name=f"{LIVE} answers")).to_be_visible()
    page.get_by_role("button", name="Take it back…").first.click()
    dialog = page.get_by_role("dialog", name=f"Take {LIVE} back?")
    expect(dialog.get_by_text(f"{PREVIOUS} answers instead of {LIVE}")).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    assert console.get("console/status")["answering"]["live"] == LIVE
    page.get_by_role("button", name="Take it back…").first.click()
    dialog.get_by_label("Why").fill("too long")
    dialog.get_by_role("button", name="Take it back").click()
    expect(page.get_by_role("heading", name=f"{PREVIOUS} answers")).to_be_visible()
    assert console.get(f"policies/{LIVE}")["reason"] == "too long"
    page.goto(f"{console.url}/console#/policies/{LIVE}")
    page.get_by_role("button", name="Reinstate it").click()
    expect(page.get_by_role("button", name="Make it live…")).to_be_visible()
    page.get_by_role("button", name="Make it live…").click()
    expect(page.get_by_role("dialog").get_by_text(f"{LIVE} answers everybody")).to_be_visible()
    page.keyboard.press("Escape")
    learned = page.get_by_role("region", name="What it learned from")
    expect(learned).to_contain_text(re.compile("[0-9]+ new votes of [0-9]+ people"))
    expect(learned).to_contain_text("Only this project reads the cards")
    page.goto(f"{console.url}/console#/")
    page.get_by_role("button", name="Pause training").click()
    expect(page.get_by_text("Training is paused: votes are stored")).to_be_visible()
    page.get_by_role("button", name="Resume training").click()
    expect(page.get_by_role("button", name="Pause training")).to_be_visible()


def test_a_queue_is_rated_by_keyboard(page: Page, console: Console) -> None:
    page.goto(f"{console.url}/console#/queues")
    page.get_by_role("button", name="New queue…").click()
    page.get_by_label("Name").fill("Second look")
    page.get_by_label("Replies with these votes").select_option("value=down")
    page.get_by_label("Replies at most").fill("2")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("heading", name="Second look")).to_be_visible()
    page.get_by_label("Your name").fill("Ann")
    page.keyboard.press("Enter")
    reply = page.get_by_label("Reply to rate")
    first = reply.get_attribute("data-completion")
    assert first is not None
    page.locator("h1").click()
    page.keyboard.press("Control+d")  # a bookmark, no answer
    page.evaluate(
        """() => {
            for (const key of ["u", "d"]) dispatchEvent(new KeyboardEvent("keydown", { key }));
        }"""
    )
    expect(page.get_by_role("row", name="Ann 1")).to_be_visible()
    expect(reply).not_to_have_attribute("data-completion", first)
    page.keyboard.press("d")
    expect(page.get_by_role("row", name="Ann 2")).to_be_visible()
    expect(page.get_by_text("You have answered all")).to_be_visible()
    votes = console.get("console/votes?user=annotator:Ann")["data"]
    assert [vote["value"]["value"] for vote in votes] == ["down", "up"]


def test_a_team_is_given_a_project_and_keys_and_a_reader_changes_nothing(
    page: Page, chromium: Browser, console: Console
) -> None:
    page.get_by_role("link", name="Project").click()
    page.get_by_label("System prompt").fill("You sell bread.")
    page.get_by_label("Temperature").fill("0.4")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: it counts from the next chat on.")).to_be_visible()
    project = console.get("projects/default")
    assert (project["system_prompt"], project["sampling"]) == ("You sell bread.", {"temperature": 0.4})
    page.get_by_role("button", name="New project…").click()
    page.get_by_label("Name, of lower-case").fill("bakery")
    page.keyboard.press("Enter")
    keys = page.get_by_role("dialog", name="The keys of bakery")
    expect(keys).to_contain_text("pk-hearken-")
    for _ in range(3):
        page.keyboard.press("Escape")
    page.mouse.click(5, 5)
    page.keyboard.press("g")
    page.keyboard.press("k")
    expect(keys).to_be_visible()
    page.get_by_role("button", name="I have them").click()
    expect(page.get_by_role("row", name="bakery")).to_be_visible()

    page.get_by_role("link", name="Keys", exact=True).click()
    page.get_by_role("button", name="New key…").click()
    page.get_by_label("What it is for").fill("Ann reads")
    page.get_by_label("Kind").select_option("secret")
    for role, wanted in (("chat", False), ("vote", False), ("read what is stored", True)):
        page.get_by_label(role).set_checked(wanted)
    page.get_by_role("button", name="Create").click()
    secret = page.get_by_role("dialog").locator("code").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="I have it").click()
    row = page.get_by_role("row", name="Ann reads")
    row.get_by_role("button", name="Rotate…").click()
    hours = page.get_by_label("Hours for which the secret before stays valid")
    hours.fill("")
    page.get_by_role("button", name="Rotate", exact=True).click()
    expect(hours).to_be_focused()  # none is not zero
    hours.fill("24")
    page.get_by_role("button", name="Rotate", exact=True).click()
    expect(page.get_by_role("dialog", name="The secret of Ann reads")).to_contain_text(
        "The one before is valid"
    )
    page.get_by_role("button", name="I have it").click()
    expect(row).to_contain_text("two secrets until")

    context = chromium.new_context()
    ann = context.new_page()
    ann.goto(f"{console.url}/console")
    ann.get_by_label("Admin key").fill(secret)
    ann.keyboard.press("Enter")
    expect(ann.get_by_role("heading", name=" answers")).to_be_visible()
    views = ann.get_by_role("navigation", name="Views")
    expect(views.get_by_role("link", name="Usage")).to_be_visible()
    for hidden in ("Keys", "Audit", "Settings"):
        expect(views.get_by_role("link", name=hidden)).to_have_count(0)
    expect(ann.get_by_role("button", name="Take it back…")).to_have_count(0)
    expect(ann.get_by_role("button", name="Pause training")).to_have_count(0)

    ann.goto(f"{console.url}/console#/people/{console_data.person(9)}")
    expect(ann.get_by_role("button", name="Save all of it")).to_be_visible()
    expect(ann.get_by_role("button", name="Erase…")).to_have_count(0)
    ann.goto(f"{console.url}/console#/project")
    expect(ann.get_by_label("Personal data in what is stored")).to_be_disabled()

    row.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(row).to_contain_text("revoked")
    ann.goto(f"{console.url}/console#/rounds")
    expect(ann.get_by_role("button", name="Sign in")).to_be_visible()
    context.close()

    page.get_by_role("link", name="Audit").click()
    page.get_by_label("Changes of").select_option("key")
    expect(page.get_by_role("row").nth(1)).to_contain_text("key:default-admin")
    expect(page.get_by_role("row").nth(1)).to_contain_text("revoked_at")


def test_a_rater_whose_votes_look_hostile_is_looked_at_and_decided_on(page: Page, console: Console) -> None:
    page.keyboard.press("g")
    page.keyboard.press("v")
    expect(page.get_by_role("heading", name="Raters")).to_be_visible()
    network = page.get_by_role("row", name="All without a session in one network")
    expect(network).to_contain_text("Many votes in a short time")
    expect(network).to_contain_text("Nearly the same texts, voted on alike")
    page.get_by_role("row", name="Votes like others").get_by_role("link").click()
    found = page.get_by_role("region", name="What was found")
    expect(found).to_contain_text("12 raters agree more than chance explains.")
    expect(found).to_contain_text("96 votes came within 30 min, when only 2% of everybody else's did.")
    expect(found).to_contain_text("8.31")
    votes = page.get_by_role("region", name="The newest votes")
    expect(votes.get_by_role("listitem").first).to_contain_text("held: its rater is in quarantine")

    page.get_by_role("button", name="Reject…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Reject").click()
    expect(dialog.get_by_label("Why")).to_be_focused()  # it must be said
    dialog.get_by_label("Why").fill("a campaign")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("rejected")
    expect(found).to_contain_text("a campaign")
    page.get_by_role("button", name="Accept…").click()
    dialog.get_by_label("Why").fill("our own testers")
    dialog.get_by_role("button", name="Accept").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("accepted")
    assert console.get("quarantine")["counts"] == {"held": 1, "accepted": 1, "rejected": 1}
    page.get_by_role("link", name="← Raters").click()
    page.get_by_role("link", name="1 rejected").click()
    expect(page.get_by_role("row", name="a bot of ours")).to_be_visible()
    page.get_by_role("link", name="1 accepted").click()
    expect(page.get_by_role("row", name="our own testers")).to_be_visible()
    console.execute("update quarantine set state = 'held', decided_at = null where reason = 'votes_alike'")


def test_what_is_redacted_is_chosen_and_what_is_stored_already_stays(page: Page, console: Console) -> None:
    page.goto(f"{console.url}/console#/project")
    field = page.get_by_label("Personal data in what is stored")
    expect(page.get_by_role("form", name="Chats")).to_contain_text("What is stored already is not changed")
    default, key = f"{console.url}/v1/projects/default", {"Authorization": f"Bearer {ADMIN}"}
    meanwhile = httpx.patch(default, json={"promotion": "manual"}, headers=key)  # by another operator
    assert meanwhile.json()["promotion"] == "manual"
    field.select_option("own")
    page.get_by_label("Days for which chats").fill("365")
    page.get_by_role("checkbox", name="IP addresses").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: it counts from the next chat on.")).to_be_visible()
    kinds = ["email", "phone", "iban", "card", "national_id"]
    project = console.get("projects/default")
    assert (project["redaction"], project["retention_days"]) == (kinds, 365)
    assert project["promotion"] == "manual"
    httpx.patch(default, json={"promotion": None}, headers=key)
    page.reload()
    expect(page.get_by_role("checkbox", name="IP addresses")).not_to_be_checked()
    for choice, saved in (("none", []), ("settings", None)):
        field.select_option(choice)
        with page.expect_response(lambda answer: answer.request.method == "PATCH"):
            page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("group", name="What is replaced")).to_have_count(0)
        assert console.get("projects/default")["redaction"] == saved


def test_what_is_learned_is_chosen(chromium: Browser, console: Console) -> None:
    page = chromium.new_page()  # of its own: the browser complains of what is refused
    sign_in(page, console, "project")
    page.get_by_label("What is learned where tastes differ").select_option("least_satisfied")
    page.get_by_label("Criteria in the reward").fill("safe 0.5, tone -1")
    page.get_by_label("Criteria that may not fall").fill("saef")
    page.get_by_role("button", name="Save").click()
    form = page.get_by_role("form", name="Chats")
    expect(form.get_by_role("alert")).to_contain_text("no criterion 'saef'")
    page.get_by_label("Criteria that may not fall").fill("safe")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved: it counts from the next chat on.")).to_be_visible()
    assert console.get("projects/default")["learning"] == {
        "groups": "least_satisfied", "criteria_weights": {"safe": 0.5, "tone": -1}, "may_not_fall": ["safe"]
    }  # fmt: skip
    page.get_by_label("What is learned where tastes differ").select_option("")
    for field in ("Criteria in the reward", "Criteria that may not fall"):
        page.get_by_label(field).fill("")
    with page.expect_response(lambda answer: answer.request.method == "PATCH"):
        page.get_by_role("button", name="Save").click()
    assert console.get("projects/default")["learning"] == {}
    page.close()


def test_a_person_is_looked_at_saved_and_erased_by_keyboard(page: Page, console: Console) -> None:
    """By the name that the team's server uses, which no address shows."""
    with httpx.Client(base_url=console.url, headers={"Authorization": f"Bearer {ADMIN}"}) as client:
        turn = {
            "user": "quagga@example.com", "messages": [{"role": "user", "content": "A quagga?"}],
            "replies": ["Extinct."],
        }  # fmt: skip
        assert client.post("/v1/turns", json=turn).status_code == 201
    page.keyboard.press("g")
    page.keyboard.press("e")
    expect(page.get_by_role("heading", name="People")).to_be_visible()
    page.get_by_label("A user as your server names them").focus()
    page.keyboard.type("quagga@example.com")
    page.keyboard.press("Enter")
    held = page.get_by_role("region", name="What is held")
    expect(held).to_contain_text("Chats1")
    assert "quagga" not in page.url
    with page.expect_download() as saved:
        held.get_by_role("button", name="Save all of it").focus()
        page.keyboard.press("Enter")
    assert json.loads(saved.value.path().read_text())["turns"][0]["messages"][0]["content"] == "A quagga?"
    held.get_by_role("button", name="Erase…").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Erase this person?")
    expect(dialog).to_contain_text("1 chat and 0 votes are deleted within seconds")
    dialog.get_by_role("button", name="Erase").click()
    expect(dialog.get_by_role("checkbox")).to_be_focused()  # it must be meant
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Erasure")
    expect(page.get_by_role("listitem").filter(has_text="Their rows are deleted")).to_contain_text("turns 1")
    assert "quagga" not in page.url
    page.get_by_role("link", name="← People").click()
    page.get_by_label("A user as your server names them").fill("quagga@example.com")
    page.keyboard.press("Enter")
    nothing = page.get_by_role("region", name="No chats and no votes are held")
    expect(nothing).to_contain_text("Erased before")

    page.goto(f"{console.url}/console#/erasures/{console_data.ERASING}")
    step = page.get_by_role("listitem").filter(has_text="The records of training rounds")
    expect(step).to_contain_text("next")
    expect(page.get_by_text("It is signed at the end.")).to_be_visible()
    page.goto(f"{console.url}/console#/erasures/{console_data.ERASED}")
    expect(page.get_by_role("table").first).to_contain_text(LIVE)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the receipt").click()
    receipt.verify(json.loads(saved.value.path().read_text()), console.get("erasures/key")["public_key"])


def test_a_rounds_report_is_read_on_a_phone(page: Page, console: Console) -> None:
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    page.goto(f"{console.url}/console#/rounds/6")
    report = page.get_by_role("article")
    expect(report).to_contain_text("Votes that weighed most")
    unseen = report.get_by_role("listitem").filter(has_text="Reward by unseen votes")
    expect(unseen.get_by_role("img", name="cannot tell: within chance")).to_be_visible()
    words = report.inner_text()
    order = [
        f"Made {CANARY}", "Not decided", "38 unseen votes", "What the gate found", "95.3% right",
        "Votes that weighed most", "Before and after", "That is a great question!", "How it writes",
        "Hyperparameters", "of a hundred replies served", "1,280", "0.000421",
    ]  # fmt: skip
    places = [words.index(each) for each in order]
    assert places == sorted(places)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_every_panel_is_worked_by_keyboard(page: Page, console: Console) -> None:
    for place in PAGES:
        page.goto(f"{console.url}/console#/{place}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        page.evaluate(_WATCH_FOCUS)
        for _ in range(page.evaluate("controls().length") + SCROLLED):
            page.keyboard.press("Tab")
        controls: list[str] = page.evaluate("names()")
        assert controls, place
        reached: dict[str, bool] = page.evaluate("reached")
        assert [each for each in controls if each not in reached] == [], place
        assert [each for each, shown in reached.items() if not shown] == [], place
    page.goto(f"{console.url}/console#/")
    opener = page.get_by_role("button", name="Take it back…").first
    expect(opener).to_be_visible()
    expect(page.locator(".loading")).to_have_count(0)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Why")).to_be_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
        behind = "document.activeElement.matches('body *') && !document.activeElement.closest('dialog')"
        assert not page.evaluate(behind)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)  # a hidden one is still about to go
    expect(opener).to_be_focused()

    page.keyboard.press("Enter")
    dialog.get_by_label("Why").hover()
    page.mouse.down()
    page.mouse.move(5, 5)  # beside the dialog, as who selects text
    page.mouse.up()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()


def test_every_page_is_accessible_and_fits(page: Page, console: Console) -> None:
    page.evaluate(AXE.read_text())
    schemes: list[tuple[tuple[int, int], Literal["light", "dark"]]] = [(DESK, "light"), (PHONE, "dark")]
    for (width, height), scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": height})
        for place in PAGES:
            page.goto(f"{console.url}/console#/{place}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            expect(page.locator(".loading")).to_have_count(0)
            assert problems(page) == [], f"{place} at {width} px, {scheme}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place
    page.goto(f"{console.url}/console#/policies/{console_data.POLICIES[4]}")
    page.get_by_role("button", name="Make it live…").click()
    expect(page.get_by_role("dialog")).to_contain_text("The way back")
    assert problems(page) == []


def problems(page: Page) -> list[Any]:
    """Returns what axe finds wrong."""
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"][:2]]) for each in found]
