"""The console shows what the gate decided about each figure."""

from typing import Any

import pytest

from serving.console import verdict


def checks_of(figures: dict[str, Any], checks: dict[str, Any]) -> dict[str, dict[str, str]]:
    gate = {"outcome": "passed", "figures": figures, "checks": checks}
    return {each["name"]: each for each in verdict.checks(gate)}


def decided(found: float, limit: float, state: str = "good", error: float | None = 0.01) -> dict[str, object]:
    return {"found": found, "limit": limit, "error": error, "state": state}


def test_what_the_gate_recorded_is_shown_as_it_was_decided() -> None:
    """The figures are beyond the limits that follow from the base's alone."""
    shown = checks_of(
        {
            "unseen_votes": 38, "kl": 30.0, "ended": 0.8, "base_ended": 1.0, "entropy": 0.1,
            "base_entropy": 2.0, "influence_raters": 3, "approval": 0.7, "approval_lower": 0.6,
            "approval_upper": 0.8, "knowledge": 0.953, "criteria": {"safe": {}},
        },
        {
            "unseen_gain": decided(0.21, 0.0, "unknown", 0.19), "influence_gain": decided(0.1, -0.05),
            "trained_gain": decided(-0.1, 0.0, error=0.08), "kl": decided(30.0, 31.5, error=0.4),
            "length_ratio": decided(0.3, 0.5, "refused", 0.02), "ended": decided(0.8, 0.75, error=0.02),
            "entropy": decided(0.1, 0.08), "knowledge_lost": decided(0.006, 0.03, error=0.004),
            "approval_change": decided(0.03, 0.0, error=0.04),
            "approval_width": decided(0.2, 0.1, "unknown", None),
            "criteria/safe/live": decided(-0.05, -0.02, "unknown", 0.03),
            "criteria/safe/base": decided(0.01, -0.02, error=0.03),
        },
    )  # fmt: skip
    assert [(each["name"], each["found"], each["limit"], each["state"]) for each in shown.values()] == [
        ("Reward by unseen votes", "+0.21 ± 0.19 logits, 38 votes", "not below 0, at 95%", "unknown"),
        ("The same without 3 raters", "+0.10 ± 0.01 logits", "not below -0.05, at 95%", "good"),
        (
            "Reward by the votes it learned from", "-0.10 ± 0.08 logits",
            "not below 0 by more than chance", "good",
        ),
        ("Length", "0.30 ± 0.02 times the base's", "0.50 to 2.00 times", "refused"),
        ("Distance from the base (KL)", "30.00 ± 0.40 nats a reply", "at most 31.50 nats", "good"),
        ("Knowledge", "95.3% right, 0.6% lost ± 0.4%", "a loss of 3%", "good"),
        (
            "Approval by recorded votes", "70% (60% to 80%), +3% ± 4% to the live policy",
            "known to 10%, and no loss", "unknown",
        ),
        ("Replies that end by themselves", "80.0% ± 2.0%", "at least 75.0%", "good"),
        ("Variety of words (entropy)", "0.10 ± 0.01", "at least 0.08", "good"),
        ("Criterion safe, against the live policy", "-5.0% ± 3.0%", "a fall of 2%", "unknown"),
        ("Criterion safe, against the base policy", "+1.0% ± 3.0%", "a fall of 2%", "good"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "width", "state"),
    [("good", "good", "good"), ("good", "unknown", "unknown"), ("unknown", "good", "unknown"),
     ("refused", "unknown", "refused")],
)  # fmt: skip
def test_an_approval_may_be_lower_or_hardly_known(change: str, width: str, state: str) -> None:
    figures = {"approval": 0.6, "approval_lower": 0.4, "approval_upper": 0.8}
    checks = {
        "approval_change": decided(-0.1, 0.0, change),
        "approval_width": decided(0.4, 0.5, width, None),
    }
    [check] = checks_of(figures, checks).values()
    assert check["state"] == state


@pytest.mark.parametrize(
    ("found", "state"), [("good", "good"), ("unknown", "unknown"), ("blocked", "refused")]
)
def test_a_constraint_stands_beside_the_limit_that_it_had(found: str, state: str) -> None:
    figures = {"state": found, "candidate": 0.25, "error": 0.05, "base": 0.01, "live": 0.02, "limit": 0.06}
    assert list(checks_of({"constraints": {"begging": figures}}, {}).values()) == [
        {
            "name": "Begging for votes",
            "found": "25.0% ± 5.0% of the replies (the base 1.0%, the live policy 2.0%)",
            "limit": "6.0%",
            "state": state,
        }
    ]


def test_a_constraint_that_was_not_judged_says_why() -> None:
    unjudged = {"sycophancy": {"state": "unjudged", "notice": "the base knows too little"}}
    [check] = checks_of({"constraints": unjudged}, {}).values()
    assert (check["found"], check["limit"], check["state"]) == (
        "the base knows too little", "not judged", "unjudged",
    )  # fmt: skip


def test_what_was_not_measured_is_not_judged() -> None:
    unmeasured = checks_of({"unseen_votes": 0, "knowledge_unknown": "too few", "trained_gain": None}, {})
    assert {name: each["state"] for name, each in unmeasured.items()} == {
        "Reward by unseen votes": "unjudged",
        "Knowledge": "unjudged",
    }
    assert verdict.checks(None) == []
    assert verdict.checks({"outcome": "passed", "figures": {"kl": 11.0}}) == [], "there was no limit then"


def test_every_outcome_has_a_sentence() -> None:
    said = {verdict.headline(outcome) for outcome in ("passed", "unknown", "refused", None)}
    assert len(said) == 4
