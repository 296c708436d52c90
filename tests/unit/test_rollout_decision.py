"""Evidence promotes a candidate, rolls it back, lets its share grow, or ends its rollout."""

from dataclasses import replace
from datetime import timedelta
from math import sqrt

import numpy as np
import numpy.typing as npt
import pytest

from serving.comparison import Comparison, between_groups, within_people
from serving.confidence_sequence import radius
from serving.rollout_decision import (
    LONGEST,
    METRICS,
    MIN_PEOPLE,
    MOST_PEOPLE,
    PROMOTION_ERROR,
    STAGE_LONGEST,
    STAGE_PEOPLE,
    STAGE_TIME,
    Evidence,
    Rules,
    decide,
    figures,
)

Array = npt.NDArray[np.float64]
LIVE, NEW = "p1-aaaaaa", "p2-bbbbbb"


def found(difference: float, error: float = 0.05, people: int = 200) -> Comparison:
    return Comparison(difference, error, 0.5 + difference, 0.5, people, people)


def canary(**comparisons: Comparison | None) -> Evidence:
    """Returns the evidence of a canary whose other metrics are alike."""
    alike = {name: found(0.0) for name in ("regenerations", "errors", "latency", "length")}
    return Evidence("canary", NEW, LIVE, {**alike, **comparisons}, age=timedelta(hours=1))


def test_the_better_is_promoted_and_the_worse_rolled_back() -> None:
    assert decide(canary(approval=found(0.3)), Rules())[0] == "promote"
    action, reason = decide(canary(approval=found(-0.3)), Rules())
    assert (action, reason) == (
        "rollback",
        f"people like it less than {LIVE}: 20% of 200 people against 50% of 200",
    )
    assert decide(canary(approval=found(0.05)), Rules())[0] == "wait"
    duel = Evidence("duel", NEW, LIVE, {"wins": found(0.2), "latency": found(0), "length": found(0)})
    assert decide(duel, Rules()) == (
        "promote",
        f"people find it better than {LIVE}: it won 70% of the duels of 200 people",
    )


def test_a_margin_is_what_may_have_been_lost() -> None:
    alike = canary(approval=found(0.0, error=0.02))
    assert decide(alike, Rules())[0] == "wait"
    assert decide(alike, Rules(margin=0.1))[0] == "promote"


def test_what_is_not_known_promotes_nobody() -> None:
    better = found(0.3)
    for name in ("regenerations", "errors", "latency", "length"):
        assert decide(canary(approval=better, **{name: None}), Rules())[0] == "wait"
        beyond = METRICS[name].limit + 0.01  # not shown, but not excluded
        better_sign = METRICS[name].better or -1
        doubtful = found(-better_sign * beyond, error=0.5)
        assert decide(canary(approval=better, **{name: doubtful}), Rules())[0] == "wait"
    assert decide(canary(), Rules())[0] == "wait"
    assert decide(canary(approval=replace(better, people=MIN_PEOPLE - 1)), Rules())[0] == "wait"
    assert decide(canary(approval=better, holdback=None), Rules())[0] == "promote"


@pytest.mark.parametrize("name", ["holdback", "regenerations", "errors", "latency", "length"])
def test_every_metric_can_take_it_back(name: str) -> None:
    far = METRICS[name].limit + 0.5
    worse = found(-far if METRICS[name].better == 1 else far)
    action, reason = decide(canary(approval=found(0.3), **{name: worse}), Rules())
    assert (action, bool(reason)) == ("rollback", True)


def test_the_errors_of_all_metrics_together_are_one_in_twenty() -> None:
    sides = {name: metric.alpha * (1 if metric.better else 2) for name, metric in METRICS.items()}
    assert sum(sides.values()) - sides["wins"] == pytest.approx(PROMOTION_ERROR)


def test_people_who_arrive_in_other_shares_end_it() -> None:
    assert decide(replace(canary(approval=found(0.3)), mismatch=8.0), Rules())[0] == "end"


def test_what_shows_nothing_makes_room_or_ends() -> None:
    nothing = canary(approval=found(0.0, people=50))
    assert decide(nothing, Rules())[0] == "wait"
    assert decide(nothing, Rules(newer=True))[0] == "end"
    assert decide(replace(nothing, age=2 * LONGEST), Rules())[0] == "end"
    assert decide(canary(approval=found(0.0, people=MOST_PEOPLE)), Rules())[0] == "end"


def test_its_share_grows_once_people_have_seen_it() -> None:
    early = replace(canary(), stage_people=STAGE_PEOPLE, stage_age=STAGE_TIME / 2)
    growing = Rules(last_stage=False)
    assert decide(early, growing)[0] == "wait"
    assert decide(replace(early, stage_age=STAGE_TIME), growing)[0] == "advance"
    assert decide(replace(early, stage_people=0, stage_age=STAGE_LONGEST), growing)[0] == "advance"
    assert decide(replace(early, stage_age=STAGE_LONGEST), Rules())[0] == "wait"


def test_what_went_live_at_once_is_only_taken_back_and_may_drift() -> None:
    watched = replace(canary(approval=found(0.5)), mode="direct")
    assert decide(watched, Rules())[0] == "wait"
    slightly = replace(canary(approval=found(-0.05, error=0.01)), mode="direct")
    assert decide(slightly, Rules())[0] == "wait"
    assert decide(replace(canary(approval=found(-0.2, error=0.02)), mode="direct"), Rules())[0] == "rollback"
    assert decide(replace(canary(holdback=found(-0.2, error=0.02)), mode="direct"), Rules())[0] == "rollback"
    assert decide(replace(watched, age=2 * LONGEST), Rules())[0] == "end"


def test_the_record_has_every_figure() -> None:
    shown = figures(canary(approval=found(0.1)))
    assert shown["approval"]["low"] < 0.1 < shown["approval"]["high"]
    assert (shown["approval"]["difference"], shown["approval"]["error"]) == (0.1, 0.05)
    assert shown.keys() == {"approval", "regenerations", "errors", "latency", "length"}


def outcomes(mode: str, lead: float, runs: int = 80, people: int = 300) -> list[str]:
    """Returns how rollouts end that are watched as people come, who lean and vote two times on average."""
    rng = np.random.default_rng(5)
    ended = []
    for _ in range(runs):
        lean, votes = rng.normal(0, 0.2, people), 1 + rng.poisson(1, people)
        own = rng.random(people) < 0.5

        def liked(more: float, lean: Array = lean, votes: npt.NDArray[np.int64] = votes) -> Array:
            return rng.binomial(votes, np.clip(0.6 + lean + more, 0, 1)) / votes

        new, old = liked(lead), liked(0.0)
        action = "wait"
        for seen in range(2 * MIN_PEOPLE, people, 10):
            if mode == "duel":
                names = np.arange(seen)
                wins = within_people(names, 0.5 + (new[:seen] - old[:seen]) / 2, even=0.5)
                evidence = Evidence("duel", NEW, LIVE, {"wins": wins})
            else:
                values = np.where(own, new, old)[:seen]
                ones = np.ones(seen, dtype=int)
                approval = between_groups(np.arange(seen), own[:seen], ones, values)
                evidence = Evidence("canary", NEW, LIVE, {"approval": approval})
            action = decide(evidence, Rules())[0]
            if action != "wait":
                break
        ended.append(action)
    return ended


@pytest.mark.parametrize("mode", ["canary", "duel"])
def test_equal_policies_are_seldom_judged_and_others_are(mode: str) -> None:
    equal, better, worse = (outcomes(mode, lead) for lead in (0.0, 0.25, -0.25))
    assert equal.count("promote") <= 0.1 * len(equal)  # 5%, and the chance of 80 runs
    assert equal.count("rollback") <= 0.1 * len(equal)
    assert better.count("promote") >= 0.9 * len(better)
    assert worse.count("rollback") >= 0.9 * len(worse)


def test_each_worse_candidate_loses_little_however_many_are_tried() -> None:
    """The error is a trial's own. What a candidate loses, times the chance that its trial promotes it, is
    below 0.02 points of approval, from ten people on each side to MOST_PEOPLE who like one reply in two."""
    scale = METRICS["approval"].scale
    information = np.geomspace(MIN_PEOPLE / 0.5, MOST_PEOPLE / 0.5, 200)  # 1 / error², the variance is 1/4
    bounds = np.array([radius(1 / sqrt(each), PROMOTION_ERROR, scale) for each in information])
    steps = np.random.default_rng(6).normal(size=(5_000, 200)) * np.sqrt(np.diff(information, prepend=0))
    errors = steps.cumsum(axis=1) / information
    losses = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2)
    chances = [float((errors - loss > bounds).any(axis=1).mean()) for loss in losses]
    assert 0.01 < chances[0] <= PROMOTION_ERROR
    assert max(loss * chance for loss, chance in zip(losses, chances, strict=True)) < 0.0002
