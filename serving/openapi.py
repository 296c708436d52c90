"""OpenAPI: what FastAPI cannot know of a route: the bodies that routes read and validate themselves, the key,
the errors, and streams."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ERRORS = {
    "400": "A field of the request is missing, unknown or wrong.",
    "401": "The key is missing or wrong.",
    "403": "The key may not do this.",
    "404": "There is no such thing.",
    "409": "It contradicts what there is.",
    "413": "The body is too large.",
    "429": "Too many requests; `Retry-After` says when to come again.",
    "503": "Something that this needs does not answer; `Retry-After` says when to come again.",
}
_PREFIX = "/v1/"  # of the routes that need a key
_KEY, _ERROR_NAME = "key", "Error"

EVENT_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""The `responses` of a route that may answer with server-sent events."""


class DescribedApp(FastAPI):
    """An application whose schema has the key and, in OpenAI's shape, the errors of each route."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is not None:
            return self.openapi_schema
        schema = super().openapi()
        components = schema.setdefault("components", {})
        components["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
        components.setdefault("schemas", {})[_ERROR_NAME] = _ERROR
        for path, operations in schema["paths"].items():
            if path.startswith(_PREFIX):
                for operation in operations.values():
                    _describe(operation)
        return schema


def _describe(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own, which is answered as 400 here
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR_NAME}"}}}
    for status, description in _ERRORS.items():
        responses.setdefault(status, {"description": description, "content": content})
    operation["security"] = [{_KEY: []}]


def request_body(
    path: str, type: Any, *headers: dict[str, Any], required: bool = True, method: str = "post"
) -> dict[str, Any]:
    """Returns the `openapi_extra` of the route that takes a `type` at POST `path`, or by another method."""
    pointer = path.replace("/", "~1")  # escaped for a JSON pointer (RFC 6901)
    pointer = pointer.replace("{", "{{").replace("}", "}}")  # and for the template
    names = f"#/paths/{pointer}/{method}/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = TypeAdapter(type).json_schema(ref_template=names)
    content = {"application/json": {"schema": schema}}
    return {"parameters": list(headers), "requestBody": {"required": required, "content": content}}
