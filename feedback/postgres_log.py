"""The transactional outbox is the default log: its table is read in order, without a broker.

Postgres assigns ids before commit, so a reader that went by id alone would skip events that commit late. Rows
are read in the order (xid, id), and only below `pg_snapshot_xmin`: every transaction below it has ended, so
no row can appear there later. The cost: one long writing transaction anywhere in the server delays the log
until it ends.

In another cluster, after dump and restore, transaction ids start again: `schemas.database` handles that.
"""

from feedback.log import Entry, read_event
from feedback.trim import trim_in_batches
from schemas.database import Pool

_READ = """
select xid::text || ':' || id as position, event::text
from outbox
where xid < pg_snapshot_xmin(pg_current_snapshot()) and (xid, id) > (%s::xid8, %s::bigint)
order by xid, id
limit %s
"""

# Positions compare as numbers, not as text. While the trainer has no position, nothing is removed.
_TRIM = """
with consumers as (
    select consumer, split_part(position, ':', 1)::xid8 as xid, split_part(position, ':', 2)::bigint as id
    from consumer_offsets where log = %(log)s
), slowest as (
    select xid, id from consumers
    where exists (select from consumers where consumer = 'trainer')
    order by xid, id limit 1
)
delete from outbox where id in (
    select outbox.id from outbox, slowest where (outbox.xid, outbox.id) <= (slowest.xid, slowest.id)
    order by outbox.xid, outbox.id limit %(most)s
)
"""


class PostgresLog:
    """A log of one partition over the table `outbox`. A position is "xid:id". The caller owns the pool."""

    name = "postgres"

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def partitions(self) -> list[int]:
        return [0]

    def read(self, partition: int, after: str | None, limit: int) -> list[Entry]:
        xid, _, row_id = (after or "0:0").partition(":")
        with self._pool.connection() as connection:
            rows = connection.execute(_READ, [xid, row_id, limit]).fetchall()
        return [Entry(partition, row["position"], read_event(row["event"])) for row in rows]

    def trim(self) -> int:
        return trim_in_batches(self._pool, _TRIM, {"log": self.name})

    def close(self) -> None:
        pass
