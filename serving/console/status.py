"""The status of a project in one answer: who answers and why, votes until the next round, training, and what
needs an operator."""

from functools import partial
from typing import Any, LiteralString

from fastapi import APIRouter, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.pending_votes import pending_votes
from schemas.policies import BASE
from schemas.settings import Settings
from serving import loop_metrics
from serving.admin import with_times
from serving.auth import Viewer
from serving.console.alerts import ServingState, alerts
from serving.console.rollouts import answering, evidence
from serving.console.rounds import rounds
from serving.router import fetch_route
from serving.services import Services, services
from serving.shared_result import SharedResult

router = APIRouter(prefix="/v1/console")

MOST_COUNTED = 10_000
"""Votes up to which the waiting ones are counted."""

Connection = AsyncConnection[DictRow]

_WHY: LiteralString = """
select p.live_at, p.gate ->> 'outcome' as verdict, r.reason, r.automatic, r.kind, r.ended_at
from policies p left join lateral (
    select * from rollouts where project = p.project and policy = p.id and state = 'promoted'
    order by started_at desc limit 1
) as r on true
where p.project = %s and p.id = %s
"""


async def status(
    connection: Connection, settings: Settings, project: str, serving: ServingState | None = None
) -> dict[str, Any]:
    """Returns the status; `serving` is what only a serving process knows."""
    route = await fetch_route(connection, project)
    row = await _row(connection, "select paused from projects where id = %s", [project])
    values = loop_metrics.parameters(settings, project)
    loop = await _row(connection, loop_metrics.PROCESSES, values)
    loop |= await _row(connection, loop_metrics.WAITING, values)
    found = await rounds(connection, project, 6)
    running = next((each for each in found if each["outcome"] == "running"), None)
    ended = [each for each in found if each["outcome"] != "running"]
    why = await _row(connection, _WHY, [project, route.live])
    dead = await _row(connection, "select count(*) as letters from dead_letters", [])
    dead_letters = dead["letters"] if project == settings.project else 0  # nobody knows whose they are
    return {
        "project": project,
        "answering": {
            "live": route.live,
            "previous": route.previous,
            "canary": route.canary,
            "since": with_times(why)["ended_at"] or with_times(why)["live_at"],
            "why": _why(route.live, why),
            "shares": answering(route, settings.serving.base_share),
        },
        "canary": await evidence(connection, project),
        "votes": await _votes(connection, settings, project),
        "training": {
            "state": "paused" if row["paused"] else "running" if running else "waiting",
            "active": bool(loop["trainer"]),
            "round": running,
            "last": ended[0] if ended else None,
        },
        "alerts": alerts(settings, loop, dead_letters, ended, paused=row["paused"], serving=serving),
    }


def serving_state(parts: Services, project: str) -> ServingState:
    """Returns what this process knows of the engines."""
    route = parts.router.find(project)
    needed = route.adapters() if route else set()
    return ServingState(len(parts.fleet.in_rotation), len(needed - parts.fleet.served()), parts.spool.size)


async def _votes(connection: Connection, settings: Settings, project: str) -> dict[str, Any]:
    """Returns the votes since the last round began, and how many more start one."""
    when = settings.trainer
    row = await pending_votes(connection, project, most=MOST_COUNTED, least=when.min_votes)
    missing = max(when.round_votes - row["waiting"], when.min_votes - row["arrived"], 0)
    return {
        "waiting": row["waiting"],
        "until_next_round": missing,
        "round_votes": when.round_votes,
        "newest": with_times(row)["newest"],
    }


def _why(live: str, row: DictRow) -> str:
    """Returns why this policy answers, in a sentence."""
    if live == BASE:
        return "It is the base model: nothing has been learned yet, or all of it was taken back."
    if row["kind"] in ("canary", "duel") and row["automatic"]:
        return f"It won its {row['kind']}: {row['reason'] or 'people found it better'}."
    if row["verdict"] == "passed":
        return "It passed the gate: votes that it had never seen say that it is no worse than the one before."
    if row["kind"] is None:
        return "The policy after it was taken back."
    return f"An operator promoted it{': ' + row['reason'] if row['reason'] else ''}."


async def _row(connection: Connection, query: LiteralString, values: Any) -> DictRow:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None  # noqa: S101  (each of these queries returns one row)
    return row


@router.get("/status")
async def read_status(request: Request, caller: Viewer) -> dict[str, Any]:
    parts, project = services(request), caller.project
    shared = parts.statuses.setdefault(project, SharedResult(partial(_read, parts, project)))
    return await shared.get()


async def _read(parts: Services, project: str) -> dict[str, Any]:
    async with parts.pool.connection() as connection:
        return await status(connection, parts.settings, project, serving_state(parts, project))
