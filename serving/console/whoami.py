"""Who has signed in to the console: their key, its project and its roles, so that it shows what they may."""

from typing import Any, get_args

from fastapi import APIRouter, Request

from schemas.keys import Role
from serving.auth import Viewer
from serving.services import services

router = APIRouter(prefix="/v1/console")


@router.get("/whoami")
async def whoami(request: Request, caller: Viewer) -> dict[str, Any]:
    """Returns the caller; `makes_projects` for an admin of the installation's own project."""
    own = caller.project == services(request).settings.project
    return {
        "key": caller.key_id,
        "project": caller.project,
        "roles": [role for role in get_args(Role) if caller.may(role)],
        "makes_projects": own and caller.may("admin"),
    }
