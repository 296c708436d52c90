"""The trainer's part of an erasure: whatever learned from the person is found, replaced and deleted.

When the person's rows are deleted (`feedback.erasing`), it removes them from the records of rounds, lists the
policies that learned from them as tainted (by the ids in each policy's inputs, by its vote summary, and by
its ancestors; of a policy whose inputs were pruned, by its age), takes their votes out of the vote summary,
trains the policy that was live again without them (`rebuild`), and asks serving to make it live. One that
serving rejects is no reason to wait: the newest ancestor that may answer takes the place. Once no tainted
policy answers anybody, the files of all of them are deleted.

Each step is recorded when it is done, and finds what is left to do where it was killed. No round runs
meanwhile, except where a rebuild waits for its time (`trainer.rebuild_seconds`).
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from psycopg.rows import DictRow

from feedback.erasures import ADD_STEP, BEGIN, RESTORE, beginning, step_done
from schemas.database import Pool
from schemas.errors import PolicyRejected
from schemas.files import private_folder
from schemas.policies import BASE
from schemas.settings import Settings
from trainer.data import vote_summary
from trainer.data.round_inputs import RoundInputs
from trainer.learner import Learner
from trainer.rebuild import Rebuild, refused
from trainer.records import interruptions, prune, publish, record
from trainer.records.published import NotReproducible

ASK_SECONDS = 60.0
"""Seconds after which serving is asked again to make the rebuilt policy live."""

BARRED = ("rejected", "rolled_back")
"""States of a policy that serving does not make live, unless an operator says so."""

TAINTED = "learned from somebody who was erased"
"""The reason of a policy that never went live, and does not any more."""

log = structlog.get_logger("trainer")

_OPEN = "select * from erasures where project = %s and done_at is null order by asked_at, id"
_REBUILT_AT = """
select max((steps #>> '{rebuild,at}')::timestamptz) as at from erasures
where project = %s and steps #>> '{rebuild,of}' is not null
"""
_POLICIES = """
select id, parent, directory, created_at, tainted_at, pruned_at, rebuilds, digest, state, reason from policies
where project = %s order by created_at, id
"""
_MARK = """
update policies set tainted_at = coalesce(tainted_at, now()), asked_at = null, pinned_at = null,
    pruned_at = case when id = any(%(answering)s) then pruned_at else coalesce(pruned_at, now()) end,
    reason = case when state = 'published' then %(reason)s else reason end,
    state = case when state = 'published' then 'retired' else state end
where project = %(project)s and id = any(%(tainted)s)
"""
_ROUTE = (
    "select live, array_remove(array[live, previous, canary], null) as all from routes where project = %s"
)


class Erasures:
    """The open erasures of a project. `revise` brings the vote summary in step with the database."""

    def __init__(
        self, settings: Settings, pool: Pool, learner: Learner, revise: Callable[[], object]
    ) -> None:
        self._settings = settings
        self._project = settings.project
        self._pool = pool
        self._revise = revise
        self._rebuild = Rebuild(settings, pool, learner)
        self._unfinished = learner.directory / "unfinished.json"
        self._tombstones = settings.data_dir / "tombstones" / f"{settings.project}.json"
        self._asked = -ASK_SECONDS
        self._prepared: set[str] = set()

    def keep_tombstones(self) -> None:
        """Keeps the tombstones beside the database, and asks again for erasures that a restored database does
        not know."""
        kept = json.loads(self._tombstones.read_text()) if self._tombstones.is_file() else {}
        with self._pool.connection() as connection:
            rows = connection.execute(
                "select hash, erased_at from tombstones where project = %s", [self._project]
            ).fetchall()
        known = {bytes(row["hash"]).hex(): row["erased_at"] for row in rows}
        for name, erased_at in kept.items():
            moment = datetime.fromisoformat(erased_at)
            if name not in known or known[name] < moment:
                self._ask_again(bytes.fromhex(name), moment)
                known[name] = moment
        if known and kept != (found := {name: moment.isoformat() for name, moment in known.items()}):
            private_folder(self._tombstones.parent)
            draft = self._tombstones.with_suffix(".draft")
            draft.write_text(json.dumps(found))
            draft.replace(self._tombstones)

    def waiting(self) -> list[DictRow]:
        """Returns the open erasures that the trainer is not through with. Of whom nothing was deleted,
        nothing was learned."""
        return [
            each
            for each in self._open()
            if "files" not in each["steps"] and ("database" not in each["steps"] or each["since"] is not None)
        ]

    def work(self) -> bool:
        """Does what can be done now; returns whether rounds may run. Raises as `Rebuild.run`."""
        found = self.waiting()
        if not found:
            return True
        if any("database" not in each["steps"] for each in found):
            return False
        if all("policies" not in each["steps"] for each in found) and self._too_soon():
            for erasure in found:
                self._prepare(erasure)
            return True
        for erasure in found:
            self._find(erasure)
        ids = {each["id"] for each in found}
        place = self._rebuild_live([each for each in self._open() if each["id"] in ids])
        if not self._replaced(place) or not prune.delete_tainted(self._pool, self._settings):
            return False
        shutil.rmtree(self._rebuild.folder, ignore_errors=True)
        for erasure in found:
            self._done(erasure, "files", live=self._route()["live"])
            log.info("erasure is through", erasure=erasure["id"])
        return True

    def learned_from(self, inputs: RoundInputs, events: Sequence[str]) -> bool:
        """Returns whether somebody whose votes, prompts or demonstrations a round used is being erased."""
        used = [*inputs.events, *inputs.turns, *inputs.demonstrations, *events]
        return self._mentions([each["id"] for each in self._open()], used)

    def _too_soon(self) -> bool:
        """Returns whether the last rebuild was so lately that the next one waits: else a few who come and go
        would keep the trainer from learning."""
        with self._pool.connection() as connection:
            row = connection.execute(_REBUILT_AT, [self._project]).fetchone()
        if row is None or row["at"] is None:
            return False
        age: timedelta = datetime.now(UTC) - row["at"]
        return age.total_seconds() < self._settings.trainer.rebuild_seconds

    def _find(self, erasure: DictRow) -> None:
        """Removes the person from the rounds' records and from the vote summary, and marks the tainted
        policies."""
        steps = erasure["steps"]
        if "policies" not in steps:
            self._prepare(erasure)
            tainted = self._tainted(erasure)
            self._revise()
            self._unfinished.unlink(missing_ok=True)
            live = self._mark(tainted)
            self._done(erasure, "policies", tainted=tainted, live=live if live in tainted else None)
            log.info("policies are tainted", erasure=erasure["id"], policies=tainted)
        if "records" not in steps:
            changed = record.forget(
                self._pool, self._settings, erasure["raters"] or [], self._tainted_now(), erasure["since"]
            )
            self._done(erasure, "records", rounds=changed)

    def _prepare(self, erasure: DictRow) -> None:
        """Takes the votes out of the vote summaries of the rounds that are to be rebuilt, once: before a
        round takes them out of the current one, and their rows are gone."""
        if erasure["id"] in self._prepared:
            return
        self.keep_tombstones()
        tainted = {*self._tainted(erasure), *self._tainted_now()}
        others = [each["steps"].get("policies", {}).get("live") for each in self._open()]
        for target in {self._route()["live"], *filter(None, others)}:
            for policy in self._chain(target, tainted):
                with suppress(PolicyRejected, NotReproducible):
                    self._rebuild.prepare(policy)
        self._prepared.add(erasure["id"])

    def _tainted(self, erasure: DictRow) -> list[str]:
        """Returns the policies that learned from the person, or of which that cannot be ruled out."""
        found, names = set(erasure["learned_by"]), list[str]()
        for policy in self._policies():
            if policy["id"] == BASE:
                continue
            if policy["id"] in found or policy["parent"] in found or self._learned(erasure, policy):
                found.add(policy["id"])
                names.append(policy["id"])
        return names

    def _learned(self, erasure: DictRow, policy: DictRow) -> bool:
        """Returns whether a policy's round had anything of the person; by its age where its directory does
        not say."""
        directory, since = Path(policy["directory"]), erasure["since"]
        inputs = RoundInputs.read(directory / publish.INPUTS)
        compacted = vote_summary.events_in(directory) if inputs and inputs.vote_summary else []
        if inputs is None or compacted is None:
            return since is not None and policy["created_at"] >= since
        ids = [*inputs.events, *inputs.turns, *inputs.demonstrations, *compacted]
        return self._mentions([erasure["id"]], ids)

    def _mark(self, tainted: list[str]) -> str:
        """Marks policies as tainted: those that answer nobody are pruned next, and none is chosen again.
        Returns the live policy."""
        with self._pool.connection() as connection, connection.transaction():
            connection.execute("select from routes where project = %s for update", [self._project])
            route = connection.execute(_ROUTE, [self._project]).fetchone()
            assert route is not None  # noqa: S101  (ensure_base made the route)
            values = {
                "project": self._project, "tainted": tainted, "reason": TAINTED, "answering": route["all"],
            }  # fmt: skip
            connection.execute(_MARK, values)
            connection.execute("select pg_notify('hearken_routes', %s)", [self._project])
        return str(route["live"])

    def _rebuild_live(self, found: Sequence[DictRow]) -> str | None:
        """Rebuilds the policy that was live, if it is tainted; returns what takes its place."""
        waiting = [each for each in found if "rebuild" not in each["steps"]]
        places = [each["steps"]["rebuild"]["live"] for each in found if each not in waiting]
        place = next((place for place in reversed(places) if place is not None), None)
        if not waiting:
            return self._not_barred(found, place)
        lives = [each["steps"]["policies"]["live"] for each in found]
        target = next((live for live in reversed(lives) if live is not None), None)
        rebuilt: list[str] = []
        skipped: list[str] = []
        why: list[str] = []
        if target is not None:
            tainted = set(self._tainted_now())
            place = self._clean_ancestor(target, tainted)
            for policy in self._chain(target, tainted):
                made = self._made_of(policy) or self._made_now(policy, place)
                if made is None:
                    skipped.append(policy)
                else:
                    place = made
                    rebuilt.append(made)
            if rebuilt and (why := refused(self._pool, self._project, place)):
                log.warning("the rebuilt policy is refused", policy=place, reasons=why)
                place = self._clean_ancestor(target, tainted)
        for erasure in waiting:
            self._done(
                erasure, "rebuild", of=target, rebuilt=rebuilt, skipped=skipped, refused=why, live=place
            )
        return place

    def _not_barred(self, found: Sequence[DictRow], place: str | None) -> str | None:
        """Returns what takes the place of the live policy: `place`, or, where serving has rejected it or it
        was rolled back, the newest clean ancestor that was not, which the erasures' steps then say."""
        policies = {each["id"]: each for each in self._policies()}
        if place is None or policies[place]["state"] not in BARRED:
            return place
        state, reason = policies[place]["state"], policies[place]["reason"]
        why = f"{place} was rejected: {reason}" if state == "rejected" else f"{place} was rolled back"
        log.error("the tainted policy's replacement is barred", policy=place, state=state, reason=reason)
        barred = {each["id"] for each in policies.values() if each["state"] in BARRED}
        waiting = [each for each in found if each["steps"]["rebuild"]["live"] == place]
        of = next(filter(None, (each["steps"]["rebuild"]["of"] for each in waiting)), place)
        instead = self._clean_ancestor(of, barred.union(self._tainted_now()))
        for erasure in waiting:
            step = erasure["steps"]["rebuild"]
            changed = {**step, "refused": [*step["refused"], why], "live": instead}
            self._done(erasure, "rebuild", **changed)
        return instead

    def _made_now(self, policy: str, parent: str) -> str | None:
        if interruptions.pause_left(self._pool, self._project):  # nobody waits for what kills trainers
            log.error("round not rebuilt", of=policy, reason="the last rounds were interrupted")
            return None
        try:
            return self._rebuild.run(policy, parent)
        except (PolicyRejected, NotReproducible) as error:
            log.error("round not rebuilt", of=policy, reason=error.message)
            return None

    def _replaced(self, place: str | None) -> bool:
        """Returns whether no tainted policy answers, or would after a rollback, and `place` is live, unless
        an operator has chosen another one meanwhile; asks serving for it."""
        route, tainted = self._route(), set(self._tainted_now())
        live = route["live"]
        if live in tainted:
            self._ask(place or self._clean_ancestor(live, tainted))
        elif place is not None and live != place and live in self._lineage(place):
            self._ask(place)
        else:
            return tainted.isdisjoint(route["all"])
        return False

    def _ask(self, policy: str) -> None:
        """Asks serving to prove a policy and make it live."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return
        self._asked = time.monotonic()
        with self._pool.connection() as connection, connection.transaction():
            connection.execute(
                "update policies set asked_at = now() where project = %s and id = %s and pruned_at is null"
                " and state <> all(%s)",
                [self._project, policy, ["live", *BARRED]],
            )
            connection.execute("select pg_notify('hearken_policies', %s)", [self._project])

    def _chain(self, policy: str, tainted: set[str]) -> list[str]:
        """Returns the tainted ones of a policy and its ancestors whose files are there, oldest first."""
        there = {each["id"] for each in self._policies() if each["pruned_at"] is None or each["tainted_at"]}
        lineage = [each for each in [policy, *self._lineage(policy)] if each in tainted and each in there]
        return [each for each in reversed(lineage) if self._has_inputs(each)]

    def _clean_ancestor(self, policy: str, tainted: set[str]) -> str:
        """Returns the newest ancestor that is not tainted and whose files are there."""
        there = {each["id"] for each in self._policies() if each["pruned_at"] is None}
        return next((each for each in self._lineage(policy) if each in there - tainted), BASE)

    def _lineage(self, policy: str) -> list[str]:
        """Returns the ancestors of a policy, nearest first."""
        parents = {each["id"]: each["parent"] for each in self._policies()}
        found: list[str] = []
        while (parent := parents.get(found[-1] if found else policy)) is not None:
            found.append(parent)
        return found

    def _made_of(self, policy: str) -> str | None:
        """Returns the policy that was made of this one already."""
        made = [
            each["id"]
            for each in self._policies()
            if each["rebuilds"] == policy and each["tainted_at"] is None and each["pruned_at"] is None
        ]
        return made[-1] if made else None

    def _has_inputs(self, policy: str) -> bool:
        directory = next(Path(each["directory"]) for each in self._policies() if each["id"] == policy)
        return (directory / publish.INPUTS).is_file()

    def _tainted_now(self) -> list[str]:
        return [each["id"] for each in self._policies() if each["tainted_at"] is not None]

    def _mentions(self, erasures: Sequence[str], ids: Sequence[str]) -> bool:
        with self._pool.connection() as connection:
            return (
                connection.execute(
                    "select 1 from erased_ids where erasure = any(%s) and id = any(%s) limit 1",
                    [list(erasures), list(ids)],
                ).fetchone()
                is not None
            )

    def _open(self) -> list[DictRow]:
        with self._pool.connection() as connection:
            return connection.execute(_OPEN, [self._project]).fetchall()

    def _policies(self) -> list[DictRow]:
        with self._pool.connection() as connection:
            return connection.execute(_POLICIES, [self._project]).fetchall()

    def _route(self) -> DictRow:
        with self._pool.connection() as connection:
            row = connection.execute(_ROUTE, [self._project]).fetchone()
        assert row is not None  # noqa: S101  (ensure_base made the route)
        return row

    def _done(self, erasure: DictRow, step: str, **found: Any) -> None:
        with self._pool.connection() as connection:
            connection.execute(ADD_STEP, [step_done(step, **found), erasure["id"]])

    def _ask_again(self, person: bytes, erased_at: datetime) -> None:
        with self._pool.connection() as connection:
            connection.execute(BEGIN, beginning(self._project, [person], RESTORE, erased_at))
