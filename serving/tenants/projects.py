"""`/v1/projects`: the installation's own project makes others; each sets its prompt, its sampling, what it
learns, and how that goes live.

A new project is answered by the base at once, and begins with three keys: for its operators, its servers and
its pages. The project that `project` of the settings names is the installation's own: its admins see all
projects by name and setting, and nothing of what is in them.
"""

from dataclasses import asdict
from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from feedback.personal_data import PersonalDataFinder
from schemas.criteria import CRITERIA
from schemas.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from schemas.policies import BASE
from schemas.projects import MOST_PROJECTS, NewProject, ProjectChange
from schemas.wire import check, decode
from serving.admin import with_times
from serving.auth import Admin, Operator, Viewer, acting
from serving.keys import Caller, make_keys
from serving.openapi import request_body
from serving.services import services

router = APIRouter(prefix="/v1/projects")

Connection = AsyncConnection[DictRow]

_NEW_PROJECT, _CHANGE = TypeAdapter(NewProject), TypeAdapter(ProjectChange)
_COLUMNS: LiteralString = """
select id, system_prompt, sampling, promotion, learning, public_cards, redaction, retention_days, paused,
    created_at
from projects
"""
# A project's own criteria are reasons that its pages offer, or that its people have given.
_NO_REASONS: LiteralString = """
select name from unnest(%(names)s::text[]) as name where not exists (
    select from projects, jsonb_each(widget -> 'reasons') as thumb, jsonb_object_keys(thumb.value) as reason
    where id = %(project)s and replace(reason, '_', '-') = name
) and not exists (
    select from feedback where facets @> array['project:' || %(project)s, 'reason:' || name]
        or facets @> array['project:' || %(project)s, 'reason:' || replace(name, '-', '_')]
) order by name limit 1
"""

# The base is the same for all, so a new project is answered by the files of the installation's own.
_ADD_BASE: LiteralString = """
insert into policies
    (project, id, parent, base_digest, directory, digest, signature, manifest, state, live_at)
select %(project)s, id, parent, base_digest, directory, digest, signature, manifest, 'live', now()
from policies where project = %(own)s and id = %(base)s
on conflict do nothing
"""


async def projects(
    connection: Connection, after: str = "", limit: int = MOST_PROJECTS
) -> list[dict[str, Any]]:
    """Returns projects by id, from behind the id `after`."""
    cursor = await connection.execute(
        _COLUMNS + "where id > %s order by id limit %s", [after, min(limit, MOST_PROJECTS)]
    )
    return [with_times(row) for row in await cursor.fetchall()]


async def project(connection: Connection, id: str) -> dict[str, Any]:
    """Returns what a project has set. Raises NotFound."""
    row = await (await connection.execute(_COLUMNS + "where id = %s", [id])).fetchone()
    if row is None:
        raise _missing(id)
    return with_times(row)


async def create(connection: Connection, own: str, new: NewProject) -> dict[str, Any]:
    """Creates a project beside the installation's `own`, answered by the base, with its first keys in the
    clear. Raises Conflict where there is one of this name, Unavailable while there is no base yet, and
    InvalidRequest and StartError as `change`."""
    _check_redaction(new)
    await _check_criteria(connection, new.id, new)
    made = await connection.execute(
        "insert into projects"
        " (id, system_prompt, sampling, promotion, learning, public_cards, redaction, retention_days)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing",
        [new.id, new.system_prompt, Jsonb(new.sampling.model_dump(exclude_none=True)), new.promotion,
         Jsonb(new.learning.model_dump(exclude_none=True)), new.public_cards, new.redaction,
         new.retention_days],
    )  # fmt: skip
    if not made.rowcount:
        raise Conflict(f"There is a project {new.id} already.", code="project_exists", param="id")
    if not await add_base(connection, own, new.id):
        raise Unavailable(
            "The base model is not published yet; try again when the first start has ended.", code="no_base"
        )
    keys = await make_keys(connection, new.id)
    await connection.execute("select pg_notify('hearken_routes', %s)", [new.id])
    return {**await project(connection, new.id), "keys": asdict(keys), "page": f"/?key={keys.publishable}"}


async def add_base(connection: Connection, own: str, id: str) -> bool:
    """Lets a project be answered by the base of the installation's `own`, if it has no base yet; returns
    whether it had none and there is one to give."""
    added = await connection.execute(_ADD_BASE, {"project": id, "own": own, "base": BASE})
    if added.rowcount:
        await connection.execute(
            "insert into routes (project, live, previous) values (%s, %s, %s) on conflict do nothing",
            [id, BASE, BASE],
        )
    return bool(added.rowcount)


async def change(connection: Connection, id: str, said: ProjectChange) -> dict[str, Any]:
    """Changes what is given of a project; its chats follow within a second. Raises NotFound, InvalidRequest
    for a criterion that the project does not know, and StartError where redaction is asked for and not
    installed."""
    given = said.model_fields_set
    _check_redaction(said)
    await _check_criteria(connection, id, said)
    await connection.execute(
        "update projects set system_prompt = case when %s then %s else system_prompt end,"
        " sampling = case when %s then %s else sampling end,"
        " promotion = case when %s then %s else promotion end,"
        " learning = case when %s then %s else learning end,"
        " public_cards = case when %s then %s else public_cards end,"
        " redaction = case when %s then %s::text[] else redaction end,"
        " retention_days = case when %s then %s else retention_days end where id = %s",
        [
            "system_prompt" in given, said.system_prompt,
            "sampling" in given, Jsonb(said.sampling.model_dump(exclude_none=True)),
            "promotion" in given, said.promotion,
            "learning" in given, Jsonb(said.learning.model_dump(exclude_none=True)),
            "public_cards" in given, said.public_cards,
            "redaction" in given, said.redaction,
            "retention_days" in given, said.retention_days, id,
        ],
    )  # fmt: skip
    await connection.execute("select pg_notify('hearken_routes', %s)", [id])
    return await project(connection, id)


def _check_redaction(said: ProjectChange) -> None:
    if said.redaction:
        PersonalDataFinder(said.redaction, [])


async def _check_criteria(connection: Connection, id: str, said: ProjectChange) -> None:
    """Raises InvalidRequest for a criterion that is neither known nor a reason in the project."""
    own = sorted(said.learning.criteria.difference(CRITERIA))
    if not own:
        return
    cursor = await connection.execute(_NO_REASONS, {"names": own, "project": id})
    if (unknown := await cursor.fetchone()) is not None:
        raise InvalidRequest(
            f"The project has no criterion {unknown['name']!r}. There are {', '.join(CRITERIA)}, and the"
            " reasons that its widget offers or its people have given.",
            param="learning",
        )


def _missing(id: str) -> NotFound:
    return NotFound(f"There is no project {id[:64]}.", code="project_not_found")


def is_installations_own(request: Request, caller: Caller) -> bool:
    """Returns whether the caller is an admin of the project that makes others."""
    return caller.may("admin") and caller.project == services(request).settings.project


def _check_sees(request: Request, caller: Caller, id: str) -> None:
    """Raises NotFound for another project than the caller's, unless it makes them."""
    if id != caller.project and not is_installations_own(request, caller):
        raise _missing(id)


@router.get("")
async def list_projects(
    request: Request,
    caller: Viewer,
    after: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_PROJECTS)] = 100,
) -> dict[str, Any]:
    """Lists the caller's project; for an admin of the installation's own, all by their ids."""
    async with services(request).pool.connection() as connection:
        if is_installations_own(request, caller):
            return {"object": "list", "data": await projects(connection, after, limit)}
        return {"object": "list", "data": [await project(connection, caller.project)]}


@router.post("", status_code=201, openapi_extra=request_body("/v1/projects", NewProject))
async def create_project(request: Request, caller: Admin) -> dict[str, Any]:
    """Creates a project. Its `keys` are in this answer only; `page` is the address of its chat here."""
    if not is_installations_own(request, caller):
        raise Forbidden("Only an admin of the installation's own project makes others.")
    new = check(_NEW_PROJECT, decode(await request.body()))
    services(request).redaction.check(new.redaction)
    async with acting(request, caller) as connection:
        return await create(connection, caller.project, new)


@router.get("/{id}")
async def one_project(request: Request, id: str, caller: Viewer) -> dict[str, Any]:
    _check_sees(request, caller, id)
    async with services(request).pool.connection() as connection:
        return await project(connection, id)


@router.patch("/{id}", openapi_extra=request_body("/v1/projects/{id}", ProjectChange, method="patch"))
async def change_project(request: Request, id: str, caller: Operator) -> dict[str, Any]:
    """Changes system prompt, sampling defaults, promotion, learning, redaction or retention: those that the
    body names."""
    _check_sees(request, caller, id)
    said = check(_CHANGE, decode(await request.body()))
    services(request).redaction.check(said.redaction)
    async with acting(request, caller) as connection:
        return await change(connection, id, said)
