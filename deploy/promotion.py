"""`hearken promote`: serving is asked through the registry, for only serving can load and prove a policy."""

import asyncio
import time
from typing import cast

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import PolicyRejected, Reason, Unavailable
from serving import rollout

_PATIENCE = 120.0  # seconds; longer than an engine takes to start and to prove what it has not loaded
_POLL = 0.1  # seconds


async def promote(
    connection: AsyncConnection[DictRow], project: str, policy: str, patience: float = _PATIENCE
) -> None:
    """Returns when `policy` answers everybody.

    Raises as `rollout.ask`; PolicyRejected when the engines did not prove it; Unavailable when that did not
    happen in `patience` seconds, and then nobody asks for it any more.
    """
    await connection.set_autocommit(True)
    await rollout.ask(connection, project, policy)
    deadline = time.monotonic() + patience
    while True:
        cursor = await connection.execute(
            "select reason, asked_at, live from policies join routes using (project)"
            " where project = %s and id = %s",
            [project, policy],
        )
        row = await cursor.fetchone()
        if row is None or row["live"] == policy:
            return
        if row["asked_at"] is None:
            if row["reason"] is None:  # it went live, and gave way to the next one already
                return
            raise PolicyRejected(
                f"{policy} was refused ({row['reason']}); serving's log says more.",
                policy=policy,
                reason=cast(Reason, row["reason"]),
            )
        if time.monotonic() > deadline and await rollout.withdraw(connection, project, policy):
            raise Unavailable(
                f"No serving process made {policy} live in {patience:.0f} s, and it is asked for no more. "
                "Does one run, and does its /readyz say that it is ready?"
            )
        await asyncio.sleep(_POLL)
