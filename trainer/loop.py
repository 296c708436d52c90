"""The trainer is a loop: read votes, train a candidate, evaluate it at the gate, publish it if it passes.

The loop reads the log into training examples. When enough new votes have come, or any and enough time has
passed, it runs a round (`round`): it fits the reward model to the training folds of the active votes,
improves the live adapter by policy gradient on prompts that people sent, puts the candidate before the gate
with the held-out fold, and publishes it if it passes; what the gate refuses is kept for operators to look
into, and serves nobody. Every round is recorded, whatever its outcome. A round starts from the live adapter,
or from its parent if the live regression test fails (`evaluation.regression`).

A trainer may be killed at any instruction. Votes are safe in the log, a policy is published completely or not
at all, and an interrupted round is closed as failed by the next leader and run again from the same inputs, at
growing intervals if its trainer dies each time (`records.interruptions`): a project has one leader at a time
(`leader_election`). Nothing here changes what is served; serving takes published policies live.

A trainer may be a group of processes: rank 0 runs this loop, the others share the work on the model
(`learner`).
"""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import structlog

from schemas.database import Pool
from schemas.errors import EngineError
from schemas.policies import file_digest
from schemas.settings import Settings
from trainer import parent_policy
from trainer.data import (
    demonstrations,
    examples,
    summary_store,
    suspects,
    vote_summary,
)
from trainer.data.behaviour import load_behaviour
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.vote_summary import VoteSummary
from trainer.erasure import Erasures
from trainer.evaluation import gate, off_policy
from trainer.evaluation.constraints.finding import blocked_replies
from trainer.evaluation.off_policy import Approval
from trainer.leader_election import LeaderElection
from trainer.learner import CandidateResult, Learner, WorkerOutOfSync
from trainer.log_reader import LogReader
from trainer.new_inputs import new_inputs
from trainer.records import interruptions, person_weights, progress, prune, publish, record
from trainer.records.published import read_published
from trainer.records.record import Ending, RoundRecord, RoundRow
from trainer.records.trackers import Trackers
from trainer.reward.ensemble import RewardModel
from trainer.round_description import describe_data, describe_training

LOOK_SECONDS = 60.0
"""Seconds from one look for new demonstrations to the next."""

AGAIN_SECONDS = 60.0
"""Seconds after which an erasure that failed, or files that could not be written, are tried again."""

log = structlog.get_logger("trainer")


class Trainer:
    """One project's trainer. Trainers of several projects share a `reader` of the log."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        reader: LogReader,
        learner: Learner,
        election: LeaderElection | None = None,
    ) -> None:
        self.settings = settings
        self.project = settings.project
        self.pool = pool
        self.reader = reader
        self.learner = learner
        self.backbone = learner.backbone
        self.election = election or LeaderElection(settings.database_url or "", settings.project)
        self.last_round = time.monotonic()
        self._round_took = 0.0
        self._last_row: int | None = None
        self.leading = False
        self._unfinished = learner.directory / "unfinished.json"
        self._fitted: tuple[RoundData, RewardModel] | None = None
        self._looked = -LOOK_SECONDS
        self._waiting = False
        self._measured = False
        self.erasures = Erasures(settings, pool, learner, self._forget)
        self._erases_at = self._leads_at = 0.0
        self.trackers = Trackers(settings)
        log.info("trainer ready", project=self.project, base=self.backbone.digest[:12])

    def lead(self) -> bool:
        """Whether this trainer leads. A new leader closes and completes what the last one left. Raises
        StartError as `run`, and OSError where the files of the project cannot be written."""
        before, self.leading = self.leading and self.election.is_leader, False
        if self.election.try_acquire():
            if not before:
                interruptions.close(self.pool, self.project)  # first: then nobody else can publish
                publish.ensure_base(self.pool, self.backbone, self.settings, self.learner.base.probe)
                record.complete(self.pool, self.settings)
                self.erasures.keep_tombstones()
            self.leading = True
        return self.leading

    def of_project(self, project: str) -> "Trainer":
        """Returns the trainer of another project, over the same base and connections."""
        learner = self.learner.of_project(project)
        return Trainer(learner.settings, self.pool, self.reader, learner, self.election.of_project(project))

    def poll(self) -> None:
        """Reads the log, and runs a round if one is due and this trainer leads. When the database is away, it
        returns and the next poll tries again."""
        with _database_may_be_away():
            led = self.leading
            if self._leads():
                if not led:
                    log.info("trainer leads", project=self.project)
                self.reader.read()
                if self._arrived():
                    self._measure_base()
                self._train_if_due()

    def visit(self) -> None:
        """Does what the project needs of a trainer, of what was read by another project's, unless another
        trainer is doing it. Whichever is free does what it needs next."""
        with _database_may_be_away():
            if self._arrived():
                self._measure_base()
            if self._needs_a_trainer():
                try:
                    if self._leads():
                        self._train_if_due()
                finally:
                    self.election.release_project()
                    if self.learner.group.size == 1:
                        self.learner.base.forget(self.project)  # another trainer may change its files

    def _leads(self) -> bool:
        """Whether this trainer leads. Where the files of the project cannot be written, as while the store of
        policies is away, it does not, and tries again a minute later."""
        if time.monotonic() < self._leads_at:
            return False
        try:
            return self.lead()
        except OSError as error:
            log.error("project is not trained yet", project=self.project, reason=str(error))
            self._leads_at = time.monotonic() + AGAIN_SECONDS
            self.election.release_project()
            return False

    def _needs_a_trainer(self) -> bool:
        left_open = record.is_running(self.pool, self.project)  # by a trainer that died, or is at it
        return left_open or bool(self.erasures.waiting()) or self.due()

    def _train_if_due(self) -> None:
        if self._erased() and self.due():
            if interruptions.close(self.pool, self.project):
                record.complete(self.pool, self.settings)
            with self.reader.in_background():
                self.round()

    def _erased(self) -> bool:
        """Does what erasures need of the trainer; returns whether rounds may run. What fails is tried
        again."""
        if not self.erasures.waiting():
            return True
        if time.monotonic() < self._erases_at:
            return False
        try:
            with self.reader.in_background():
                return self.erasures.work()
        except (psycopg.OperationalError, publish.LeadershipLost):
            raise
        except Exception as error:  # whatever it was, nobody is forgotten
            if self.learner.group.size > 1:
                raise WorkerOutOfSync(
                    f"A round could not be rebuilt: {error}. Start all processes again."
                ) from error
            log.exception("erasure failed")
            interruptions.close(self.pool, self.project, died=False)
            self._erases_at = time.monotonic() + AGAIN_SECONDS
            return False

    def _measure_base(self) -> None:
        """Measures what the base knows: not at the start, when people wait for the first reply, but once the
        first vote has come, so that no round waits for it. While the sampling engine is away, it is tried
        again, and the round fails."""
        if self._measured:
            return
        try:
            reason = self.learner.knowledge.unjudged
        except EngineError as error:
            log.warning("what the base knows is not measured yet", reason=error.message)
            return
        self._measured = True
        if reason is not None:
            log.warning("no knowledge check", reason=reason)

    def due(self) -> bool:
        """Whether enough new votes have come since the last round, or any, or demonstrations, and enough time
        has passed, as much as the last round took at least; False while the project is paused, by an operator
        or by rounds that were interrupted."""
        when = self.settings.trainer
        with self.pool.connection() as connection:
            row = connection.execute("select paused from projects where id = %s", [self.project]).fetchone()
        if row is None or row["paused"]:
            return False
        arrived, last = self._arrived(), record.last_round(self.pool, self.project)
        if last is not None and last.id != self._last_row:  # another trainer's, or before this one started
            self._last_row, self._round_took = last.id, last.took
            self.last_round = time.monotonic() - last.age
            self._looked = -LOOK_SECONDS
        new = arrived - (last.votes if last else 0)
        waited = time.monotonic() - self.last_round >= max(when.round_seconds, 2 * self._round_took)
        if arrived < when.min_votes or interruptions.pause_left(self.pool, self.project):
            return False
        return new >= when.round_votes or (waited and (new > 0 or self._demonstrations_wait()))

    def _demonstrations_wait(self) -> bool:
        """Whether demonstrations came that no round has had, as of the last minute; a round makes it look
        again."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._waiting = demonstrations.are_waiting(self.pool, self.project, self.learner.longest_row)
        return self._waiting

    def _arrived(self) -> int:
        """Returns the number of votes."""
        return examples.count_votes(self.pool, self.project)

    def round(self) -> str:
        """Runs and records one round; returns its outcome. A failed round leaves the live policy as it is; in
        a process group it raises WorkerOutOfSync."""
        self._measure_base()
        self.last_round = started = time.monotonic()
        self._looked = -LOOK_SECONDS
        self._fitted = None
        again = interruptions.was_last(self.pool, self.project)
        interrupted = RoundInputs.read(self._unfinished) if again else None
        live = parent_policy.live_policy(self.pool, self.settings)
        start = parent_policy.choose_parent(self.pool, self.settings, live, interrupted)
        parent = start.policy
        found = RoundRecord(self._arrived(), parent.id, start.restart or None, regression_test=start.test)
        row = record.begin(self.pool, self.project, found.parent)
        self._last_row = row.id
        with structlog.contextvars.bound_contextvars(round=row.number):
            try:
                suspects.hold_suspects(self.pool, self.project)
                summary = self._active_summary()
                try:
                    inputs = self._inputs(row.number, live.id, found, summary, interrupted)
                    data = self._load(inputs, summary)
                except examples.Erased:  # after the inputs were named
                    summary = self._active_summary()
                    inputs = self._inputs(row.number, live.id, found, summary, None)
                    data = self._load(inputs, summary)
                found.votes, found.cautions = inputs.votes, inputs.cautions or None
                for each in {parent.id, live.id}:  # what is signed next must not come from altered files
                    read_published(self.settings, self.pool, each, self.backbone.digest)
                ending = self._train(row, data, parent.directory, live.directory, found)
            except (psycopg.OperationalError, publish.LeadershipLost):
                raise
            except Exception as error:  # whatever it was, the next votes get another chance
                found.traceback = traceback.format_exc()
                ending = Ending("failed", f"{type(error).__name__}: {error}")
            self._round_took = time.monotonic() - started
            found.seconds = round(self._round_took, 1)
            if not record.finish(self.pool, self.settings, row, ending, found):
                self._require_in_sync(row, ending)
                raise publish.LeadershipLost(f"another trainer took over before round {row.number} ended")
            self.trackers.log_round(row.number, record.finite(found.as_json()))
            self._unfinished.unlink(missing_ok=True)
            self._compact()
            prune.prune(self.pool, self.settings)
            say = log.error if ending.outcome == "failed" else log.info
            say("round ended", outcome=ending.outcome, reason=ending.reason, seconds=found.seconds)
        self._require_in_sync(row, ending)
        return ending.outcome

    def _require_in_sync(self, row: RoundRow, ending: Ending) -> None:
        """Raises WorkerOutOfSync when the round failed in a process group, whose other processes may wait."""
        if ending.outcome == "failed" and self.learner.group.size > 1:
            raise WorkerOutOfSync(
                f"Round {row.number} failed: {ending.reason}. All processes must start again."
            )

    def _train(self, row: RoundRow, data: RoundData, parent: Path, live: Path, found: RoundRecord) -> Ending:
        """Trains a candidate from the adapter in `parent`, evaluates it, and publishes it if it passes; keeps
        it as a rejected policy if the gate refuses it."""
        describe_data(found, data, self.learner)
        record.hold_out(self.pool, row, [example.event_id for example in data.held_out])
        reason, shown = data.skip_reason(), data.inputs.demonstrations
        demonstrations.note(self.pool, self.project, shown, trains=reason is None)
        if reason is not None:
            return Ending("skipped", reason)
        log.info(
            "round begins", parent=found.parent, examples=len(data.training), held_out=len(data.held_out)
        )
        candidate = self.learner.train_candidate(parent, live, data, progress.recorded(self.pool, row))
        self._fitted = data, candidate.round.model
        describe_training(found, candidate, data, self.learner)
        trained = candidate.round
        models = gate.GateModels(
            trained.model, trained.held_out_model, trained.evidence, trained.criteria,
            self._approval(candidate, data, live.name),
        )  # fmt: skip
        verdict = gate.evaluate(
            candidate.samples, models, candidate.accuracy, data.settings, candidate.constraints
        )
        optimized = candidate.round.optimized
        verdict.require(trained.moved, optimized.stopped or "no step moved the adapter")
        found.gate = verdict.as_json()
        found.blocked = blocked_replies(candidate.constraints)
        found.rests_on = [{"rater": rater} for rater in verdict.rests_on] or None
        found.clusters = [cluster.as_json() for cluster in data.clusters] or None
        alike = data.corpus.examples, data.clusters
        suspects.hold(
            self.pool, self.project, [*suspects.sudden_clusters(*alike), *suspects.turncoats(*alike)]
        )
        log.info("gate", outcome=verdict.outcome, doubts=verdict.doubts, **verdict.figures)
        refused = Ending("rejected", "; ".join(verdict.reasons)) if verdict.refused else None
        if refused is not None and not trained.moved:
            return refused  # it is its parent
        events = data.training_events()
        if self.erasures.learned_from(data.inputs, events):
            return Ending("rejected", "somebody whom it learned from is being erased")
        artifacts = publish.TrainingArtifacts(
            data.inputs, trained.rollouts, trained.base.rollouts, trained.checks, events,
            {"gate": verdict.figures, **optimized.as_json()},
            vote_summary.files(self.learner.directory) if data.history else [], model=candidate.round.model,
        )  # fmt: skip
        settings = self.settings.model_copy(update={"trainer": data.settings})
        manifest = publish.write(self.backbone, settings, row.number, candidate.probe, artifacts)
        register = publish.register if refused is None else publish.register_refused
        register(self.pool, self.settings, manifest, events, row, found)
        found.policy = manifest.id
        if refused is not None:
            return refused
        if (people := candidate.round.model.people) is not None:
            person_weights.save(self.pool, self.project, manifest.id, people, data.training)
        return Ending("published", "; ".join(verdict.doubts) or None)

    def _approval(self, candidate: CandidateResult, data: RoundData, live: str) -> Approval | None:
        """Estimates the candidate's approval from the held-out votes; None where they are on no reply whose
        probability is known."""
        events = [example.event_id for example in off_policy.held_out_thumbs(data)]
        behaviour = load_behaviour(self.pool, self.project, events)
        cache, people = self.learner.cache, off_policy.people_of(data)
        voted = off_policy.voted_replies(data, cache, behaviour, candidate.logprobs, live)
        if voted is None or not people:
            return None
        samples, model = candidate.samples, candidate.round.model
        return off_policy.estimate_approval(model, people, voted, samples.candidate, samples.live)

    def _load(self, inputs: RoundInputs, summary: VoteSummary | None) -> RoundData:
        row = inputs.token_budget.row
        corpus = examples.load(self.pool, self.project, self.backbone, inputs.events, row, inputs.turns)
        turns = examples.load_prompts(self.pool, self.project, self.backbone, inputs.turns)
        shown = demonstrations.load(self.pool, self.project, self.backbone, inputs.demonstrations, row)
        return RoundData(self.backbone, self.settings.trainer, inputs, corpus, turns, summary, shown)

    def _compact(self) -> None:
        """Compacts the round's oldest votes into the vote summary. If that fails, the summary stays as it is:
        the votes are not compacted, and the next round tries again."""
        if self._fitted is None:
            return
        data, model = self._fitted
        try:
            compacted = data.compact(self.learner.cache, model)
            if compacted is not None:
                summary, rows = compacted
                summary_store.save(summary, self.pool, self.project, self.learner.directory, rows)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            log.error("votes were not compacted, the next round tries again", error=str(error))

    def _forget(self) -> None:
        """Takes what is no longer active out of all that is kept of votes."""
        self._active_summary()
        if self.learner.group.size > 1:
            return  # the processes drop the same replies in the next round
        row = self.learner.token_budget.row
        corpus = examples.Corpus([], {})
        with suppress(examples.Erased):
            events = examples.active_events(self.pool, self.project, row)
            corpus = examples.load(self.pool, self.project, self.backbone, events, row)
        self.learner.cache.keep(corpus)

    def _active_summary(self) -> VoteSummary | None:
        """Returns the vote summary without the votes that are no longer active."""
        summary = self.learner.summary()
        if summary is not None:
            summary = summary_store.revise(summary, self.pool, self.project, self.learner.directory)
            if summary.weeks:
                return summary
        summary_store.discard(self.pool, self.project, self.learner.directory)
        return None

    def _inputs(
        self, number: int, live: str, found: RoundRecord, summary: VoteSummary | None,
        interrupted: RoundInputs | None,
    ) -> RoundInputs:  # fmt: skip
        """Returns the inputs of an interrupted round if it can be run again, else what there is now."""
        parent = found.parent
        digest = file_digest(self.learner.directory / vote_summary.FILE) if summary else None
        probes = self.learner.knowledge.probe_set
        same = interrupted is not None and (
            (interrupted.parent, interrupted.vote_summary, interrupted.probes) == (parent, digest, probes)
        )
        if interrupted is not None and same and interrupted.attempts < interruptions.MAX_ATTEMPTS:
            again = {"attempts": interrupted.attempts + 1, "token_budget": self.learner.token_budget}
            inputs = interrupted.model_copy(update=again)
            log.info("round begins again", of=interrupted.draw, attempt=inputs.attempts)
        else:
            inputs = new_inputs(self.pool, self.learner, number, live, found, digest)
        inputs.write(self._unfinished)
        return inputs


@contextmanager
def _database_may_be_away() -> Iterator[None]:
    """Logs that the database is away, or that another trainer leads by now."""
    try:
        yield
    except psycopg.OperationalError as error:
        log.warning("database is away", error=type(error).__name__)
    except publish.LeadershipLost as error:
        log.warning("round dropped", reason=str(error))
