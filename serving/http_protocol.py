"""The HTTP protocol of uvicorn, with limits on what comes before a request's header is whole.

uvicorn bounds neither the size of a header nor the time that one takes, so a connection without a key could
hold the event loop by an endless one, or stay for ever without sending any.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 65_536
"""Bytes of an address and header, beyond what the first read of a socket brings."""

HEADER_SECONDS = 20.0
"""Seconds in which a request's header must be whole, from its first byte or the connection's beginning."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a header that is too large and 408 to one that takes too long, and closes the
    connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_header = False
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._in_header
        if self.cycle is None or self.cycle.response_complete:
            self._expect_header()
        super().data_received(data)
        if before and self._in_header:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                message = f"The address and header are over {MAX_HEADER_BYTES} bytes."
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message, "header_too_large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header, self._header_bytes = True, 0
        self._expect_header()

    def on_headers_complete(self) -> None:
        self._header_is_whole()
        super().on_headers_complete()

    def _expect_header(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _header_is_whole(self) -> None:
        self._in_header = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        message = f"The header did not come within {HEADER_SECONDS:.0f} seconds."
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, message, "request_timeout")

    def _refuse(self, status: HTTPStatus, message: str, code: str) -> None:
        if self.transport.is_closing():
            return
        error: dict[str, Any] = {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": code,
        }
        body = orjson.dumps({"error": error})
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()
