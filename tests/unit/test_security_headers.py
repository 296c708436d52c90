"""Every answer has security headers, and a service on loopback answers to loopback's names only."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas.settings import ServingSettings, Settings
from serving.security_headers import SecurityHeaders, allowed_hosts


async def answer(request: Request) -> Response:
    headers = {"Content-Security-Policy": "default-src 'self'"} if request.url.path == "/page" else None
    return JSONResponse({}, headers=headers)


async def ask(settings: Settings, host: str, path: str = "/v1/models") -> httpx.Response:
    routes = [Route(each, answer) for each in ("/v1/models", "/page", "/healthz")]
    app = SecurityHeaders(Starlette(routes=routes), allowed_hosts(settings))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://any") as client:
        return await client.get(path, headers={"Host": host})


async def test_every_answer_has_the_headers_and_a_page_keeps_its_own() -> None:
    for host in ("localhost:8000", "evil.test"):
        headers = (await ask(Settings(), host)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    page = await ask(Settings(), "localhost", "/page")
    assert page.headers["content-security-policy"] == "default-src 'self'"


@pytest.mark.parametrize(
    ("listens", "names", "host", "status"),
    [
        ("127.0.0.1", [], "127.0.0.1:8000", 200),
        ("127.0.0.1", [], "LOCALHOST", 200),
        ("::1", [], "[::1]:8000", 200),
        ("127.0.0.1", [], "evil.test:8000", 421),
        ("127.0.0.1", [], "127.0.0.1.evil.test", 421),
        ("127.0.0.1", ["chat.example.org"], "chat.example.org", 200),
        ("127.0.0.1", ["chat.example.org"], "localhost", 421),
        ("0.0.0.0", [], "chat.example.org", 200),  # noqa: S104
        ("0.0.0.0", ["chat.example.org"], "evil.test", 421),  # noqa: S104
    ],
)
async def test_hosts(listens: str, names: list[str], host: str, status: int) -> None:
    settings = Settings(host=listens, serving=ServingSettings(allowed_hosts=names))
    found = await ask(settings, host)
    assert found.status_code == status
    if status == 421:
        assert found.json()["error"]["code"] == "wrong_host"
        assert (await ask(settings, host, "/healthz")).status_code == 200  # probes ask by address
