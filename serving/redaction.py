"""What is redacted in each project: what it sets itself, else what `redaction.kinds` of the settings says."""

import asyncio
from functools import lru_cache

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from feedback.redaction import Redactor
from schemas.errors import InvalidRequest, StartError
from schemas.feedback import Vote
from schemas.projects import PersonalData
from schemas.settings import RedactionSettings
from schemas.turns import Turn
from serving.router import Router
from serving.token_signer import TokenSigner


class Redaction:
    """The redactors of all projects."""

    def __init__(self, settings: RedactionSettings, router: Router, signer: TokenSigner) -> None:
        self._settings = settings
        self._router = router
        self._pseudonym = signer.conversation_pseudonym
        self._made = lru_cache(maxsize=64)(self._make)

    async def prepare(self, connection: AsyncConnection[DictRow]) -> None:
        """Raises StartError where something is to be redacted and the libraries are not installed."""
        row = await (
            await connection.execute("select exists (select from projects where redaction <> '{}') as any")
        ).fetchone()
        if self._settings.kinds or (row is not None and row["any"]):
            self._made(("email",))

    def check(self, kinds: list[PersonalData] | None) -> None:
        """Raises InvalidRequest where a project asks for what this installation cannot do."""
        try:
            self._made(tuple(kinds or ()))
        except StartError as error:
            raise InvalidRequest(error.message, param="redaction", code="unsupported_parameter") from None

    async def turn(self, turn: Turn) -> Turn:
        """Returns a turn as it may be stored."""
        redactor = self._of(turn.project)
        return turn if redactor is None else await asyncio.to_thread(redactor.turn, turn)

    async def vote(self, project: str | None, vote: Vote) -> Vote:
        """Returns a vote as it may be stored; without a project, as the strictest of them demands."""
        redactor = self._of(project)
        return vote if redactor is None else await asyncio.to_thread(redactor.vote, vote)

    async def metadata(self, project: str, metadata: dict[str, str]) -> dict[str, str]:
        """Returns metadata as it may be stored."""
        redactor = self._of(project)
        if redactor is None:
            return metadata
        return {name: await asyncio.to_thread(redactor.text, each) for name, each in metadata.items()}

    def _of(self, project: str | None) -> Redactor | None:
        kinds: set[PersonalData]
        if project is None:
            every = (route.redaction for route in self._router.routes())
            kinds = {kind for each in every for kind in each or ()} | set(self._settings.kinds)
        else:
            route = self._router.find(project)
            own = None if route is None else route.redaction
            kinds = set(self._settings.kinds if own is None else own)
        return self._made(tuple(sorted(kinds)))

    def _make(self, kinds: tuple[PersonalData, ...]) -> Redactor | None:
        return Redactor(list(kinds), self._settings.regions, self._pseudonym) if kinds else None
