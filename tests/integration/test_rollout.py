"""Rollout transactions leave routes, policies and rollouts consistent, in any order."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from schemas.errors import Conflict, PolicyRejected
from serving import rollout
from serving.router import Route, fetch_routes

P1, P2, P3 = "p1-aaaaaa", "p2-bbbbbb", "p3-cccccc"
Connection = AsyncConnection[DictRow]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Yields a connection. p1 is live, trained from the base; p2 and p3 are published, trained from p1."""
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        for policy, parent, state in (
            ("p0", None, "retired"),
            (P1, "p0", "live"),
            (P2, P1, "published"),
            (P3, P1, "published"),
        ):
            await connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state,"
                " live_at) values ('default', %s, %s, '', '', '', '{}', %s, %s)",
                [policy, parent, state, None if state == "published" else datetime.now(UTC)],
            )
        await connection.execute(
            "insert into routes (project, live, previous) values ('default', %s, 'p0')", [P1]
        )
        yield connection


async def route(connection: Connection) -> Route:
    [found] = await fetch_routes(connection)
    return found


async def states(connection: Connection) -> dict[str, tuple[str, str | None]]:
    cursor = await connection.execute("select id, state, reason from policies")
    return {row["id"]: (row["state"], row["reason"]) for row in await cursor.fetchall()}


async def rollouts(connection: Connection) -> list[tuple[str, str, str | None]]:
    cursor = await connection.execute("select policy, state, reason from rollouts order by started_at")
    return [(row["policy"], row["state"], row["reason"]) for row in await cursor.fetchall()]


async def test_no_tainted_policy_stays_in_the_route(connection: Connection) -> None:
    await rollout.promote(connection, "default", P2)
    await rollout.start_canary(connection, "default", P3, 0.5)
    await connection.execute("update policies set tainted_at = now() where id in (%s, %s)", [P2, P3])
    kept = await rollout.leave_tainted(connection, "default", replace_live=False)
    assert (kept.live, kept.previous, kept.canary) == (P2, P1, None)
    assert (await states(connection))[P3][0] == "retired"
    taken = await rollout.leave_tainted(connection, "default", replace_live=True)
    assert (taken.live, taken.previous) == (P1, "p0")
    again = await rollout.leave_tainted(connection, "default", replace_live=True)
    assert again.version == taken.version


async def test_a_policy_that_is_replaced_for_an_erasure_is_no_longer_watched(connection: Connection) -> None:
    await rollout.promote(connection, "default", P2, automatic=True)
    watched = "select policy from rollouts where evaluate_after is not null"
    assert await (await connection.execute(watched)).fetchall() == [{"policy": P2}]
    await connection.execute("update policies set tainted_at = now() where id = %s", [P2])
    await rollout.leave_tainted(connection, "default", replace_live=True)
    assert await (await connection.execute(watched)).fetchall() == []


async def test_a_canary_that_never_was_live_is_taken_back(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.5)
    taken = await rollout.rollback_policy(connection, "default", P2, "rude")
    assert (taken.live, taken.previous, taken.canary) == (P1, "p0", None)
    assert (await states(connection))[P2] == ("rolled_back", "rude")


async def test_the_end_of_a_canary_that_was_live_condemns_no_policy(connection: Connection) -> None:
    await rollout.promote(connection, "default", P2)
    await rollout.start_canary(connection, "default", P1, 0.5)
    assert (await route(connection)).previous == P1
    taken = await rollout.rollback_policy(connection, "default", P1, "enough seen")
    assert (taken.live, taken.previous, taken.canary) == (P2, P1, None)
    assert (await states(connection))[P1] == ("retired", "enough seen")
    assert (await rollouts(connection))[-1] == (P1, "ended", "enough seen")
    assert (await rollout.rollback(connection, "default", "no")).live == P1


async def test_a_canary_that_replaces_the_live_policy_is_live(connection: Connection) -> None:
    await rollout.promote(connection, "default", P2)
    await rollout.start_canary(connection, "default", P1, 0.5)
    taken = await rollout.rollback(connection, "default", "rude")
    assert (taken.live, taken.previous, taken.canary, taken.canary_share) == (P1, "p0", None, 0)
    assert (await states(connection))[P1] == ("live", None)
    assert await rollouts(connection) == [(P2, "rolled_back", "rude"), (P1, "promoted", None)]


async def test_a_canary_ends_with_the_policy_that_it_was_trained_from(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.5)
    taken = await rollout.rollback(connection, "default", "rude")
    assert (taken.live, taken.canary, taken.canary_share) == ("p0", None, 0)
    assert (await states(connection))[P2] == ("rolled_back", "parent_rolled_back")
    assert await rollouts(connection) == [(P2, "rolled_back", "parent_rolled_back")]


async def test_a_canary_survives_a_parent_whose_files_are_damaged(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.5)
    taken = await rollout.reject(connection, "default", P1, "digest")
    assert (taken.live, taken.canary, taken.canary_share) == ("p0", P2, 0.5)


async def test_a_child_of_a_rolled_back_policy_cannot_be_a_canary(connection: Connection) -> None:
    await rollout.rollback(connection, "default", "rude")
    with pytest.raises(PolicyRejected) as refusal:
        await rollout.start_canary(connection, "default", P2, 0.5)
    assert refusal.value.reason == "parent_rolled_back"
    assert (await route(connection)).canary is None


async def test_one_canary_at_a_time(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.5)
    with pytest.raises(Conflict, match="a canary already"):
        await rollout.start_canary(connection, "default", P3, 0.5)
    promoted = await rollout.promote(connection, "default", P2)
    assert (promoted.live, promoted.previous, promoted.canary) == (P2, P1, None)
    assert await rollouts(connection) == [(P2, "promoted", None)]


async def test_what_the_gate_refused_is_brought_back_with_a_reason_and_its_votes_are_learned(
    connection: Connection,
) -> None:
    await connection.execute("update policies set state = 'rejected', reason = 'harm' where id = %s", [P2])
    await connection.execute(
        "insert into refused_candidates (project, policy, events) values ('default', %s, %s)",
        [P2, ["new", "older", "newer"]],
    )
    for vote, policy in (("new", None), ("older", P1), ("newer", P3), ("held_out", None)):
        await connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at, first_policy)"
            " values (%s, 'default', %s, 'turn', 'thumb', '{}', 'u_ada', 'c', now(), %s)",
            [vote, vote, policy],
        )
    with pytest.raises(Conflict, match="The gate refused p2-bbbbbb; say why"):
        await rollout.promote(connection, "default", P2)
    with pytest.raises(Conflict, match="only a published or retired"):
        await rollout.start_canary(connection, "default", P2, 0.5)
    assert (await states(connection))[P2] == ("rejected", "harm")

    await rollout.promote(connection, "default", P2, "the gate is wrong", actor="key:ops")
    cursor = await connection.execute("select event_id, first_policy from training_examples")
    learned = {row["event_id"]: row["first_policy"] for row in await cursor.fetchall()}
    assert learned == {"new": P2, "older": P1, "newer": P2, "held_out": None}
    assert (await route(connection)).live == P2
    assert await rollouts(connection) == [(P2, "promoted", "the gate is wrong")]

    await rollout.reject(connection, "default", P2, "digest")
    with pytest.raises(Conflict, match="reinstate"):
        await rollout.promote(connection, "default", P2, "it is a policy like any other by now")


async def test_what_the_gate_refused_is_tried_once_it_is_reinstated(connection: Connection) -> None:
    await connection.execute("update policies set state = 'rejected', reason = 'harm' where id = %s", [P2])
    await connection.execute(
        "insert into refused_candidates (project, policy, events) values ('default', %s, '{}')", [P2]
    )
    await rollout.reinstate(connection, "default", P2, "people shall say")
    assert (await states(connection))[P2] == ("retired", "people shall say (was rejected)")
    await rollout.start_canary(connection, "default", P2, 0.5)
    assert (await route(connection)).canary == P2


async def test_the_base_cannot_be_a_canary(connection: Connection) -> None:
    """A rolled back base could have no children."""
    with pytest.raises(Conflict):
        await rollout.start_canary(connection, "default", "p0", 0.5)
    assert (await states(connection))["p0"] == ("retired", None)
