"""The screen of `hearken up` in a terminal: addresses, who answers, votes, training, what needs somebody, and
what happened last. It is drawn anew in its place, below the welcome."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.local.console import PlainConsole, reachable
from deploy.local.status_words import steps_done, training_words, votes_words
from schemas.database import conninfo
from schemas.errors import HearkenError
from schemas.settings import Settings

_INTERVAL = 2.0  # seconds between two looks at the database
_LINES = 4
_BAR = 40  # columns


class Screen(PlainConsole):
    """Prints lines as they come, until it watches the installation: then it keeps the newest ones in view."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._watching = False
        self._status: dict[str, Any] | None = None
        self._missing = "Reading it…"

    def say(self, line: str) -> None:
        if self._watching:
            self._lines.append(line)
        else:
            super().say(line)

    @contextmanager
    def watching(self, settings: Settings) -> Iterator[None]:
        stopping = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(settings, stopping), name="screen", daemon=True)
        watcher.start()
        self._watching = True
        try:
            with Live(
                get_renderable=lambda: self.picture(settings), console=self._console, refresh_per_second=2
            ):
                yield
        finally:
            self._watching = False
            stopping.set()
            watcher.join(_INTERVAL)

    def picture(self, settings: Settings) -> RenderableType:
        address = f"http://{reachable(settings.host)}:{settings.port}"
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", no_wrap=True)
        rows.add_column(overflow="fold")
        rows.add_row("Chat", f"{address}/")
        rows.add_row("Console", f"{address}/console")
        if self._status is None:
            rows.add_row("Status", self._missing)
        else:
            self._add_status(rows, self._status)
        last = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in tuple(self._lines)]
        end = Text(f"Ctrl-C stops everything. Logs: {settings.data_dir / 'logs'}", style="dim")
        return Group("", rows, "", *last, *([""] if last else []), end)

    def _add_status(self, rows: Table, status: dict[str, Any]) -> None:
        answering, training = status["answering"], status["training"]
        rows.add_row("Answers", f"{answering['live']}. {answering['why']}")
        for each in answering["shares"]:
            if each["policy"] != answering["live"]:
                rows.add_row("", f"{each['policy']}: {each['share']:.1%}, {each['role']}")
        rows.add_row("Votes", votes_words(status["votes"]))
        rows.add_row("Training", training_words(training))
        done = steps_done(training)
        if done is not None:
            rows.add_row("", ProgressBar(total=1, completed=done, width=_BAR))
        for alert in status["alerts"]:
            rows.add_row("Needs you", f"{alert['summary']} {alert['remedy']}")

    def _watch(self, settings: Settings, stopping: threading.Event) -> None:
        while True:
            try:
                self._status = asyncio.run(_read(settings))
            except (psycopg.Error, HearkenError):
                self._status, self._missing = None, "The database does not answer."
            if stopping.wait(_INTERVAL):
                return


async def _read(settings: Settings) -> dict[str, Any]:
    from serving.console.status import status

    async with await AsyncConnection.connect(
        conninfo(settings.database_url or ""), row_factory=dict_row
    ) as connection:
        return await status(connection, settings, settings.project)
