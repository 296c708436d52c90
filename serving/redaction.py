"""What is redacted in each project: what it sets itself, else what `redaction.kinds` of the settings says."""

import asyncio
from functools import lru_cache, partial

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.redaction import Redactor
from schemas.database import AsyncPool
from schemas.errors import InvalidRequest, StartError
from schemas.feedback import Vote
from schemas.projects import PersonalData
from schemas.settings import RedactionSettings
from schemas.turns import Turn
from serving.router import Router
from serving.shared_result import SharedResult
from serving.token_signer import TokenSigner

_PATIENCE = 2.0  # seconds that what waits to be redacted waits for the database


class Redaction:
    """The redactors of all projects."""

    def __init__(
        self, settings: RedactionSettings, pool: AsyncPool, router: Router, signer: TokenSigner
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._router = router
        self._before: set[PersonalData] = set()  # what any project redacted at the start
        self._unserved: dict[str, SharedResult[list[PersonalData] | None]] = {}  # what projects set
        self._pseudonym = signer.conversation_pseudonym
        self._made = lru_cache(maxsize=64)(self._make)

    async def prepare(self, connection: AsyncConnection[DictRow]) -> None:
        """Reads what any project redacts. Raises StartError where that is something and the libraries are not
        installed."""
        row = await (
            await connection.execute("select array(select distinct unnest(redaction) from projects) as kinds")
        ).fetchone()
        self._before = set(row["kinds"]) if row is not None else set()
        if self._settings.kinds or self._before:
            self._made(("email",))

    def check(self, kinds: list[PersonalData] | None) -> None:
        """Raises InvalidRequest where a project asks for what this installation cannot do."""
        try:
            self._made(tuple(kinds or ()))
        except StartError as error:
            raise InvalidRequest(error.message, param="redaction", code="unsupported_parameter") from None

    async def turn(self, turn: Turn) -> Turn:
        """Returns a turn as it may be stored."""
        redactor = await self._of(turn.project)
        return turn if redactor is None else await asyncio.to_thread(redactor.turn, turn)

    async def vote(self, project: str | None, vote: Vote) -> Vote:
        """Returns a vote as it may be stored; without a project, as the strictest of them demands."""
        redactor = await self._of(project)
        return vote if redactor is None else await asyncio.to_thread(redactor.vote, vote)

    async def metadata(self, project: str, metadata: dict[str, str]) -> dict[str, str]:
        """Returns metadata as it may be stored."""
        redactor = await self._of(project)
        if redactor is None:
            return metadata
        return {name: await asyncio.to_thread(redactor.text, each) for name, each in metadata.items()}

    async def _of(self, project: str | None) -> Redactor | None:
        kinds: set[PersonalData]
        if project is None:
            every = (route.redaction for route in self._router.routes())
            kinds = {kind for each in every for kind in each or ()} | set(self._settings.kinds) | self._before
        else:
            own = await self._own(project)
            kinds = set(self._settings.kinds if own is None else own)
        return self._made(tuple(sorted(kinds)))

    async def _own(self, project: str) -> list[PersonalData] | None:
        """Returns what a project sets itself, also before an engine serves its policy. Raises as the database
        does."""
        route = self._router.find(project)
        if route is not None:
            return route.redaction
        if project not in self._unserved:
            self._unserved[project] = SharedResult(partial(self._fetch, project), seconds=1)
        return await self._unserved[project].get()

    async def _fetch(self, project: str) -> list[PersonalData] | None:
        async with self._pool.connection(timeout=_PATIENCE) as connection:
            cursor = await connection.execute("select redaction from projects where id = %s", [project])
            row = await cursor.fetchone()
        return None if row is None else row["redaction"]

    def _make(self, kinds: tuple[PersonalData, ...]) -> Redactor | None:
        return Redactor(list(kinds), self._settings.regions, self._pseudonym) if kinds else None
