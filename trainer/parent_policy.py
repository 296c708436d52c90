"""This module chooses the policy that a round starts from: the live one, or its parent if it regressed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from schemas.database import Pool
from schemas.settings import Settings
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation.regression import live_regression_test

PROMOTION_WAIT = 10.0
"""Longest wait for a published policy to go live, so that the next round starts from it, seconds."""

log = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class PolicyDirectory:
    """A registered policy and the directory of its adapter."""

    id: str
    directory: Path


def live_policy(pool: Pool, settings: Settings) -> PolicyDirectory:
    """Returns the live policy; waits a little for a newer one that is being loaded."""
    deadline = time.monotonic() + PROMOTION_WAIT
    while True:
        with pool.connection() as connection:
            row = connection.execute(
                "select live.id, live.directory, exists (select from policies p"
                " where p.project = r.project and p.state = 'published'"
                " and p.created_at > live.created_at) as pending"
                " from routes r join policies live on live.project = r.project and live.id = r.live"
                " where r.project = %s",
                [settings.project],
            ).fetchone()
        assert row is not None  # noqa: S101  (ensure_base made the route)
        waits = settings.serving.promotion == "direct" and row["pending"]
        if not waits or time.monotonic() >= deadline:
            return PolicyDirectory(row["id"], Path(row["directory"]))
        time.sleep(0.1)


def choose_parent(
    pool: Pool, project: str, live: PolicyDirectory, interrupted: RoundInputs | None
) -> tuple[PolicyDirectory, dict[str, Any] | None]:
    """Returns the policy to start from, and the live regression test in JSON if enough people voted. A round
    that repeats an interrupted one starts from the same policy."""
    test = live_regression_test(pool, project, live.id)
    if test is None:
        return live, None
    found = test.as_json()
    if not (test.regressed if interrupted is None else interrupted.parent == test.parent):
        return live, found
    log.warning("the live policy regressed; starting from its parent", **found)
    return PolicyDirectory(test.parent, test.directory), found
