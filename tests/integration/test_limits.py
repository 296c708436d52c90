"""Replicas of serving share the rate limits, and one visitor's flood leaves the others alone."""

from types import SimpleNamespace

import pytest

from schemas.database import open_async_pool
from schemas.errors import RateLimited
from serving import limits
from serving.limits import Charge, RateLimiter


def a_charge(key: str, count: int = 1, per_minute: int = 60) -> Charge:
    return Charge(key, "requests with one key", per_minute, count)


def spend(limiter: RateLimiter, count: int, key: str = "k") -> int:
    """How many of `count` requests were let pass."""
    passed = 0
    for _ in range(count):
        try:
            limiter.acquire(a_charge(key))
            passed += 1
        except RateLimited:
            break
    return passed


async def test_requests_on_one_replica_count_on_the_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: 100.0))  # no bucket refills
    first, second, third = (RateLimiter() for _ in range(3))
    async with open_async_pool(database_url, size=2) as pool:
        for limiter in (first, second, third):
            limiter.acquire(a_charge("k"))
            await limiter.sync(pool)
        assert spend(first, 30) == 30
        for limiter in (first, second, third):
            await limiter.sync(pool)
        assert spend(second, 100) == pytest.approx(28, abs=2)
        for limiter in (second, third, first):
            await limiter.sync(pool)
        assert spend(third, 100) <= 2
        assert spend(first, 100) <= 2
        assert spend(third, 100, key="another") == 60


async def test_an_idle_key_is_dropped(database_url: str) -> None:
    limiter = RateLimiter()
    async with open_async_pool(database_url, size=1) as pool:
        limiter.acquire(a_charge("k", per_minute=60_000))
        await limiter.sync(pool)
        await limiter.sync(pool)
        assert not limiter._buckets
        assert not limiter._totals
        async with pool.connection() as connection:
            await connection.execute("update rate_limit_usage set updated_at = now() - interval '2 hours'")
        limiter.acquire(a_charge("another"))
        await limiter.sync(pool)
        await limiter.sweep(pool)
        async with pool.connection() as connection:
            cursor = await connection.execute("select key, total from rate_limit_usage")
            assert await cursor.fetchall() == [{"key": "another", "total": 1}]
