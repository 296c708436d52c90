"""The spool keeps entries on the disk, in order, until Postgres takes them."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import Counter
from psycopg.errors import ReadOnlySqlTransaction

from feedback import aside
from feedback import spool as module
from feedback.spool import Entry, NotYet, Spool
from feedback.spool_file import SpoolFile
from schemas.errors import InvalidRequest, Unavailable


class Database:
    """What entries are brought to; it may be away."""

    def __init__(self) -> None:
        self.away = False
        self.error: psycopg.Error = psycopg.OperationalError("away")
        self.rows: list[Entry] = []

    async def apply(self, entry: Entry) -> None:
        if self.away:
            raise self.error
        if entry.get("of") not in (None, *self.names):
            raise NotYet("its turn is missing", owner=entry.get("owner", "default"))
        if entry.get("wrong"):
            raise InvalidRequest("no such choice")
        self.rows.append(entry)

    @property
    def names(self) -> list[Any]:
        return [row["name"] for row in self.rows]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    monkeypatch.setattr(module, "RESCAN", 0.05)
    monkeypatch.setattr(aside, "RETRY", 0.01)


@asynccontextmanager
async def running(spool: Spool, database: Database) -> AsyncIterator[None]:
    task = asyncio.create_task(spool.run(database.apply))
    yield
    task.cancel()
    await asyncio.wait({task})


async def put(spool: Spool, database: Database, name: object, **fields: object) -> object:
    entry = {"kind": "vote", "id": str(name), "name": name, **fields}

    async def direct() -> str:
        await database.apply(entry)
        return "stored"

    return await spool.write(direct, lambda: entry)


async def drained(spool: Spool) -> None:
    async with asyncio.timeout(5):
        while spool.active:  # noqa: ASYNC110 - the spool tells nobody that it is empty
            await asyncio.sleep(0.01)


def modes(folder: Path) -> list[int]:
    """Returns the permissions of the files in a folder."""
    return [file.stat().st_mode for file in folder.iterdir()]


MakeSpool = Callable[..., Spool]


@pytest.fixture
def refused() -> Counter:
    return Counter("refused", "Entries that were dropped.", registry=None)


@pytest.fixture
def a_spool(tmp_path: Path, refused: Counter) -> Iterator[MakeSpool]:
    """Makes spools in `tmp_path`, each as its own process would."""
    made: list[Spool] = []

    def make(folder: Path = tmp_path, most_bytes: int = 10_000) -> Spool:
        made.append(Spool(folder, most_bytes, refused.inc))
        made[-1].open()
        return made[-1]

    yield make
    for spool in made:
        for file in filter(None, [spool._own, *spool._left, spool._aside._file]):
            file._handle.close()


async def test_entries_wait_in_order_and_what_comes_meanwhile_waits_behind_them(
    a_spool: MakeSpool, tmp_path: Path
) -> None:
    spool, database = a_spool(), Database()
    assert await put(spool, database, "before") == "stored"
    database.away = True
    for number in range(3):
        assert await put(spool, database, number, kind="turn" if number < 2 else "vote") is None
    database.away = False
    assert await put(spool, database, "behind") is None  # it would overtake the others
    assert database.names == ["before"]
    async with running(spool, database):
        assert spool.recovering
        await drained(spool)
        assert spool.recovering  # other processes may still have theirs
        assert await put(spool, database, "after") == "stored"
    assert database.names == ["before", 0, 1, 2, "behind", "after"]
    assert spool.size == 0
    await spool.close()
    assert modes(tmp_path) == []


async def test_it_tries_again_until_the_database_is_back(a_spool: MakeSpool) -> None:
    spool, database = a_spool(), Database()
    database.away = True
    async with running(spool, database):
        await asyncio.gather(*(put(spool, database, number) for number in range(200)))
        await asyncio.sleep(0.05)
        assert database.rows == []
        database.away = False
        await drained(spool)
    assert database.names == list(range(200))


async def test_a_database_that_hangs_is_away(a_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    spool = a_spool()
    assert await spool.write(lambda: asyncio.sleep(60), lambda: {"kind": "turn"}) is None
    assert spool.active

    async def given_up() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise psycopg.ProgrammingError("the connection is in the middle of a statement")

    another = a_spool()
    assert await another.write(given_up, lambda: {"kind": "turn"}) is None


async def test_a_standby_that_has_not_taken_over_is_away(a_spool: MakeSpool) -> None:
    spool, database = a_spool(), Database()
    database.error = ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")
    database.away = True
    assert await put(spool, database, "vote") is None
    async with running(spool, database):
        await asyncio.sleep(0.05)
        database.away = False
        await drained(spool)
    assert database.names == ["vote"]


async def test_an_error_of_a_statement_is_no_outage(a_spool: MakeSpool) -> None:
    async def wrong() -> None:
        raise psycopg.ProgrammingError("no such column")

    spool = a_spool()
    with pytest.raises(psycopg.ProgrammingError):
        await spool.write(wrong, lambda: {"kind": "turn"})
    assert not spool.active


async def test_what_a_process_left_is_applied_by_the_next_and_the_file_of_a_living_one_is_not(
    a_spool: MakeSpool,
) -> None:
    database = Database()
    database.away = True
    living, dead = a_spool(), a_spool()
    await put(living, database, "living")
    await put(dead, database, "dead")
    assert dead._own is not None
    with dead._own.path.open("ab") as file:
        file.write(b'{"kind": "vote", "na')  # cut off: it was never acknowledged
    dead._own._handle.close()
    database.away = False
    heir = a_spool()
    assert heir.active
    assert await put(heir, database, "heir") is None
    async with running(heir, database):
        await drained(heir)
    assert database.names == ["dead", "heir"]
    assert living.active


async def test_files_of_dead_processes_that_wait_for_each_other_are_all_applied(a_spool: MakeSpool) -> None:
    """A person is answered by one process, and votes at another."""
    database = Database()
    database.away = True
    one, other = a_spool(), a_spool()
    await put(one, database, "a", kind="turn")
    await put(other, database, "b", kind="turn")
    await put(one, database, "on b", of="b")
    await put(other, database, "on a", of="a")
    for dead in (one, other):
        assert dead._own is not None
        dead._own._handle.close()
    database.away = False
    heir = a_spool()
    async with running(heir, database):
        await drained(heir)
    assert set(database.names) == {"a", "b", "on a", "on b"}


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - the spool tells nobody what it has tried
            await asyncio.sleep(0.01)


async def test_nothing_waits_for_a_vote_whose_turn_is_missing_and_it_is_applied_when_that_comes(
    a_spool: MakeSpool, refused: Counter
) -> None:
    spool, database = a_spool(), Database()
    database.away = True
    await put(spool, database, "early", of="late turn")
    await put(spool, database, "other")
    database.away = False
    async with running(spool, database):
        await drained(spool)
        assert database.names == ["other"]
        assert spool.holds("early")
        assert await put(spool, database, "at once") == "stored"
        await put(spool, database, "late turn")
        await eventually(lambda: "early" in database.names)
        assert not spool.holds("early")
    assert (spool.set_aside, refused.collect()[0].samples[0].value) == (0, 0)


async def test_a_vote_is_dropped_and_counted_when_its_turn_has_not_come_after_all_tries(
    a_spool: MakeSpool, refused: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "PATIENCE", 0.1)
    spool, database = a_spool(), Database()
    database.away = True
    await put(spool, database, "early", of="never")
    database.away = False
    async with running(spool, database):
        await eventually(lambda: refused.collect()[0].samples[0].value == 1)
    assert (database.names, spool.set_aside, spool.holds("early")) == ([], 0, False)


async def test_what_is_set_aside_outlives_its_process_and_an_outage(
    a_spool: MakeSpool, tmp_path: Path
) -> None:
    dying, database = a_spool(), Database()
    database.away = True
    await put(dying, database, "early", of="turn")
    database.away = False
    async with running(dying, database):
        await drained(dying)
    await dying.close()
    assert len(modes(tmp_path)) == 1
    heir = a_spool()
    database.away = True
    async with running(heir, database):
        await asyncio.sleep(0.05)
        database.away = False
        await drained(heir)
        await put(heir, database, "turn")
        await eventually(lambda: database.names == ["turn", "early"])
    await heir.close()
    assert modes(tmp_path) == []


async def test_one_project_cannot_take_the_room_of_another(
    a_spool: MakeSpool, refused: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "OWNER_BYTES", 200)
    monkeypatch.setattr(aside, "RETRY", 60)
    spool, database = a_spool(), Database()
    database.away = True
    for number in range(9):
        await put(spool, database, f"hostile {number}", of="never", owner="hostile")
    await put(spool, database, "honest", of="turn", owner="honest")
    database.away = False
    async with running(spool, database):
        await drained(spool)
    assert spool.holds("honest")
    held = sum(spool.holds(f"hostile {number}") for number in range(9))
    assert (0 < held < 9, refused.collect()[0].samples[0].value) == (True, 9 - held)


async def test_entries_are_applied_again_after_a_death_in_between(a_spool: MakeSpool) -> None:
    database = Database()
    database.away = True
    spool = a_spool()
    await put(spool, database, "once")
    database.away = False
    await spool._apply_all(spool._own, database.apply)  # type: ignore[arg-type]
    assert spool._own is not None
    spool._own._handle.close()
    heir = a_spool()
    async with running(heir, database):
        await drained(heir)
    assert database.names == ["once", "once"]


async def test_a_full_spool_says_so_and_takes_more_when_it_is_empty(a_spool: MakeSpool) -> None:
    database = Database()
    database.away = True
    spool = a_spool(most_bytes=80)
    await put(spool, database, "fits")
    with pytest.raises(Unavailable) as refused:
        await put(spool, database, "does not fit" * 9)
    assert refused.value.code == "database_unavailable"
    database.away = False
    async with running(spool, database):
        await drained(spool)
        assert await put(spool, database, "again") == "stored"


async def test_a_disk_that_fills_leaves_no_half_line(
    a_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database()
    database.away = True
    spool = a_spool()
    await put(spool, database, "first")
    real = os.pwrite

    def full(descriptor: int, lines: bytes, offset: int) -> int:
        real(descriptor, lines[:9], offset)
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Unavailable) as refused:
        await put(spool, database, "lost")
    assert refused.value.code == "disk_failed"
    monkeypatch.setattr(os, "pwrite", real)
    await put(spool, database, "second")
    database.away = False
    async with running(spool, database):
        await drained(spool)
    assert database.names == ["first", "second"]


async def test_a_file_that_cannot_be_read_for_a_moment_is_read_later(
    a_spool: MakeSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, database = a_spool(), Database()
    database.away = True
    await put(spool, database, "kept")
    database.away = False
    real, failures = SpoolFile.read, [OSError(errno.EIO, "input/output error")]

    def read(file: SpoolFile, most: int) -> list[bytes]:
        if failures:
            raise failures.pop()
        return real(file, most)

    monkeypatch.setattr(SpoolFile, "read", read)
    async with running(spool, database):
        await drained(spool)
    assert database.names == ["kept"]


async def test_an_entry_that_is_refused_is_counted_and_does_not_stop_the_others(
    a_spool: MakeSpool, refused: Counter
) -> None:
    spool, database = a_spool(), Database()
    database.away = True
    await put(spool, database, "wrong", wrong=True)
    await put(spool, database, "right")
    database.away = False
    async with running(spool, database):
        await drained(spool)
    assert database.names == ["right"]
    assert refused.collect()[0].samples[0].value == 1


@pytest.mark.parametrize("most_bytes", [0, 10_000])
async def test_without_a_spool_the_client_hears_of_the_database(
    a_spool: MakeSpool, tmp_path: Path, most_bytes: int
) -> None:
    """There is none where none is wanted, or where nothing can be written."""
    folder = tmp_path / "a file"
    folder.touch()
    spool, database = a_spool(folder, most_bytes), Database()
    database.away = True
    with pytest.raises(psycopg.OperationalError):
        await put(spool, database, "lost")
    await spool.close()


async def test_what_people_wrote_is_for_its_owner_only(a_spool: MakeSpool, tmp_path: Path) -> None:
    a_spool()
    assert [mode & 0o077 for mode in modes(tmp_path)] == [0]
