"""A round reports how far it has come to whoever wants to know."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Is told the phase of a round, how many of its steps are done, and of how many (0: it has none)."""


def report_nothing(phase: str, done: int, steps: int) -> None:
    """The report of a round that nobody watches."""
