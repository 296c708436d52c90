"""Tests that need an external program are skipped without it; the run then ends with a line that says so."""

from collections.abc import Iterable

PROGRAMS = {
    "Chromium": ("of the chat page", "chromium"),
    "promtool": ("of the alerts", "prometheus"),
    "nginx": ("of streams through a proxy", "nginx"),
}
"""Program: what its tests are about, and the Debian package that installs it."""


def skip_reason(program: str) -> str:
    """Returns the reason with which a fixture skips its tests."""
    return f"no {program} is installed"


def summary(skips: Iterable[str]) -> str | None:
    """Returns one line about the tests that were skipped for a missing program, from the reasons of all
    skips; None if there are none."""
    reasons = list(skips)
    found = []
    packages = []
    for program, (subject, package) in PROGRAMS.items():
        count = sum(skip_reason(program) in reason for reason in reasons)
        if count:
            found.append(f"{count} tests {subject} (no {program})")
            packages.append(package)
    if not found:
        return None
    return f"Not run: {', '.join(found)}. To install: apt-get install {' '.join(packages)}"
