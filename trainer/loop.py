"""The trainer: votes in, policies out.

Read the log into examples. When enough new votes have come, or enough time has passed with any: fit the
reward model to the votes that stand, less one fold; improve the live adapter by policy gradient on prompts
that people sent; put the candidate before the gate, with the fold that was kept back; publish what
passes; record the round whatever came of it. The next round keeps back another fold, so every vote is
learned from. It starts from the live adapter, or from the one before if people like that less (`hindsight`).

A trainer may be killed anywhere: votes are safe in the log, a policy is published whole or not at all, and
a round that was cut off is closed as failed by whoever works next, and done again from the same inputs: of
several trainers one is active and the others stand by. Nothing here touches what is served: the swap in
serving takes published policies live.

A trainer may be several processes (`processes`): all of this is done by the first; the others share its work
on the model (`learner`).
"""

import time
import traceback
from pathlib import Path
from typing import Any

import psycopg
import structlog

from feedback.log import Log, open_log
from schemas.database import Pool, open_pool
from schemas.errors import StartError
from schemas.policies import file_digest
from schemas.settings import Settings
from trainer.data import examples, prompts
from trainer.data.ingest import ingest, positions
from trainer.data.round_inputs import Inputs
from trainer.data.vote_summary import Past, forget
from trainer.evaluation import gate
from trainer.evaluation.regression import look_back
from trainer.evaluation.style_stats import style
from trainer.leader_election import Standby
from trainer.learner import Learner, OutOfStep
from trainer.model.distributed import ALONE, Processes
from trainer.records import attribution, publish, record
from trainer.reward.ensemble import RewardModel
from trainer.rl.optimize import Step
from trainer.round import Round

POLL = 0.5
"""Seconds between looks at the log."""

TRIM = 60.0
"""Seconds between removals of what every consumer of the log has passed, training or not."""

MOST_ATTEMPTS = 3
"""How often a round is begun whose trainer dies."""

SETTLE = 10.0
"""Seconds to wait for a published policy to go live, so that the next round starts from it."""

log = structlog.get_logger("trainer")


def run(settings: Settings, *, once: bool = False, processes: Processes = ALONE) -> int:
    """Train until killed; with `once`, one round on what there is. `processes` are those that follow this
    one, the first (`Learner.follow`). Returns the exit code: 0, or 1 when the one round failed. Raises
    StartError when the base is another than the project's policies adapt, or when another trainer has the
    place for the one round, and OutOfStep."""
    if settings.database_url is None:
        raise StartError("The trainer needs a database_url; `hearken up` brings its own Postgres.")
    learner = Learner(settings, processes)
    with open_pool(settings.database_url, size=settings.connections) as pool:
        votes = open_log(settings, pool)
        trainer = Trainer(settings, pool, votes, learner)
        try:
            if once:
                if not trainer.active():
                    raise StartError("Another trainer works for this project; it does the rounds.")
                ingest(pool, votes)
                outcome = trainer.round()
                processes.hear()
                return 1 if outcome == "failed" else 0
            while True:
                trainer.look()
                time.sleep(POLL)
        finally:
            trainer.standby.leave()
            votes.close()


class Trainer:
    """One project's trainer."""

    def __init__(self, settings: Settings, pool: Pool, votes: Log, learner: Learner) -> None:
        self.settings = settings
        self.pool = pool
        self.log = votes
        self.learner = learner
        self.backbone = learner.backbone
        self.standby = Standby(settings.database_url or "", settings.project)
        self._unfinished = settings.rounds_dir / settings.project / "unfinished.json"
        self._lesson: tuple[Round, RewardModel] | None = None
        self._counted: tuple[dict[str, str], int] | None = None
        self.last_round = time.monotonic()
        self._trimmed = -TRIM
        self.working = False
        log.info("trainer ready", project=settings.project, base=self.backbone.digest[:12])

    def active(self) -> bool:
        """Whether this is the trainer that works. One that takes over puts in order what it finds. Raises
        StartError as `run`."""
        before, self.working = self.working, False
        if self.standby.active():
            if not before:
                record.close_interrupted(self.pool, self.settings.project)  # first: nobody publishes now
                publish.ensure_base(self.pool, self.backbone, self.settings, self.learner.zero)
                record.complete(self.pool, self.settings)
                log.info("trainer active", project=self.settings.project)
            self.working = True
        return self.working

    def look(self) -> None:
        """Read the log, and train if it is time and our place. A database that is away is met again at the
        next look."""
        try:
            if not self.active():
                return
            ingest(self.pool, self.log)
            self._trim()
            if self.due():
                if record.close_interrupted(self.pool, self.settings.project):
                    record.complete(self.pool, self.settings)
                self.round()
        except psycopg.OperationalError as error:
            log.warning("database is away", error=type(error).__name__)
        except publish.Overtaken as error:
            log.warning("round dropped", reason=str(error))

    def _trim(self) -> None:
        if time.monotonic() - self._trimmed >= TRIM:
            self.log.trim()
            self._trimmed = time.monotonic()

    def due(self) -> bool:
        """Whether enough votes have come since the last round, or any and enough time; never while paused."""
        project, when = self.settings.project, self.settings.trainer
        with self.pool.connection() as connection:
            row = connection.execute("select paused from projects where id = %s", [project]).fetchone()
        if row is None or row["paused"]:
            return False
        arrived = self._arrived()
        new = arrived - record.votes_at_last_round(self.pool, project)
        waited = time.monotonic() - self.last_round >= when.round_seconds
        return arrived >= when.min_votes and (new >= when.round_votes or (new > 0 and waited))

    def _arrived(self) -> int:
        """Votes so far. They are counted when the log was read further, not at each look: counting takes the
        longer the more there are."""
        read = positions(self.pool)
        if self._counted is None or self._counted[0] != read:
            self._counted = (read, examples.count(self.pool, self.settings.project))
        return self._counted[1]

    def round(self) -> str:
        """One round, recorded; returns its outcome. A round that fails leaves the live policy as it is; where
        other processes follow, it raises OutOfStep."""
        self.last_round = started = time.monotonic()
        project = self.settings.project
        self._lesson = None
        figures: dict[str, Any] = {"votes": self._arrived()}
        cut_off = Inputs.read(self._unfinished) if record.was_cut_off(self.pool, project) else None
        live, live_directory = self._live()
        parent, directory = self._start(live, live_directory, cut_off, figures)
        figures["parent"] = parent
        round_id, number = record.begin(self.pool, project, parent)
        try:
            past = self._past_that_stands()
            inputs = self._inputs(number, parent, past, cut_off)
            figures["votes"] = inputs.votes
            outcome, reason = self._round(round_id, number, directory, live_directory, inputs, past, figures)
        except (psycopg.OperationalError, publish.Overtaken):
            raise
        except Exception as error:  # whatever it was, the next votes get another chance
            figures["traceback"] = traceback.format_exc()
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        figures["seconds"] = round(time.monotonic() - started, 1)
        if not record.finish(self.pool, self.settings, round_id, number, outcome, reason, figures):
            raise publish.Overtaken(f"another trainer took over before round {number} ended")
        self._unfinished.unlink(missing_ok=True)
        self._fold()
        say = log.error if outcome == "failed" else log.info
        say("round ended", round=number, outcome=outcome, reason=reason, seconds=figures["seconds"])
        if outcome == "failed" and self.learner.processes.count > 1:
            raise OutOfStep(f"Round {number} failed: {reason}. All processes must start again.")
        return outcome

    def _round(
        self, round_id: int, number: int, parent: Path, live: Path, inputs: Inputs, past: Past | None,
        figures: dict[str, Any],
    ) -> tuple[str, str | None]:  # fmt: skip
        settings, backbone, project = self.settings.trainer, self.backbone, self.settings.project
        work = Round(
            backbone,
            settings,
            inputs,
            examples.load(self.pool, project, backbone, inputs.events),
            examples.prompts(self.pool, project, backbone, inputs.turns),
            past,
        )
        figures |= {
            "seed": settings.seed,
            "draw": inputs.draw,
            "versions": publish.versions(backbone),
            "examples": len(work.training),
            "examples_past": len(past.events) if past else 0,
            "examples_new": sum(not example.learned for example in work.training),
            "unreadable": work.corpus.unreadable,
            "held_out": len(work.held_out),
            "held_out_unseen": sum(not example.learned for example in work.held_out),
            "prompts": len(work.practice),
        }
        if (why := work.useless()) is not None:
            return "skipped", why
        log.info(
            "round begins", round=number, parent=inputs.parent, examples=len(work.training),
            held_out=len(work.held_out),
        )  # fmt: skip

        def report(step: int, seen: Step) -> None:
            log.info("step", round=number, step=step, reward=seen.reward, kl=seen.kl, length=seen.length)

        trial = self.learner.attempt(parent, live, work, report)
        learned = trial.learned
        self._lesson = work, learned.model
        figures["reward_model"] = attribution.of_model(work, learned.model, self.learner.seen)
        figures["improvement"] = learned.improvement.figures()
        figures["style"] = {
            name: style([backbone.decode(reply) for reply in answers.token_ids])
            for name, answers in (("live", trial.live), ("candidate", trial.candidate))
        }
        figures["samples"] = attribution.of_replies(trial.before, trial.after)
        figures |= attribution.of_votes(work, learned.model, self.learner.seen)
        verdict = gate.judge(
            trial.candidate, trial.live, learned.base, learned.model, learned.judge, trial.knows,
            settings.gate, settings.rl,
        )  # fmt: skip
        verdict.require(learned.improvement.moved, learned.improvement.stopped or "no step moved the adapter")
        figures["gate"] = verdict.as_json()
        log.info("gate", round=number, passed=verdict.passed, **verdict.figures)
        if not verdict.passed:
            return "rejected", "; ".join(verdict.reasons)
        event_ids = work.learned_from()
        manifest = publish.write(
            backbone, self.settings, number, trial.probe, inputs, learned.improvement.rollouts, event_ids,
            {"gate": verdict.figures, **learned.improvement.figures()},
            self.learner.past_file if past else None,
        )  # fmt: skip
        publish.announce(self.pool, self.settings, manifest, event_ids, round_id, verdict.as_json(), figures)
        figures["policy"] = manifest.id
        return "published", None

    def _fold(self) -> None:
        """Have older votes of the round kept as what they say. Without a past that can be made, a new one
        begins."""
        if self._lesson is None:
            return
        work, model = self._lesson
        try:
            folded = work.fold(self.learner.seen, model)
            if folded is not None:
                folded.keep(self.pool, self.settings.project, self.learner.past_file)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            log.error("votes were not folded", error=str(error))
            forget(self.pool, self.settings.project, self.learner.past_file)

    def _past_that_stands(self) -> Past | None:
        """What is left of older votes; forgotten when one of them stands no more."""
        past, project = self.learner.past(), self.settings.project
        if past is not None and past.stands(self.pool, project):
            return past
        forget(self.pool, project, self.learner.past_file)
        return None

    def _inputs(self, number: int, parent: str, past: Past | None, cut_off: Inputs | None) -> Inputs:
        """Of the round that begins: those of one that was cut off, if it can be done again, else what there
        is now."""
        digest = file_digest(self.learner.past_file) if past else None
        again = cut_off is not None and (cut_off.parent, cut_off.past) == (parent, digest)
        if cut_off is not None and again and cut_off.attempts < MOST_ATTEMPTS:
            inputs = cut_off.model_copy(update={"attempts": cut_off.attempts + 1})
            log.info("round begins again", round=number, of=cut_off.draw, attempt=inputs.attempts)
        else:
            project = self.settings.project
            inputs = Inputs(
                draw=number,
                parent=parent,
                votes=self._arrived(),
                positions=positions(self.pool),
                events=examples.standing(self.pool, project),
                turns=prompts.to_practise(self.pool, project, number),
                knowledge_lost=record.knowledge_lost(self.pool, project),
                past=digest,
            )
        inputs.write(self._unfinished)
        return inputs

    def _start(
        self, live: str, directory: Path, cut_off: Inputs | None, figures: dict[str, Any]
    ) -> tuple[str, Path]:
        """The policy that the round starts from, and its directory: the live one, or its parent where people
        regret the step. One that was cut off starts where it did."""
        hindsight = look_back(self.pool, self.settings.project, live)
        if hindsight is None:
            return live, directory
        figures["hindsight"] = hindsight.figures()
        back = hindsight.regrets if cut_off is None else cut_off.parent == hindsight.parent
        if not back:
            return live, directory
        log.warning("step taken back", **hindsight.figures())
        return hindsight.parent, hindsight.directory

    def _live(self) -> tuple[str, Path]:
        """The policy that answers everybody, and its directory; waits a little for a newer one on its way."""
        deadline = time.monotonic() + SETTLE
        while True:
            with self.pool.connection() as connection:
                row = connection.execute(
                    "select live.id, live.directory, exists (select from policies p"
                    " where p.project = r.project and p.state = 'published'"
                    " and p.created_at > live.created_at) as pending"
                    " from routes r join policies live on live.project = r.project and live.id = r.live"
                    " where r.project = %s",
                    [self.settings.project],
                ).fetchone()
            assert row is not None  # noqa: S101  (ensure_base made the route)
            waits = self.settings.serving.promotion == "direct" and row["pending"]
            if not waits or time.monotonic() >= deadline:
                return row["id"], Path(row["directory"])
            time.sleep(POLL / 5)
