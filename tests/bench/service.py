"""A `hearken up` of a bench's own: temporary data folder, free port, known keys, stopped cleanly."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.installation import Installation


@contextmanager
def hearken_up(**settings: str) -> Iterator[Installation]:
    """Everything on this machine, ready; `settings` are HEARKEN_… variables, the caller's own are ignored.

    Raises RuntimeError when it does not end well on SIGTERM. What it said is shown when a bench fails.
    """
    with TemporaryDirectory(prefix="hearken-bench-") as folder:
        installation = Installation(Path(folder).resolve() / "data", **settings)
        given = {"HEARKEN_ADMIN_KEY", "HEARKEN_PUBLIC_KEY", *settings}
        installation.environment = {
            name: value
            for name, value in installation.environment.items()
            if not name.startswith("HEARKEN_") or name in given
        }
        installation.start()
        try:
            installation.wait_until_ready(180)
            yield installation
        except BaseException:
            print(installation.console()[-4_000:], file=sys.stderr)
            raise
        finally:
            code = _stop(installation)
        if code != 0:
            raise RuntimeError(f"hearken up ended with exit code {code}")


def _stop(installation: Installation) -> int:
    """Its exit code; one that does not stop in time is killed, and its children end with it."""
    assert installation.process is not None
    try:
        return installation.stop()
    except subprocess.TimeoutExpired:
        installation.process.kill()
        return installation.process.wait()
