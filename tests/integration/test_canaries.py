"""A canary's votes are counted from Postgres, and end it in one transaction."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from feedback.store import Store
from schemas.database import AsyncPool
from serving import canary, rollout
from serving.router import Route

P1, P2, P3, P4 = "p1-aaaaaa", "p2-bbbbbb", "p3-cccccc", "p4-dddddd"
Connection = AsyncConnection[DictRow]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    """Yields a connection. p1 is live; p2 to p4 are candidates that the gate could not judge, each trained
    from the one before."""
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        await connection.execute(
            "insert into keys (id, project, kind, hash) values ('key', 'default', 'admin', 'x')"
        )
        before: str | None = None
        for number, policy in enumerate(("p0", P1, P2, P3, P4)):
            live = {"p0": "retired", P1: "live"}.get(policy)
            await connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, gate,"
                " state, created_at, live_at)"
                " values ('default', %s, %s, '', '', '', '{}', '{\"outcome\": \"unknown\"}', %s,"
                " now() - make_interval(mins => %s), case when %s then now() end)",
                [policy, before, live or "published", 60 - number, live is not None],
            )
            before = policy
        await connection.execute(
            "insert into routes (project, live, previous) values ('default', %s, 'p0')", [P1]
        )
        yield connection


async def vote(connection: Connection, name: str, policy: str, up: bool, **changed: Any) -> None:
    """Stores a conversation of one turn with a thumb on its reply."""
    given = {"propensity": 0.3, "type": "thumb", "conversation": name, **changed}
    given = {"rater": f"u_{given['conversation']}", **given}
    turn = f"chatcmpl-{name}"
    await connection.execute(
        "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
        " sampling) values (%s, 'default', %s, %s, 'key', '[]', '{1}', '{}')",
        [turn, given["conversation"], given["rater"]],
    )
    await connection.execute(
        "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
        " finish_reason) values (%s, 0, 'default', %s, %s, 'Hi', '{2}', '{0}', 'stop')",
        [turn, policy, given["propensity"]],
    )
    await connection.execute(
        "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
        " values (%s, %s, 'default', %s, 0, %s, jsonb_build_object('value', %s::text), %s, 'thumb')",
        [f"fb_{name}", f"ev_{name}", turn, given["type"], "up" if up else "down", given["rater"]],
    )


async def start(connection: Connection) -> Route:
    return await canary.start(connection, "default", P2, 0.3)


async def states(connection: Connection) -> dict[str, tuple[str, str | None]]:
    cursor = await connection.execute("select id, state, reason from policies")
    return {row["id"]: (row["state"], row["reason"]) for row in await cursor.fetchall()}


async def test_only_drawn_policies_and_peoples_thumbs_since_the_start_count(connection: Connection) -> None:
    await vote(connection, "before", P2, up=True)
    route = await start(connection)
    await vote(connection, "one", P2, up=True)
    await vote(connection, "again", P2, up=False, conversation="one")
    await vote(connection, "live", P1, up=False)
    await vote(connection, "base", "p0", up=True, propensity=0.02)
    await vote(connection, "pinned", P2, up=False, propensity=1.0)
    await vote(connection, "judge", P2, up=False, rater="judge:strict")
    await vote(connection, "signal", P2, up=False, type="signal")
    await vote(connection, "other", P3, up=False)
    await vote(connection, "retracted", P2, up=False)
    await connection.execute("update feedback set retracted_at = now() where id = 'fb_retracted'")
    found = await canary.find(connection, route)
    assert found is not None
    assert [(each.policy, each.approval) for each in found.judged] == [(P2, 0.5), (P1, 0.0), ("p0", 1.0)]


async def test_votes_promote_a_canary_and_what_its_ancestors_learned_is_live(
    connection: Connection, async_pool: AsyncPool
) -> None:
    await connection.execute("update policies set state = 'retired' where id = %s", [P2])
    route = await canary.start(connection, "default", P3, 0.3)
    for number in range(10):
        await vote(connection, f"new{number}", P3, up=True)
        await vote(connection, f"old{number}", P1, up=False)
    ended = await canary.end_if_decided(connection, route, newer=False)
    assert ended is not None
    changed, action, reason = ended
    assert (action, changed.live, changed.previous, changed.canary) == ("promote", P3, P1, None)
    cursor = await connection.execute("select state, reason, automatic from rollouts")
    assert await cursor.fetchall() == [{"state": "promoted", "reason": reason, "automatic": True}]
    cursor = await connection.execute("select id from policies where inherited_at is not null")
    assert await cursor.fetchall() == [{"id": P2}]
    await connection.execute(
        "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
        " conversation_id, created_at, first_policy)"
        " select event_id, project, id, turn_id, type, value, rater, 'c', now(), %s from feedback",
        [P2],
    )
    found = await Store(async_pool).find("fb_new0")
    assert found is not None
    assert found.policy == P2
    assert found.live_at is not None


async def test_votes_roll_a_canary_back_and_its_descendants_with_it(connection: Connection) -> None:
    route = await start(connection)
    for number in range(10):
        await vote(connection, f"new{number}", P2, up=False)
        await vote(connection, f"old{number}", P1, up=True)
    ended = await canary.end_if_decided(connection, route, newer=True)
    assert ended is not None
    assert (ended[1], ended[0].live, ended[0].canary) == ("rollback", P1, None)
    assert (await states(connection))[P2][0] == "rolled_back"
    assert await canary.next_candidate(connection, "default") == P4
    with pytest.raises(rollout.PolicyRejected, match=f"{P4} was trained from {P2}"):
        await canary.start(connection, "default", P4, 0.3)


async def test_without_a_decision_the_canary_goes_on_until_a_newer_one_takes_its_place(
    connection: Connection,
) -> None:
    route = await start(connection)
    for number in range(20):
        await vote(connection, f"new{number}", P2, up=number % 2 == 0)
        await vote(connection, f"old{number}", P1, up=number % 2 == 0)
    assert await canary.end_if_decided(connection, route, newer=False) is None
    ended = await canary.end_if_decided(connection, route, newer=True)
    assert ended is not None
    assert (ended[1], ended[0].canary, ended[0].canary_share) == ("end", None, 0)
    assert (await states(connection))[P2] == ("retired", ended[2])
    assert (await canary.start(connection, "default", P4, 0.3)).canary == P4


async def test_only_the_newest_candidate_waits_and_only_if_it_is_newer_than_the_live_policy(
    connection: Connection,
) -> None:
    assert await canary.next_candidate(connection, "default") == P4
    assert [state for state, _ in (await states(connection)).values()].count("retired") == 3
    await connection.execute("update policies set created_at = now() where id = %s", [P1])
    assert await canary.next_candidate(connection, "default") is None
    assert (await states(connection))[P4][0] == "retired"


async def test_an_automatic_canary_ends_when_another_policy_goes_live(connection: Connection) -> None:
    await start(connection)
    changed = await rollout.promote(connection, "default", P4)
    assert (changed.live, changed.canary) == (P4, None)
    assert (await states(connection))[P2] == ("retired", "another policy went live")
    assert (await rollout.rollback(connection, "default", "no")).live == P1


async def test_a_policy_that_never_was_live_is_nobodys_previous(connection: Connection) -> None:
    await start(connection)
    await rollout.promote(connection, "default", P4)
    await connection.execute("update policies set state = 'retired' where id = %s", [P3])
    await connection.execute("insert into policies (project, id, parent, base_digest, directory, digest,"
                             " manifest, state) values ('default', 'p5-eeeeee', %s, '', '', '', '{}',"
                             " 'published')", [P4])  # fmt: skip
    await rollout.promote(connection, "default", "p5-eeeeee")
    taken = await rollout.rollback(connection, "default", "no")
    assert (taken.live, taken.previous) == (P4, P1)


async def test_an_operators_canary_is_not_ended_by_votes(connection: Connection) -> None:
    await rollout.start_canary(connection, "default", P2, 0.3)
    for number in range(12):
        await vote(connection, f"new{number}", P2, up=False)
        await vote(connection, f"old{number}", P1, up=True)
    route = await rollout.fetch_route(connection, "default")
    assert await canary.end_if_decided(connection, route, newer=True) is None
    assert (await rollout.promote(connection, "default", P4)).canary == P2
