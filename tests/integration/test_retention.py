"""Turns are stored in weekly partitions, which are created in advance and dropped after retention."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from feedback.retention import WEEKS_AHEAD, run_maintenance
from feedback.store import Store
from feedback.votable_turn import VotableTurn
from schemas.database import SQL, AsyncPool, migrate, migrations, open_async_pool
from schemas.feedback import parse_vote
from schemas.turns import new_id
from tests.voting import a_turn, add_keys


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


async def one(pool: AsyncPool, statement: str, *values: object) -> object:
    """Returns the first column of the first row; None without a row."""
    async with pool.connection() as connection:
        cursor = await connection.execute(statement.encode(), values)
        row = await cursor.fetchone() if cursor.description else None
    return next(iter(row.values())) if row else None


async def keep(pool: AsyncPool, id: str, *, older_code: bool = False) -> str:
    """Store a turn, as older code if so asked, and two votes, of which the later superseded the first."""
    store, turn = Store(pool), a_turn(id)
    votable: VotableTurn | None = VotableTurn(id, turn.project, turn.rater, turn.key_id, 1, [0])
    if older_code:
        async with pool.connection() as connection:
            await connection.execute(
                "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
                " sampling) values (%s, %s, %s, %s, %s, '[]', '{1}', '{}')",
                [id, turn.project, turn.conversation_id, turn.rater, turn.key_id],
            )
            await connection.execute(
                "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids,"
                " logprobs, finish_reason) values (%s, 0, %s, 'p0', 1, '', '{1}', '{0}', 'stop')",
                [id, turn.project],
            )
    else:
        await store.record_turn(turn)
        votable = await store.votable_turn(id)
        assert votable is not None
    for value in ("up", "down"):
        vote = parse_vote({"completion_id": id, "type": "thumb", "value": value})
        await store.submit(votable, vote, "u_ada")
    return id


async def keep_from(pool: AsyncPool, monday: datetime) -> str:
    """Store the same in a past week, whose partition is created first."""
    suffix = monday.strftime("%Y%m%d")
    async with pool.connection() as connection:
        for table in ("turns", "replies"):
            await connection.execute(
                f"create table {table}_{suffix} partition of {table} for values"
                f" from ('{id_at(monday)}') to ('{id_at(monday + timedelta(days=7))}')".encode()
            )
    return await keep(pool, id_at(monday + timedelta(days=3)) + "0123456789abcdef")


def id_at(moment: datetime) -> str:
    return f"chatcmpl-t{int(moment.timestamp() * 1000):012x}"


def monday(weeks_ago: int) -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=today.weekday(), weeks=weeks_ago)


async def kept(pool: AsyncPool) -> dict[str, tuple[int, int]]:
    """Returns the number of replies and votes of each turn."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select t.id, count(distinct r.choice) as replies, count(distinct f.id) as votes from turns t"
            " left join replies r on r.turn_id = t.id left join feedback f on f.turn_id = t.id group by t.id"
        )
        return {row["id"]: (row["replies"], row["votes"]) for row in await cursor.fetchall()}


async def test_a_turn_lies_in_its_week(pool: AsyncPool) -> None:
    id = await keep(pool, new_id())
    week = f"turns_{monday(0):%Y%m%d}"
    assert await one(pool, "select tableoid::regclass::text from turns where id = %s", id) == week
    assert await kept(pool) == {id: (1, 2)}


async def test_an_id_without_a_time_is_kept_apart(pool: AsyncPool) -> None:
    id = await keep(pool, "chatcmpl-5d0a")
    assert await one(pool, "select tableoid::regclass::text from turns where id = %s", id) == "turns_undated"
    assert await kept(pool) == {id: (1, 2)}


async def test_one_turn_is_looked_for_in_one_week(pool: AsyncPool) -> None:
    id = await keep(pool, new_id())
    async with pool.connection() as connection:
        cursor = await connection.execute("explain select * from turns where id = %s", [id])
        plan = "\n".join(row["QUERY PLAN"] for row in await cursor.fetchall())
    assert plan.count(" on turns") == 1, plan


async def test_weeks_are_added_before_they_are_needed(pool: AsyncPool) -> None:
    await run_maintenance(pool, None)
    last = await one(pool, "select max(begins) from turn_weeks()")
    count = await one(pool, "select count(*) from turn_weeks()")
    assert last == monday(-WEEKS_AHEAD)
    assert count == WEEKS_AHEAD + 2  # with this week and the last, for clocks that differ
    await run_maintenance(pool, None)
    assert await one(pool, "select count(*) from turn_weeks()") == count


async def test_maintenance_blocks_nobody(pool: AsyncPool, database_url: str) -> None:
    async with pool.connection() as connection:
        suffix = f"{monday(-WEEKS_AHEAD):%Y%m%d}"
        for table in ("replies", "turns"):
            await connection.execute(f"alter table {table} detach partition {table}_{suffix}".encode())
            await connection.execute(f"drop table {table}_{suffix}".encode())
    with psycopg.connect(database_url) as backup:
        backup.execute("select count(*) from turns")  # as a backup holds it, for hours
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await run_maintenance(pool, None)
        id = await keep(pool, new_id())
    await run_maintenance(pool, None)
    assert await one(pool, "select count(*) from turn_weeks()") == WEEKS_AHEAD + 2
    assert await kept(pool) == {id: (1, 2)}


async def test_only_weeks_past_retention_are_dropped(pool: AsyncPool) -> None:
    ids = {weeks: await keep_from(pool, monday(weeks)) for weeks in (8, 6, 3)}
    undated = [await keep(pool, f"chatcmpl-{number}") for number in (1, 2)]
    async with pool.connection() as connection:
        await connection.execute(
            "update turns set created_at = now() - interval '60 days' where id = %s", [undated[0]]
        )
    now = await keep(pool, new_id())

    await run_maintenance(pool, None)
    assert len(await kept(pool)) == 6
    await run_maintenance(pool, 30)

    assert await kept(pool) == dict.fromkeys((ids[3], undated[1], now), (1, 2))
    assert await one(pool, "select count(*) from replies") == 3
    assert await one(pool, "select count(*) from feedback") == 6
    assert await one(pool, "select count(*) from outbox") == 12  # ids and numbers, which the trainer reads on
    assert await one(pool, "select to_regclass(%s)", f"turns_{monday(8):%Y%m%d}") is None


async def test_a_project_keeps_its_turns_as_long_as_it_says(pool: AsyncPool) -> None:
    """Also undated ones, and those of a week that others keep; another project's stay."""
    old, undated = await keep_from(pool, monday(6)), await keep(pool, "chatcmpl-1")
    now, theirs = await keep(pool, new_id()), await keep(pool, new_id())
    async with pool.connection() as connection:
        await connection.execute(
            "update turns set created_at = now() - interval '42 days' where id = any(%s)", [[old, undated]]
        )
        await connection.execute("insert into projects (id, retention_days) values ('archive', 90)")
        await connection.execute(
            "update turns set project = 'archive', created_at = now() - interval '60 days' where id = %s",
            [theirs],
        )
        await connection.execute("update projects set retention_days = 43 where id = 'default'")
    await run_maintenance(pool, None)
    assert set(await kept(pool)) == {old, undated, now, theirs}
    async with pool.connection() as connection:
        await connection.execute("update projects set retention_days = 41 where id = 'default'")
    await run_maintenance(pool, None)
    assert await kept(pool) == dict.fromkeys((now, theirs), (1, 2))
    assert await one(pool, "select count(*) from feedback") == 4


async def test_a_rater_in_quarantine_is_forgotten_with_the_last_of_their_votes(pool: AsyncPool) -> None:
    await keep(pool, new_id())  # u_ada's
    async with pool.connection() as connection:
        await connection.execute(
            "insert into quarantine (project, rater, reason, created_at)"
            " select 'default', rater, 'burst', now() - days * interval '1 day'"
            " from (values ('u_ada', 60), ('u_eve', 60), ('u_new', 20)) as held (rater, days)"
        )
    await run_maintenance(pool, None)
    assert await one(pool, "select count(*) from quarantine") == 3
    await run_maintenance(pool, 30)
    assert await one(pool, "select string_agg(rater, ' ' order by rater) from quarantine") == "u_ada u_new"


async def test_what_votes_and_failures_left_of_a_person_goes_with_them(pool: AsyncPool) -> None:
    await keep(pool, new_id())  # u_ada's
    async with pool.connection() as connection:
        await connection.execute(
            "insert into person_tastes (project, policy, rater, weights, votes)"
            " select 'default', 'p1', rater, '{}', 1 from unnest('{u_ada,u_eve}'::text[]) as rater"
        )
        await connection.execute(
            "insert into rollout_failures (project, policy, rater, created_at)"
            " select 'default', 'p1', days::text, now() - days * interval '1 day'"
            " from unnest('{60,20,5}'::integer[]) as days"
        )

    async def left(days: int | None) -> tuple[object, object]:
        await run_maintenance(pool, days)
        return (
            await one(pool, "select string_agg(rater, ' ' order by rater) from person_tastes"),
            await one(pool, "select max(rater::integer) from rollout_failures"),
        )

    assert await left(None) == ("u_ada u_eve", 60)
    assert await left(30) == ("u_ada", 20)
    await one(pool, "update projects set retention_days = 10 where id = 'default' returning 1")
    assert await left(None) == ("u_ada", 5)


async def test_what_is_deleted_in_batches_is_deleted_to_the_end(
    pool: AsyncPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.retention.BATCH", 2)
    first = await keep_from(pool, monday(8))
    rest = [await keep(pool, first[:-1] + digit) for digit in "01234"]
    undated = [await keep(pool, f"chatcmpl-{number}") for number in range(5)]
    now = await keep(pool, new_id())
    async with pool.connection() as connection:
        await connection.execute("update turns_undated set created_at = now() - interval '60 days'")
    assert len(await kept(pool)) == len([first, *rest, *undated, now])
    await run_maintenance(pool, 30)
    assert await kept(pool) == {now: (1, 2)}


async def test_a_vote_that_comes_while_its_week_ends_keeps_the_week(pool: AsyncPool) -> None:
    id = await keep_from(pool, monday(8))
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await one(pool, "select drop_turn_week(now())")
    assert await kept(pool) == {id: (1, 2)}
    await run_maintenance(pool, 30)
    assert await kept(pool) == {}


async def test_rows_that_refer_to_others_are_found_by_an_index(pool: AsyncPool) -> None:
    """Else each row deleted from the other table would read the whole of this one."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select c.conrelid::regclass::text as from_table, c.conname as name from pg_constraint c"
            " where c.contype = 'f' and c.conparentid = 0"
            " and c.confrelid::regclass::text not in ('projects', 'keys', 'policies')"  # never deleted
            " and not exists (select from pg_index i where i.indrelid = c.conrelid"
            " and (i.indkey::smallint[])[0:array_length(c.conkey, 1) - 1] @> c.conkey)"
        )
        assert await cursor.fetchall() == []


async def test_old_responses_of_idempotency_keys_are_deleted(pool: AsyncPool) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "insert into idempotency (project, key_id, key, request_hash, response, created_at)"
            " select 'default', 'default-admin', days::text, '', '{}', now() - days * interval '1 day'"
            " from generate_series(1, 10) as days"
        )
    await run_maintenance(pool, None)
    assert await one(pool, "select max(key::integer) from idempotency") == 6


async def test_older_turns_are_carried_over(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
        connection.execute(
            "create table migrations"
            " (version integer primary key, name text not null, applied_at timestamptz default now())"
        )
        for version, path in migrations():
            if version < 4:
                connection.execute((SQL / path.name).read_bytes())
                connection.execute("insert into migrations values (%s, %s)", [version, path.stem])
        connection.execute(
            "insert into keys (id, project, kind, hash) values ('default-admin', 'default', 'admin', '')"
        )
    async with open_async_pool(database_url) as pool:
        # What votes ask, and later migrations make.
        asked = {"erased(text, text, timestamptz)": "false", "may_store(text, text, text)": "true"}
        for name, answer in asked.items():
            await one(pool, f"create function {name} returns boolean language sql return {answer}")
        old = await keep(pool, "chatcmpl-5d0a", older_code=True)
        for name in asked:
            await one(pool, f"drop function {name}")
        migrate(database_url)
        new = await keep(pool, new_id())
        older_code = await keep(pool, "chatcmpl-7f11", older_code=True)  # of a replica to be replaced
        assert await kept(pool) == dict.fromkeys((old, new, older_code), (1, 2))
        async with pool.connection() as connection:
            await connection.execute("delete from turns where id = any(%s)", [[old, new]])
        assert await kept(pool) == {older_code: (1, 2)}
        assert await one(pool, "select count(*) from feedback") == 2
