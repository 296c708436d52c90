"""Failpoints kill a process of an installation at a chosen commit; `tests.crashing` is the part inside it."""

from collections.abc import Callable
from pathlib import Path

from tests.installation import wait

TIMEOUT = 900.0  # seconds; some failpoints need a round that passes the gate, others end rounds


class Failpoints:
    """The failpoints of processes that run with `environment`; their state is files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "PYTHONPATH": str(Path(__file__).parent / "crashing"),
            "HEARKEN_TEST_CRASHES": str(folder),
        }
        for name in ("armed", "fired", "seen"):
            (folder / name).mkdir(parents=True)

    def crash(
        self,
        failpoint: str,
        cause: Callable[[], object] = lambda: None,
        insist: Callable[[], object] = lambda: None,
    ) -> None:
        """Arms a failpoint, and returns after a process died there. `cause` is called once and `insist`
        repeatedly, to lead a process there. Raises AssertionError if none reaches it in time."""
        (self.folder / "armed" / failpoint).touch()
        cause()
        fired = self.folder / "fired" / failpoint

        def reached() -> bool:
            insist()
            return fired.exists()

        try:
            wait(reached, f"a process reached {failpoint}", TIMEOUT)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {self.seen()}") from None

    def seen(self) -> list[str]:
        """Returns the names of all failpoints that were reached, armed or not."""
        return sorted(path.name for path in (self.folder / "seen").iterdir())
