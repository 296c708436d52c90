"""An interruption is the end of a trainer during a round, as for want of memory: its row is left open.

The next leader closes the row, and the round begins again. A round that always kills its trainer must not
keep it from all other projects: after some interruptions in a row the project pauses, each time for twice as
long (exponential backoff). The rows count them, so that a restart forgets none.
"""

from psycopg.rows import DictRow

from schemas.database import Pool

MAX_ATTEMPTS = 3
"""How often a round is started whose trainer dies, and the interruptions in a row from which on the project
pauses."""

FIRST_PAUSE, DOUBLINGS = 60.0, 8
"""The first pause, seconds, which is short, since people stop trainers too, and how often it doubles: to four
hours."""


def close(pool: Pool, project: str, *, died: bool = True) -> int:
    """Closes the rounds that a trainer left open, since it died or could not go on; returns their number."""
    count = _last_round(pool, project)["interruptions"] + 1 if died else 0
    with pool.connection() as connection:
        return connection.execute(
            "update rounds set outcome = 'failed', reason = %s, ended_at = now(),"
            " record = record || jsonb_build_object('interruptions', %s::int)"
            " where project = %s and outcome = 'running'",
            [_reason(count), count, project],
        ).rowcount


def was_last(pool: Pool, project: str) -> bool:
    """Whether the last round was interrupted."""
    return bool(_last_round(pool, project)["interrupted"])


def pause_left(pool: Pool, project: str) -> float:
    """Returns for how long no round of the project begins after interruptions, seconds."""
    last = _last_round(pool, project)
    left: float = pause(last["interruptions"]) - last["age"]
    return max(left, 0.0)


def pause(interruptions: int) -> float:
    """Returns the pause after so many interruptions in a row, seconds."""
    if interruptions < MAX_ATTEMPTS:
        return 0.0
    return FIRST_PAUSE * 2.0 ** min(interruptions - MAX_ATTEMPTS, DOUBLINGS)


def _reason(interruptions: int) -> str:
    seconds = pause(interruptions)
    if not seconds:
        return "interrupted"
    return (
        f"interrupted, the last of {interruptions} in a row: the trainer ended during each, mostly for want"
        f" of memory; the next one begins in {seconds / 60:.0f} min"
    )


def _last_round(pool: Pool, project: str) -> DictRow:
    """Returns of the last round that ended whether it was interrupted, the interruptions in a row up to it,
    and its age, seconds."""
    with pool.connection() as connection:
        row = connection.execute(
            "select coalesce(starts_with(reason, 'interrupted'), false) as interrupted,"
            " coalesce((record ->> 'interruptions')::int, 0) as interruptions,"
            " coalesce(extract(epoch from now() - ended_at), 0)::double precision as age"
            " from rounds where project = %s and outcome <> 'running' order by id desc limit 1",
            [project],
        ).fetchone()
    return row or {"interrupted": False, "interruptions": 0, "age": 0.0}
