"""Each project is on some of the engines: all processes agree which, and few move when an engine goes."""

from collections import Counter

import pytest

from schemas.policies import BASE, adapter_name, project_of
from serving.engine import EngineClient
from serving.placement import assigned, engines_per_project
from serving.replica import Replica

ADAPTERS = [f"project-{number}.p1-aaaaaa.0123456789abcdef" for number in range(300)]


def replicas(count: int) -> list[Replica]:
    return [Replica(EngineClient(f"http://10.0.0.{number}:8000", 1)) for number in range(count)]


@pytest.mark.parametrize(
    ("engines", "adapters", "expected"),
    [(1, 3, 1), (1, 500, 1), (4, 3, 4), (4, 6, 4), (4, 8, 3), (4, 12, 2), (4, 3_000, 2), (0, 3, 0)],
)
def test_all_engines_have_all_while_it_fits_and_never_fewer_than_two(
    engines: int, adapters: int, expected: int
) -> None:
    assert engines_per_project(engines, adapters, capacity=6) == expected


def test_projects_spread_over_the_engines_and_the_base_is_on_each() -> None:
    found = replicas(5)
    assert assigned(found, BASE, 2) == found
    shares = Counter(replica.engine.url for name in ADAPTERS for replica in assigned(found, name, 2))
    assert set(shares) == {replica.engine.url for replica in found}
    assert min(shares.values()) > 2 * len(ADAPTERS) / 5 * 0.7


def test_an_engine_that_goes_moves_its_own_projects_only() -> None:
    found = replicas(5)
    for name in ADAPTERS:
        before, after = assigned(found, name, 2), assigned(found[1:], name, 2)
        assert found[0] in before or set(after) == set(before)


def test_the_policies_of_a_project_share_its_engines() -> None:
    found = replicas(5)
    names = [adapter_name("a.project", policy, "0" * 64) for policy in ("p1-aaaaaa", "p2-bbbbbb")]
    assert {project_of(name) for name in names} == {"a.project"}
    assert assigned(found, names[0], 2) == assigned(found, names[1], 2)
