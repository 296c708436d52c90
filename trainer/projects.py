"""This module trains all projects of a database, one round after another, over one resident base.

Several trainers are a pool of workers: each does what a project needs next that no other trainer is at, so
that projects share machines and go on when one of these dies. The installation's own project, with the log of
all, has one of them for as long as that lives. A trainer with `trainer.all_projects = false` trains its own
project only, so that a project may have machines of its own; the other trainers leave it alone while that one
leads. A project may be removed at any instant, also during a visit: then its trainer goes with its lock, and
the others go on.
"""

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psycopg
import structlog
import torch

from feedback.open_log import open_log
from schemas.database import open_pool
from schemas.errors import StartError
from schemas.settings import Settings
from trainer.learner import Learner, WorkerOutOfSync
from trainer.log_reader import POLL_SECONDS, LogReader
from trainer.loop import Trainer
from trainer.model.device import give_way, with_threads
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup

VISITS = 20
"""Projects that are looked at in one poll, beside the installation's own."""

_LAST = "select project from rounds order by id desc limit 1"

# A project without votes and without somebody to forget has nothing to do.
_NEXT = """
select id, created_at from projects where id > %(after)s and id <> %(own)s and (
    exists (select 1 from training_examples where project = projects.id)
    or exists (select 1 from erasures where project = projects.id)
) order by id limit %(limit)s
"""
# A project that was made again under its old name is another one.
_REMOVED = """
select id from unnest(%s::text[], %s::timestamptz[]) as known (id, made)
where not exists (select from projects where projects.id = known.id and projects.created_at = known.made)
"""

log = structlog.get_logger("trainer")


def run(settings: Settings, *, once: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> int:
    """Trains until killed, or with `once` runs one round of the settings' project; the other ranks of `group`
    run `follow`. Returns the exit code: 0, or 1 when the one round failed. Raises StartError when the
    base is not the one of the project's policies, or when another trainer leads and one round was asked for,
    and WorkerOutOfSync."""
    settings = _on_cores(settings, group)
    if settings.database_url is None:
        raise StartError("The trainer needs a database_url; `hearken up` brings its own Postgres.")
    learner = Learner(settings, group)
    with open_pool(settings.database_url, size=settings.connections) as pool:
        votes = open_log(settings, pool)
        own = Trainer(settings, pool, LogReader(pool, votes), learner)
        projects = Projects(own)
        try:
            if once:
                outcome = _one_round(own)
                group.broadcast()
                return 1 if outcome == "failed" else 0
            while True:
                projects.poll()
                time.sleep(POLL_SECONDS)
        finally:
            projects.close()
            votes.close()


def _one_round(trainer: Trainer) -> str:
    """Runs one round of the present votes; returns its outcome."""
    if not trainer.lead():
        raise StartError("Another trainer leads this project; it runs the rounds.")
    trainer.reader.read()
    if not trainer.erasures.work():
        raise StartError("Somebody is being erased; rounds run again when serving is through with it.")
    return trainer.round()


def follow(settings: Settings, group: ProcessGroup) -> None:
    """Takes part in the rounds that rank 0 of the group runs, until that ends."""
    Learner(_on_cores(settings, group), group).follow()


def _on_cores(settings: Settings, group: ProcessGroup) -> Settings:
    """Returns the settings with this process's threads; one that has several gives way to others."""
    processes = group.processes_here(torch.device("cpu"))
    trainer = with_threads(settings.trainer, Path(settings.model), processes)
    if trainer.threads != 1:
        give_way()
    return settings.model_copy(update={"trainer": trainer})


class Projects:
    """The trainers of the settings' `own` project and, unless they say otherwise, of all others."""

    def __init__(self, own: Trainer) -> None:
        self._own = own
        self._made: dict[str, datetime] = {}
        self._trainers: dict[str, Trainer] = {}
        self._refused: set[str] = set()
        self._after: str | None = None

    def poll(self) -> None:
        """Reads the log, and runs the rounds that are due, of the own project and of the next few others."""
        self._own.poll()
        if self._own.settings.trainer.all_projects:
            with suppress(psycopg.OperationalError):  # which the own project's poll tells
                self._forget_removed()
                for project in self._next():
                    self._visit(project)

    def close(self) -> None:
        """Gives up all leadership and ends the trackers."""
        self._own.election.release()
        for trainer in (self._own, *self._trainers.values()):
            trainer.trackers.close()

    def _next(self) -> list[str]:
        """Returns the next projects by id, and begins again behind the last. It starts behind the project of
        the newest round: should that round have ended the trainer, the others come first. Raises
        psycopg.OperationalError."""
        with self._own.pool.connection() as connection:
            if self._after is None:
                last = connection.execute(_LAST).fetchone()
                self._after = last["project"] if last else ""
            wanted = {"after": self._after, "own": self._own.project, "limit": VISITS}
            rows = connection.execute(_NEXT, wanted).fetchall()
        found = [row["id"] for row in rows]
        self._made |= {row["id"]: row["created_at"] for row in rows if row["id"] not in self._made}
        self._after = found[-1] if len(found) == VISITS else ""
        return [project for project in found if project not in self._refused]

    def _visit(self, project: str) -> None:
        """Trains a project if that is due; leaves one alone whose policies are of another base, and one that
        is removed meanwhile, whatever then failed."""
        try:
            if project not in self._trainers:
                self._trainers[project] = self._own.of_project(project)
            self._trainers[project].visit()
        except WorkerOutOfSync:
            raise
        except Exception as error:
            self._forget_removed()
            if project not in self._made:
                return
            if not isinstance(error, StartError):
                raise
            log.error("project is not trained", project=project, reason=error.message)
            self._refused.add(project)

    def _forget_removed(self) -> None:
        """Drops the trainers of projects that were removed, with their locks. Raises
        psycopg.OperationalError."""
        with self._own.pool.connection() as connection:
            known = [list(self._made), list(self._made.values())]
            removed = [row["id"] for row in connection.execute(_REMOVED, known).fetchall()]
        for project in removed:
            log.info("project was removed", project=project)
            del self._made[project]
            self._refused.discard(project)
            self._own.learner.base.forget(project)
            trainer = self._trainers.pop(project, None)
            if trainer is not None:
                trainer.trackers.close()
                trainer.election.release_project()
