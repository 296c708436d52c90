"""A command that asks a service says what was answered, also where something else answered."""

from typing import Any

import httpx
import pytest

from deploy.operations import OverHttp
from schemas.errors import HearkenError


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "There is no policy p9."}}, "There is no policy p9."),
        ({"detail": "Bad Gateway"}, "answered 502"),
        ({"error": "Bad Gateway"}, "answered 502"),
        (["Bad Gateway"], "answered 502"),
    ],
)
def test_an_error_is_said_whoever_answers(body: Any, said: str) -> None:
    there = OverHttp("http://hearken.example", "sk-hearken-key")
    there._client = httpx.Client(
        base_url="http://hearken.example",
        transport=httpx.MockTransport(lambda request: httpx.Response(502, json=body)),
    )
    with there, pytest.raises(HearkenError, match=said):
        there.status()
