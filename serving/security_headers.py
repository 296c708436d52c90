"""Security headers and the check of the Host header, for every answer.

A page on another name that resolves to this machine (DNS rebinding) is of that name's origin, so a browser
lets it read what this service answers: a service that listens on loopback answers to loopback's names only.
"""

from ipaddress import ip_address

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import Misdirected
from schemas.settings import Settings

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PROBES = ("/healthz", "/readyz", "/metrics")  # asked by address
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Returns the names by which the service may be asked for; None for any."""
    if settings.serving.allowed_hosts:
        return frozenset(name.lower() for name in settings.serving.allowed_hosts)
    return frozenset(_LOOPBACK) if _is_loopback(settings.host) else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class SecurityHeaders:
    """Adds the headers that an answer does not have, and refuses requests for another host with 421."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                message["headers"] = given + [header for header in _HEADERS if header[0] not in names]
            await send(message)

        if self._is_ours(scope):
            await self._app(scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = Misdirected(
                "This service does not answer to that host; serving.allowed_hosts names those it does."
            )
            await JSONResponse(error.envelope(), error.status)(scope, receive, send_with_headers)

    def _is_ours(self, scope: Scope) -> bool:
        if self._hosts is None or scope["path"] in _PROBES:
            return True
        given = next((value for name, value in scope["headers"] if name == b"host"), b"")
        host = given.decode("latin-1").lower()
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdecimal() else host
        return name.strip("[]") in self._hosts
