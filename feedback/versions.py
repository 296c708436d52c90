"""Upcasting brings events of older versions up to the newest, which `FeedbackEvent` describes.

An optional field needs no new version. A change that older readers would misread does: `FeedbackEvent` takes
the next version, and UPCASTS gains a step from the version before. Logs keep old events, so steps stay.
"""

import re
from collections.abc import Callable
from typing import Any

from schemas.feedback import FeedbackEvent

Event = dict[str, Any]
"""Parsed JSON that is not validated yet."""

UPCASTS: dict[str, Callable[[Event], Event]] = {
    "hearken.feedback.v1": lambda event: {**event, "version": "hearken.feedback.v2"},
}
"""By version: the function from an event of that version to one of the next, `version` included. It must not
raise."""

_NUMBERED = re.compile(r"hearken\.feedback\.v([1-9][0-9]{0,8})")
_NEWEST = int(FeedbackEvent.model_fields["version"].default.rpartition("v")[2])


def is_newer(version: str) -> bool:
    """Returns whether the version is later than this code's."""
    numbered = _NUMBERED.fullmatch(version)
    return numbered is not None and int(numbered[1]) > _NEWEST


def upcast(event: Event) -> Event:
    """Returns the event in the newest version that it can be upcast to."""
    while step := UPCASTS.get(str(event.get("version"))):
        event = step(event)
    return event
