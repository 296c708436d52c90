"""Static files: the chat page at `/`, its assets, and the publishable key that it uses (`/config.json`)."""

from pathlib import Path

from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from serving.services import services

WEB = Path(__file__).parent / "web"
_NO_CACHE = {"Cache-Control": "no-cache"}


def install(app: FastAPI) -> None:
    """Adds one route for each file, so that unknown addresses and methods stay plain 404s and 405s."""

    def serve(address: str, path: Path) -> None:
        @app.head(address, include_in_schema=False)
        @app.get(address, include_in_schema=False)
        async def file() -> Response:
            return FileResponse(path, headers=_NO_CACHE)

    for path in sorted(WEB.glob("*.*")):
        serve(f"/{path.name}", path)
    serve("/", WEB / "index.html")
    app.mount("/static", StaticFiles(directory=WEB))

    @app.get("/config.json", include_in_schema=False)
    async def config(request: Request) -> Response:
        key = await services(request).page_key.get()
        return JSONResponse({"publishable_key": key}, headers=_NO_CACHE)
