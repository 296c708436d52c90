"""Migrations run once, under a lock, and old code refuses a newer database."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from feedback.postgres_log import PostgresLog
from schemas.database import Pool, migrate, migrations
from schemas.errors import StartError
from tests.events import Reader, put_each, read_until
from trainer.data.ingest import consumer_offsets

NEWEST = migrations()[-1][0]


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    assert migrate(database_url) == NEWEST
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("select version from migrations order by version").fetchall()
    assert [row[0] for row in rows] == [number for number, _ in migrations()]


def test_many_processes_may_migrate_at_once(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(migrate, [database_url] * 8)) == [NEWEST] * 8


def test_a_migration_that_waits_for_a_table_holds_up_nobody(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "9999_more.sql").write_text("alter table feedback add column more text;")
    monkeypatch.setattr("schemas.database.SQL", tmp_path)
    monkeypatch.setattr("schemas.database.LOCK_SECONDS", 0.1)
    monkeypatch.setattr("schemas.database._PAUSE", 0.1)
    with ThreadPoolExecutor(1) as threads, psycopg.connect(database_url) as backup:
        backup.execute("select count(*) from feedback")  # as a backup holds it, for hours
        migrating = threads.submit(migrate, database_url)
        with psycopg.connect(database_url, autocommit=True) as other:
            other.execute("set statement_timeout = '5s'")
            for _ in range(5):
                time.sleep(0.1)
                other.execute("select count(*) from feedback")
        assert not migrating.done()
        backup.rollback()
        assert migrating.result(timeout=20) == 9999


def test_code_refuses_a_database_that_is_newer(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("insert into migrations (version, name) values (9999, '9999_the_future')")
    with pytest.raises(StartError, match="Install a newer Hearken"):
        migrate(database_url)


def test_a_log_restored_into_another_cluster_is_read_again(pool: Pool, database_url: str) -> None:
    log = PostgresLog(pool)
    put_each(database_url, "a", "b", "c")
    with pool.connection() as connection:
        passed = read_until(log, None, 2)[-1].position
        connection.execute(
            "insert into consumer_offsets (consumer, log, partition, position)"
            " values ('trainer', 'postgres', 0, %s)",
            [passed],
        )
        connection.execute("update outbox set xid = (xid::text::bigint + 1000000)::text::xid8")
        connection.execute("update cluster set system_identifier = 'another'")
    assert log.read(0, passed, 10) == []
    migrate(database_url)
    assert consumer_offsets(pool) == {}
    read = Reader(log).poll_until(3)
    assert read == ["ev_a", "ev_b", "ev_c"]
    migrate(database_url)
    assert [entry.event.event_id for entry in read_until(log, None, 3)] == read


def test_every_table_has_its_project_except_those_of_the_installation(pool: Pool) -> None:
    with pool.connection() as connection:
        rows = connection.execute(
            "select table_name from information_schema.tables t where table_schema = 'public'"
            " and table_type = 'BASE TABLE'"
            " and not exists (select from information_schema.columns c where c.table_schema = 'public'"
            " and c.table_name = t.table_name and c.column_name = 'project')"
        ).fetchall()
    of_the_installation = {
        "migrations", "projects", "secrets", "consumer_offsets", "generations", "dead_letters",
        "rate_limit_usage", "cluster", "blocked_partitions", "adapter_checks",
    }  # fmt: skip
    assert {row["table_name"] for row in rows} == of_the_installation
