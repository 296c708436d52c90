"""This module renders a round's record as one self-contained HTML page.

The page contains no text of users: its samples are replies to the knowledge questions. Only of a candidate
that broke a constraint it shows a few replies to their prompts, which an erasure removes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from schemas.constraints import CONSTRAINTS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
color: #1c2024 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
.published { color: #0a7d44 } .rejected, .failed { color: #b3261e } .skipped { color: #6b7280 }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem .3rem 0;
border-bottom: 1px solid #e5e7eb; vertical-align: top; font-variant-numeric: tabular-nums }
th { font-weight: 600; color: #4b5563 } .curves { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0 } figcaption { color: #4b5563 } svg { background: #f6f7f9; border-radius: 6px }
pre { background: #f6f7f9; padding: .8rem; border-radius: 6px; overflow-x: auto; font-size: 13px }
"""
_WIDTH, _HEIGHT, _MARGIN = 260, 110, 12


def page(whole: Mapping[str, Any]) -> str:
    """Returns the HTML of a round's record, of this release or an earlier one."""
    outcome = escape(str(whole["outcome"]))
    parts = [f'<h1>Round {whole["round"]}: <span class="{outcome}">{outcome}</span></h1>']
    if whole.get("reason"):
        parts.append(f"<p>{escape(str(whole['reason']))}.</p>")
    facts = {name: value for name, value in whole.items() if not isinstance(value, dict | list)}
    parts += ["<h2>Inputs</h2>", _pairs(facts)]
    if derived := whole.get("hyperparameters"):
        parts += ["<h2>Hyperparameters</h2>", _hyperparameters(derived)]
    steps = (whole.get("optimization") or whole.get("improvement") or {}).get("steps", [])
    if supervised := whole.get("supervised"):
        parts += ["<h2>Supervised learning</h2>", _pairs(supervised)]
    if steps:
        parts += ["<h2>Optimizer steps</h2>", _curves(steps)]
    if gate := whole.get("gate"):
        figures = dict(gate["figures"])
        constraints = figures.pop("constraints", {})
        checks = gate.get("checks", {})
        if checks:
            figures.pop("criteria", None)
        parts += ["<h2>Gate</h2>", _pairs({"outcome": gate.get("outcome"), **figures})]
        if checks:
            parts += ["<h2>Figures and their limits</h2>", _checks(checks)]
        if constraints:
            parts += ["<h2>Constraints</h2>", _constraints(constraints)]
    if criteria := whole.get("criteria"):
        rows = [[name, *each.values()] for name, each in criteria.items()]
        head = ["", *next(iter(criteria.values()))]
        parts += ["<h2>Criteria</h2>", _table(head, rows)]
    if blocked := whole.get("blocked"):
        rows = [[_words(name), reply] for name, replies in blocked.items() for reply in replies]
        parts += ["<h2>Replies of the blocked candidate</h2>", _table(["constraint", "reply"], rows)]
    if style := whole.get("style"):
        rows = [[name, value, style["candidate"][name]] for name, value in style["live"].items()]
        parts += ["<h2>Style statistics</h2>", _table(["", "before", "after"], rows)]
    if samples := whole.get("samples"):
        rows = [[each["prompt"], each["before"], each["after"]] for each in samples]
        parts += ["<h2>Samples</h2>", _table(["prompt", "before", "after"], rows)]
    for title, name in (
        ("Votes with the largest influence", "weightiest"),
        ("Raters with the largest influence", "raters"),
        ("Raters without whom it would not pass the gate", "rests_on"),
        ("Clusters of raters who vote alike", "clusters"),
    ):
        if found := whole.get(name):
            parts += [f"<h2>{title}</h2>", _table(list(found[0]), [list(each.values()) for each in found])]
    for name in ("criteria_ignored", "regression_test", "hindsight", "reward_model", "knowledge", "versions"):
        if found := whole.get(name):
            parts += [f"<h2>{name.replace('_', ' ').capitalize()}</h2>", _pairs(found)]
    if trace := whole.get("traceback"):
        parts += ["<h2>Traceback</h2>", f"<pre>{escape(str(trace))}</pre>"]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        f"<title>Round {whole['round']}</title><style>{_STYLE}</style>\n{body}\n</html>\n"
    )


def _checks(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a row for each figure that the gate decided about."""
    head = ["", "found", "error", "limit", "state"]
    rows = [
        [name.replace("_", " "), *("" if each[column] is None else each[column] for column in head[1:])]
        for name, each in found.items()
    ]
    return _table(head, rows)


def _hyperparameters(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a row for each hyperparameter that no setting names."""
    rows = [
        [name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else value, each["reason"]]
        for name, each in found.items()
        for value in [each["value"]]
    ]
    return _table(["", "value", "reason"], rows)


def _constraints(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a row for each constraint; of those without figures, why."""
    head = ["", "candidate", "error", "base", "live", "limit", "state"]
    rows = [
        [_words(name), *(each.get(column, "") for column in head[1:-1]), each.get("notice") or each["state"]]
        for name, each in found.items()
    ]
    return _table(head, rows)


def _words(constraint: str) -> str:
    about = CONSTRAINTS.get(constraint)
    return about.words if about else constraint


def _pairs(found: Mapping[str, Any]) -> str:
    return _table([], [[name.replace("_", " "), value] for name, value in found.items() if value is not None])


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<table>"]
    if head:
        cells = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in head)
        lines.append(f"<tr>{cells}</tr>")
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _curves(steps: Sequence[Mapping[str, float]]) -> str:
    figures = [_curve(name, [step[name] for step in steps]) for name in steps[0]]
    return '<div class="curves">' + "".join(figures) + "</div>"


def _curve(name: str, values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    across = (_WIDTH - 2 * _MARGIN) / max(1, len(values) - 1)
    up = (_HEIGHT - 2 * _MARGIN) / (high - low or 1)
    points = " ".join(
        f"{_MARGIN + number * across:.1f},{_HEIGHT - _MARGIN - (value - low) * up:.1f}"
        for number, value in enumerate(values)
    )
    return (
        f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(name)}">'
        f'<polyline points="{points}" fill="none" stroke="#2563eb" stroke-width="2"/></svg>'
        f"<figcaption>{escape(name)}: {values[0]:g} → {values[-1]:g} (from {low:g} to {high:g})</figcaption>"
        "</figure>"
    )
