"""Migration 0009 renames tables while processes of the release before run: they go on working on its views.

The statements are copied from that release, and stay as they were.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from schemas import database
from schemas.database import Pool, migrate, migrations, open_async_pool
from schemas.errors import RateLimited
from serving.limits import Charge, RateLimiter
from tests.events import put_each

BEFORE = 8
"""The newest migration of the release before."""

EXCHANGE: LiteralString = """
insert into spending as known (key, total)
select key, count from unnest(%s::text[], %s::bigint[]) as own (key, count)
on conflict (key) do update set total = known.total + excluded.total, updated_at = now()
returning key, total
"""
IDLE = "delete from spending where updated_at < now() - %s::interval"

INSERT: LiteralString = """
insert into examples (event_id, project, feedback_id, turn_id, choice, type, value, rater, conversation_id,
    created_at, ended_by)
values (%(event_id)s, %(project)s, %(feedback_id)s, %(turn_id)s, %(choice)s, %(type)s, %(value)s, %(rater)s,
    %(conversation_id)s, %(created_at)s,
    (select coalesce(newer.event_id, 'retracted') from feedback f
        left join feedback newer on newer.id = f.superseded_by
        where f.id = %(feedback_id)s and (f.superseded_by is not null or f.retracted_at is not null)))
on conflict do nothing
"""
END = "update examples set ended_by = %s where feedback_id = %s and ended_by is null"
KEEP = "update examples set past = %s where project = %s and event_id = any(%s)"
FORGET = "update examples set past = null where project = %s and past is not null"
LEARNED = "update examples set first_policy = %s where event_id = any(%s)"
STANDING: LiteralString = """
select event_id from (
    select e.event_id, e.created_at,
        row_number() over (partition by e.type = 'signal' order by e.created_at desc, e.event_id) as place
    from examples e join turns t on t.id = e.turn_id join feedback f on f.id = e.feedback_id
    where e.project = %s and e.ended_by is null and e.past is null
) as standing where place <= %s order by created_at, event_id desc
"""

ADVANCE: LiteralString = """
insert into positions (consumer, log, partition, position) values (%s, %s, %s, %s)
on conflict (consumer, log, partition) do update set position = excluded.position, updated_at = now()
"""
POSITIONS = "select log, partition, position from positions where consumer = %s"
PASS = "update positions set position = %s, updated_at = now() where consumer = %s returning position"
TRIM: LiteralString = """
with consumers as (
    select consumer, split_part(position, ':', 1)::xid8 as xid, split_part(position, ':', 2)::bigint as id
    from positions where log = %(log)s
), slowest as (
    select xid, id from consumers
    where exists (select from consumers where consumer = 'trainer')
    order by xid, id limit 1
)
delete from outbox using slowest where (outbox.xid, outbox.id) <= (slowest.xid, slowest.id)
"""

WAIT = "insert into waiting (log, partition, version) values (%s, %s, %s) on conflict do nothing"
GO_ON = "delete from waiting where log = %s and partition = %s"


# A completion and votes on it, without what the tables here do not read.
VOTED: LiteralString = """
with key as (
    insert into keys (id, project, kind, hash) values ('key', 'default', 'admin', 'hash')
), turn as (
    insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling)
    values ('chatcmpl-1', 'default', 'conv-1', 'u_ada', 'key', '[]', '{1}', '{}')
)
insert into feedback (id, event_id, project, turn_id, type, value, rater, slot)
select 'fb_' || name, 'ev_' || name, 'default', 'chatcmpl-1', 'thumb', '{"value": "up"}', 'u_ada', name
from unnest(%s::text[]) as name
"""


def vote(name: str) -> dict[str, Any]:
    return {
        "event_id": f"ev_{name}",
        "project": "default",
        "feedback_id": f"fb_{name}",
        "turn_id": "chatcmpl-1",
        "choice": 0,
        "type": "thumb",
        "value": Jsonb({"value": "up"}),
        "rater": "u_ada",
        "conversation_id": "conv-1",
        "created_at": datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    }


@pytest.fixture
def of_the_release_before(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with that release's schema; `migrate` brings it up to date."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    with monkeypatch.context() as patch:
        patch.setattr(database, "migrations", lambda: [m for m in migrations() if m[0] <= BEFORE])
        assert migrate(database_url) == BEFORE
    return database_url


@pytest.fixture
def old(of_the_release_before: str) -> Iterator[Connection[DictRow]]:
    """A process of that release: it prepares its statements, and keeps them through the migration."""
    with psycopg.connect(
        of_the_release_before, autocommit=True, row_factory=dict_row, prepare_threshold=0
    ) as connection:
        yield connection


def work(old: Connection[DictRow], name: str) -> None:
    """Everything that a process of that release does with these tables, for votes `name`-a to `name`-c."""
    a, b, c = (vote(f"{name}-{letter}") for letter in "abc")
    for _ in range(2):
        for each in a, b, c:
            old.execute(INSERT, each)
    old.execute(END, ["ev_newer", c["feedback_id"]])
    old.execute(LEARNED, ["p1-aaaaaa", [a["event_id"]]])
    old.execute(FORGET, ["default"])
    old.execute(KEEP, ["a-summary", "default", [b["event_id"]]])
    for position in "1:1", "2:2":
        old.execute(ADVANCE, ["trainer", name, 0, position])
    for _ in range(2):
        old.execute(WAIT, [name, 0, "hearken.feedback.v2"])
        old.execute(WAIT, [name, 1, "hearken.feedback.v2"])
    old.execute(GO_ON, [name, 1])
    for _ in range(2):
        old.execute(EXCHANGE, [[name, "both"], [3, 1]])
    old.execute(IDLE, ["1 hour"])


def rows(connection: Connection[DictRow], query: LiteralString) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in connection.execute(query).fetchall()]


def test_the_release_before_goes_on_working_while_the_database_is_migrated(
    old: Connection[DictRow], of_the_release_before: str
) -> None:
    old.execute(VOTED, [[f"{name}-{letter}" for name in ("early", "late") for letter in "abc"]])
    work(old, "early")
    migrate(of_the_release_before)
    work(old, "late")

    assert rows(
        old, "select event_id, superseded_by, vote_summary, first_policy from training_examples order by 1, 2"
    ) == [
        ("ev_early-a", None, None, "p1-aaaaaa"),
        ("ev_early-b", None, None, None),
        ("ev_early-c", "ev_newer", None, None),
        ("ev_late-a", None, None, "p1-aaaaaa"),
        ("ev_late-b", None, "a-summary", None),
        ("ev_late-c", "ev_newer", None, None),
    ]
    assert [row["event_id"] for row in old.execute(STANDING, ["default", 4_000]).fetchall()] == [
        "ev_late-a", "ev_early-b", "ev_early-a",
    ]  # fmt: skip
    assert rows(old, "select consumer, log, partition, position from consumer_offsets order by 1, 2") == [
        ("trainer", "early", 0, "2:2"),
        ("trainer", "late", 0, "2:2"),
    ]
    assert rows(old, "select log, partition, version from blocked_partitions order by 1, 2") == [
        ("early", 0, "hearken.feedback.v2"),
        ("late", 0, "hearken.feedback.v2"),
    ]
    assert rows(old, "select key, total from rate_limit_usage order by 1, 2") == [
        ("both", 4),
        ("early", 6),
        ("late", 6),
    ]
    for new, view in [
        ("table training_examples", "table examples"),
        ("table consumer_offsets", "table positions"),
        ("table blocked_partitions", "table waiting"),
        ("table rate_limit_usage", "table spending"),
    ]:
        shown = rows(old, view)  # without the columns that later releases have added at the end
        assert [row[: len(shown[0])] for row in rows(old, new)] == shown


async def test_replicas_of_both_releases_limit_a_key_together(
    old: Connection[DictRow], of_the_release_before: str
) -> None:
    migrate(of_the_release_before)
    limiter = RateLimiter()
    charge = Charge("a key", "requests with one key", 10)
    for _ in range(4):
        limiter.acquire(charge)
    async with open_async_pool(of_the_release_before) as pool:
        await limiter.sync(pool)
        assert old.execute(EXCHANGE, [["a key"], [5]]).fetchall() == [{"key": "a key", "total": 9}]
        await limiter.sync(pool)
    limiter.acquire(charge)
    with pytest.raises(RateLimited):
        limiter.acquire(charge)


def test_what_both_releases_passed_leaves_the_outbox(pool: Pool, database_url: str) -> None:
    """A consumer of either release holds the rows that it has still to read."""
    put_each(database_url, "a", "b", "c")
    with pool.connection() as connection:
        rows = connection.execute("select xid::text || ':' || id as position from outbox order by xid, id")
        first, second, _ = (row["position"] for row in rows.fetchall())
        connection.execute(ADVANCE, ["trainer", "postgres", 0, second])
        connection.execute(
            "insert into consumer_offsets (consumer, log, partition, position) values ('other', %s, 0, %s)",
            ["postgres", first],
        )
        assert connection.execute(POSITIONS, ["other"]).fetchall() == [
            {"log": "postgres", "partition": 0, "position": first}
        ]
        assert connection.execute(TRIM, {"log": "postgres"}).rowcount == 1
        assert connection.execute(PASS, [second, "other"]).fetchall() == [{"position": second}]
        assert connection.execute(TRIM, {"log": "postgres"}).rowcount == 1
