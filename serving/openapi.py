"""OpenAPI request bodies for routes that read and validate the body themselves."""

from typing import Any

from pydantic import TypeAdapter


def request_body(path: str, type: Any, *headers: dict[str, Any]) -> dict[str, Any]:
    """Returns the `openapi_extra` of the route that takes a `type` at POST `path`."""
    pointer = path.replace("/", "~1")  # escaped for a JSON pointer (RFC 6901)
    names = f"#/paths/{pointer}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = TypeAdapter(type).json_schema(ref_template=names)
    content = {"application/json": {"schema": schema}}
    return {"parameters": list(headers), "requestBody": {"required": True, "content": content}}
