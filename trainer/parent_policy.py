"""This module chooses the policy that a round starts from.

It is the live policy, or its parent if it regressed. Unless operators decide about every policy, it is rather
the newest candidate that people try, or that waits for that: where votes are few, learning would
stand still until they decide. Where the held-out votes speak against that candidate by more than a standard
error, it is the one before. If people decide against a candidate, what was trained from it goes with it, and
the next round starts from the live policy again.

One of `restart_rounds` rounds starts from the base, so that the drift of all rounds, and what people voted
long ago, does not stay for ever. It takes over like any candidate: if the gate, or people, find it no worse
than the live policy.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from schemas.database import Pool
from schemas.policies import BASE
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


@dataclass(frozen=True, slots=True)
class Parent:
    """The `policy` that a round starts from; the live regression test in JSON, if enough people voted; and
    whether the round is a restart: one of `restart_rounds`, which has to catch up from the base, or one that
    does it again after its policy regressed. After the first policy regressed, nothing is to be caught up."""

    policy: PolicyDirectory
    test: dict[str, Any] | None
    restart: bool = False


def live_policy(pool: Pool, settings: Settings) -> PolicyDirectory:
    """Returns the live policy; waits a little for a newer one that is being loaded."""
    deadline = time.monotonic() + PROMOTION_WAIT
    while True:
        with pool.connection() as connection:
            row = connection.execute(
                "select live.id, live.directory, coalesce(projects.promotion, %s) as promotion,"
                " exists (select from policies p where p.project = r.project and p.state = 'published'"
                " and p.gate ->> 'outcome' is distinct from 'unknown'"
                " and p.created_at > live.created_at) as pending"
                " from routes r join policies live on live.project = r.project and live.id = r.live"
                " join projects on projects.id = r.project where r.project = %s",
                [settings.serving.promotion, settings.project],
            ).fetchone()
        assert row is not None  # noqa: S101  (ensure_base made the route)
        waits = row["promotion"] == "direct" and row["pending"]
        if not waits or time.monotonic() >= deadline:
            return PolicyDirectory(row["id"], Path(row["directory"]))
        time.sleep(0.1)


def choose_parent(
    pool: Pool, settings: Settings, live: PolicyDirectory, interrupted: RoundInputs | None
) -> Parent:
    """Returns what a round starts from. One that repeats an interrupted one starts from the same policy, if
    that is still a choice."""
    test = live_regression_test(pool, settings.project, live.id)
    found = None if test is None else test.as_json()
    if test is not None and (test.regressed if interrupted is None else interrupted.parent == test.parent):
        log.warning("the live policy regressed; starting from its parent", **test.as_json())
        again = _came_of_a_restart(pool, settings.project, live.id)
        return Parent(PolicyDirectory(test.parent, test.directory), found, restart=again)
    if _restarts(pool, settings, live) if interrupted is None else interrupted.restart:
        return Parent(_base(pool, settings.project), found, restart=True)
    candidates = _candidates(pool, settings, live)
    if interrupted is None:
        return Parent(next(iter(candidates), live), found)
    return Parent(next((each for each in candidates if each.id == interrupted.parent), live), found)


def _restarts(pool: Pool, settings: Settings, live: PolicyDirectory) -> bool:
    """Whether none of the `restart_rounds` rounds up to the one that begins started from the base."""
    every = settings.trainer.restart_rounds
    if every is None or live.id == BASE:
        return False
    before = every - 1
    with pool.connection() as connection:
        rows = connection.execute(
            "select parent from rounds where project = %s and outcome <> 'running' order by id desc limit %s",
            [settings.project, before],
        ).fetchall()
    return len(rows) == before and all(row["parent"] != BASE for row in rows)


def _came_of_a_restart(pool: Pool, project: str, policy: str) -> bool:
    with pool.connection() as connection:
        row = connection.execute(
            "select coalesce(bool_or(record -> 'restart' = 'true'), false) as restart from rounds"
            " where project = %s and policy = %s",
            [project, policy],
        ).fetchone()
    return bool(row and row["restart"])


def _base(pool: Pool, project: str) -> PolicyDirectory:
    with pool.connection() as connection:
        row = connection.execute(
            "select directory from policies where project = %s and id = %s", [project, BASE]
        ).fetchone()
    assert row is not None  # noqa: S101  (ensure_base made it)
    return PolicyDirectory(BASE, Path(row["directory"]))


def _candidates(pool: Pool, settings: Settings, live: PolicyDirectory) -> list[PolicyDirectory]:
    """Returns the policies, newest first, that people try or will, and that held-out votes do not speak
    against: few votes are below zero for every other candidate by chance. With direct promotion people try
    what the gate could not judge, with manual promotion nothing."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select p.id, p.directory from policies p join policies live"
            " on live.project = p.project and live.id = %(live)s join projects on projects.id = p.project"
            " where p.project = %(project)s and p.state in ('canary', 'published') and p.pruned_at is null"
            " and coalesce(projects.promotion, %(promotion)s) <> 'manual'"
            " and (coalesce(projects.promotion, %(promotion)s) <> 'direct'"
            "  or p.gate ->> 'outcome' = 'unknown')"
            " and p.created_at > live.created_at"
            " and coalesce((p.gate #>> '{figures,held_out_gain}')::double precision"
            " + (p.gate #>> '{figures,held_out_error}')::double precision, 0) >= 0"
            " order by p.created_at desc, p.id",
            {"live": live.id, "project": settings.project, "promotion": settings.serving.promotion},
        ).fetchall()
    return [PolicyDirectory(row["id"], Path(row["directory"])) for row in rows]
