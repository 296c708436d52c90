"""What `/openapi.json` says of a body that a route reads and checks itself."""

from typing import Any

from pydantic import TypeAdapter


def body(path: str, type: Any, *headers: dict[str, Any]) -> dict[str, Any]:
    """`openapi_extra` of the route that takes a `type` at POST `path`."""
    place = path.replace("/", "~1")  # as JSON pointers have it (RFC 6901)
    names = f"#/paths/{place}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = TypeAdapter(type).json_schema(ref_template=names)
    content = {"application/json": {"schema": schema}}
    return {"parameters": list(headers), "requestBody": {"required": True, "content": content}}
