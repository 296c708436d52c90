"""When a replica has proved that it serves a policy."""

import math

import pytest

from schemas.policies import Probe
from serving.fleet import passes

BASE = [-1.0, -2.0, -3.0]
OWN = [-2.0, -1.0, -4.0]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (OWN, True),
        ([-2.01, -1.02, -3.99], True),
        (BASE, False),
        ([-2.0, -1.0], False),
        ([-2.0, -1.0, math.nan], False),
        ([], False),
    ],
)
def test_a_probe_must_be_near_to_the_manifest(measured: list[float], verdict: bool) -> None:
    assert passes(Probe(token_ids=[1, 2, 3, 4], logprobs=OWN, base_logprobs=BASE), measured, 0.05) is verdict


def test_a_policy_that_differs_clearly_must_be_nearer_to_itself_than_to_the_base() -> None:
    probe = Probe(token_ids=[1, 2], logprobs=[-1.06], base_logprobs=[-1.0])
    assert passes(probe, [-1.05], 0.05)
    assert not passes(probe, [-1.02], 0.05)


def test_a_policy_that_is_still_the_base_need_not_differ_from_it() -> None:
    assert passes(Probe(token_ids=[1, 2], logprobs=[-1.0], base_logprobs=[-1.0]), [-1.0], 0.05)
