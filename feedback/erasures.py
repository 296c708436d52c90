"""An erasure is the request to forget a person, and the record of what was done for it.

A tombstone, the hash of the person's pseudonym, is written with the request: from then on nothing that the
person did before is stored or learned from, wherever it comes from (`erased` in the database). The rows are
deleted by `feedback.erasing`; the trainer looks for what it has learned and adds its own steps. When nothing
is left to do, the pseudonyms go, and a signed receipt (`feedback.receipt`) says what was done.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback import receipt, saved_views
from schemas.errors import NotFound
from schemas.times import rfc3339

OWN_STEPS = ("database", "exports")
"""The steps of `feedback.erasing`."""

TRAINER_STEPS = ("records", "policies", "rebuild", "files")
"""The steps of the trainer, where anything was deleted, and the project has ever had a round."""

RESTORE = "restore"
"""Who asks for an erasure of which a restored database knows nothing."""

Connection = AsyncConnection[DictRow]

BEGIN: LiteralString = """
with tombs as (
    insert into tombstones (project, hash, erased_at)
    select %(project)s, unnest(%(hashes)s::bytea[]), %(asked_at)s
    on conflict (project, hash)
    do update set erased_at = greatest(tombstones.erased_at, excluded.erased_at)
), agreed as (
    delete from consents
    where project = %(project)s and hash = any(%(hashes)s) and learning and set_at <= %(asked_at)s
)
insert into erasures (id, project, raters, hashes, asked_by, asked_at)
values (%(id)s, %(project)s, %(raters)s, %(hashes)s, %(asked_by)s, %(asked_at)s)
"""
"""Begins an erasure with its tombstones; its values are those of `beginning`. That the person agreed to be
learned from is forgotten; that they refused is not."""

_RUNNING: LiteralString = """
select id, began is not null and (
    exists (
        select from turns where project = %(project)s and rater = any(%(raters)s) and created_at > began
    ) or exists (
        select from feedback where project = %(project)s and facets && %(facets)s and created_at > began
    )
) as came_back
from erasures, lateral (select (steps #>> '{began,at}')::timestamptz as began) as begun
where project = %(project)s and done_at is null and hashes = %(hashes)s
order by asked_at desc limit 1
"""
_COLUMNS: LiteralString = (
    "select id, project, hashes, asked_by, asked_at, steps, receipt, done_at from erasures where project = %s"
)
_IDS_AT_ONCE = 10_000
_FORGET_IDS: LiteralString = """
delete from erased_ids where ctid = any(array(select ctid from erased_ids where erasure = %s limit %s))
"""
_TAINTED: LiteralString = """
select p.id as policy, p.digest
from erasures e, jsonb_array_elements_text(e.steps #> '{policies,tainted}') as t (id)
join policies p on p.id = t.id where e.id = %s and p.project = e.project order by p.created_at, p.id
"""
_REBUILT: LiteralString = """
select p.id as policy, p.digest, p.rebuilds from erasures e,
    jsonb_array_elements_text(e.steps #> '{rebuild,rebuilt}') as t (id)
join policies p on p.id = t.id where e.id = %s and p.project = e.project order by p.created_at, p.id
"""


def person_hash(project: str, rater: str) -> bytes:
    """Returns the hash by which an erased person is known, as `person_hash` in the database does."""
    return hashlib.sha256(f"{project} {rater}".encode()).digest()


async def ask(
    connection: Connection, project: str, raters: Sequence[str], asked_by: str, user: str | None = None
) -> str:
    """Asks that the person with these pseudonyms be erased; returns the id of the erasure, which is the
    running one, unless there is something newer than that deletes. Saved filters that name the person, or
    `user`, are deleted."""
    hashes = [person_hash(project, rater) for rater in raters]
    async with connection.transaction():
        await connection.execute("select from projects where id = %s for update", [project])
        found = {"project": project, "hashes": hashes, "raters": list(raters)}
        found["facets"] = [f"rater:{rater}" for rater in raters]
        running = await (await connection.execute(_RUNNING, found)).fetchone()
        if running is not None and not running["came_back"]:
            return str(running["id"])
        await _forget_filters(connection, project, {*raters, *filter(None, [user])})
        values = beginning(project, hashes, asked_by, datetime.now(UTC), list(raters))
        await connection.execute(BEGIN, values)
        return str(values["id"])


def beginning(
    project: str, hashes: Sequence[bytes], asked_by: str, asked_at: datetime, raters: list[str] | None = None
) -> dict[str, Any]:
    """Returns the values of a new erasure; without the pseudonyms, those who have the hashes are looked
    for."""
    id = f"erasure-{secrets.token_hex(12)}"
    return {
        "id": id, "project": project, "hashes": list(hashes), "asked_by": asked_by, "asked_at": asked_at,
        "raters": raters,
    }  # fmt: skip


async def _forget_filters(connection: Connection, project: str, names: set[str]) -> None:
    for view in await saved_views.naming(connection, project, names):
        await saved_views.delete(connection, project, view["name"])


async def find(connection: Connection, project: str, id: str) -> DictRow:
    """Returns an erasure. Raises NotFound."""
    row = await (await connection.execute(_COLUMNS + " and id = %s", [project, id])).fetchone()
    if row is None:
        raise NotFound(f"There is no erasure {id[:64]}.", code="erasure_not_found")
    return row


async def newest(connection: Connection, project: str, limit: int) -> list[DictRow]:
    """Returns the newest erasures of a project."""
    cursor = await connection.execute(
        _COLUMNS + " order by asked_at desc, id desc limit %s", [project, limit]
    )
    return await cursor.fetchall()


def shown(erasure: DictRow) -> dict[str, Any]:
    """Returns an erasure as its API shows it: its state, what was done, and the receipt once it is done."""
    waits = [step for step in (*OWN_STEPS, *TRAINER_STEPS) if step not in erasure["steps"]]
    return {
        "id": erasure["id"],
        "object": "erasure",
        "state": "running" if erasure["done_at"] is None else "done",
        "asked_at": rfc3339(erasure["asked_at"]),
        "asked_by": erasure["asked_by"],
        "done_at": rfc3339(erasure["done_at"]) if erasure["done_at"] else None,
        "steps": steps_by_time(erasure["steps"]),
        "waits_for": waits[0] if erasure["done_at"] is None and waits else None,
        "receipt": erasure["receipt"],
    }


def steps_by_time(steps: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(({"step": name, **step} for name, step in steps.items()), key=lambda step: str(step["at"]))


ADD_STEP: LiteralString = "update erasures set steps = steps || %s where id = %s"
"""Records a `step_done` of an erasure, of which the id is the second value."""


def step_done(step: str, **found: Any) -> Jsonb:
    """Returns what is recorded of a step: when it was done, and what was found."""
    return Jsonb({step: {"at": rfc3339(datetime.now(UTC)), **found}})


async def add_step(connection: Connection, id: str, step: str, **found: Any) -> None:
    await connection.execute(ADD_STEP, [step_done(step, **found), id])


async def finish(connection: Connection, erasure: DictRow) -> None:
    """Ends an erasure whose steps are done: the pseudonyms go, and a receipt is signed."""
    id, done_at = erasure["id"], datetime.now(UTC)
    key = await receipt.signing_key(connection)
    tainted = await (await connection.execute(_TAINTED, [id])).fetchall()
    rebuilt = await (await connection.execute(_REBUILT, [id])).fetchall()
    said = {
        "format": receipt.FORMAT,
        "id": id,
        "project": erasure["project"],
        "person": [bytes(each).hex() for each in erasure["hashes"]],
        "asked_at": rfc3339(erasure["asked_at"]),
        "asked_by": erasure["asked_by"],
        "done_at": rfc3339(done_at),
        "steps": steps_by_time(erasure["steps"]),
        "tainted": tainted,
        "rebuilt": rebuilt,
    }
    while (await connection.execute(_FORGET_IDS, [id, _IDS_AT_ONCE])).rowcount:
        pass
    async with connection.transaction():
        await connection.execute(
            "update erasures set raters = null, receipt = %s, done_at = %s where id = %s",
            [Jsonb(receipt.sign(said, key)), done_at, id],
        )
