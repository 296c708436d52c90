"""Tests of feedback tokens, keys and the rate limit."""

import asyncio
from dataclasses import replace

import pytest
from starlette.requests import HTTPConnection

from schemas.database import open_async_pool
from schemas.errors import InvalidRequest, RateLimited, StartError, Unauthorized
from schemas.feedback import ANONYMOUS
from schemas.settings import Settings
from serving import limits
from serving.auth import network_of
from serving.identity import Identity, Visitor, identify
from serving.key_cache import KeyCache
from serving.keys import (
    Caller,
    NewKeys,
    ensure_keys,
    ensure_signing_secret,
    key_hash,
    publishable_key,
    renew_keys,
)
from serving.token_signer import TokenSigner


def test_a_feedback_token_is_valid_for_its_completion_only() -> None:
    signer = TokenSigner(b"secret")
    token = signer.feedback_token("chatcmpl-1")
    assert signer.verify("chatcmpl-1", token)
    assert not signer.verify("chatcmpl-2", token)
    assert not TokenSigner(b"another").verify("chatcmpl-1", token)
    assert not signer.verify("chatcmpl-1", "ünïcode")


def test_a_rater_id_is_stable_and_does_not_reveal_the_name() -> None:
    signer = TokenSigner(b"secret")
    assert signer.rater_id("default", "ada", "admin") == signer.rater_id("default", "ada", "secret")
    names = [("default", "ada"), ("default", "bob"), ("other", "ada")]
    assert len({signer.rater_id(*name, "secret") for name in names}) == 3
    assert "ada" not in signer.rater_id("default", "ada", "secret")


def test_a_user_named_by_a_publishable_key_is_another_rater() -> None:
    signer = TokenSigner(b"secret")
    assert signer.rater_id("default", "ada", "publishable") == signer.rater_id(
        "default", "ada", "publishable"
    )
    assert signer.rater_id("default", "ada", "publishable") != signer.rater_id("default", "ada", "secret")


def test_who_has_only_a_publishable_key_is_one_person_in_each_network() -> None:
    """Whatever user or conversation they name."""
    signer, page = TokenSigner(b"secret"), Caller("k", "default", "publishable")
    claims = [(None, "c1"), ("ada", "c1"), ("bob", "c2"), ("conversation:c1", "c3")]
    here = {identify(signer, page, user, None, each, "192.0.2.0/24") for user, each in claims}
    assert len(here) == 1
    [one] = here
    assert (one.rater[:2], one.is_person) == (ANONYMOUS, False)
    elsewhere = identify(signer, page, None, None, "c1", "198.51.100.0/24")
    assert elsewhere.rater != one.rater
    assert elsewhere.origin != one.origin
    other = identify(signer, replace(page, project="other"), None, None, "c1", "192.0.2.0/24")
    assert other.rater != one.rater
    assert other.origin != one.origin
    assert "192" not in f"{one}"


def test_sessions_that_a_page_makes_are_people_of_one_network() -> None:
    signer, page = TokenSigner(b"secret"), Caller("k", "default", "publishable")
    visitors = [signer.visitor_id("default") for _ in range(30)]
    found = [
        identify(signer, page, None, Visitor(each, "k", named=False), "c", "192.0.2.0/24")
        for each in visitors
    ]
    assert len({each.rater for each in found}) == 30
    assert {each.origin for each in found} == {signer.origin("default", "192.0.2.0/24")}
    with pytest.raises(InvalidRequest):
        identify(signer, page, "ada", Visitor(visitors[0], "k", named=False), "c", "")


def test_who_a_server_names_comes_from_nowhere() -> None:
    signer, server = TokenSigner(b"secret"), Caller("k", "default", "secret")
    ada = signer.rater_id("default", "ada", "secret")
    page = Caller("p", "default", "publishable")
    assert identify(signer, server, "ada", None, "c", "192.0.2.0/24") == Identity(ada, True, None)
    named = Visitor(ada, "k", named=True)
    assert identify(signer, page, None, named, "c", "192.0.2.0/24") == Identity(ada, True, None)
    visitor = Visitor(signer.visitor_id("default"), "p", named=False)
    of_page = identify(signer, server, None, visitor, "c", "192.0.2.0/24")
    assert (of_page.is_person, of_page.origin) == (True, None)
    unnamed = identify(signer, server, None, None, "c", "192.0.2.0/24")
    assert (unnamed.is_person, unnamed.origin) == (False, None)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("not an address", "not an address"),
        (None, ""),
    ],
)
def test_the_network_of_an_address(address: str | None, network: str) -> None:
    scope = {"type": "http", "client": None if address is None else (address, 1)}
    assert network_of(HTTPConnection(scope)) == network


async def test_keys_are_made_once_and_kept_hashed(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        keys = await ensure_keys(pool, Settings())
        assert keys.admin is not None
        assert keys.secret is not None
        assert keys.publishable is not None
        assert keys.admin.startswith("sk-hearken-")
        assert await ensure_keys(pool, Settings()) == NewKeys(None, None, None)
        cache = KeyCache(pool)
        assert await cache.caller(keys.admin) == Caller("default-admin", "default", "admin")
        assert (await cache.caller(keys.secret)).kind == "secret"
        assert (await cache.caller(keys.publishable)).kind == "publishable"
        async with pool.connection() as connection:
            assert await publishable_key(connection, "default") == keys.publishable
            cursor = await connection.execute("select hash from keys where kind = 'admin'")
            assert [bytes(row["hash"]) for row in await cursor.fetchall()] == [key_hash(keys.admin)]


async def test_keys_of_the_settings_replace_those_before(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        old = await ensure_keys(pool, Settings())
        new = Settings(admin_key="sk-hearken-my-own-admin-key", public_key="pk-hearken-my-own-key")
        assert await ensure_keys(pool, new) == NewKeys(None, None, None)  # they are known, and not shown
        cache = KeyCache(pool)
        assert (await cache.caller("sk-hearken-my-own-admin-key")).kind == "admin"
        assert old.admin is not None
        with pytest.raises(Unauthorized):
            await cache.caller(old.admin)
        with pytest.raises(StartError, match="admin_key"):
            await ensure_keys(pool, Settings(admin_key="short"))


async def test_lost_keys_are_renewed(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        old = await ensure_keys(pool, Settings())
        async with pool.connection() as connection:
            new = await renew_keys(connection, Settings())
        cache = KeyCache(pool)
        assert (await cache.caller(str(new.admin))).kind == "admin"
        for key in (old.admin, old.secret, old.publishable):
            with pytest.raises(Unauthorized):
                await cache.caller(str(key))
        async with pool.connection() as connection:
            assert await publishable_key(connection, "default") == new.publishable
            with pytest.raises(StartError, match="HEARKEN_ADMIN_KEY"):
                await renew_keys(connection, Settings(admin_key="sk-hearken-my-own-admin-key"))


async def test_a_new_project_is_made_with_keys_and_a_page_key_of_its_own(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        first, second = [await ensure_keys(pool, Settings(project=name)) for name in ("default", "shop")]
        assert (await KeyCache(pool).caller(str(second.admin))).project == "shop"
        async with pool.connection() as connection:
            assert await publishable_key(connection, "default") == first.publishable
            assert await publishable_key(connection, "shop") == second.publishable
            assert await publishable_key(connection, "other") is None


async def test_a_key_that_replaces_a_revoked_one_is_valid(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        old = await ensure_keys(pool, Settings())
        async with pool.connection() as connection:
            await connection.execute("update keys set revoked_at = now()")
        restarted = await ensure_keys(pool, Settings())
        assert restarted == NewKeys(None, None, None)  # a restart alone brings no revoked key back
        with pytest.raises(Unauthorized):
            await KeyCache(pool).caller(str(old.admin))
        await ensure_keys(pool, Settings(admin_key="sk-hearken-another-admin-key"))
        assert (await KeyCache(pool).caller("sk-hearken-another-admin-key")).kind == "admin"
        with pytest.raises(Unauthorized):
            await KeyCache(pool).caller(str(old.publishable))


async def test_a_revoked_key_ends(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        keys = await ensure_keys(pool, Settings())
        cache = KeyCache(pool, ttl=0)
        await cache.caller(str(keys.admin))
        async with pool.connection() as connection:
            await connection.execute("update keys set revoked_at = now()")
        with pytest.raises(Unauthorized):
            await cache.caller(str(keys.admin))


async def test_all_who_look_a_key_up_at_once_share_a_query_and_an_old_answer_is_not_kept(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_async_pool(database_url) as pool:
        key = str((await ensure_keys(pool, Settings())).admin)
        cache = KeyCache(pool)
        found, asked = await cache.caller(key), 0

        async def slow(digest: bytes) -> Caller:
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.05)
            return found

        monkeypatch.setattr(cache, "_look_up", slow)
        cache.forget("default-admin")
        waiting = [asyncio.create_task(cache.caller(key)) for _ in range(100)]
        await asyncio.sleep(0.01)
        cache.forget("default-admin")  # it was revoked meanwhile
        assert await asyncio.gather(*waiting) == [found] * 100
        assert asked == 1
        assert not cache.contains(key)


async def test_the_signing_secret_is_made_once(database_url: str) -> None:
    async with open_async_pool(database_url) as pool, pool.connection() as connection:
        assert await ensure_signing_secret(connection) == await ensure_signing_secret(connection)


def test_a_token_bucket_refills(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    limiter = limits.RateLimiter()
    ada, bob = (limits.Charge(name, "chats of one user", most=2) for name in ("ada", "bob"))
    limiter.acquire(ada)
    limiter.acquire(ada)
    limiter.acquire(bob)
    with pytest.raises(RateLimited) as refused:
        limiter.acquire(ada)
    assert refused.value.headers() == {"Retry-After": "30"}
    now += 30
    limiter.acquire(ada)
    with pytest.raises(RateLimited):
        limiter.acquire(ada)


def test_a_bucket_of_an_hour_refills_in_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    limiter = limits.RateLimiter()
    votes = limits.Charge("network", "votes from one network", 60, 60, period="an hour")
    limiter.acquire(votes)
    with pytest.raises(RateLimited, match="60 votes from one network an hour; try again in 60 s") as refused:
        limiter.acquire(replace(votes, count=1))
    assert refused.value.headers() == {"Retry-After": "60"}
    now += 1_800
    limiter.acquire(replace(votes, count=30))
    with pytest.raises(RateLimited):
        limiter.acquire(replace(votes, count=1))


def test_all_buckets_of_a_request_are_charged_or_none() -> None:
    limiter = limits.RateLimiter()
    key, address = limits.Charge("key", "chats with one key", 3), limits.Charge("address", "chats", 1)
    limiter.acquire(key, address)
    for _ in range(5):
        with pytest.raises(RateLimited, match="More than 1 chats a minute"):
            limiter.acquire(key, address)
    limiter.acquire(key)
    limiter.acquire(key)
    with pytest.raises(RateLimited, match="More than 3 chats with one key"):
        limiter.acquire(key)


def test_a_batch_counts_its_size_and_may_owe_what_no_bucket_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    limiter = limits.RateLimiter()
    limiter.acquire(limits.Charge("k", "votes", 60, count=180))
    with pytest.raises(RateLimited) as refused:
        limiter.acquire(limits.Charge("k", "votes", 60))
    assert refused.value.headers() == {"Retry-After": "121"}
    now += 121
    limiter.acquire(limits.Charge("k", "votes", 60))
