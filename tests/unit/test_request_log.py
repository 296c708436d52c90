"""An unexpected exception becomes a 500 with an id of its log entry and no details."""

import re
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from serving.metrics import Metrics
from serving.request_log import RequestLog


async def test_a_bug_is_answered_with_an_id_that_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("the text of a person")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    metrics = Metrics()
    scope = {"type": "http", "path": "/v1/models", "query_string": b"", "method": "GET", "headers": []}
    await RequestLog(broken, metrics)(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    body = sent[1]["body"].decode()
    [request_id] = re.findall(r"req-[0-9a-f]{16}", body)
    assert "person" not in body
    assert request_id in capsys.readouterr().out
    assert (b"x-request-id", request_id.encode()) in sent[0]["headers"]
    assert b'code="internal_error"} 1.0' in metrics.exposition()


async def test_a_client_that_disconnects_early_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    async def reading(scope: Any, receive: Any, send: Any) -> None:
        raise ClientDisconnect

    metrics = Metrics()
    scope = {"type": "http", "path": "/v1/feedback", "query_string": b"", "method": "POST", "headers": []}
    await RequestLog(reading, metrics)(scope, None, None)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "client_disconnected" in said
    assert "Traceback" not in said
    assert b"internal_error" not in metrics.exposition()
