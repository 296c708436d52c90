"""Files of rows are read by what they are, whatever their name, and written whole or not at all."""

import asyncio
import csv
import gzip
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from deploy.datasets.row_files import FileDamaged, files_in, read_file
from feedback.row_writer import write_rows
from schemas.errors import StartError

GOOD = [{"prompt": f"Say {number}", "completion": f"{number}, gladly."} for number in range(12)]


async def given(found: list[dict[str, Any]], broken: bool = False) -> AsyncIterator[dict[str, Any]]:
    for row in found:
        yield row
    if broken:
        raise ConnectionError


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    with pytest.raises(ConnectionError):
        asyncio.run(write_rows(given(GOOD * 200, broken=True), path))
    assert list(tmp_path.iterdir()) == []
    asyncio.run(write_rows(given([]), path))
    assert [row.value for row in read_file(path)] == []
    asyncio.run(write_rows(given(GOOD), path))
    with pytest.raises(ConnectionError):
        asyncio.run(write_rows(given(GOOD * 200, broken=True), path))
    assert [row.value for row in read_file(path)] == GOOD
    (tmp_path / f".{path.name}.left{path.suffix}").write_text("by a process that was killed")
    asyncio.run(write_rows(given(GOOD), path))
    assert list(tmp_path.iterdir()) == [path]


def in_every_form(directory: Path, found: list[dict[str, Any]]) -> list[Path]:
    """The same rows in files of every kind, some of which are not what their name says."""
    lines = "".join(json.dumps(row) + "\n" for row in found).encode()
    table = pyarrow.Table.from_pylist(found)
    contents = {
        "a.jsonl": lines,
        "b.json": json.dumps(found).encode(),
        "c.jsonl.gz": gzip.compress(lines),
        "d.txt": lines,
        "e.JSON": b"\xef\xbb\xbf" + json.dumps(found, indent=1).encode(),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    with pyarrow.CompressedOutputStream(str(directory / "f.jsonl.zst"), "zstd") as compressed:
        compressed.write(lines)
    for name in ("g.PARQUET", "h.pq", "i.jsonl"):
        pyarrow.parquet.write_table(table, directory / name)
    with pyarrow.ipc.new_file(directory / "j.arrow", table.schema) as writer:
        writer.write_table(table)
    with (directory / "k.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, found[0].keys())
        writer.writeheader()
        writer.writerows(found)
    return sorted(directory.iterdir())


def read_all(path: Path) -> list[Any]:
    return [row.value for file in files_in([path]) for row in read_file(file)]


def test_a_file_is_read_by_what_it_is(tmp_path: Path) -> None:
    found = [
        {"prompt": f"Say {number}", "chosen": f'"{number}",\n🙂', "rejected": "No."} for number in range(5)
    ]
    for file in in_every_form(tmp_path, found):
        read = list(read_file(file))
        assert [row.value for row in read] == found, file
        assert [row.number for row in read][:2] == [1, 2]
        assert 0 <= read[0].bytes_read <= read[-1].bytes_read <= file.stat().st_size
    assert [file.name for file in files_in([tmp_path])] == [
        name.name for name in sorted(tmp_path.iterdir()) if name.name != "d.txt"
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        ("a.parquet", b'{"prompt": "x"}\n', "not a Parquet or Arrow file"),
        ("a.parquet", b"PAR1 and nothing else", "not a Parquet file"),
        ("a.jsonl", b"prompt,completion\nHi,Hello\n", "neither JSON Lines.*ends in .csv"),
        ("a.json", b'[{"prompt": "x"},', "not a JSON array"),
        ("folder/a.txt", b"x", "no files of rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_error(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with pytest.raises(StartError, match=reason):
        read_all(file.parent if "/" in name else file)


@pytest.mark.parametrize("damaged", ["head", "body"])
def test_what_an_arrow_file_held_before_its_damage_is_read(tmp_path: Path, damaged: str) -> None:
    path, table = tmp_path / "rows.arrow", pyarrow.Table.from_pylist(GOOD)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write(table)
        begin = file.tell()
        writer.write(table)
        end = file.tell()
    at = slice(begin, begin + 100) if damaged == "head" else slice(end - 100, end)
    content = bytearray(path.read_bytes())
    content[at] = b"\xff" * 100
    path.write_bytes(content)
    read = read_file(path)
    assert [next(read).value for _ in GOOD] == GOOD
    with pytest.raises(FileDamaged, match=f"{path} is damaged after row 12"):
        next(read)


def test_what_a_damaged_archive_held_before_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl.gz"
    lines = "".join(json.dumps({"prompt": random.Random(n).randbytes(99).hex()}) + "\n" for n in range(500))
    file.write_bytes(gzip.compress(lines.encode())[:-20])
    read = read_file(file)
    assert next(read).number == 1
    with pytest.raises(FileDamaged, match="damaged"):
        list(read)


def test_a_parquet_file_is_read_as_it_goes(tmp_path: Path) -> None:
    found = [{"text": random.Random(number).randbytes(500).hex()} for number in range(20_000)]
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), file, row_group_size=500)
    before, most, number = pyarrow.total_allocated_bytes(), 0, 0
    for number, row in enumerate(read_file(file), 1):
        assert (row.number, row.value) == (number, found[number - 1])
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert number == len(found)
    assert most < file.stat().st_size / 5
