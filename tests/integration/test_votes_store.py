"""The store writes a vote in one transaction: one active vote for each slot, history kept, retries safe."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from feedback.export import everything
from feedback.records import IdempotencyKey, Received, Recorded
from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import Conflict, InvalidRequest, NotFound
from schemas.feedback import FeedbackEvent, parse_vote
from tests.voting import a_turn, add_keys

TURN = "chatcmpl-1"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


@pytest.fixture
async def store(pool: AsyncPool) -> Store:
    store = Store(pool)
    await store.record_turn(a_turn(TURN, replies=("It is Paris.", "Paris, of course!")))
    return store


async def rows(pool: AsyncPool, sql: str) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return await (await connection.execute(sql.encode())).fetchall()


async def events(pool: AsyncPool) -> list[FeedbackEvent]:
    return [
        FeedbackEvent.model_validate(row["event"])
        for row in await rows(pool, "select event from outbox order by xid, id")
    ]


async def say(
    store: Store, rater: str = "u_ada", *, key: IdempotencyKey | None = None, **fields: Any
) -> Recorded:
    votable = await store.votable_turn(TURN)
    assert votable is not None
    return await store.submit(votable, parse_vote({"completion_id": TURN, **fields}), rater, idempotency=key)


async def status(store: Store, vote: Recorded) -> str:
    found = await store.find(vote.id)
    assert found is not None
    return found.status


async def test_a_turn_is_kept_exactly_as_sampled(store: Store, pool: AsyncPool) -> None:
    turn = a_turn("chatcmpl-2", replies=("One.", "Two."))

    await store.record_turn(turn)

    [kept] = await rows(pool, "select * from turns where id = 'chatcmpl-2'")
    assert kept["messages"] == turn.messages
    assert kept["prompt_token_ids"] == turn.prompt_token_ids
    replies = await rows(pool, "select * from replies where turn_id = 'chatcmpl-2' order by choice")
    assert [(reply["text"], reply["token_ids"]) for reply in replies] == [
        ("One.", [7, 8, 0]),
        ("Two.", [7, 8, 0]),
    ]
    assert replies[0]["logprobs"] == pytest.approx([-0.1, -0.2, -0.3])
    assert replies[0]["propensity"] == 0.98


async def test_a_turn_and_its_replies_are_kept_together_or_not_at_all(store: Store, pool: AsyncPool) -> None:
    turn = a_turn("chatcmpl-2")

    with pytest.raises(psycopg.errors.UniqueViolation):
        await store.record_turn(replace(turn, replies=turn.replies * 2))  # the same choice two times

    assert await store.votable_turn("chatcmpl-2") is None


async def test_a_vote_and_its_event_say_the_same(store: Store, pool: AsyncPool) -> None:
    vote = await say(store, type="thumb", choice=1, value="up", reasons=["concise"])

    [event] = await events(pool)
    [row] = await rows(pool, "select * from feedback")
    assert row["id"] == event.feedback_id == vote.id
    assert row["event_id"] == event.event_id
    assert row["created_at"] == event.created_at
    assert row["value"] == event.value == {"value": "up", "reasons": ["concise"]}
    assert (event.kind, event.turn_id, event.choice, event.type) == ("recorded", TURN, 1, "thumb")
    assert (event.rater, event.supersedes) == (None, None)
    logged = await rows(pool, "select outbox::text as row from outbox")
    assert not [each for each in logged if "u_ada" in each["row"] or "conv-of" in each["row"]]


@pytest.mark.parametrize("table", ["outbox", "feedback"])
async def test_neither_vote_nor_event_without_the_other(store: Store, pool: AsyncPool, table: str) -> None:
    """The failure comes at commit."""
    async with pool.connection() as connection:
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as $$"
            " begin raise exception 'refused at commit'; end $$"
        )
        await connection.execute(
            f"create constraint trigger refuse after insert on {table} deferrable initially deferred"
            " for each row execute function refuse()".encode()
        )
    key = IdempotencyKey("default-admin", "k", b"hash")

    with pytest.raises(psycopg.errors.RaiseException):
        await say(store, key=key, type="thumb", value="up")

    for emptied in ("feedback", "outbox", "idempotency"):
        assert await rows(pool, f"table {emptied}") == []


async def test_text_never_enters_the_log(store: Store, pool: AsyncPool) -> None:
    secret = "zanzibar"
    await say(store, type="thumb", value="down", comment=secret)
    await say(store, type="ranking", ranking=[[0, 1]], comment=secret)
    edit = await say(store, type="edit", text=f"It is {secret}.", comment=secret)
    found = await store.find(edit.id)
    assert found is not None
    await store.retract(found)

    everything = await rows(pool, "select outbox::text as row from outbox")
    assert len(everything) == 4
    assert not [row for row in everything if secret in row["row"] or "Paris" in row["row"]]
    assert sum(secret in str(row) for row in await rows(pool, "table feedback")) == 2  # one was retracted


async def test_what_was_taken_back_is_not_kept(store: Store, pool: AsyncPool) -> None:
    secret = "zanzibar"
    first = await say(store, type="edit", text=f"It is {secret}.", comment=secret)
    second = await say(store, type="edit", text=f"No, {secret}!")
    other = await say(store, type="thumb", value="up", comment="kept")
    found = await store.find(second.id)
    assert found is not None

    await store.retract(found)

    kept = await rows(pool, "select feedback::text as row from feedback")
    assert len(kept) == 3
    assert not [row for row in kept if secret in row["row"]]
    assert [await status(store, vote) for vote in (first, second, other)] == [
        "retracted", "retracted", "recorded",
    ]  # fmt: skip
    async with pool.connection() as connection, connection.transaction():
        exported = [vote["id"] async for vote in everything(connection, "default")]
    assert exported == [other.id]


async def test_voting_again_on_the_same_thing_supersedes(store: Store, pool: AsyncPool) -> None:
    first = await say(store, type="thumb", value="up")
    second = await say(store, type="thumb", value="down")
    third = await say(store, type="thumb", value="up")

    assert [await status(store, vote) for vote in (first, second, third)] == [
        "superseded", "superseded", "recorded",
    ]  # fmt: skip
    assert [event.supersedes for event in await events(pool)] == [None, first.id, second.id]
    assert third.supersedes == second.id


async def test_a_vote_that_was_kept_back_does_not_supersede_a_newer_one(
    store: Store, pool: AsyncPool
) -> None:
    """It waited for Postgres on the disk of another replica meanwhile."""
    first = await say(store, type="thumb", value="down")
    kept_back = Received.now()._replace(late=True)
    newest = await say(store, type="thumb", value="down")
    votable = await store.votable_turn(TURN)
    assert votable is not None
    vote = parse_vote({"completion_id": TURN, "type": "thumb", "value": "up"})
    late = await store.submit(votable, vote, "u_ada", received=kept_back)
    found = await rows(pool, "select id, superseded_by from feedback order by created_at")
    assert [(row["id"], row["superseded_by"]) for row in found] == [
        (first.id, newest.id),
        (late.id, newest.id),
        (newest.id, None),
    ]
    assert [event.supersedes for event in await events(pool)] == [None, first.id, None]


async def test_other_things_and_other_people_do_not_supersede(store: Store) -> None:
    votes = [
        await say(store, type="thumb", value="up"),
        await say(store, type="thumb", value="up", choice=1),
        await say(store, "u_ben", type="thumb", value="down"),
        await say(store, type="ranking", ranking=[[0], [1]]),
        await say(store, type="edit", text="Paris."),
        await say(store, type="edit", text="Paris.", choice=1),
        await say(store, type="signal", signal="copied"),
        await say(store, type="signal", signal="shared"),
    ]

    assert {await status(store, vote) for vote in votes} == {"recorded"}


async def test_votes_for_one_slot_at_once_leave_one_chain(store: Store, pool: AsyncPool) -> None:
    """Whatever the interleaving, each vote supersedes the one before it, in the order of the log."""
    votes = await asyncio.gather(*(say(store, type="thumb", value="up") for _ in range(24)))

    log = await events(pool)
    assert sorted(event.feedback_id for event in log) == sorted(vote.id for vote in votes)
    assert [event.supersedes for event in log] == [None, *(event.feedback_id for event in log[:-1])]
    standing = await rows(pool, "select id from feedback where superseded_by is null")
    assert [row["id"] for row in standing] == [log[-1].feedback_id]


async def test_retracting_is_an_event_and_frees_the_slot(store: Store, pool: AsyncPool) -> None:
    vote = await say(store, type="thumb", value="up")
    found = await store.find(vote.id)
    assert found is not None

    await store.retract(found)
    await store.retract(found)
    again = await say(store, type="thumb", value="down")

    assert await status(store, vote) == "retracted"
    assert await status(store, again) == "recorded"
    kinds = [(event.kind, event.feedback_id, event.supersedes) for event in await events(pool)]
    assert kinds == [("recorded", vote.id, None), ("retracted", vote.id, None), ("recorded", again.id, None)]


async def test_only_the_active_vote_can_be_retracted(store: Store, pool: AsyncPool) -> None:
    old = await say(store, type="thumb", value="up")
    new = await say(store, type="thumb", value="down")
    found = await store.find(old.id)
    assert found is not None

    with pytest.raises(Conflict, match=new.id):
        await store.retract(found)

    assert await status(store, new) == "recorded"
    assert len(await events(pool)) == 2


async def test_a_vote_is_superseded_or_retracted_never_both(store: Store, pool: AsyncPool) -> None:
    for _ in range(10):
        vote = await say(store, type="thumb", value="up")
        found = await store.find(vote.id)
        assert found is not None
        await asyncio.gather(
            store.retract(found), say(store, type="thumb", value="down"), return_exceptions=True
        )

    ends = [event.supersedes for event in await events(pool)]
    ends += [event.feedback_id for event in await events(pool) if event.kind == "retracted"]
    ended = [end for end in ends if end]
    assert len(ended) == len(set(ended)) >= 10
    assert not await rows(
        pool,
        "select 1 from feedback f left join feedback newer on newer.id = f.superseded_by"
        " where f.superseded_by is not null and (f.retracted_at is null) <> (newer.retracted_at is null)",
    )


async def test_an_idempotency_key_gives_the_first_answer_again(store: Store, pool: AsyncPool) -> None:
    key = IdempotencyKey("default-admin", "k", b"hash")
    first = await say(store, key=key, type="thumb", value="up")
    later = await say(store, type="thumb", value="down")

    again = await say(store, key=key, type="thumb", value="up")

    assert (again.id, again.new) == (first.id, False)
    assert await status(store, later) == "recorded"  # the retry did not vote again
    assert len(await events(pool)) == 2


async def test_an_idempotency_key_for_something_else_is_refused(store: Store, pool: AsyncPool) -> None:
    await say(store, key=IdempotencyKey("default-admin", "k", b"one"), type="thumb", value="up")

    with pytest.raises(Conflict) as caught:
        await say(store, key=IdempotencyKey("default-admin", "k", b"two"), type="thumb", value="down")

    assert caught.value.code == "idempotency_key_reused"
    assert len(await events(pool)) == 1
    other = await say(store, key=IdempotencyKey("default-secret", "k", b"two"), type="thumb", value="down")
    assert other.new


async def test_a_vote_sent_many_times_at_once_is_one_vote(store: Store, pool: AsyncPool) -> None:
    key = IdempotencyKey("default-admin", "k", b"hash")

    answers = await asyncio.gather(*(say(store, key=key, type="thumb", value="up") for _ in range(24)))

    assert len({answer.id for answer in answers}) == 1
    assert [answer.new for answer in answers].count(True) == 1
    assert len(await events(pool)) == 1
    assert len(await rows(pool, "select 1 from feedback")) == 1


async def test_a_refused_vote_leaves_its_idempotency_key_free(store: Store) -> None:
    key = IdempotencyKey("default-admin", "k", b"hash")
    with pytest.raises(InvalidRequest):
        await say(store, key=key, type="ranking", ranking=[[0]])

    assert (await say(store, key=key, type="ranking", ranking=[[0], [1]])).new


async def test_a_turn_that_was_erased_meanwhile_is_not_found(store: Store, pool: AsyncPool) -> None:
    votable = await store.votable_turn(TURN)
    assert votable is not None
    async with pool.connection() as connection:
        await connection.execute("delete from turns where id = %s", [TURN])

    with pytest.raises(NotFound):
        await store.submit(
            votable, parse_vote({"completion_id": TURN, "type": "thumb", "value": "up"}), "u_ada"
        )

    assert await events(pool) == []


async def test_a_vote_knows_who_first_learned_from_it(store: Store, pool: AsyncPool) -> None:
    vote = await say(store, type="thumb", value="up")
    found = await store.find(vote.id)
    assert found is not None
    assert (found.policy, found.live_at) == (None, None)
    async with pool.connection() as connection:
        await connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state, live_at)"
            " values ('default', 'p1-abc123', '', '', '', '{}', 'live', now())"
        )
        await connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
            " rater, conversation_id, created_at, first_policy)"
            " select event_id, project, id, turn_id, choice, type, value, rater, 'conv', created_at,"
            " 'p1-abc123' from feedback"
        )

    found = await store.find(vote.id)
    assert found is not None
    assert found.policy == "p1-abc123"
    assert found.live_at is not None
    learned = [each async for each in store.learned_by("default", "p1-abc123")]
    assert learned == [(vote.id, TURN, "u_ada")]
    assert [each async for each in store.learned_by("other", "p1-abc123")] == []


async def test_a_connection_lost_under_a_vote_is_told_and_recovered_from(
    store: Store, pool: AsyncPool, database_url: str
) -> None:
    votable = await store.votable_turn(TURN)
    assert votable is not None
    vote = parse_vote({"completion_id": TURN, "type": "thumb", "value": "up"})
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("lock table outbox")
        waiting = asyncio.create_task(store.submit(votable, vote, "u_ada"))
        killed = 0
        while not killed:
            cursor = await other.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where wait_event_type = 'Lock' and datname = current_database()"
            )
            killed = (await cursor.fetchone() or [0])[0]
        with pytest.raises(psycopg.OperationalError):
            await waiting

    assert await events(pool) == []
    assert (await say(store, type="thumb", value="up")).new
