"""The built pages and the widget (`serving/web`), and the publishable key that the page at `/` uses.

`dist/NAME.html` is served at `/NAME`, index.html at `/`, under a strict Content-Security-Policy. Files in
folders have their content's hash in their names, so browsers keep them for good; the others are revalidated.
The widget's files may be loaded by pages of any origin; the page at `/` may be framed by the origins of its
key.
"""

import hashlib
import mimetypes
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from fastapi import FastAPI, Request
from psycopg_pool import PoolTimeout
from starlette.responses import JSONResponse, Response

from schemas.errors import RequestError
from serving.auth import authenticate
from serving.services import services

DIST = Path(__file__).parent / "web" / "dist"

_REVALIDATE = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"
_POLICY = "Content-Security-Policy"
_PAGE = {
    _POLICY: "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
}
_ANY_ORIGIN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}


@dataclass(frozen=True, slots=True)
class _File:
    """A built file, with its compressed twin, as it is sent."""

    body: bytes
    compressed: bytes
    headers: dict[str, str]

    def response(self, request: Request) -> Response:
        if self.headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, headers={**self.headers, "Content-Encoding": "gzip"})
        return Response(self.body, headers=self.headers)


def install(app: FastAPI, real_model_command: str | None) -> None:
    """Adds one route for each file, so that unknown addresses and methods stay plain 404s and 405s. The page
    names the command, if there is one."""

    def serve(address: str, file: _File) -> None:
        @app.head(address, include_in_schema=False)
        @app.get(address, include_in_schema=False)
        async def built_file(request: Request) -> Response:
            answer = file.response(request)
            if address == "/":
                answer.headers[_POLICY] = " ".join((file.headers[_POLICY], *await _framing(request)))
            return answer

    for path in sorted(DIST.rglob("*")):
        if path.is_file() and path.suffix != ".gz":
            name = path.relative_to(DIST).as_posix()
            page = "" if name == "index.html" else name.removesuffix(".html")
            serve(f"/{page}", _read(path, name))

    @app.get("/config.json", include_in_schema=False)
    async def config(request: Request) -> Response:
        key = await services(request).page_key.get()
        config = {"publishable_key": key, "real_model_command": real_model_command}
        return JSONResponse(config, headers={"Cache-Control": _REVALIDATE})


async def _framing(request: Request) -> tuple[str, ...]:
    """Returns the origins whose pages may frame the chat page: those of the key in its address, or else of
    the installation's own; none where the key cannot be read."""
    with suppress(RequestError, psycopg.OperationalError, PoolTimeout, TimeoutError):
        key = request.query_params.get("key") or await services(request).page_key.get()
        if key:
            return (await authenticate(request, key)).origins
    return ()


def _read(path: Path, name: str) -> _File:
    body = path.read_bytes()
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {
        "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
        "Cache-Control": _FOR_GOOD if "/" in name else _REVALIDATE,
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
        **(_PAGE if path.suffix == ".html" else {}),
        **(_ANY_ORIGIN if name.startswith("widget") else {}),
    }
    return _File(body, path.with_name(f"{path.name}.gz").read_bytes(), headers)
