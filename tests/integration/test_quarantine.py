"""Raters whose votes look hostile are held; operators decide, and their decisions hold."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg.sql import SQL

from feedback import quarantine
from feedback.store import Store
from schemas.database import AsyncPool, Pool, open_async_pool, open_pool, set_actor
from schemas.errors import NotFound
from schemas.feedback import parse_vote
from schemas.turns import new_id
from tests.voting import a_turn, add_keys

BURST = {"votes": 40, "seconds": 6}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


@pytest.fixture
async def held(pool: AsyncPool, database_url: str) -> AsyncIterator[Pool]:
    """A pool for the trainer's part, with u_ada, u_bob and u_eve, who have cast a vote each."""
    for rater in ("u_ada", "u_bob", "u_eve"):
        await vote(pool, rater)
    with open_pool(database_url) as trainer:
        yield trainer


async def vote(pool: AsyncPool, rater: str) -> None:
    store, id = Store(pool), new_id()
    await store.record_turn(a_turn(id))
    votable = await store.votable_turn(id)
    assert votable is not None
    await store.submit(votable, parse_vote({"completion_id": id, "type": "thumb", "value": "up"}), rater)


def hold(trainer: Pool, rater: str, reason: str = "burst", evidence: dict[str, Any] | None = None) -> bool:
    with trainer.connection() as connection:
        return quarantine.hold(connection, "default", rater, reason, evidence or BURST)


def held_raters(trainer: Pool) -> list[str]:
    with trainer.connection() as connection:
        return list(quarantine.held_raters(connection, "default"))


def teaching(trainer: Pool) -> list[str]:
    found = SQL("select e.rater from feedback e where {}").format(SQL(quarantine.TEACHES))
    with trainer.connection() as connection:
        return sorted(row["rater"] for row in connection.execute(found).fetchall())


async def decide(pool: AsyncPool, rater: str, state: Any) -> dict[str, Any]:
    async with pool.connection() as connection:
        await set_actor(connection, "key:k1")
        return await quarantine.decide(connection, "default", rater, state, "looked at it")


async def age(pool: AsyncPool, days: int) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "update quarantine set accepted = (select jsonb_object_agg(key, value::timestamptz - %s)"
            " from jsonb_each_text(accepted))",
            [timedelta(days=days)],
        )


async def test_who_is_held_does_not_teach_until_accepted(pool: AsyncPool, held: Pool) -> None:
    assert hold(held, "u_eve")
    assert not hold(held, "u_eve")
    assert hold(held, "u_ada", "near_duplicates", {"texts": 3})
    assert held_raters(held) == ["u_ada", "u_eve"]
    assert teaching(held) == ["u_bob"]
    await decide(pool, "u_ada", "accepted")
    await decide(pool, "u_eve", "rejected")
    assert held_raters(held) == ["u_eve"]
    assert teaching(held) == ["u_ada", "u_bob"]


async def test_pages_go_on_past_what_is_read_at_once(held: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "_AT_ONCE", 2)
    for rater in ("u_ada", "u_bob", "u_eve"):
        hold(held, rater)
    assert held_raters(held) == ["u_ada", "u_bob", "u_eve"]


async def test_an_accepted_rater_is_held_again_for_another_reason_only(pool: AsyncPool, held: Pool) -> None:
    hold(held, "u_eve")
    hold(held, "u_eve", "near_duplicates")
    await decide(pool, "u_eve", "accepted")
    assert not hold(held, "u_eve")
    assert not hold(held, "u_eve", "near_duplicates")
    assert teaching(held) == ["u_ada", "u_bob", "u_eve"]
    assert hold(held, "u_eve", "brigade", {"raters": 12})
    assert teaching(held) == ["u_ada", "u_bob"]
    await decide(pool, "u_eve", "accepted")
    assert not hold(held, "u_eve")
    await age(pool, quarantine.ACCEPTED_DAYS + 1)
    assert hold(held, "u_eve")


async def test_a_rejected_rater_stays_so_until_somebody_decides_again(pool: AsyncPool, held: Pool) -> None:
    hold(held, "u_eve")
    await decide(pool, "u_eve", "rejected")
    assert not hold(held, "u_eve", "brigade")
    assert held_raters(held) == ["u_eve"]
    await decide(pool, "u_eve", "accepted")
    assert held_raters(held) == []


async def test_an_entry_has_the_evidence_of_each_reason_and_sample_votes(pool: AsyncPool, held: Pool) -> None:
    hold(held, "u_eve")
    hold(held, "u_eve", "near_duplicates", {"texts": 3})
    hold(held, "u_eve", "burst", {"votes": 50, "seconds": 6})
    async with pool.connection() as connection:
        found = await quarantine.entry(connection, "default", "u_eve")
        assert await quarantine.counts(connection, "default") == {"held": 1}
    assert found["reason"] == "burst"
    assert found["evidence"] == {"burst": {"votes": 50, "seconds": 6}, "near_duplicates": {"texts": 3}}
    assert found["votes"] == 1
    [sample] = found["samples"]
    assert (sample["user"], sample["value"]["value"]) == ("u_eve", "up")


async def test_the_list_is_paged_and_of_one_project(pool: AsyncPool, held: Pool) -> None:
    for rater in ("u_ada", "u_bob", "u_eve"):
        hold(held, rater)
    await decide(pool, "u_bob", "rejected")
    async with pool.connection() as connection:
        first = await quarantine.page(connection, "default", 2)
        assert [row["rater"] for row in first] == ["u_eve", "u_bob"]
        rest = await quarantine.page(connection, "default", 2, before=first[-1]["id"])
        assert [row["rater"] for row in rest] == ["u_ada"]
        rejected = await quarantine.page(connection, "default", 2, "rejected")
        assert [row["rater"] for row in rejected] == ["u_bob"]
        assert await quarantine.page(connection, "other", 2) == []
        with pytest.raises(NotFound):
            await quarantine.entry(connection, "other", "u_eve")


async def test_who_has_no_vote_is_not_named(held: Pool) -> None:
    """As after an erasure that ended while a round looked at the votes."""
    assert not hold(held, "u_nobody")
    assert held_raters(held) == []


async def test_the_audit_log_has_each_decision_and_no_pseudonym(pool: AsyncPool, held: Pool) -> None:
    hold(held, "u_eve")
    hold(held, "u_eve", "near_duplicates")
    decided = await decide(pool, "u_eve", "rejected")
    assert (decided["state"], decided["decided_by"]) == ("rejected", "key:k1")
    await decide(pool, "u_eve", "rejected")
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select action, details from audit_log where action like 'quarantine.%' order by id"
        )
        rows = await cursor.fetchall()
    assert [row["action"] for row in rows] == ["quarantine.created", "quarantine.changed"]
    assert rows[1]["details"]["state"] == {"from": "held", "to": "rejected"}
    assert rows[1]["details"]["decision_reason"]["to"] == "looked at it"
    assert "u_eve" not in str(rows)
