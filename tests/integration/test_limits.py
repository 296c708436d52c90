"""Replicas of serving share the rate limit of a key."""

import pytest

from schemas.database import open_async_pool
from schemas.errors import RateLimited
from serving.limits import RateLimiter


def spend(limiter: RateLimiter, count: int, key: str = "k") -> int:
    """How many of `count` requests were let pass."""
    passed = 0
    for _ in range(count):
        try:
            limiter.acquire(key)
            passed += 1
        except RateLimited:
            break
    return passed


async def test_requests_on_one_replica_count_on_the_others(database_url: str) -> None:
    first, second, third = (RateLimiter(60) for _ in range(3))
    async with open_async_pool(database_url, size=2) as pool:
        for limiter in (first, second, third):
            limiter.acquire("k")
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
    limiter = RateLimiter(60_000)
    async with open_async_pool(database_url, size=1) as pool:
        limiter.acquire("k")
        await limiter.sync(pool)
        await limiter.sync(pool)
        assert not limiter._buckets
        assert not limiter._totals
        async with pool.connection() as connection:
            await connection.execute("update rate_limit_usage set updated_at = now() - interval '2 hours'")
        limiter.acquire("another")
        await limiter.sync(pool)
        async with pool.connection() as connection:
            cursor = await connection.execute("select key, total from rate_limit_usage")
            assert await cursor.fetchall() == [{"key": "another", "total": 1}]
