"""The tests of the page share one headless Chromium and one installation."""

import os
import shutil
from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from psycopg.rows import DictRow, dict_row

from deploy.local.postgres import EmbeddedPostgres
from tests.installation import Installation
from tests.missing_programs import skip_reason

_PATIENCE = 20_000  # milliseconds; a busy machine writes replies slowly
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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        assert os.environ.get("CI") != "true", "no Chromium here, and CI must have one"
        pytest.skip(skip_reason("Chromium"))
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=_QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def installation(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A `hearken up` without training: the tests cast too few votes for a round."""
    with Installation(tmp_path_factory.mktemp("page") / "data") as installation:
        yield installation


@pytest.fixture
def database(installation: Installation) -> Iterator[psycopg.Connection[DictRow]]:
    """The installation's own database."""
    url = EmbeddedPostgres(installation.data_dir / "postgres").start()
    with psycopg.connect(url, row_factory=dict_row, autocommit=True) as connection:
        yield connection


@pytest.fixture
def page(chromium: Browser, installation: Installation) -> Iterator[Page]:
    """The page as a new visitor sees it. Any error in the browser's console fails the test."""
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(_PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(installation.url)
    yield page
    context.close()
    assert complaints == []
