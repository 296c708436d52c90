"""The scheduled export writes each vote once, whoever dies when, to a folder or an object store."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from feedback import erasing, erasures, scheduled_export
from feedback.row_writer import publish, write_rows
from feedback.scheduled_export import export_if_due
from feedback.store import Store
from schemas.database import AsyncPool, connect_async, migrate
from schemas.errors import StartError
from schemas.feedback import parse_vote
from schemas.settings import ExportSettings, Settings
from tests.locks import waiting
from tests.voting import a_turn, serve_votes


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    export = ExportSettings(to=str(tmp_path / "votes"), every=1)
    return Settings(database_url=database_url, export=export)


class Exports:
    """The exports of a project, and the votes in it."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.folder = Path(settings.export.to or "") / "default"
        self.outcomes: list[str] = []
        self._store = store
        self._made = 0

    async def vote(self, count: int = 1) -> None:
        for _ in range(count):
            self._made += 1
            turn = a_turn(f"chatcmpl-{self._made}")
            await self._store.record_turn(turn)
            votable = await self._store.votable_turn(turn.id)
            assert votable is not None
            vote = parse_vote({"completion_id": turn.id, "type": "thumb", "value": "up"})
            await self._store.submit(votable, vote, turn.rater)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.settings.database_url or "") as connection:
            connection.execute(statement.encode())

    async def run(self) -> None:
        """An hour passes, and the export runs."""
        self.execute("update scheduled_exports set ran_at = ran_at - interval '1 hour'")
        await export_if_due(self.settings, self.outcomes.append)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.exists() else []

    def exported(self) -> list[str]:
        """The ids of the votes in all files."""
        lines = [line for file in self.files() for line in file.read_text().splitlines()]
        return sorted(json.loads(line)["id"] for line in lines)

    def all(self) -> list[str]:
        with psycopg.connect(self.settings.database_url or "") as connection:
            return sorted(id for (id,) in connection.execute("select id from feedback").fetchall())


@pytest.fixture
async def exports(settings: Settings, async_pool: AsyncPool) -> Exports:
    return Exports(settings, Store(async_pool))


async def test_each_file_goes_on_where_the_last_one_ended(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled_export, "BATCH", 3)
    await exports.run()
    assert exports.files() == []
    await exports.vote(7)
    await exports.run()
    assert len(exports.files()) == 3
    assert exports.folder.stat().st_mode & 0o777 == 0o700
    assert exports.exported() == exports.all()
    await exports.vote(2)
    await export_if_due(exports.settings, exports.outcomes.append)  # too early
    assert len(exports.files()) == 3
    await exports.run()
    await exports.run()
    assert len(exports.files()) == 4
    assert exports.exported() == exports.all()
    assert exports.outcomes == ["written"] * 4


async def test_a_vote_that_is_committed_late_is_in_the_next_file(exports: Exports) -> None:
    await exports.vote(1)
    await exports.run()
    before = exports.exported()
    with psycopg.connect(exports.settings.database_url or "") as slow:
        slow.execute(
            "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
            " select 'fb_slow', 'ev_slow', project, turn_id, choice, type, value, rater, 'slow' from feedback"
        )
        await exports.vote(1)
        await exports.run()
        assert exports.exported() == before  # a later vote must not be the end of a file before it
        slow.commit()
    await exports.run()
    assert exports.exported() == exports.all()
    assert len(exports.all()) == 3


@pytest.mark.parametrize("moment", ["draft_of", "write_draft", "publish", "published"])
async def test_a_death_at_any_moment_neither_loses_votes_nor_repeats_them(
    exports: Exports, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Died(BaseException):
        pass

    async def publish_and_die(draft: Path, output: str) -> None:
        await publish(draft, output)
        raise Died

    def die(*_: Any) -> Any:
        raise Died

    await exports.vote(2)
    with monkeypatch.context() as patch:
        name, replacement = ("publish", publish_and_die) if moment == "published" else (moment, die)
        patch.setattr(scheduled_export, name, replacement)
        with pytest.raises(Died):
            await exports.run()
    await exports.vote(1)
    await exports.run()
    assert exports.exported() == exports.all()
    assert len(exports.files()) == 2


async def test_two_processes_do_it_once(exports: Exports) -> None:
    await exports.vote(3)
    await asyncio.gather(*(export_if_due(exports.settings, exports.outcomes.append) for _ in range(4)))
    assert exports.outcomes == ["written"]
    assert exports.exported() == exports.all()


async def test_a_file_that_loses_more_votes_while_it_is_written_again_is_written_once_more(
    exports: Exports,
) -> None:
    """Two people are erased at once, each by another process."""
    await exports.vote(2)
    await exports.run()
    exports.execute("update exported_files set stale = true")
    url = exports.settings.database_url or ""
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watcher:
        other.execute("update exported_files set stale = true")
        other.execute("delete from feedback where id = (select min(id) from feedback)")
        async with await connect_async(url) as connection:
            rewriting = asyncio.create_task(scheduled_export.rewrite(connection, "default"))
            await waiting(watcher, 1)
            other.commit()
            assert await rewriting == 2
    assert exports.exported() == exports.all()


async def test_a_file_that_is_begun_while_votes_are_erased_is_without_them(
    exports: Exports, async_pool: AsyncPool
) -> None:
    await exports.vote(2)
    async with async_pool.connection() as connection:
        id = await erasures.ask(connection, "default", ["u_ada"], "test")
    url = exports.settings.database_url or ""
    with psycopg.connect(url) as lock, psycopg.connect(url, autocommit=True) as watcher:
        lock.execute("select from feedback for update")
        deleting = asyncio.create_task(erasing.advance(url, [id]))
        await waiting(watcher, 1)
        exporting = asyncio.create_task(export_if_due(exports.settings, exports.outcomes.append))
        both = asyncio.create_task(waiting(watcher, 2))
        await asyncio.wait({exporting, both}, return_when=asyncio.FIRST_COMPLETED)
        lock.rollback()
        await asyncio.gather(deleting, exporting)
    await erasing.advance(url, [id])
    assert exports.exported() == exports.all() == []


async def test_serving_exports_by_itself_and_counts_what_fails(
    exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduled_export, "INTERVAL", 0.05)
    await exports.vote(1)
    exports.folder.parent.write_text("no folder")
    url = exports.settings.database_url or ""
    async with serve_votes(url, export=exports.settings.export) as served, httpx.AsyncClient() as client:

        async def until_counted(outcome: str) -> str:
            for _ in range(400):
                text = (await client.get(f"{served}/metrics")).text
                if f'hearken_exports_total{{outcome="{outcome}"}} 0.0' not in text:
                    return text
                await asyncio.sleep(0.05)
            raise AssertionError(text)

        assert 'outcome="written"} 0.0' in await until_counted("failed")
        exports.folder.parent.unlink()
        await until_counted("written")
    assert exports.exported() == exports.all()


async def test_after_a_restore_into_another_cluster_it_goes_on(exports: Exports) -> None:
    """Transaction ids begin anew there, so what was exported has greater ones than what is new."""
    await exports.vote(2)
    await exports.run()
    await exports.vote(1)
    exports.execute(
        "update feedback set xid = (xid::text::bigint + 1000000000000)::text::xid8;"
        "update scheduled_exports set xid = (xid::text::bigint + 1000000000000)::text::xid8;"
        "update cluster set system_identifier = 'another'"
    )
    migrate(exports.settings.database_url or "")
    await exports.vote(1)
    await exports.run()
    assert exports.exported() == exports.all()


async def test_rows_of_a_layout_in_parquet(exports: Exports) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    export = exports.settings.export.model_copy(update={"format": "unpaired", "parquet": True})
    exports.settings = exports.settings.model_copy(update={"export": export})
    await exports.vote(2)
    await exports.run()
    [file] = exports.files()
    rows = pyarrow.read_table(file).to_pylist()
    assert [row["label"] for row in rows] == [True, True]
    assert rows[0]["prompt"][0]["content"] == "What is the capital of France?"
    export = export.model_copy(update={"format": "preference"})
    exports.settings = exports.settings.model_copy(update={"export": export})
    await exports.vote(1)
    await exports.run()
    assert exports.files() == [file]  # a file without rows is none


async def test_an_object_store_gets_the_files(exports: Exports, bucket: Path) -> None:
    export = exports.settings.export.model_copy(update={"to": "s3://bucket/votes/"})
    exports.settings = exports.settings.model_copy(update={"export": export})
    exports.folder = bucket / "votes" / "default"
    scheduled_export.check(exports.settings)
    await exports.vote(3)
    await exports.run()
    assert exports.exported() == exports.all()

    async def given() -> AsyncIterator[dict[str, Any]]:
        yield {"prompt": "a"}

    await write_rows(given(), "s3://bucket/now/rows.jsonl")
    assert (bucket / "now" / "rows.jsonl").read_text() == '{"prompt":"a"}\n'
    with pytest.raises(StartError, match="cannot be written: the object store refuses it"):
        await write_rows(given(), "s3://missing/rows.jsonl")
    with pytest.raises(StartError, match="no object store"):
        await write_rows(given(), "ftp://missing/rows.jsonl")
