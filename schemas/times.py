"""Times on the wire: RFC 3339, UTC."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """`2026-03-01T12:00:00.000000Z` of any aware datetime."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
