"""Imported data sets export unchanged; broken rows are reported, and a repeated import changes nothing."""

import json
import random
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest
import torch

from deploy.datasets.import_votes import MAX_REPORTED_ROWS, ImportReport, import_file
from deploy.datasets.row_files import read_file
from feedback.export import rows
from feedback.layouts import Layout
from feedback.open_log import open_log
from feedback.row_writer import write_rows
from feedback.store import Store
from schemas.database import AsyncPool, Pool
from schemas.feedback import parse_vote
from schemas.settings import Settings
from tests.imports import exported, given_columns, write
from tests.training import WORDS
from tests.unit.test_app_exports import ONE as REPLY
from tests.unit.test_app_exports import USER as OF_USER
from tests.unit.test_app_exports import battle, feedback
from tests.voting import a_turn
from trainer.data import examples
from trainer.data.feature_cache import FeatureCache
from trainer.data.ingest import ingest
from trainer.model.backbone import Backbone
from trainer.model.tokenizer import ChatTokenizer
from trainer.reward.ensemble import fit
from trainer.reward.projection import BaseFeatures

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


@pytest.mark.parametrize("layout", list(SETS))
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
async def test_an_imported_data_set_exports_unchanged(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, layout: Layout, ending: str
) -> None:
    file = write(tmp_path / f"rows.{ending}", SETS[layout])
    assert await import_file(settings, file, "somebody") == ImportReport(12)
    assert await exported(async_pool, layout) == SETS[layout]

    again = tmp_path / f"again.{ending}"
    async with async_pool.connection() as connection:
        await write_rows(rows(connection, "default", layout), again)
    assert [given_columns(row.value) for row in read_file(again)] == SETS[layout]


async def test_exports_of_applications_keep_their_people_models_and_reasons(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "feedback.json"
    rows = [feedback(OF_USER, REPLY, reason="too_short", comment="How?"), feedback(OF_USER, REPLY, rating=3)]
    file.write_text(json.dumps([*rows, {**rows[0], "user_id": "user-8"}]))
    report = await import_file(settings, file, "somebody")
    assert (report.imported, report.left_out) == (2, 1)
    assert report.layout is not None
    assert "Open WebUI" in report.layout
    await import_file(settings, write(tmp_path / "arena.jsonl", [battle("tie (bothbad)")]), "somebody")
    async with async_pool.connection() as connection:
        cursor = await connection.execute(
            "select f.type, f.value, f.comment, f.rater, t.metadata from feedback f"
            " join turns t on t.id = f.turn_id order by f.type desc, f.rater"
        )
        first, second, ranking = await cursor.fetchall()
    assert first["value"] == {"value": "up", "reasons": ["too_short"]}
    assert (first["comment"], first["metadata"]) == ("How?", {"model": "llama3:8b"})
    assert first["rater"] != second["rater"]
    assert (ranking["value"], ranking["metadata"]) == (
        {"ranking": [[0, 1]], "acceptable": False},
        {"model": "one two"},
    )


async def test_a_judges_votes_would_come_back_as_a_persons_and_are_left_out(async_pool: AsyncPool) -> None:
    store = Store(async_pool)
    turn = a_turn("chatcmpl-1", replies=("fine", "awful"))
    await store.record_turn(turn)
    for choice, rater in enumerate(("judge:wise", turn.rater)):
        votable = await store.votable_turn(turn.id)
        assert votable is not None
        vote = parse_vote({"completion_id": turn.id, "type": "thumb", "choice": choice, "value": "up"})
        await store.submit(votable, vote, rater)
    for layout in ("unpaired", "prompt-completion"):
        assert [row["completion"][0]["content"] for row in await exported(async_pool, layout)] == ["awful"]


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


async def test_a_dry_run_says_what_would_be_imported(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", [*GOOD, {"prompt": "x"}])
    report = await import_file(settings, file, "somebody", dry_run=True)
    assert (report.imported, report.left_out) == (12, 1)
    assert report.layout == "prompt-completion; the prompt is `prompt`"
    assert await exported(async_pool, "prompt-completion") == []


async def test_a_column_that_rates_is_no_silent_thumb_up(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    rated = [{**row, "rating": number % 5 + 1} for number, row in enumerate(GOOD)]
    file = write(tmp_path / "rows.jsonl", rated)
    assert (await import_file(settings, file, "somebody")).imported == 0
    assert (await import_file(settings, file, "somebody", threshold=4)).imported == 12
    labels = [row["label"] for row in await exported(async_pool, "unpaired")]
    assert labels == [number % 5 + 1 >= 4 for number in range(12)]


async def test_a_row_far_beyond_the_context_costs_nothing(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChatTokenizer, "render", lambda *_: pytest.fail("it was tokenized"))
    file = write(tmp_path / "rows.jsonl", [{"prompt": "tea " * 1_000_000, "completion": "No."}])
    [(_, reason)] = (await import_file(settings, file, "somebody")).refused
    assert "4,000,003 bytes" in reason


async def test_broken_rows_are_named_and_the_others_taken(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    lines = [json.dumps(row) for row in UNPAIRED]
    lines[3] = lines[3][:-4]
    lines[5] = json.dumps({**UNPAIRED[5], "label": "yes"})
    lines[7] = json.dumps({**UNPAIRED[7], "prompt": [{"role": "user", "content": "word " * 300}]})
    lines[9] = "[" * 100_000
    lines[11:] = ["", " ", lines[11], ""]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines))
    report = await import_file(settings, file, "somebody")
    assert (report.imported, report.left_out, report.complete) == (8, 4, False)
    assert [row for row, _ in report.refused] == [4, 6, 8, 10]
    reasons = [reason for _, reason in report.refused]
    assert reasons[:2] == ["it is not JSON", "label must be true or false"]
    assert "context is 256" in reasons[2]
    assert reasons[3] == "it is nested too deeply"
    assert await exported(async_pool, "unpaired") == [
        row for number, row in enumerate(UNPAIRED, 1) if number not in (4, 6, 8, 10)
    ]


async def test_what_the_bases_template_refuses_is_a_broken_row(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, tiny_base: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "base")
    template = base / "chat_template.jinja"
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(no_system + template.read_text())
    system = {"role": "system", "content": "Be brief."}
    found = [{**row, "prompt": [system, *row["prompt"]]} if number == 2 else row
             for number, row in enumerate(UNPAIRED)]  # fmt: skip
    settings = settings.model_copy(update={"model": str(base)})
    report = await import_file(settings, write(tmp_path / "rows.jsonl", found), "somebody")
    assert report == ImportReport(11, 1, [(3, "the base's chat template refuses it: no system role")])


async def test_of_a_file_that_is_damaged_half_way_what_was_read_counts(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    found = [{"prompt": f"Say {number}", "completion": f"{number}, gladly."} for number in range(200)]
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), file, row_group_size=64)
    damaged = pyarrow.parquet.read_metadata(file).row_group(2).column(0)
    whole = bytearray(file.read_bytes())
    begin = damaged.dictionary_page_offset
    whole[begin : begin + damaged.total_compressed_size] = b"\xff" * damaged.total_compressed_size
    file.write_bytes(whole)
    report = await import_file(settings, file, "somebody")
    assert (report.imported, report.left_out, report.complete) == (128, 0, False)
    assert report.broken_off is not None
    assert "damaged after row 128" in report.broken_off
    assert await exported(async_pool, "prompt-completion") == found[:128]


async def test_a_file_of_nothing_but_broken_rows_takes_no_memory(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    peaks = []
    for count in (200, 20_000):
        file = write(tmp_path / "rows.jsonl", [{"text": "a" * 500}] * count)
        tracemalloc.start()
        report = await import_file(settings, file, "somebody")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (report.left_out, len(report.refused)) == (count, MAX_REPORTED_ROWS)
    assert peaks[1] < peaks[0] + 2**20 < file.stat().st_size


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
async def test_progress_is_shown_and_ends_with_the_file(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, ending: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = write(tmp_path / f"rows.{ending}", GOOD)
    behind = [row.bytes_read for row in read_file(file)]
    assert 0 < behind[0] < behind[-1] == file.stat().st_size
    assert behind == sorted(behind)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    await import_file(settings, file, "somebody")
    shown = capsys.readouterr().err
    assert file.name in shown
    assert "100%" in shown


async def test_rows_share_transactions_and_what_is_missing_is_added(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD)
    await import_file(settings, file, "somebody")
    async with async_pool.connection() as connection:
        cursor = await connection.execute("select count(distinct xmin::text) as shared from turns_undated")
        assert await cursor.fetchone() == {"shared": 1}
        await connection.execute("delete from feedback where id in (select id from feedback limit 5)")
    assert await import_file(settings, file, "somebody") == ImportReport(12)
    assert sorted(map(str, await exported(async_pool, "prompt-completion"))) == sorted(map(str, GOOD))


async def test_the_trainer_learns_from_what_was_imported(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, pool: Pool, backbone: Backbone
) -> None:
    for layout, found in SETS.items():
        await import_file(settings, write(tmp_path / f"{layout}.jsonl", found), layout)
    assert ingest(pool, open_log(settings, pool)) == 36
    corpus = examples.load(pool, "default", backbone, examples.active_events(pool, "default"))
    votes, _ = corpus.votes(corpus.examples, settings.trainer.reward)
    assert (votes.count, votes.raters) == (36, 3)
    assert len(corpus.pairs((example, 1.0) for example in corpus.examples)) == 12


async def test_a_preference_is_learned_from_imported_pairs(
    async_pool: AsyncPool, settings: Settings, tmp_path: Path, pool: Pool, backbone: Backbone
) -> None:
    """Replies with one word in them are liked, in nine pairs of ten. That what is liked always comes first
    in a file is no pull of the first place."""
    rng = random.Random(1)

    def words(*some: str) -> str:
        return " ".join([*rng.choices(WORDS, k=3), *some, *rng.choices(WORDS, k=3)])

    pairs = []
    for number in range(160):
        replies = [words("purple"), words()]
        chosen, rejected = replies if number % 10 else replies[::-1]
        pairs.append({"prompt": words(), "chosen": chosen, "rejected": rejected})
    await import_file(settings, write(tmp_path / "rows.jsonl", pairs), "somebody")
    ingest(pool, open_log(settings, pool))
    corpus = examples.load(pool, "default", backbone, examples.active_events(pool, "default"))
    cache = FeatureCache(backbone)
    cache.update(corpus)
    votes, keys = corpus.votes(corpus.examples[:120], settings.trainer.reward)
    features = cache.features(keys)
    model = fit(
        features, votes, BaseFeatures(features, 2), settings.trainer.reward, torch.Generator().manual_seed(0)
    )
    assert [float(member.nuisance.position) for member in model.members] == pytest.approx([0] * 5, abs=1e-6)
    fresh = [example for number, example in enumerate(corpus.examples) if number >= 120 and number % 10]
    better, worse = (
        model.reward(cache.features([each.reply_keys[place] for each in fresh])) for place in (0, 1)
    )
    assert float((better > worse).float().mean()) > 0.8


async def test_votes_of_people_are_rows_too(async_pool: AsyncPool) -> None:
    store = Store(async_pool)
    turn = a_turn("chatcmpl-1", replies=("Rome.", "Paris!", "Paris."))
    await store.record_turn(turn)
    votable = await store.votable_turn(turn.id)
    assert votable is not None
    for vote in (
        {"type": "ranking", "ranking": [[1, 2], [0]]},
        {"type": "edit", "choice": 0, "text": "Paris, of course."},
        {"type": "thumb", "choice": 2, "value": "up"},
        {"type": "thumb", "choice": 0, "value": "up"},
        {"type": "thumb", "choice": 0, "value": "down"},
    ):
        await store.submit(votable, parse_vote({"completion_id": turn.id, **vote}), "u_ada")

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
