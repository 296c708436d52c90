"""The effective settings of this serving process, each with its source, as `hearken doctor` shows them."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from schemas.errors import Forbidden
from schemas.settings.sources import effective_settings
from serving.auth import Admin
from serving.services import services
from serving.tenants.projects import is_installations_own

router = APIRouter(prefix="/v1/console")


@router.get("/settings")
async def settings(request: Request, caller: Admin) -> dict[str, Any]:
    """Lists the settings. Secrets are shown as `set`. Raises Forbidden for an admin of another project than
    the installation's own: they are not a tenant's."""
    if not is_installations_own(request, caller):
        raise Forbidden("The settings are the installation's: an admin of its own project reads them.")
    rows = [
        {**row, "value": str(row["value"]) if isinstance(row["value"], Path) else row["value"]}
        for row in effective_settings(services(request).settings)
    ]
    return {"object": "list", "data": rows}
