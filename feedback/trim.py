"""Consumed events leave the outbox in small batches, so that no vote waits for a long transaction."""

from collections.abc import Mapping
from typing import LiteralString

from schemas.database import Pool

BATCH = 5_000
"""Events that one transaction removes."""


def trim_in_batches(pool: Pool, statement: LiteralString, values: Mapping[str, object]) -> int:
    """Runs a statement that removes at most `most` events until it removes fewer; returns how many went."""
    removed = 0
    while True:
        with pool.connection() as connection:
            count = connection.execute(statement, {**values, "most": BATCH}).rowcount
        removed += count
        if count < BATCH:
            return removed
