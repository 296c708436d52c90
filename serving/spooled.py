"""Replay of the spool stores what came while Postgres was away: turns, and votes after they are checked."""

from contextlib import suppress
from functools import partial

from psycopg.errors import UniqueViolation

from feedback.spool import Entry, NotYet
from feedback.store import TurnMissing
from schemas.turns import Reply, Turn
from serving.services import Services
from serving.vote_submission import store_spooled_vote


async def apply_spool(services: Services) -> None:
    """Brings the entries of the spool to Postgres, until cancelled."""
    await services.spool.run(partial(_apply, services))


async def _apply(services: Services, entry: Entry) -> None:
    """Raises NotYet for a vote whose turn another replica's spool may hold, and RequestError for one that is
    wrong."""
    if entry["kind"] == "vote":
        try:
            await store_spooled_vote(services, entry)
        except TurnMissing as error:
            raise NotYet(error.message, owner=(entry["caller"] or {}).get("project", "")) from None
        return
    fields = {name: value for name, value in entry.items() if name not in ("kind", "replies")}
    turn = Turn(**fields, replies=[Reply(**reply) for reply in entry["replies"]])
    with suppress(UniqueViolation):  # the process died after it had stored the turn
        await services.store.record_turn(turn)
