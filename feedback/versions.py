"""The versions that events have had, and the way from each to the newest, which is `FeedbackEvent`'s.

A field that may be missing needs no new version. What older readers would get wrong does: `FeedbackEvent`
takes the next version, and UPCASTS a step to it from the one before. A log keeps what was written to it, so
steps stay.
"""

import re
from collections.abc import Callable
from typing import Any

from schemas.feedback import FeedbackEvent

Event = dict[str, Any]
"""As it was parsed: whether its fields are there is found when it is validated."""

UPCASTS: dict[str, Callable[[Event], Event]] = {}
"""By version: makes of an event of that version one of the next, its `version` included. Raises nothing."""

_NUMBERED = re.compile(r"hearken\.feedback\.v([1-9][0-9]{0,8})")
_NEWEST = int(FeedbackEvent.model_fields["version"].default.rpartition("v")[2])


def is_newer(version: str) -> bool:
    """Whether only code that comes after this can know it."""
    numbered = _NUMBERED.fullmatch(version)
    return numbered is not None and int(numbered[1]) > _NEWEST


def upcast(event: Event) -> Event:
    """The same event in the newest version that there is a way to."""
    while step := UPCASTS.get(str(event.get("version"))):
        event = step(event)
    return event
