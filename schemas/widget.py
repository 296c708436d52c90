"""`Appearance` is how a project's chat looks on a page; attributes of the page's own tag come before it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.feedback import Reason

Label = Annotated[str, Field(min_length=1, max_length=80)]
Example = Annotated[str, Field(min_length=1, max_length=200)]


class Reasons(BaseModel):
    """The reasons that a person may give for a thumb: slugs with what is shown for them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    up: Annotated[dict[Reason, Label], Field(max_length=12)] | None = None
    down: Annotated[dict[Reason, Label], Field(max_length=12)] | None = None


class Appearance(BaseModel):
    """What of the chat a project sets. `logo` is an image as a data: URL, so that no other server learns who
    visits; `accent` a colour of CSS; `consent` says whether what is asked with a publishable key is kept:
    `on` unless the visitor opts out, `ask` once the visitor agrees, `off` never."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Label | None = None
    logo: Annotated[str, Field(max_length=65_536, pattern=r"^data:image/[a-z0-9.+-]+[;,]")] | None = None
    accent: Annotated[str, Field(pattern=r"^(#[0-9a-fA-F]{3,8}|[a-zA-Z]{1,32})\z")] | None = None
    greeting: Annotated[str, Field(max_length=500)] | None = None
    examples: Annotated[list[Example], Field(max_length=8)] | None = None
    reasons: Reasons | None = None
    language: Annotated[str, Field(pattern=r"^[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8})*\z")] | None = None
    consent: Literal["on", "ask", "off"] | None = None
