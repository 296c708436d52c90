"""Compacted votes are grouped by the week of their turn, in which the turn expires, and older weeks together.

The newest WEEKS weeks have a group each, older ones one for each quarter of 13 weeks, and what is older than
QUARTERS quarters is one group. So the number of groups is bounded, and they are finest where votes weigh
most.
"""

import re
from datetime import UTC, datetime, timedelta

WEEKS = 13
"""Weeks that have a group of their own."""

QUARTERS = 4
"""Quarters that have a group of their own."""

OLDER, UNREADABLE = "older", "unreadable"
"""The group of all weeks before, and of the votes whose replies do not fit the base."""

NO_WEEK = -1
"""The week of unreadable votes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY = timedelta(days=4)  # from the epoch to the first Monday


def week_of(turn_id: str, created_at: datetime) -> int:
    """Returns the number of the week, which begins on Monday (UTC), of a turn: by the time in its id, which
    selects its partition, else by the time of the vote."""
    dated = re.match("chatcmpl-t([0-9a-f]{12})", turn_id)
    age = timedelta(milliseconds=int(dated[1], 16)) if dated else created_at - _EPOCH
    return (age - _MONDAY) // timedelta(weeks=1)


def group_of(week: int, newest: int) -> str:
    """Returns the name of a week's group, when the newest week is `newest`."""
    if week == NO_WEEK:
        return UNREADABLE
    if newest - week < WEEKS:
        return f"{_EPOCH + _MONDAY + timedelta(weeks=week):%Y%m%d}"
    quarter = week // 13
    if (newest - WEEKS) // 13 - quarter < QUARTERS:
        return f"{_EPOCH + _MONDAY + timedelta(weeks=13 * quarter):%Y%m%d}-quarter"
    return OLDER
