"""A web site of somebody else: an HTTP server on an origin of its own, whose pages the tests write."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

STRICT = "default-src 'none'; script-src {0}; connect-src {0} {1}; style-src 'self'; img-src data:"
"""The policy of a careful site: the service's scripts and nothing inline."""


class Site:
    """Serves `pages` by path, for a `with` block: each its HTML and its Content-Security-Policy."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, str]] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                html, policy = site.pages.get(self.path, ("", ""))
                self.send_response(200 if html else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                if policy:
                    self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write(html.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, path: str, body: str, service: str | None = None, *, lang: str = "en") -> str:
        """Adds a page with this body; returns its address. With a `service`, its policy is STRICT."""
        policy = STRICT.format(service, service.replace("http", "ws")) if service else ""
        html = (
            f'<!doctype html><html lang="{lang}"><head><meta charset="utf-8"><title>A shop</title>'
            '<meta name="color-scheme" content="light dark">'
            '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"></head>'
            f"<body><main><h1>A shop</h1><p>Bread and butter.</p>{body}</main></body></html>"
        )
        self.pages[path] = (html, policy)
        return self.url + path
