"""The gate's figures stand beside their limits, whatever a record has."""

import pytest

from serving.console import verdict


def states(figures: dict[str, object], **configuration: object) -> dict[str, str]:
    return {each["name"]: each["state"] for each in verdict.checks({"figures": figures}, configuration)}


def test_a_figure_is_good_near_its_limit_or_beyond_it() -> None:
    for kl, state in ((2.0, "good"), (9.0, "near"), (11.0, "bad")):
        assert states({"kl": kl}) == {"Distance from the base (KL)": state}
    assert states({"kl": 9.0}, rl={"kl_per_reply": 20.0}) == {"Distance from the base (KL)": "good"}


@pytest.mark.parametrize(
    ("ratio", "state"), [(1.0, "good"), (2.7, "near"), (0.2, "bad"), (0.0, "bad"), (3.2, "bad")]
)
def test_length_has_a_limit_on_both_sides(ratio: float, state: str) -> None:
    assert states({"length_ratio": ratio}) == {"Length": state}


def test_equal_replies_are_measured_against_the_bases() -> None:
    name = "The same reply to different prompts"
    assert states({"alike": 0.3}) == {name: "bad"}
    assert states({"alike": 0.3, "base_alike": 0.2}) == {name: "good"}


@pytest.mark.parametrize(
    ("upper", "change", "state"),
    [(0.7, 0.1, "good"), (0.95, 0.1, "near"), (0.7, -0.1, "near"), (0.7, -0.2, "bad")],
)
def test_an_approval_may_be_lower_or_unknown(upper: float, change: float, state: str) -> None:
    figures = {
        "approval": 0.6, "approval_lower": 0.4, "approval_upper": upper,
        "approval_change": change, "approval_change_error": 0.08,
    }  # fmt: skip
    assert states(figures) == {"Approval by recorded votes": state}
    assert states({"approval": None}) == {}


@pytest.mark.parametrize(("change", "state"), [(0.03, "good"), (-0.05, "near"), (-0.2, "bad")])
def test_a_criterion_stands_against_both_policies(change: float, state: str) -> None:
    changes = {"live": change, "live_error": 0.03, "base": 0.0, "base_error": 0.01}
    assert states({"criteria": {"safe": changes}}) == {
        "Criterion safe, against the live policy": state,
        "Criterion safe, against the base policy": "good",
    }


@pytest.mark.parametrize(("found", "state"), [("good", "good"), ("unknown", "near"), ("blocked", "bad")])
def test_a_constraint_stands_beside_the_limit_that_it_had(found: str, state: str) -> None:
    figures = {"state": found, "candidate": 0.25, "error": 0.05, "base": 0.01, "live": 0.02, "limit": 0.06}
    [check] = verdict.checks({"figures": {"constraints": {"begging": figures}}})
    assert check == {
        "name": "Begging for votes",
        "found": "25.0% ± 5.0% of the replies (the base 1.0%, the live policy 2.0%)",
        "limit": "6.0%",
        "state": state,
    }


def test_a_constraint_that_was_not_judged_says_why() -> None:
    unjudged = {"sycophancy": {"state": "unjudged", "notice": "the base knows too little"}}
    [check] = verdict.checks({"figures": {"constraints": unjudged}})
    assert (check["found"], check["limit"], check["state"]) == (
        "the base knows too little", "not judged", "unknown",
    )  # fmt: skip


@pytest.mark.parametrize(("gain", "raters", "state"), [(0.5, 1, "good"), (0.1, 3, "near"), (-0.2, 1, "near")])
def test_a_verdict_is_shown_without_those_whom_it_rests_on(gain: float, raters: int, state: str) -> None:
    figures: dict[str, object] = {
        "influence_gain": gain,
        "influence_raters": raters,
        "unseen_error": 0.1,
    }
    who = "one rater" if raters == 1 else "3 raters"
    assert states(figures) == {f"The same without {who}": state}


def test_what_was_not_measured_is_not_known() -> None:
    assert states({"unseen_votes": 0}) == {"Reward by unseen votes": "unknown"}
    assert states({"knowledge_unknown": "too few questions"}) == {"Knowledge": "unknown"}
    assert states({"trained_gain": None}) == {}
    assert verdict.checks(None) == []


def test_every_outcome_has_a_sentence() -> None:
    said = {verdict.headline(outcome) for outcome in ("passed", "unknown", "refused", None)}
    assert len(said) == 4
