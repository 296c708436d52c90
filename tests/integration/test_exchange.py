"""Data sets go in as votes and come out as they were; broken rows are named, and nothing counts twice."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from deploy.exchange import Report, import_file, write_file
from feedback.export import rows
from feedback.layouts import Layout
from feedback.log import open_log
from feedback.store import Store
from schemas.database import AsyncPool, Pool
from schemas.feedback import parse_vote
from schemas.settings import Settings
from tests.voting import a_turn
from trainer import examples
from trainer.backbone import Backbone
from trainer.ingest import ingest

PREFERENCES = [
    {"prompt": f"What is {number} plus 2?", "chosen": f"It is {number + 2}.", "rejected": "Go away."}
    for number in range(12)
]
UNPAIRED = [
    {
        "prompt": [{"role": "user", "content": f"Say {number}"}],
        "completion": [{"role": "assistant", "content": f"{number} 🙂"}],
        "label": number % 2 == 0,
    }
    for number in range(12)
]
GOOD = [{"prompt": f"Say {number}", "completion": f"{number}, gladly."} for number in range(12)]
SETS: dict[Layout, list[dict[str, Any]]] = {
    "preference": PREFERENCES, "unpaired": UNPAIRED, "prompt-completion": GOOD,
}  # fmt: skip


@pytest.fixture
def settings(database_url: str, tiny_base: Path) -> Settings:
    return Settings(database_url=database_url, model=str(tiny_base))


def write(path: Path, found: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


async def exported(pool: AsyncPool, layout: Layout) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return [row async for row in rows(connection, "default", layout)]


@pytest.mark.parametrize("layout", list(SETS))
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
async def test_what_went_in_comes_out(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, layout: Layout, ending: str
) -> None:
    file = write(tmp_path / f"rows.{ending}", SETS[layout])
    assert await import_file(settings, file, "somebody") == Report(12, [])
    assert await exported(async_pool, layout) == SETS[layout]

    again = tmp_path / f"again.{ending}"
    async with async_pool.connection() as connection:
        await write_file(rows(connection, "default", layout), again)
    if ending == "parquet":
        assert pyarrow.parquet.read_table(again).to_pylist() == SETS[layout]
    else:
        assert [json.loads(line) for line in again.read_text().splitlines()] == SETS[layout]


async def test_a_file_that_is_imported_again_counts_once(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    half = write(tmp_path / "rows.jsonl", PREFERENCES[:5])
    await import_file(settings, half, "somebody")  # as if it had been cut off
    whole = write(tmp_path / "rows.jsonl", PREFERENCES)
    await import_file(settings, whole, "somebody")
    async with async_pool.connection() as connection:  # as keys are after a week
        await connection.execute("delete from idempotency")
    await import_file(settings, whole, "somebody")
    assert await exported(async_pool, "preference") == PREFERENCES
    async with async_pool.connection() as connection:
        cursor = await connection.execute("select count(*) as votes from feedback")
        assert await cursor.fetchone() == {"votes": 12}


async def test_broken_rows_are_named_and_the_others_taken(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    lines = [json.dumps(row) for row in UNPAIRED]
    lines[3] = lines[3][:-4]
    lines[5] = json.dumps({**UNPAIRED[5], "label": "yes"})
    lines[7] = json.dumps({**UNPAIRED[7], "prompt": "word " * 300})
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines))
    report = await import_file(settings, file, "somebody")
    assert report.imported == 9
    assert [row for row, _ in report.refused] == [4, 6, 8]
    assert [reason for _, reason in report.refused][:2] == ["it is no JSON", "label must be true or false"]
    assert "context is 256" in report.refused[2][1]
    assert await exported(async_pool, "unpaired") == [
        row for number, row in enumerate(UNPAIRED, 1) if number not in (4, 6, 8)
    ]


async def test_the_trainer_learns_from_what_was_imported(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, pool: Pool, backbone: Backbone
) -> None:
    for layout, found in SETS.items():
        await import_file(settings, write(tmp_path / f"{layout}.jsonl", found), layout)
    assert ingest(pool, open_log(settings, pool)) == 36
    corpus = examples.load(pool, "default", backbone, examples.standing(pool, "default"))
    votes, _ = corpus.votes(corpus.examples, settings.trainer.reward)
    assert (votes.count, votes.raters) == (36, 3)
    assert len(corpus.pairs((example, 1.0) for example in corpus.examples)) == 12


async def test_votes_of_people_are_rows_too(async_pool: AsyncPool) -> None:
    store = Store(async_pool)
    turn = a_turn("chatcmpl-1", replies=("Rome.", "Paris!", "Paris."))
    await store.record_turn(turn)
    ballot = await store.ballot(turn.id)
    assert ballot is not None
    for vote in (
        {"type": "ranking", "ranking": [[1, 2], [0]]},
        {"type": "edit", "choice": 0, "text": "Paris, of course."},
        {"type": "thumb", "choice": 2, "value": "up"},
        {"type": "thumb", "choice": 0, "value": "up"},
        {"type": "thumb", "choice": 0, "value": "down"},
    ):
        await store.submit(ballot, parse_vote({"completion_id": turn.id, **vote}), "u_ada")

    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    found = await exported(async_pool, "preference")
    assert [(row["chosen"], row["rejected"]) for row in found] == [
        (said("Paris!"), said("Rome.")),
        (said("Paris."), said("Rome.")),
        (said("Paris, of course."), said("Rome.")),
    ]
    assert [row["prompt"] for row in found] == [turn.messages] * 3
    found = await exported(async_pool, "unpaired")
    assert [(row["completion"], row["label"]) for row in found] == [
        (said("Paris."), True), (said("Rome."), False),
    ]  # fmt: skip
    found = await exported(async_pool, "prompt-completion")
    assert [row["completion"] for row in found] == [said("Paris, of course."), said("Paris.")]
