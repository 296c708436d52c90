"""A user's name is how a team's server calls one of its people, the same wherever it is said."""

from typing import Annotated

from pydantic import Field

MAX_NAME = 512
"""Characters of a user's name."""

UserName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
