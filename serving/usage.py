"""Usage counts what each key asks for, by day: in memory, added to the database every few seconds, so no
request waits for it. What a process that is killed had not added yet, a few seconds of counts, is lost."""

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import LiteralString

import psycopg
from psycopg_pool import PoolTimeout

from schemas.database import AsyncPool
from serving.keys import Caller
from serving.metrics import Metrics

COUNTED = ("chats", "votes", "requests", "refused", "prompt_tokens", "completion_tokens")
"""What is counted: replies asked for, votes, other requests, what a limit refused, and tokens."""

_INTERVAL = 5.0  # seconds between two additions to the database

# In the order of the key, so that replicas do not wait for each other in a circle.
_ADD: LiteralString = """
insert into key_usage as known
    (project, day, key_id, chats, votes, requests, refused, prompt_tokens, completion_tokens)
select k.project, day, k.id, chats, votes, requests, refused, prompt_tokens, completion_tokens
from unnest(%s::text[], %s::date[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::bigint[])
    as own (id, day, chats, votes, requests, refused, prompt_tokens, completion_tokens)
    join keys k on k.id = own.id
order by k.project, day, k.id
on conflict (project, day, key_id) do update set
    chats = known.chats + excluded.chats, votes = known.votes + excluded.votes,
    requests = known.requests + excluded.requests, refused = known.refused + excluded.refused,
    prompt_tokens = known.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = known.completion_tokens + excluded.completion_tokens
"""


class Usage:
    """The counts of this process that are not in the database yet."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counts: dict[tuple[str, date], Counter[str]] = {}  # by key and day

    def count(self, caller: Caller, **counts: int) -> None:
        """Adds counts, named as in COUNTED, to those of the caller's key today."""
        own = self._counts.setdefault((caller.key_id, datetime.now(UTC).date()), Counter())
        own.update(counts)
        for name, count in counts.items():
            self._metrics.key_usage.labels(caller.project, caller.key_id, name).inc(count)

    async def run(self, pool: AsyncPool) -> None:
        """Adds the counts to the database until cancelled. While it is away they wait."""
        while True:
            await asyncio.sleep(_INTERVAL)
            with suppress(psycopg.OperationalError, PoolTimeout):
                await self.flush(pool)

    async def flush(self, pool: AsyncPool) -> None:
        """Adds the counts so far. Raises psycopg.OperationalError and PoolTimeout, and keeps them then."""
        adding, self._counts = self._counts, {}
        if not adding:
            return
        columns = [[counts[name] for counts in adding.values()] for name in COUNTED]
        ids, days = [key for key, _ in adding], [day for _, day in adding]
        try:
            async with pool.connection() as connection:
                await connection.execute(_ADD, [ids, days, *columns])
        except BaseException:
            for where, counts in adding.items():
                self._counts.setdefault(where, Counter()).update(counts)
            raise
