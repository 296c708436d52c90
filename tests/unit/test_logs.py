"""An unexpected exception becomes a 500 with an id of its log entry and no details."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from serving.logs import RequestLog
from serving.metrics import Metrics


async def test_a_bug_is_answered_with_an_id_that_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("the text of a person")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    state = SimpleNamespace(metrics=Metrics())
    scope = {"type": "http", "path": "/v1/models", "query_string": b"", "method": "GET", "headers": []}
    await RequestLog(broken, state)(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    body = sent[1]["body"].decode()
    [request_id] = re.findall(r"req-[0-9a-f]{16}", body)
    assert "person" not in body
    assert request_id in capsys.readouterr().out
    assert (b"x-request-id", request_id.encode()) in sent[0]["headers"]
    assert b'code="internal_error"} 1.0' in state.metrics.text()


async def test_a_client_that_leaves_within_its_request_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    async def reading(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    state = SimpleNamespace(metrics=Metrics())
    scope = {"type": "http", "path": "/v1/feedback", "query_string": b"", "method": "POST", "headers": []}
    await RequestLog(reading, state)(scope, None, None)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "client_gone" in said
    assert "Traceback" not in said
    assert b"internal_error" not in state.metrics.text()
