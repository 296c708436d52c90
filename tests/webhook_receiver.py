"""A receiver of webhooks, as a team would run one."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from hearken_client import verify_webhook


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class WebhookReceiver:
    """Keeps what comes, and answers with the first of `answers` that is left, else 204."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(Received(self.path, dict(self.headers.items()), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self, secret: str) -> list[tuple[str, dict[str, Any]]]:
        """The types and data of what came, each of which Hearken signed."""
        found = [verify_webhook(each.body, each.headers, secret) for each in self.received]
        return [(event["type"], event["data"]) for event in found]
