"""Seals, keys and allowances."""

import pytest

from schemas.database import open_async_pool
from schemas.errors import RateLimited, StartError, Unauthorized
from schemas.settings import Settings
from serving import limits
from serving.auth import Caller, Keyring, Seals
from serving.keys import ensure_keys, ensure_seal, key_hash, publishable_key


def test_a_feedback_token_opens_its_completion_and_no_other() -> None:
    seals = Seals(b"secret")
    token = seals.feedback_token("chatcmpl-1")
    assert seals.opens("chatcmpl-1", token)
    assert not seals.opens("chatcmpl-2", token)
    assert not Seals(b"another").opens("chatcmpl-1", token)
    assert not seals.opens("chatcmpl-1", "ünïcode")


def test_a_rater_is_the_same_person_and_never_who() -> None:
    seals = Seals(b"secret")
    assert seals.rater("default", "ada", "admin") == seals.rater("default", "ada", "secret")
    names = [("default", "ada"), ("default", "bob"), ("other", "ada")]
    assert len({seals.rater(*name, "secret") for name in names}) == 3
    assert "ada" not in seals.rater("default", "ada", "secret")


def test_whom_a_browser_names_is_nobody_that_a_server_names() -> None:
    seals = Seals(b"secret")
    assert seals.rater("default", "ada", "publishable") == seals.rater("default", "ada", "publishable")
    assert seals.rater("default", "ada", "publishable") != seals.rater("default", "ada", "secret")


async def test_keys_are_made_once_and_kept_hashed(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        keys = await ensure_keys(pool, Settings())
        assert keys is not None
        assert keys.admin.startswith("sk-hearken-")
        assert await ensure_keys(pool, Settings()) is None
        keyring = Keyring(pool)
        assert await keyring.caller(keys.admin) == Caller("default-admin", "default", "admin")
        assert (await keyring.caller(keys.publishable)).kind == "publishable"
        async with pool.connection() as connection:
            assert await publishable_key(connection) == keys.publishable
            cursor = await connection.execute("select hash from keys where kind = 'admin'")
            assert [bytes(row["hash"]) for row in await cursor.fetchall()] == [key_hash(keys.admin)]


async def test_keys_of_the_settings_replace_those_before(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        old = await ensure_keys(pool, Settings())
        new = Settings(admin_key="sk-hearken-my-own-admin-key", public_key="pk-hearken-my-own-key")
        await ensure_keys(pool, new)
        keyring = Keyring(pool)
        assert (await keyring.caller("sk-hearken-my-own-admin-key")).kind == "admin"
        assert old is not None
        with pytest.raises(Unauthorized):
            await keyring.caller(old.admin)
        with pytest.raises(StartError, match="admin_key"):
            await ensure_keys(pool, Settings(admin_key="short"))


async def test_a_revoked_key_ends(database_url: str) -> None:
    async with open_async_pool(database_url) as pool:
        keys = await ensure_keys(pool, Settings())
        assert keys is not None
        keyring = Keyring(pool, remember=0)
        await keyring.caller(keys.admin)
        async with pool.connection() as connection:
            await connection.execute("update keys set revoked_at = now()")
        with pytest.raises(Unauthorized):
            await keyring.caller(keys.admin)


async def test_the_seal_is_made_once(database_url: str) -> None:
    async with open_async_pool(database_url) as pool, pool.connection() as connection:
        assert await ensure_seal(connection) == await ensure_seal(connection)


def test_an_allowance_refills(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    limiter = limits.Limiter(per_minute=2)
    limiter.take("ada")
    limiter.take("ada")
    limiter.take("bob")
    with pytest.raises(RateLimited) as refused:
        limiter.take("ada")
    assert refused.value.headers() == {"Retry-After": "30"}
    now += 30
    limiter.take("ada")
    with pytest.raises(RateLimited):
        limiter.take("ada")
