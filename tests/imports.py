"""Tests of imports share these: files of rows, and what is exported again."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from feedback.export import Shape, rows
from feedback.layouts import Layout
from schemas.database import AsyncPool


def write(path: Path, found: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(found), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


async def exported(pool: AsyncPool, layout: Layout, shape: Shape | None = None) -> list[dict[str, Any]]:
    async with pool.connection() as connection:
        return [row async for row in rows(connection, "default", layout, shape)]


def given_columns(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the columns that it leaves empty, which a table has all the same."""
    return {name: value for name, value in row.items() if value is not None}
