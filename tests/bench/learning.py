"""This command runs the benches of learning and prints one table: `python -m tests.bench.learning [BENCH …]`.

Each bench runs as its own command, and its last line, which is JSON, gives the figures of the rows below. The
table shows the median over seeds, the least and the most; the last two are a 94% confidence interval of the
median of five seeds, which lies outside only when all five fall on one side of it (2·½⁵). Names of benches
select only these. About eight hours on two cores.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

BENCHES = {
    "reward": [],
    "sample_efficiency": [],
    "learner": [],
    "incremental": [],
    "offline_learning": [],
    "plan": ["small"],
    "everyday": ["--model", "smollm2"],
    "live_learning": ["--seeds", *map(str, range(451, 456)), "--votes", "60", "--minutes", "1"],
}
"""The arguments of each bench. Of `live_learning`, this table shows only reproducibility."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: `figures` selects the figures from a bench's JSON, and `kept` tests whether they
    reach the target `aim`."""

    what: str
    bench: str
    figures: Callable[[Any], Iterable[float]]
    aim: str
    kept: Callable[[list[float]], bool]


def of(name: str) -> Callable[[Any], Iterable[float]]:
    return lambda found: found[name] if isinstance(found[name], list) else [found[name]]


def middle(least: float) -> Callable[[list[float]], bool]:
    return lambda figures: statistics.median(figures) >= least


def each(least: float, most: float) -> Callable[[list[float]], bool]:
    return lambda figures: all(least <= figure <= most for figure in figures)


ROWS = (
    Row("reward model, 400 thumbs: held-out pairwise accuracy", "reward", of("clean"), "0.90", middle(0.9)),
    Row(
        "with three of ten raters hostile, share of that", "reward", of("hostile_to_clean"), "0.95",
        middle(0.95),
    ),
    Row(
        "its error then, against a model without rater terms", "reward", of("error_ratio"), "at most 0.5",
        lambda figures: statistics.median(figures) <= 0.5,
    ),
    Row(
        "seeds in which TRL's best needs more than twice our votes", "sample_efficiency",
        lambda found: [float(one["at_most_half"]) for one in found], "most", middle(1),
    ),
    Row("learner's tokens/s against TRL's GRPO", "learner", of("ratio"), "1.5", middle(1.5)),
    Row("time of a reward update after 100,000 votes against 1,000", "incremental", of("ratio"),
        "at most 1.5", each(0, 1.5)),
    Row(
        "its accuracy less a full refit's, points", "incremental",
        lambda found: [value for name, value in found.items() if name != "ratio"], "-1", each(-1, 100),
    ),
    Row(
        "ten rounds of 100 votes: share of the achievable gain", "offline_learning",
        of("share_of_achievable_gain"), "", each(0, 1),
    ),
    Row("knowledge gained, share", "offline_learning", of("knowledge"), "-0.02 in each", each(-0.02, 1)),
    Row("KL, nats per reply", "offline_learning", of("kl"), "8 in each", each(-1, 8)),
    Row("distinct-2 against the base's", "offline_learning", of("distinct"), "0.8 in each", each(0.8, 9)),
    Row(
        "largest change of a style not voted on", "offline_learning", of("other_styles"), "at most 0.10",
        lambda figures: statistics.median(figures) <= 0.1,
    ),
    Row(
        "200 votes on everyday prompts, SmolLM2: share of the achievable gain", "everyday",
        lambda found: [one["share_of_achievable_gain"] for one in found], "0.5, 0.25 in each",
        lambda gains: statistics.median(gains) >= 0.5 and min(gains) >= 0.25,
    ),
    Row("relative error of the planned memory", "plan", lambda found: [one["off"] for one in found],
        "0.1 in each", each(-0.1, 0.1)),
    Row("policies reproduced byte by byte", "live_learning", of("reproduced"), "all", each(1, 1)),
)  # fmt: skip


def run(bench: str) -> Any:
    """Runs a bench, echoing its output; returns the figures of its last JSON line."""
    command = [sys.executable, "-m", f"tests.bench.{bench}", *BENCHES[bench]]
    print(f"\n== {bench}", flush=True)
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line[0] in "[{" else last
    return json.loads(last)


def main(chosen: list[str]) -> int:
    found = {bench: run(bench) for bench in chosen or BENCHES}
    table = Table("what", "aim", "median", "least", "most", "kept")
    kept = []
    for row in ROWS:
        if row.bench in found:
            figures = list(row.figures(found[row.bench]))
            kept.append(row.kept(figures))
            numbers = (statistics.median(figures), min(figures), max(figures))
            table.add_row(
                row.what, row.aim, *(f"{each:.3f}" for each in numbers), "yes" if kept[-1] else "no"
            )
    Console(width=130).print(table)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
