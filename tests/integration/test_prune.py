"""Old policies lose their files by rule, and serving never promotes one of them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from schemas.database import Pool
from schemas.errors import Conflict, NotFound
from schemas.policies import MANIFEST, WEIGHTS
from schemas.settings import Settings
from serving import rollout
from trainer.records import prune
from trainer.reproduce import NotReproducible, reproduce

FILES = {MANIFEST, WEIGHTS, "rollouts.safetensors", "base_samples.safetensors", "inputs.json"}
Connection = AsyncConnection[DictRow]


@pytest.fixture
def settings(database_url: str, tmp_path: Path, tiny_base: Path) -> Settings:
    """Ten policies, each trained from the one before. The last is live; the newest three are kept."""
    found = Settings(database_url=database_url, data_dir=tmp_path, model=str(tiny_base))
    found.trainer.keep_policies = 3
    with psycopg.connect(database_url) as connection:
        for number in range(11):
            directory = tmp_path / "policies" / "default" / f"p{number}"
            directory.mkdir(parents=True)
            for name in FILES:
                (directory / name).write_text(name)
            connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state,"
                " created_at, live_at) values ('default', %s, %s, '', %s, '', '{}', %s,"
                " now() + %s * interval '1 minute', now())",
                [
                    f"p{number}", f"p{number - 1}" if number else None, str(directory),
                    "live" if number == 10 else "retired", number,
                ],
            )  # fmt: skip
        connection.execute("insert into routes (project, live, previous) values ('default', 'p10', 'p9')")
    return found


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        yield connection


def kept(settings: Settings) -> set[int]:
    """Returns the policies that have all their files. The others have their manifest only."""
    found = set()
    for directory in (settings.policies_dir / "default").iterdir():
        names = {path.name for path in directory.iterdir()}
        assert names in (FILES, {MANIFEST})
        if names == FILES:
            found.add(int(directory.name[1:]))
    return found


def change(pool: Pool, statement: str) -> None:
    with pool.connection() as connection:
        connection.execute(statement.encode())


def test_the_newest_and_their_parents_are_kept(settings: Settings, pool: Pool) -> None:
    assert prune.prune(pool, settings) == [f"p{number}" for number in range(1, 7)]
    assert kept(settings) == {0, 7, 8, 9, 10}
    assert prune.prune(pool, settings) == []


def test_what_the_gate_refused_takes_no_other_policys_place(settings: Settings, pool: Pool) -> None:
    refused = [f"p{number}" for number in (3, 5, 6, 8)]
    with pool.connection() as connection:
        connection.execute(
            "update policies set parent = 'p0', state = 'rejected', gate = '{\"outcome\": \"refused\"}'"
            " where id = any(%s)",
            [refused],
        )
        connection.execute(
            "insert into refused_candidates select 'default', id, '{}' from unnest(%s::text[]) as id",
            [refused],
        )
    assert prune.prune(pool, settings) == ["p1", "p2", "p3", "p4"]
    assert kept(settings) == {0, 5, 6, 7, 8, 9, 10}
    with pool.connection() as connection:
        left = connection.execute("select policy from refused_candidates order by policy").fetchall()
    assert [row["policy"] for row in left] == ["p5", "p6", "p8"], "the other cannot be brought back any more"


@pytest.mark.parametrize(
    "statement",
    [
        "update policies set pinned_at = now() where id = 'p3'",
        "update policies set asked_at = now() where id = 'p3'",
        "update policies set state = 'canary' where id = 'p3'",
        "update routes set canary = 'p3'",
        "update routes set previous = 'p3'",
        "update routes set live = 'p3'",
    ],
)
def test_a_policy_in_use_is_kept_with_its_parent(settings: Settings, pool: Pool, statement: str) -> None:
    change(pool, statement)
    prune.prune(pool, settings)
    assert kept(settings) == {0, 2, 3, 7, 8, 9, 10}


def test_a_pass_is_bounded(settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "PER_PASS", 4)
    assert prune.prune(pool, settings) == ["p1", "p2", "p3", "p4"]
    assert prune.prune(pool, settings) == ["p5", "p6"]


def fail(after: int) -> Callable[[Path], None]:
    """Returns a deletion that fails after so many."""
    delete, calls = prune._delete_files, iter(range(100))

    def failing(directory: Path) -> None:
        if next(calls) >= after:
            raise PermissionError(directory)
        delete(directory)

    return failing


def test_a_deletion_that_fails_is_repeated(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prune, "_delete_files", fail(after=2))
        assert prune.prune(pool, settings) == ["p1", "p2"]
    (settings.policies_dir / "default" / "p3" / WEIGHTS).unlink()  # half way through, as by a kill
    assert prune.prune(pool, settings) == ["p3", "p4", "p5", "p6"]
    assert kept(settings) == {0, 7, 8, 9, 10}


def test_while_the_route_is_locked_nothing_is_pruned(
    settings: Settings, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "LOCK_TIMEOUT", "50ms")
    with psycopg.connect(database_url) as other:
        other.execute("select from routes for update")
        assert prune.prune(pool, settings) == []
    assert len(prune.prune(pool, settings)) == 6


async def test_a_pruned_policy_is_never_promoted(
    settings: Settings, pool: Pool, connection: Connection
) -> None:
    prune.prune(pool, settings)
    for refused in (
        rollout.promote(connection, "default", "p3"),
        rollout.request_promotion(connection, "default", "p3"),
        rollout.set_pinned(connection, "default", "p3", True),
    ):
        with pytest.raises(Conflict, match=r"p3 was pruned on 20.*only its manifest is kept") as refusal:
            await refused
        assert refusal.value.code == "policy_pruned"
    with pytest.raises(Conflict, match="p3 was pruned"):
        await rollout.start_canary(connection, "default", "p3", 0.5)


async def test_rollbacks_end_at_the_base_and_not_at_a_pruned_policy(
    settings: Settings, pool: Pool, connection: Connection
) -> None:
    prune.prune(pool, settings)
    lives = [(await rollout.rollback(connection, "default", "rude")).live for _ in range(4)]
    assert lives == ["p9", "p8", "p7", "p0"]


async def test_a_pinned_policy_is_pruned_once_it_is_unpinned(
    settings: Settings, pool: Pool, connection: Connection
) -> None:
    await rollout.set_pinned(connection, "default", "p3", True)
    prune.prune(pool, settings)
    assert kept(settings) == {0, 2, 3, 7, 8, 9, 10}
    await rollout.set_pinned(connection, "default", "p3", False)
    assert prune.prune(pool, settings) == ["p2", "p3"]
    with pytest.raises(NotFound, match="no policy p99"):
        await rollout.set_pinned(connection, "default", "p99", True)


def test_a_pruned_policy_is_not_reproduced(settings: Settings, pool: Pool) -> None:
    prune.prune(pool, settings)
    with pytest.raises(NotReproducible, match="p3 was pruned on 20"):
        reproduce(settings, pool, "p3")
