"""The tests of pages and widget share one headless Chromium and one installation."""

import os
import shutil
from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from psycopg.rows import DictRow, dict_row

from deploy.local.postgres import EmbeddedPostgres
from tests.browser.site import Site
from tests.installation import Installation
from tests.missing_programs import skip_reason

PATIENCE = 20_000  # milliseconds; a busy machine writes replies slowly
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        assert os.environ.get("CI") != "true", "no Chromium here, and CI must have one"
        pytest.skip(skip_reason("Chromium"))
    return executable


@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Browser]:
    """Ends with its file: Playwright has an event loop, beside which no asynchronous test can run."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, headless=True, args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def installation(chromium_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A `hearken up` without training: the tests cast too few votes for a round."""
    with Installation(tmp_path_factory.mktemp("page") / "data") as installation:
        yield installation


@pytest.fixture
def database(installation: Installation) -> Iterator[psycopg.Connection[DictRow]]:
    """The installation's own database."""
    url = EmbeddedPostgres(installation.data_dir / "postgres").start()
    with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A web site on another origin, under a strict Content-Security-Policy."""
    with Site() as site:
        yield site


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A new visitor's browser. Any error in its console fails the test, but for a rate limit."""
    complaints: list[str] = []

    def complain(message: ConsoleMessage) -> None:
        if message.type == "error" and "429 (Too Many Requests)" not in message.text:
            complaints.append(message.text)

    context = chromium.new_context(reduced_motion="reduce", locale="en-GB")
    context.set_default_timeout(PATIENCE)
    context.on("console", complain)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(context: BrowserContext, installation: Installation) -> Page:
    """The page at `/` as a new visitor sees it, once it is drawn."""
    page = context.new_page()
    page.goto(installation.url)
    expect(page.get_by_role("textbox", name="Your message")).to_be_visible()
    return page
