"""The failpoints of an installation's processes (`tests.crashing`), from outside."""

from collections.abc import Callable
from pathlib import Path

from tests.installation import wait

ROUNDS = 900.0  # seconds for a crash point: some wait for a round that passes the gate, and others end rounds


class Failpoints:
    """Kept in `folder`; `environment` is for the processes that are to have them."""

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
        point: str,
        cause: Callable[[], object] = lambda: None,
        insist: Callable[[], object] = lambda: None,
    ) -> None:
        """Have the next process that reaches `point` die there; returns when it has. Where nothing else leads
        there, `cause` does, or `insist`, again and again. Raises AssertionError when none comes there."""
        (self.folder / "armed" / point).touch()
        cause()
        fired = self.folder / "fired" / point

        def came() -> bool:
            insist()
            return fired.exists()

        try:
            wait(came, f"a process came to {point}", ROUNDS)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {self.seen()}") from None

    def seen(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "seen").iterdir())
