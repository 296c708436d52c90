"""This module decodes and validates clients' JSON, where every fault is an InvalidRequest, and writes JSON
lines.

Text that Postgres or a tokenizer cannot represent (lone surrogates, NUL) is refused here, for every endpoint
and the websocket.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from schemas.errors import InvalidRequest

T = TypeVar("T")

_MEMBER = re.compile(r"Named\w+|str|int|float|bool|(dict|list|literal)\[.*\]")
"""What pydantic adds to the place of a fault in a union: the member that did not fit."""

_LINE_SEPARATORS = [(each.encode(), rf"\u{ord(each):04x}".encode()) for each in "\u0085\u2028\u2029"]

_CODES = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}


def decode(raw: bytes | str) -> Any:
    """Returns the JSON value in `raw`. Raises InvalidRequest (code `invalid_json` or `invalid_text`)."""
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidRequest("The JSON is nested too deeply.", code="invalid_json") from None
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from None
    if "\\u" in text:  # only an escape can encode what UTF-8 and JSON forbid
        for string in strings(value):
            if "\0" in string or any("\ud800" <= letter <= "\udfff" for letter in string):
                raise InvalidRequest(
                    "A string holds a NUL or half of a surrogate pair; send whole characters.",
                    code="invalid_text",
                )
    return value


def json_line(value: Any) -> bytes:
    """Returns JSON that every reader takes for one line: some also end lines at U+0085, U+2028 and U+2029."""
    found = orjson.dumps(value)
    for separator, escaped in _LINE_SEPARATORS:
        found = found.replace(separator, escaped)
    return found


def check(adapter: TypeAdapter[T], value: Any) -> T:
    """Returns `value` as the adapter's type. Raises InvalidRequest about the first field that is wrong."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = path(*(step for step in problem["loc"] if not _MEMBER.fullmatch(str(step)))) or None
        message = problem["msg"].removeprefix("Value error, ")
        raise InvalidRequest(
            f"{param}: {message}." if param else f"{message}.",
            code=_CODES.get(problem["type"], "invalid_value"),
            param=param,
        ) from None


def path(*steps: str | int) -> str:
    """Returns the path of a field in OpenAI's notation: `messages[0].content`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def strings(value: Any) -> Iterator[str]:
    """Yields every text in a JSON value, the names in its objects included."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
