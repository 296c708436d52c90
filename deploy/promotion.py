"""`hearken promote` requests a promotion in the registry: only serving can load and verify a policy."""

import asyncio
import time
from typing import cast

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from schemas.errors import PolicyRejected, Reason, Unavailable
from serving import rollout

_TIMEOUT = 120.0  # seconds; longer than an engine takes to start and to verify a policy it has not loaded
_POLL = 0.1  # seconds


async def promote(
    connection: AsyncConnection[DictRow],
    project: str,
    policy: str,
    reason: str | None = None,
    *,
    seconds: float = _TIMEOUT,
) -> None:
    """Requests the promotion and waits until `policy` is live.

    Raises what `rollout.request_promotion` raises; PolicyRejected if verification failed on the engines;
    Unavailable after `seconds`, when it cancels the request.
    """
    await connection.set_autocommit(True)
    await rollout.request_promotion(connection, project, policy, reason)
    deadline = time.monotonic() + seconds
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
            if row["reason"] is None:  # it went live, and another one has replaced it
                return
            raise PolicyRejected(
                f"{policy} was refused ({row['reason']}). See the log of serving.",
                policy=policy,
                reason=cast(Reason, row["reason"]),
            )
        if time.monotonic() > deadline and await rollout.cancel_request(connection, project, policy):
            raise Unavailable(
                f"No serving process made {policy} live in {seconds:.0f} s. The request is cancelled. "
                "Check that one runs and that its /readyz answers 200."
            )
        await asyncio.sleep(_POLL)
