"""The gate's verdict in words: what was decided, and each figure beside its limit.

Figures, limits, errors and decisions are those that the trainer recorded (`trainer.evaluation.gate`). Of a
record without limits, as earlier versions wrote them, only the outcome is told.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from schemas.constraints import CONSTRAINTS

State = Literal["good", "unknown", "refused", "unjudged"]

_SIGNED = "{:+.2f}", " logits"
_SHARE = "{:.1%}", ""
_FORMATS = {
    "trained_gain": _SIGNED,
    "held_out_gain": _SIGNED,
    "unseen_gain": _SIGNED,
    "influence_gain": _SIGNED,
    "length_ratio": ("{:.2f}", " times the base's"),
    "kl": ("{:.2f}", " nats a reply"),
    "entropy": ("{:.2f}", ""),
}
"""How the figures are written that are no shares, and their units."""

_AGAINST_BASE = {
    "ended": ("Replies that end by themselves", "at least"),
    "entropy": ("Variety of words (entropy)", "at least"),
    "repeated": ("Repetition within a reply", "at most"),
    "distinct": ("Different pairs of words", "at least"),
    "alike": ("The same reply to different prompts", "at most"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, what was found, its limit, and what the gate decided; that is "unknown" where it
    could not tell, since it may be chance."""

    name: str
    found: str
    limit: str
    state: State


def headline(outcome: str | None) -> str:
    """Returns a verdict of the gate in a sentence."""
    return {
        "passed": "Passed: votes that it had never seen say that it is no worse than the live policy.",
        "unknown": "Not decided: the votes could not judge it, so people do.",
        "refused": "Refused: it did harm, so nobody is answered by it.",
    }.get(outcome or "", "There is no verdict of the gate.")


def checks(gate: Mapping[str, Any] | None) -> list[dict[str, str]]:
    """Returns the checks of a gate's report."""
    if not gate or "checks" not in gate:
        return []
    return [asdict(each) for each in _checks(gate["figures"], gate["checks"])]


def _checks(figures: Mapping[str, Any], decided: Mapping[str, Mapping[str, Any]]) -> Iterator[Check]:
    if (unseen := decided.get("unseen_gain")) is not None:
        found = f"{_found('unseen_gain', unseen)}, {figures['unseen_votes']} votes"
        yield Check(
            "Reward by unseen votes", found, f"not below {unseen['limit']:g}, at 95%", unseen["state"]
        )
    elif "unseen_votes" in figures:
        yield Check("Reward by unseen votes", "no unseen votes", "not judged", "unjudged")
    if (gain := decided.get("influence_gain")) is not None:
        raters = figures["influence_raters"]
        name = f"The same without {'one rater' if raters == 1 else f'{raters} raters'}"
        found = _found("influence_gain", gain)
        yield Check(name, found, f"not below {gain['limit']:g}, at 95%", gain["state"])
    for name, votes in (
        ("trained_gain", "the votes it learned from"),
        ("held_out_gain", "votes held back from it"),
    ):
        if (gain := decided.get(name)) is not None:
            limit = "not below 0 by more than chance"
            yield Check(f"Reward by {votes}", _found(name, gain), limit, gain["state"])
    if (length := decided.get("length_ratio")) is not None:
        low, high = sorted([length["limit"], 1 / length["limit"]])
        yield Check(
            "Length", _found("length_ratio", length), f"{low:.2f} to {high:.2f} times", length["state"]
        )
    if (kl := decided.get("kl")) is not None:
        name, limit = "Distance from the base (KL)", f"at most {kl['limit']:.2f} nats"
        yield Check(name, _found("kl", kl), limit, kl["state"])
    if "knowledge_unknown" in figures:
        yield Check("Knowledge", str(figures["knowledge_unknown"]), "not judged", "unjudged")
    elif (lost := decided.get("knowledge_lost")) is not None:
        found = f"{figures['knowledge']:.1%} right, {_lost(lost['found'])} ± {lost['error']:.1%}"
        yield Check("Knowledge", found, f"a loss of {lost['limit']:.0%}", lost["state"])
    if {"approval_change", "approval_width"} <= decided.keys():
        yield _approval(figures, decided["approval_change"], decided["approval_width"])
    for figure, (name, limit) in _AGAINST_BASE.items():
        if (check := decided.get(figure)) is not None:
            words = _FORMATS.get(figure, _SHARE)[0].format(check["limit"])
            yield Check(name, _found(figure, check), f"{limit} {words}", check["state"])
    for name in figures.get("criteria") or {}:
        for other in ("live", "base"):
            yield _criterion(name, other, decided[f"criteria/{name}/{other}"])
    for name, found in (figures.get("constraints") or {}).items():
        yield _constraint(name, found)


def _approval(figures: Mapping[str, Any], change: Mapping[str, Any], width: Mapping[str, Any]) -> Check:
    """The approval that recorded votes let expect: it may be below the live policy's, or hardly known."""
    of, lower, upper = (figures[f"approval{name}"] for name in ("", "_lower", "_upper"))
    state: State = width["state"] if change["state"] == "good" else change["state"]
    differs = f"{change['found']:+.0%} ± {change['error']:.0%} to the live policy"
    found = f"{of:.0%} ({lower:.0%} to {upper:.0%}), {differs}"
    return Check("Approval by recorded votes", found, f"known to {width['limit']:.0%}, and no loss", state)


def _criterion(name: str, other: str, check: Mapping[str, Any]) -> Check:
    """A criterion that may not fall, against another policy."""
    found = f"{check['found']:+.1%} ± {check['error']:.1%}"
    limit = f"a fall of {-check['limit']:.0%}"
    return Check(f"Criterion {name}, against the {other} policy", found, limit, check["state"])


def _constraint(name: str, found: Mapping[str, Any]) -> Check:
    """A constraint that no candidate may break, with the limit that it had."""
    about = CONSTRAINTS.get(name)
    words, of = (about.words, about.of) if about else (name, "the samples")
    if found["state"] == "unjudged":
        return Check(words, str(found["notice"]), "not judged", "unjudged")
    others = f"the base {found['base']:.1%}"
    if "live" in found:
        others += f", the live policy {found['live']:.1%}"
    share = f"{found['candidate']:.1%} ± {found['error']:.1%} of {of} ({others})"
    state: State = "refused" if found["state"] == "blocked" else found["state"]
    return Check(words, share, f"{found['limit']:.1%}", state)


def _found(figure: str, check: Mapping[str, Any]) -> str:
    """Returns a figure with its error and unit."""
    form, unit = _FORMATS.get(figure, _SHARE)
    error = "" if check["error"] is None else f" ± {form.replace('+', '').format(check['error'])}"
    return f"{form.format(check['found'])}{error}{unit}"


def _lost(lost: float) -> str:
    return f"{lost:.1%} lost" if lost > 0 else "nothing lost"
