"""Replay of the spool stores what came while Postgres was away: turns, and votes after they are checked."""

import time
from contextlib import suppress

from psycopg.errors import UniqueViolation

from feedback.spool import Entry, NotYet
from feedback.store import TurnMissing
from schemas.turns import Reply, Turn
from serving.services import Services
from serving.vote_submission import store_spooled_vote

_PATIENCE = 30.0  # seconds for the turn of a vote, which another replica's spool may hold
_IMPATIENCE = 60.0  # seconds after a turn that never came, in which no other is waited for


async def apply_spool(services: Services) -> None:
    """Brings the entries of the spool to Postgres, until cancelled."""
    await services.spool.run(_Replay(services).apply)


class _Replay:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._missing: dict[str, float] = {}  # since when the turn of each vote that waits is missing
        self._gave_up = -_IMPATIENCE

    async def apply(self, entry: Entry) -> None:
        """Raises NotYet for a vote whose turn may still come, and RequestError for one that is wrong."""
        if entry["kind"] == "vote":
            await self._store_vote(entry)
            return
        fields = {name: value for name, value in entry.items() if name not in ("kind", "replies")}
        turn = Turn(**fields, replies=[Reply(**reply) for reply in entry["replies"]])
        with suppress(UniqueViolation):  # the process died after it had stored the turn
            await self._services.store.record_turn(turn)

    async def _store_vote(self, entry: Entry) -> None:
        now = time.monotonic()
        since = self._missing.pop(entry["id"], now)
        try:
            await store_spooled_vote(self._services, entry)
        except TurnMissing:
            if now - since < _PATIENCE and now - self._gave_up >= _IMPATIENCE:
                self._missing[entry["id"]] = since
                raise NotYet("the turn of a spooled vote is missing") from None
            self._gave_up = now
            raise
