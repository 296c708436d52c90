"""Server-sent events that tell an open console what has changed (`serving.change_feed`)."""

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from serving.auth import Viewer
from serving.openapi import EVENT_STREAM
from serving.services import services
from serving.streams import StreamResponse

router = APIRouter(prefix="/v1/console")


@router.get("/events", response_class=StreamingResponse, responses=EVENT_STREAM)
async def events(request: Request, caller: Viewer) -> Response:
    """Says what has changed: `votes`, `rounds`, `policies` (also who answers) or `training`."""
    parts = services(request)
    return StreamResponse(parts.feed.events(caller.project), parts.metrics)
