"""The query parameters that select votes, the same for the export, the desk and a queue; and the cursors of
lists."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from feedback.vote_filter import Filter
from schemas.errors import InvalidRequest
from schemas.feedback import Id
from schemas.times import rfc3339
from schemas.users import UserName
from serving.token_signer import TokenSigner

_Tag = Annotated[str, Field(pattern=r"^[^=]{1,64}=", max_length=600)]


class VoteQuery(BaseModel):
    """Which votes: `user` is a name or a pseudonym, a `tag` is `key=value` of the chat's metadata, `text` is
    as in a web search."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    type: Literal["thumb", "ranking", "edit", "signal"] | None = None
    value: Literal["up", "down", "none", "regenerated", "copied", "shared", "abandoned"] | None = None
    reason: Annotated[str, Field(max_length=32)] | None = None
    policy: Annotated[str, Field(max_length=128)] | None = None
    user: UserName | None = None
    tag: Annotated[list[_Tag], Field(max_length=16)] = []
    text: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    def filter(
        self,
        signer: TokenSigner,
        project: str,
        *,
        active: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Filter:
        """Returns the filter of these parameters. Raises InvalidRequest."""
        if "\0" in str(self):
            raise InvalidRequest("A query contains no NUL character.", code="invalid_text")
        return Filter(
            since=self.since,
            until=self.until,
            type=self.type,
            value=self.value,
            reason=self.reason,
            policy=self.policy,
            tags=self.tag,
            raters=signer.pseudonyms(project, self.user) if self.user else None,
            text=self.text,
            active=active,
            after=after,
            limit=limit,
        )


class ExportQuery(VoteQuery):
    """What to export, after the vote `after`."""

    format: str = "jsonl"
    after: Id | None = None
    limit: Annotated[int, Field(ge=1, lt=2**62)] | None = None


def cursor(moment: datetime, id: str) -> str:
    """Returns the cursor behind a row with this time and id."""
    return base64.urlsafe_b64encode(f"{rfc3339(moment)} {id}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str | None) -> tuple[datetime, str] | None:
    """Returns the time and id of a cursor. Raises InvalidRequest for one that no list has given."""
    if cursor is None:
        return None
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        moment, _, id = text.partition(" ")
        found = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        found, id = None, ""
    if found is None or found.tzinfo is None or not id or "\0" in id:
        raise InvalidRequest(
            "The cursor is of no list; take `next_cursor` of the page before.",
            code="invalid_cursor",
            param="cursor",
        )
    return found, id
