"""A `Vote` is what a person says about a reply; a `FeedbackEvent` is its record in the log.

A vote may hold text (a comment, an edit). An event never does: it names ids, and readers join the text by
them. `feedback.votable_turn` validates a vote against its turn (choices, ranking, length); `schemas.wire`
refuses characters that cannot be stored.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.users import UserName
from schemas.wire import check

JUDGE = "judge:"
"""Prefix of the names of automated raters. Names of people are hashes."""

NAMED, VISITOR, ANONYMOUS = "u_", "v_", "a_"
"""Prefixes of people's pseudonyms: who a server's key names; who holds a session that a page made; all who
hold none, in one network."""

Id = Annotated[str, Field(min_length=1, max_length=128)]
Choice = Annotated[int, Field(ge=0, le=1_000)]
Reason = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}\z")]
Comment = Annotated[str, Field(max_length=10_000)]


class _OnACompletion(BaseModel):
    """`user` names another rater (secret keys only); `feedback_token` is the token of the completion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    completion_id: Id
    user: UserName | None = None
    feedback_token: Annotated[str, Field(max_length=512)] | None = None


class Thumb(_OnACompletion):
    """A reply was good or not; `reasons` are slugs."""

    type: Literal["thumb"]
    choice: Choice = 0
    value: Literal["up", "down"]
    reasons: Annotated[list[Reason], Field(max_length=8)] = []
    comment: Comment | None = None

    @property
    def slot(self) -> str:
        """Returns the key of a vote for a rater and a turn: a later vote in the same slot supersedes it."""
        return f"thumb:{self.choice}"

    @property
    def facts(self) -> dict[str, Any]:
        """Returns the vote without ids and text: the value that is stored and logged."""
        return {"value": self.value, "reasons": self.reasons}


class Ranking(_OnACompletion):
    """Groups of choices, best first, ties together. `acceptable: false` says that none was good; `shown` is
    the order in which the person saw them, if it was not that of the choices. `reasons` are slugs: why the
    best is better than the others, or what is wrong with all of them where none was good."""

    type: Literal["ranking"]
    ranking: Annotated[list[Annotated[list[int], Field(max_length=128)]], Field(max_length=128)]
    acceptable: bool = True
    shown: Annotated[list[int], Field(max_length=128)] | None = None
    reasons: Annotated[list[Reason], Field(max_length=8)] = []
    comment: Comment | None = None

    @property
    def slot(self) -> str:
        return "ranking"

    @property
    def facts(self) -> dict[str, Any]:
        shown = {} if self.shown is None else {"shown": self.shown}
        reasons = {"reasons": self.reasons} if self.reasons else {}
        return {"ranking": self.ranking, "acceptable": self.acceptable, **shown, **reasons}


class Edit(_OnACompletion):
    """A corrected reply."""

    type: Literal["edit"]
    choice: Choice = 0
    text: str
    comment: Comment | None = None

    @property
    def slot(self) -> str:
        return f"edit:{self.choice}"

    @property
    def facts(self) -> dict[str, Any]:
        return {}


class Signal(_OnACompletion):
    """Implicit feedback: what a person did with a reply."""

    type: Literal["signal"]
    choice: Choice = 0
    signal: Literal["regenerated", "copied", "shared", "abandoned"]

    @property
    def slot(self) -> str:
        return f"signal:{self.choice}:{self.signal}"

    @property
    def facts(self) -> dict[str, Any]:
        return {"signal": self.signal}


Vote = Thumb | Ranking | Edit | Signal


class _Typed(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["thumb", "ranking", "edit", "signal"]


_TYPED = TypeAdapter(_Typed)
_VOTES: dict[str, TypeAdapter[Any]] = {
    "thumb": TypeAdapter(Thumb),
    "ranking": TypeAdapter(Ranking),
    "edit": TypeAdapter(Edit),
    "signal": TypeAdapter(Signal),
}


def parse_vote(data: Any) -> Vote:
    """Returns the vote in parsed JSON, where null means that a field was not given. Raises InvalidRequest
    naming the first field that is wrong."""
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if value is not None}
    vote: Vote = check(_VOTES[check(_TYPED, data).type], data)
    return vote


class FeedbackEvent(BaseModel):
    """An event of the log: a vote was recorded or retracted. It names its vote and its turn by random ids and
    holds neither text nor who voted, since a log cannot forget: readers find those in the vote's own row.

    `supersedes` is the feedback id of the older vote that this one supersedes; the older one gets no event of
    its own. `created_at` is the time of the event: for a retraction, of retracting. `rater` is of version 1,
    which had the pseudonym.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal["hearken.feedback.v2"] = "hearken.feedback.v2"
    event_id: str
    kind: Literal["recorded", "retracted"]
    feedback_id: str
    project: str
    turn_id: str
    choice: int | None
    type: Literal["thumb", "ranking", "edit", "signal"]
    value: dict[str, Any]
    created_at: datetime
    supersedes: str | None = None
    rater: str | None = None
