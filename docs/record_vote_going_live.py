"""This script records the animation of the README: a vote on the real page, until a policy that learned
from it answers.

    python -m docs.record_vote_going_live [FILE.gif]

It starts `hearken up` on a data folder of its own, simulated people who vote, and a headless Chromium. A
frame is a screenshot with a caption that says how many seconds have passed. It takes five to ten minutes.
The replies have emoji: install a font for them (Debian: fonts-noto-color-emoji).
"""

import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Locator, Page, expect, sync_playwright

from deploy.local.ports import free_port

ADMIN_KEY = "sk-hearken-recording-0123456789abcdef"
SIZE = (800, 560)
BAR = 44  # pixels of the caption
COLOURS = 128
QUESTION = "How can I sleep better?"
LONG = 60  # characters of a reply
SEED = 2  # of the simulated people, who like short replies, too
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `hearken` command, ended at the end of the block."""
    environment = os.environ | {"HEARKEN_ADMIN_KEY": ADMIN_KEY, "HEARKEN_SERVING__PAIRS_PER_DAY": "0"}
    process = subprocess.Popen([sys.executable, "-m", "deploy.cli", *words], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """A running Hearken; the block gets its URL."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with running("up", "--port", str(port), "--data-dir", str(folder)) as process:
        while not _ready(url):
            if process.poll() is not None:
                raise SystemExit("hearken up has ended.")
            time.sleep(0.2)
        yield url


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _votes(url: str) -> int:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    return httpx.get(f"{url}/v1/feedback/export", headers=headers, timeout=60).text.count("\n")


class Film:
    """Screenshots of a page, each with a caption and the seconds for which it is shown."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[tuple[Image.Image, float]] = []
        self._voted: float | None = None

    def start_clock(self) -> None:
        self._voted = time.monotonic()

    def take(self, caption: str, seconds: float) -> None:
        shot = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        frame = Image.new("RGB", (SIZE[0], SIZE[1] + BAR), "#17594a")
        frame.paste(shot, (0, 0))
        clock = "" if self._voted is None else f"{time.monotonic() - self._voted:.0f} s after the vote"
        draw, font = ImageDraw.Draw(frame), ImageFont.load_default(20)
        draw.text((20, SIZE[1] + BAR / 2), caption, "white", font, anchor="lm")
        draw.text((SIZE[0] - 20, SIZE[1] + BAR / 2), clock, "#bfe3d6", font, anchor="rm")
        self._frames.append((frame, seconds))

    def save(self, path: Path) -> None:
        """Write a GIF with one palette for all frames."""
        strip = Image.new("RGB", (SIZE[0], (SIZE[1] + BAR) * len(self._frames)))
        for number, (frame, _) in enumerate(self._frames):
            strip.paste(frame, (0, number * frame.height))
        palette = strip.quantize(COLOURS, dither=Image.Dither.NONE)
        first, *rest = [
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame, _ in self._frames
        ]
        milliseconds = [round(seconds * 1000) for _, seconds in self._frames]
        first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=True)


def record(page: Page, film: Film) -> None:
    """One person asks, votes and waits."""
    film.take("A chat. Nobody has trained this model yet.", 1.5)
    turn = _ask(page, film)
    film.take("It answers. The base model has written this.", 2)
    long = len(turn.locator(".reply .text").inner_text()) > LONG
    turn.get_by_role("button", name="Bad reply" if long else "Good reply").click()
    film.start_clock()
    turn.get_by_role("button", name="Too long" if long else "Concise").click()
    expect(page.get_by_role("button", name="1 vote")).to_be_visible()
    film.take("A vote of somebody who likes short replies.", 2)
    news, waiting = page.locator(".news"), time.monotonic()
    while not news.is_visible():
        if time.monotonic() - waiting > 10:
            film.take("Others vote, too. A round of training runs.", 0.6)
            waiting = time.monotonic()
        time.sleep(0.1)
    page.wait_for_timeout(500)
    film.take("The vote is live, and the page says so.", 3.5)


def _ask(page: Page, film: Film) -> Locator:
    """Send the question; the turn, once its reply has ended."""
    box = page.get_by_role("textbox", name="Your message")
    box.fill(QUESTION)
    film.take("A question.", 0.8)
    box.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.get_by_role("button", name="Good reply")).to_be_visible()
    page.wait_for_timeout(300)
    return turn


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "vote_going_live.gif")
    expect.set_options(timeout=60_000)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(service(folder / "data"))
        people = ("--seed", str(SEED), "--votes", "600")
        stack.enter_context(running("simulate", "--url", url, *people))
        while _votes(url) < 15:
            time.sleep(0.5)
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        context = browser.new_context(
            viewport={"width": SIZE[0], "height": SIZE[1]}, reduced_motion="reduce", color_scheme="light"
        )
        page = context.new_page()
        page.set_default_timeout(600_000)
        page.goto(url)
        film = Film(page)
        record(page, film)
        film.save(target)
        browser.close()
    print(f"{target}: {target.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
