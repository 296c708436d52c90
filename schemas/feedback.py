"""What a person can say of a reply (`Vote`), and what the log carries of it (`FeedbackEvent`).

A vote may hold text (a comment, an edit); an event never does: it names ids, and whoever may read the text
joins by them. Whether a vote fits its turn (choices, ranking, length) is for `feedback.votable_turn`, and
characters that cannot be stored are refused where the bytes are decoded (`schemas.wire`).
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from schemas.wire import check

JUDGE = "judge:"
"""How the names of automated raters begin; those of people are hashes."""

Id = Annotated[str, Field(min_length=1, max_length=128)]
Choice = Annotated[int, Field(ge=0, le=1_000)]
Reason = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,32}\z")]
Comment = Annotated[str, Field(max_length=10_000)]


class _OnACompletion(BaseModel):
    """`user` names another rater (secret keys only); `feedback_token` is what the completion came with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    completion_id: Id
    user: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    feedback_token: Annotated[str, Field(max_length=512)] | None = None


class Thumb(_OnACompletion):
    """A reply was good or not; `reasons` are slugs that the page offers."""

    type: Literal["thumb"]
    choice: Choice = 0
    value: Literal["up", "down"]
    reasons: Annotated[list[Reason], Field(max_length=8)] = []
    comment: Comment | None = None

    @property
    def slot(self) -> str:
        """What a new vote of the same rater on the same turn supersedes; the same for every type."""
        return f"thumb:{self.choice}"

    @property
    def facts(self) -> dict[str, Any]:
        """The vote without ids and without any text: what is stored as its value and enters the log."""
        return {"value": self.value, "reasons": self.reasons}


class Ranking(_OnACompletion):
    """Groups of choices, best first, ties together. `acceptable: false`: none was good."""

    type: Literal["ranking"]
    ranking: Annotated[list[Annotated[list[int], Field(max_length=128)]], Field(max_length=128)]
    acceptable: bool = True
    comment: Comment | None = None

    @property
    def slot(self) -> str:
        return "ranking"

    @property
    def facts(self) -> dict[str, Any]:
        return {"ranking": self.ranking, "acceptable": self.acceptable}


class Edit(_OnACompletion):
    """What the reply should have said."""

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
    """What a person did with a reply, without being asked."""

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
    """A vote from parsed JSON. Raises InvalidRequest that names the first field that is wrong."""
    vote: Vote = check(_VOTES[check(_TYPED, data).type], data)
    return vote


class FeedbackEvent(BaseModel):
    """One thing that happened to a vote, in the log `hearken.feedback.v1`. Never holds text.

    A vote that ends an older one says so in `supersedes` (a feedback id); that older vote gets no event
    of its own. `created_at` is when it happened: for a retraction, the moment of retracting.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal["hearken.feedback.v1"] = "hearken.feedback.v1"
    event_id: str
    kind: Literal["recorded", "retracted"]
    feedback_id: str
    project: str
    turn_id: str
    conversation_id: str
    choice: int | None
    type: Literal["thumb", "ranking", "edit", "signal"]
    value: dict[str, Any]
    rater: str
    created_at: datetime
    supersedes: str | None = None
