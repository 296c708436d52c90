"""Replicas verify that they serve a policy, and the fleet ranks them for each request."""

import asyncio
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.errors import EngineError, PolicyRejected
from schemas.policies import Probe
from serving.adapter_check import select_positions, verify_adapter
from serving.engine import EngineClient
from serving.fleet import Fleet, rank_replicas
from serving.replica import Replica

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
def test_a_probe_must_match_the_manifest(measured: list[float], verdict: bool) -> None:
    assert (
        verify_adapter(
            select_positions(Probe(token_ids=[1, 2, 3, 4], logprobs=OWN, base_logprobs=BASE)), measured, 0.05
        )
        is verdict
    )


def test_a_policy_that_differs_clearly_must_be_nearer_to_itself_than_to_the_base() -> None:
    probe = select_positions(Probe(token_ids=[1, 2], logprobs=[-1.06], base_logprobs=[-1.0]))
    assert verify_adapter(probe, [-1.05], 0.05)
    assert not verify_adapter(probe, [-1.02], 0.05)


def test_a_policy_equal_to_the_base_need_not_differ_from_it() -> None:
    assert verify_adapter(
        select_positions(Probe(token_ids=[1, 2], logprobs=[-1.0], base_logprobs=[-1.0])), [-1.0], 0.05
    )


def test_a_probe_asks_where_adapter_and_base_differ_most() -> None:
    base = [-1.0] * 20
    own = [-1.0 - (at in (3, 7, 19)) * 0.5 - at / 1_000 for at in range(20)]
    selected = select_positions(Probe(token_ids=list(range(21)), logprobs=own, base_logprobs=base))
    assert len(selected.positions) == 8
    assert {4, 8, 20} < set(selected.positions)
    assert selected.logprobs == [own[at - 1] for at in selected.positions]


def replicas(*streams: int) -> list[Replica]:
    found = [Replica(EngineClient(f"http://10.0.0.{number}:8000", 1)) for number in range(len(streams))]
    for replica, count in zip(found, streams, strict=True):
        replica.streams = count
    return found


def test_a_conversation_stays_on_its_replica_and_conversations_spread() -> None:
    found = replicas(0, 0, 0, 0)
    owners = {f"conv-{number}": rank_replicas(found, f"conv-{number}")[0] for number in range(400)}
    assert all(rank_replicas(found, conversation)[0] is owner for conversation, owner in owners.items())
    shares = Counter(owner.engine.url for owner in owners.values())
    assert min(shares.values()) > 60


def test_a_removed_replica_moves_only_its_own_conversations() -> None:
    found = replicas(0, 0, 0, 0)
    for number in range(100):
        before = rank_replicas(found, f"conv-{number}")[0]
        after = rank_replicas(found[1:], f"conv-{number}")[0]
        assert after is before or before is found[0]


def test_a_busy_replica_gives_way_to_the_least_loaded() -> None:
    found = replicas(20, 3, 7, 9)
    for number in range(100):
        order = [replica.streams for replica in rank_replicas(found, f"conv-{number}")]
        assert order[0] in (3, 7)
        assert order[1:] == sorted(set(order) - {order[0]})


def test_no_replica_to_rank() -> None:
    assert rank_replicas([], "conv") == []


class StubEngine:
    """An engine that answers a probe with `logprobs`, or hangs while `stuck`. Those of `ends` end it."""

    def __init__(self, url: str, logprobs: list[float] | None) -> None:
        self.url = url
        self.logprobs = logprobs
        self.stuck = False
        self.fails_with: set[str] = set()
        self.ends: set[str] = set()

    async def load(self, policy: str, directory: Path) -> None:
        pass

    async def unload(self, policy: str) -> None:
        pass

    async def close(self) -> None:
        pass

    async def check_health(self) -> None:
        if self.logprobs is None:
            raise EngineError("refused", url=self.url, gone=True)

    async def probe(self, policy: str, token_ids: list[int], positions: list[int]) -> list[float]:
        if self.stuck:
            await asyncio.sleep(60)
        if policy in self.ends:
            self.logprobs = None
        if self.logprobs is None:
            raise EngineError("gone", url=self.url)
        if policy in self.fails_with:
            raise EngineError("CUDA error", url=self.url, status=500)
        return self.logprobs


def fleet(*answers: list[float] | None) -> tuple[Fleet, list[StubEngine]]:
    engines = [StubEngine(f"http://{number}", logprobs) for number, logprobs in enumerate(answers)]
    fleet = Fleet([], 1)
    fleet.replicas = [Replica(cast(EngineClient, engine)) for engine in engines]
    for replica in fleet.replicas:
        replica.healthy = True
    return fleet, engines


PROBE = Probe(token_ids=[1, 2, 3, 4], logprobs=OWN, base_logprobs=BASE)


@pytest.mark.parametrize("wrong", [BASE, None])
async def test_a_replica_that_fails_where_another_passes_is_out_of_rotation_until_it_passes(
    wrong: list[float] | None,
) -> None:
    found, engines = fleet(OWN, wrong)
    found.replicas[1].verified.add("p0")
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert found.in_rotation == found.replicas[:1]
    assert found.served() == {"p1"}
    engines[1].logprobs = OWN
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    await asyncio.sleep(0.01)
    assert found.in_rotation == found.replicas
    assert found.served() == {"p0", "p1"}


@pytest.mark.parametrize(
    ("fails_with", "error"),
    [({"p1"}, PolicyRejected), ({"p0", "p1"}, EngineError)],
)
async def test_an_engine_that_fails_with_one_adapter_alone_is_not_at_fault(
    fails_with: set[str], error: type[Exception]
) -> None:
    found, engines = fleet(OWN)
    found.replicas[0].verified.add("p0")
    engines[0].fails_with = fails_with
    with pytest.raises(error) as raised:
        await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert getattr(raised.value, "reason", None) == ("engine_error" if error is PolicyRejected else None)


async def test_a_policy_that_ends_its_engine_is_tried_on_one_alone() -> None:
    found, engines = fleet(OWN, OWN)
    for replica, engine in zip(found.replicas, engines, strict=True):
        replica.verified.add("p0")
        engine.ends = {"p1"}
    with pytest.raises(PolicyRejected) as raised:
        await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert raised.value.reason == "engine_down"
    assert found.healthy == found.replicas[1:]
    assert found.serves("p0")


async def test_an_engine_that_hangs_does_not_delay_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.replica._VERIFY_TIMEOUT", 0.2)
    found, engines = fleet(OWN, OWN)
    engines[1].stuck = True
    async with asyncio.timeout(20):
        await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert found.in_rotation == found.replicas[:1]
    monkeypatch.setattr("serving.replica._VERIFY_TIMEOUT", 60)
    async with asyncio.timeout(20):
        await found.verify("p1", Path("p1"), PROBE, 0.05)
        await found.verify("p2", Path("p2"), PROBE, 0.05)
    assert found.served() == {"p1", "p2"}
    await found.close()


async def test_when_the_only_engine_hangs_the_policy_is_not_at_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.replica._VERIFY_TIMEOUT", 0.05)
    monkeypatch.setattr("serving.replica._HEALTH_TIMEOUT", 0.05)
    found, engines = fleet(OWN)
    found.replicas[0].verified.add("p0")
    engines[0].stuck = True
    with pytest.raises(EngineError, match="did not load and verify p1"):
        await found.verify("p1", Path("p1"), PROBE, 0.05)


async def test_while_name_resolution_hangs_the_known_engines_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(60 if asked > 1 else 0)
        return [(0, 0, 0, "", ("127.0.0.1", 9))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("serving.fleet._RESOLVE_TIMEOUT", 0.1)
    found = Fleet(["http://vllm:9"], 1)
    async with asyncio.timeout(20):
        for _ in range(3):
            await found.health_check()
    assert [replica.engine.url for replica in found.replicas] == ["http://127.0.0.1:9"]
    assert asked == 2
    await found.close()


async def test_a_policy_no_longer_required_keeps_no_replica_out_of_rotation() -> None:
    found, _ = fleet(OWN, BASE)
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    found.require({"p0"})
    await found.unload_unused()
    assert found.in_rotation == found.replicas


async def test_an_unused_policy_is_unloaded_after_a_delay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, _ = fleet(OWN)
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    found.require({"p0"})
    await found.unload_unused()
    assert found.serves("p1")
    monkeypatch.setattr("serving.fleet._UNLOAD_DELAY", 0.0)
    with found.hold("p1"):
        await found.unload_unused()
        assert found.serves("p1")
    await found.unload_unused()
    assert not found.serves("p1")
    assert not found._in_use
    assert "p1" not in found._placed


async def test_the_unload_delay_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = fleet(OWN)
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    now = 0.0
    monkeypatch.setattr("serving.fleet.time", SimpleNamespace(monotonic=lambda: now))
    for required in ({"p0"}, {"p0", "p1"}, {"p0"}):
        found.require(required)
        await found.unload_unused()
        now += 8
    await found.unload_unused()
    assert found.serves("p1")
    now += 8
    await found.unload_unused()
    assert not found.serves("p1")


async def test_a_project_moves_to_its_engines_before_it_leaves_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.fleet._UNLOAD_DELAY", 0.0)
    found, _ = fleet(OWN, OWN, OWN)
    found.capacity = 4
    adapters = [f"project-{number}.p1-aaaaaa.00" for number in range(8)]
    moving = adapters[0]
    found.require(set(adapters[:4]))
    await found.verify(moving, Path("p1"), PROBE, 0.05)
    assert all(moving in replica.verified for replica in found.replicas)
    found.require(set(adapters))
    own = found.assigned(moving)
    assert len(own) == 2
    (other,) = [replica for replica in found.replicas if replica not in own]
    own[0].verified.discard(moving)  # as after a restart
    await found.unload_unused()
    assert moving in other.loaded
    await found.verify(moving, Path("p1"), PROBE, 0.05)
    await found.unload_unused()
    assert moving not in other.loaded
    assert all(moving in replica.verified for replica in own)


async def test_an_adapter_that_an_engine_lost_is_not_taken_for_served() -> None:
    found, _ = fleet(OWN)
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    found.replicas[0].forget("p1")
    assert not found.serves_everywhere("p1")
    await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert found.serves_everywhere("p1")


async def test_when_every_replica_fails_the_policy_is_at_fault() -> None:
    found, _ = fleet(BASE, BASE)
    with pytest.raises(PolicyRejected):
        await found.verify("p1", Path("p1"), PROBE, 0.05)
    assert found.in_rotation == found.replicas


async def test_without_an_engine_nothing_is_verified() -> None:
    found, _ = fleet()
    with pytest.raises(EngineError, match="no healthy engine"):
        await found.verify("p1", Path("p1"), PROBE, 0.05)


async def test_a_policy_is_not_rejected_while_an_engine_cannot_be_reached() -> None:
    found, _ = fleet(BASE, None)
    with pytest.raises(EngineError):
        await found.verify("p1", Path("p1"), PROBE, 0.05)
