"""The router keeps the arms' shares, sticky assignments, and true propensities."""

from collections import Counter

import pytest

from schemas.errors import Unavailable
from schemas.settings import ServingSettings
from serving.router import Assignment, Route, Router, assign, bucket


def a_route(**changes: object) -> Route:
    fields: dict[str, object] = {
        "project": "default",
        "live": "p3-cccccc",
        "previous": "p2-bbbbbb",
        "canary": None,
        "canary_share": 0.0,
        "duel_share": 0.0,
        "version": 1,
        "system_prompt": None,
        "digests": {"p3-cccccc": "3c" * 32, "p2-bbbbbb": "2b" * 32},
    }
    return Route(**{**fields, **changes})  # type: ignore[arg-type]


def test_buckets_are_uniform_and_never_change() -> None:
    buckets = [bucket("default", f"u_{number}") for number in range(10_000)]
    assert all(0 <= where < 1 for where in buckets)
    deciles = Counter(int(where * 10) for where in buckets)
    assert all(850 < count < 1_150 for count in deciles.values())
    assert bucket("default", "u_1") == buckets[1]
    assert bucket("other", "u_1") != buckets[1]


def test_each_arm_gets_its_share_and_records_it() -> None:
    route = a_route(canary="p4-dddddd", canary_share=0.1)
    assignments = [assign(route, f"u_{number}", base_share=0.05) for number in range(20_000)]
    counts = Counter(assignment.policy for assignment in assignments)
    propensities = {assignment.policy: assignment.propensity for assignment in assignments}
    assert propensities == pytest.approx({"p0": 0.05, "p4-dddddd": 0.1, "p3-cccccc": 0.85})
    for policy, propensity in propensities.items():
        assert counts[policy] / 20_000 == pytest.approx(propensity, abs=0.01)


def test_a_person_keeps_their_arm_when_live_changes() -> None:
    before = a_route(canary="p4-dddddd", canary_share=0.1)
    after = a_route(live="p5-eeeeee", canary="p4-dddddd", canary_share=0.1)
    for number in range(500):
        name = f"u_{number}"
        old, new = assign(before, name, 0.05), assign(after, name, 0.05)
        assert new.policy == {"p3-cccccc": "p5-eeeeee"}.get(old.policy, old.policy)


def test_arms_with_the_same_policy_add_up() -> None:
    assert assign(a_route(live="p0"), "u_1", base_share=0.05) == Assignment("p0", 1.0)


def test_a_canary_never_takes_the_bases_share() -> None:
    route = a_route(canary="p4-dddddd", canary_share=1.0)
    policies = {assign(route, f"u_{number}", base_share=0.05).policy for number in range(1_000)}
    assert policies == {"p0", "p4-dddddd"}


def test_what_must_stay_loaded() -> None:
    assert a_route(canary="p4-dddddd").policies() == ["p3-cccccc", "p2-bbbbbb", "p0", "p4-dddddd"]
    assert a_route(live="p0", previous="p0").policies() == ["p0"]


def test_adapters_carry_their_project_and_64_bits_and_all_share_the_base() -> None:
    route = a_route()
    names = {"default.p3-cccccc.3c3c3c3c3c3c3c3c", "default.p2-bbbbbb.2b2b2b2b2b2b2b2b", "p0"}
    assert route.adapters() == names
    assert a_route(project="shop").adapters() & names == {"p0"}
    assert route.adapter("p3-cccccc") != a_route(digests={"p3-cccccc": "4d" * 32}).adapter("p3-cccccc")


def test_what_a_project_sets_comes_before_the_settings() -> None:
    serving = ServingSettings(promotion="canary", tainted_policy="replace")
    assert a_route().settings(serving) == serving
    own = a_route(promotion="manual", tainted_policy="keep").settings(serving)
    assert (own.promotion, own.tainted_policy) == ("manual", "keep")


def test_a_newer_route_is_never_replaced_by_an_older_one() -> None:
    router = Router(base_share=0)
    with pytest.raises(Unavailable):
        router.route("default")
    router.update(a_route(version=2))
    router.update(a_route(version=1, live="p1-aaaaaa"))
    assert router.assign(router.route("default"), "u_1").policy == "p3-cccccc"
    router.update(a_route(version=2, system_prompt="Be brief."))
    assert router.route("default").system_prompt == "Be brief."
