"""Pruning deletes the files of old policies by a retention rule; their rows and their manifests stay.

Kept are the base, the policies of the route (live, previous, canary), those that an operator pinned or asked
to promote, the newest `trainer.keep_policies`, as many that the gate refused, and the parents of all these,
from which they are reproduced and to which a rollback leads. Any other policy is marked in the database
first, under the lock of the route, so that serving promotes no policy whose files go; then its files are
deleted. A deletion that fails or is interrupted is repeated at the next pass. Which votes a candidate had
that the gate refused is forgotten with its files.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import psycopg
import structlog
from psycopg.rows import DictRow

from feedback import policy_store
from schemas.database import Pool
from schemas.policies import BASE, MANIFEST
from schemas.settings import Settings
from trainer.records import publish

PER_PASS = 20
"""Most policies that one pass marks, and most whose files it deletes, the oldest first."""

LOCK_TIMEOUT = "5s"
"""Longest wait for the route, which a promotion may hold."""

log = structlog.get_logger("trainer")

_MARK = """
with kept as (
    select id, parent from policies where project = %(project)s and (
        state in ('live', 'canary') or pinned_at is not null or asked_at is not null
        or id in (select unnest(array[live, previous, canary]) from routes where project = %(project)s)
        or id in (select id from (
            select id, row_number() over (
                partition by gate ->> 'outcome' is not distinct from 'refused'
                order by created_at desc, id desc
            ) as place from policies where project = %(project)s
        ) as of_its_kind where place <= %(newest)s))
)
update policies set pruned_at = now() where pinned_at is null and project = %(project)s and id in (
    select id from policies where project = %(project)s and pruned_at is null and id <> %(base)s
    and id not in (select id from kept) and id not in (select parent from kept where parent is not null)
    order by created_at, id limit %(most)s)
returning id
"""
_FORGET = """
delete from refused_candidates c using policies p
where c.project = %s and p.project = c.project and p.id = c.policy and p.pruned_at is not null
"""


def prune(pool: Pool, settings: Settings) -> list[str]:
    """Marks policies as pruned and deletes the files of marked ones, and what killed trainers left; returns
    the policies whose files are deleted."""
    publish.remove_drafts(settings.policies_dir / settings.project)
    try:
        _mark(pool, settings)
    except psycopg.errors.LockNotAvailable:
        log.warning("route is locked, no policy is pruned in this pass")
    with pool.connection() as connection:
        marked = connection.execute(
            "select id, directory, digest from policies where project = %s and pruned_at is not null"
            " and files_deleted_at is null and tainted_at is null order by created_at, id limit %s",
            [settings.project, PER_PASS],
        ).fetchall()
    return _delete_marked(pool, settings, marked)


def _delete_marked(pool: Pool, settings: Settings, marked: Sequence[DictRow]) -> list[str]:
    """Deletes the files of marked policies; returns those that this was possible for."""
    deleted = []
    for row in marked:
        try:
            policy_store.delete(settings, row["digest"])
            _delete_files(Path(row["directory"]))
        except OSError as error:
            log.warning("policy not deleted", policy=row["id"], error=str(error))
            continue
        with pool.connection() as connection:
            connection.execute(
                "update policies set files_deleted_at = now() where project = %s and id = %s",
                [settings.project, row["id"]],
            )
        deleted.append(row["id"])
    if deleted:
        log.info("policies pruned", policies=deleted)
    return deleted


def _mark(pool: Pool, settings: Settings) -> None:
    values = {
        "project": settings.project, "base": BASE, "most": PER_PASS, "newest": settings.trainer.keep_policies,
    }  # fmt: skip
    with pool.connection() as connection, connection.transaction():
        connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        connection.execute("select from routes where project = %s for update", [settings.project])
        connection.execute(_MARK, values)
        connection.execute(_FORGET, [settings.project])


def _delete_files(directory: Path) -> None:
    """Deletes all but the manifest; a directory that is gone has none."""
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name == MANIFEST:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def delete_tainted(pool: Pool, settings: Settings) -> bool:
    """Deletes the files of the tainted policies that answer nobody; returns whether all of them are gone."""
    with pool.connection() as connection, connection.transaction():
        connection.execute("select from routes where project = %s for update", [settings.project])
        marked = connection.execute(
            "update policies p set pruned_at = coalesce(pruned_at, now()), pinned_at = null"
            " where project = %s and tainted_at is not null and files_deleted_at is null and not exists ("
            "  select from routes r where r.project = p.project and p.id in (r.live, r.previous, r.canary))"
            " returning id, directory, digest",
            [settings.project],
        ).fetchall()
        connection.execute(_FORGET, [settings.project])
    return len(_delete_marked(pool, settings, marked)) == len(marked)
