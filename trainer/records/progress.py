"""The progress of a running round is a column of its row, for the console and the command line."""

from datetime import UTC, datetime

import psycopg
import structlog
from psycopg.types.json import Jsonb

from schemas.database import Pool
from schemas.times import rfc3339
from trainer.model.progress import Report
from trainer.records.record import RoundRow

log = structlog.get_logger("trainer")


def recorded(pool: Pool, row: RoundRow) -> Report:
    """Returns a report that is written to the round's row. A database that is away does not stop a round."""

    def report(phase: str, done: int, steps: int) -> None:
        progress = {"phase": phase, "done": done, "steps": steps, "at": rfc3339(datetime.now(UTC))}
        try:
            with pool.connection() as connection:
                connection.execute(
                    "update rounds set progress = %s where id = %s and outcome = 'running'",
                    [Jsonb(progress), row.id],
                )
        except psycopg.OperationalError as error:
            log.warning("progress is not recorded", error=type(error).__name__)

    return report
