"""Pages of a list have OpenAI's shape."""

from typing import Annotated, Any, Literal

from fastapi import Query

After = Annotated[str | None, Query(max_length=128)]
Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]


def page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Returns a page of one more than `limit`, where there are more."""
    data = found[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(found) > limit,
    }


def page_after(found: list[dict[str, Any]], after: str | None, limit: int, order: Order) -> dict[str, Any]:
    """Returns the page of a whole list, in ascending order, that follows the item `after`."""
    found = found if order == "asc" else found[::-1]
    ids = [item["id"] for item in found]
    begin = ids.index(after) + 1 if after in ids else 0
    return page(found[begin : begin + limit + 1], limit)
