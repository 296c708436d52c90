"""What a gate of an earlier release decided about each figure, where its record has figures only.

The limits are those of the settings that it was trained with, on top of the base's figures. The gate also
allowed what the live policy does, and for errors that are not recorded. So its outcome comes first: nothing
that passed was beyond a limit, and of a candidate that was not refused nothing was beyond one by more than
chance.
"""

from collections.abc import Iterator, Mapping
from typing import Any

GUARD_TOLERANCE = 1.25
"""The gate's limits of KL and entropy were wider than the guard's by this factor."""

MAX_COMMON_INCREASE = 0.25
"""Most that the share of equal replies could rise."""

Z_95 = 1.645
"""Quantile of the standard normal for a one-sided error of 5%."""

_REFUSED_NOBODY = ("unseen_gain", "influence_gain", "approval_width")

_Found = tuple[str, float, float, float | None, float]
"""A figure's name, its value, its limit, its standard error, and its excess over the limit."""


def checks(
    figures: Mapping[str, Any], configuration: Mapping[str, Any], outcome: str | None
) -> dict[str, dict[str, Any]]:
    """Returns the check of each figure, in the form in which the trainer records them now."""
    gate, rl, criteria = (configuration.get(name) or {} for name in ("gate", "rl", "criteria"))
    decided = {}
    known = (*_gains(figures, gate), *_vetoes(figures, gate, rl), *_votes(figures, gate, criteria))
    for name, found, limit, error, excess in known:
        state = "good"
        if excess > 0 and outcome != "passed":
            mild = outcome == "unknown" or name in _REFUSED_NOBODY or excess <= 2 * (error or 0.0)
            state = "unknown" if mild else "refused"
        decided[name] = {"found": found, "limit": limit, "error": error, "state": state}
    return decided


def _gains(figures: Mapping[str, Any], gate: Mapping[str, Any]) -> Iterator[_Found]:
    """Rewards, against the live policy's."""
    least = 0 - gate.get("max_reward_loss", 0.0)
    for name in ("unseen", "influence"):
        gain, error = figures.get(f"{name}_gain"), figures.get("unseen_error")
        if gain is not None and error is not None:
            yield f"{name}_gain", gain, least, error, least - (gain - Z_95 * error)
    for name in ("trained", "held_out"):
        gain, error = figures.get(f"{name}_gain"), figures.get(f"{name}_error")
        if gain is not None and error is not None:
            yield f"{name}_gain", gain, 0.0, error, -gain if gain + 2 * error < 0 else 0.0


def _vetoes(figures: Mapping[str, Any], gate: Mapping[str, Any], rl: Mapping[str, Any]) -> Iterator[_Found]:
    """The vetoes, whose limits are relative to the base's figures."""
    if (ratio := figures.get("length_ratio")) is not None:
        most = gate.get("max_length_ratio", 3.0)
        limit = most if ratio >= 1 else 1 / most
        yield "length_ratio", ratio, limit, None, max(ratio - most, 1 / most - ratio)
    if (kl := figures.get("kl")) is not None:
        most = GUARD_TOLERANCE * rl.get("kl_per_reply", 8.0)
        yield "kl", kl, most, figures.get("kl_error"), kl - most
    if {"ended", "base_ended"} <= figures.keys():
        least = figures["base_ended"] - gate.get("max_no_eos_increase", 0.05)
        yield "ended", figures["ended"], least, None, least - figures["ended"]
    if {"entropy", "base_entropy"} <= figures.keys():
        least = figures["base_entropy"] * rl.get("entropy_floor", 0.25) / GUARD_TOLERANCE
        yield "entropy", figures["entropy"], least, None, least - figures["entropy"]
    if {"repeated", "base_repeated"} <= figures.keys():
        most = figures["base_repeated"] + gate.get("max_repetition_increase", 0.1)
        yield "repeated", figures["repeated"], most, None, figures["repeated"] - most
    if {"distinct", "base_distinct"} <= figures.keys():
        least = figures["base_distinct"] * gate.get("min_distinct_ratio", 0.4)
        yield "distinct", figures["distinct"], least, None, least - figures["distinct"]
    if "alike" in figures:
        most = figures.get("base_alike", 0.0) + MAX_COMMON_INCREASE
        yield "alike", figures["alike"], most, None, figures["alike"] - most


def _votes(
    figures: Mapping[str, Any], gate: Mapping[str, Any], criteria: Mapping[str, Any]
) -> Iterator[_Found]:
    """Knowledge, the approval by recorded votes, and the criteria that may not fall."""
    if (lost := figures.get("knowledge_lost")) is not None:
        most = gate.get("max_knowledge_loss", 0.03)
        yield "knowledge_lost", lost, most, figures["knowledge_error"], lost - most
    if figures.get("approval") is not None:
        change, error = figures["approval_change"], figures["approval_change_error"]
        yield "approval_change", change, 0.0, error, -change
        width, most = (
            figures["approval_upper"] - figures["approval_lower"],
            gate.get("max_approval_width", 0.5),
        )
        yield "approval_width", width, most, None, width - most
    least = 0 - criteria.get("max_fall", 0.02)
    for name, changes in (figures.get("criteria") or {}).items():
        for other in ("live", "base"):
            change, error = changes[other], changes[f"{other}_error"]
            yield f"criteria/{name}/{other}", change, least, error, least - change
