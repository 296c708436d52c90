"""The trainer: votes in, policies out.

Read the log into examples. When enough new votes have come, or enough time has passed with any: fit the
reward model to the votes that stand, less one fold; improve the live adapter by policy gradient on prompts
that people sent; put the candidate before the gate, with the fold that was kept back; publish what
passes; record the round whatever came of it. The next round keeps back another fold, so every vote is
learned from.

A trainer may be killed anywhere: votes are safe in the log, a policy is published whole or not at all, and
a round that was cut off is closed as failed by whoever works next: of several trainers one is active and the
others stand by. Nothing here touches what is served: the swap in serving takes published policies live.
"""

import time
import traceback
from pathlib import Path
from typing import Any

import psycopg
import structlog
import torch

from feedback.log import Log, open_log
from schemas.database import Pool, open_pool
from schemas.errors import StartError
from schemas.settings import Settings
from trainer import examples, gate, knowledge, publish, record, reward_model
from trainer.backbone import Backbone
from trainer.examples import Corpus, Example, Key
from trainer.features import Views
from trainer.improve import Step, improve, measure
from trainer.ingest import ingest, positions
from trainer.reward_model import RewardModel
from trainer.standby import Standby

POLL = 0.5
"""Seconds between looks at the log."""

BASE_PROMPTS, BASE_REPLIES = 64, 4
"""What the base says to recent prompts sets the scale of the reward."""

GUARD_PROBES = 96
"""Probes asked while training, once each; the gate asks them all."""

ASKED, BASE_ASKED = 2, 3
"""How often the gate asks a candidate and, once and for all, the base each probe."""

RECENT_TURNS = 1024
"""Turns whose prompts are practised on."""

SETTLE = 10.0
"""Seconds to wait for a published policy to go live, so that the next round starts from it."""

log = structlog.get_logger("trainer")


def run(settings: Settings, *, once: bool = False) -> int:
    """Train until killed; with `once`, one round on what there is. Returns the exit code: 0, or 1 when the
    one round failed. Raises StartError when the base is another than the project's policies adapt, or when
    another trainer has the place for the one round."""
    if settings.database_url is None:
        raise StartError("The trainer needs a database_url; `hearken up` brings its own Postgres.")
    torch.set_num_threads(settings.trainer.threads)
    with open_pool(settings.database_url, size=settings.connections) as pool:
        votes = open_log(settings, pool)
        trainer = Trainer(settings, pool, votes)
        try:
            if once:
                if not trainer.active():
                    raise StartError("Another trainer works for this project; it does the rounds.")
                ingest(pool, votes)
                return 1 if trainer.round() == "failed" else 0
            while True:
                trainer.look()
                time.sleep(POLL)
        finally:
            trainer.standby.leave()
            votes.close()


class Trainer:
    """One project's trainer, with what it keeps between rounds: the base model and what that makes of the
    replies that votes are about."""

    def __init__(self, settings: Settings, pool: Pool, votes: Log) -> None:
        self.settings = settings
        self.pool = pool
        self.log = votes
        self.standby = Standby(settings.database_url or "", settings.project)
        self.backbone = Backbone(Path(settings.model), settings.trainer.rl)
        self.views: dict[Key, Views] = {}
        self.base_knows: list[float] = []
        self.last_round = time.monotonic()
        self.working = False
        gate_settings = settings.trainer.gate
        self.probes = knowledge.load(self.backbone.directory, gate_settings, settings.trainer.seed)
        log.info("trainer ready", project=settings.project, base=self.backbone.digest[:12])

    def active(self) -> bool:
        """Whether this is the trainer that works. One that takes over puts in order what it finds. Raises
        StartError as `run`."""
        before, self.working = self.working, False
        if self.standby.active():
            if not before:
                publish.ensure_base(self.pool, self.backbone, self.settings)
                record.close_interrupted(self.pool, self.settings.project)
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
            if self.due():
                record.close_interrupted(self.pool, self.settings.project)
                self.round()
                self.log.trim()
        except psycopg.OperationalError as error:
            log.warning("database is away", error=type(error).__name__)
        except publish.Overtaken as error:
            log.warning("round dropped", reason=str(error))

    def due(self) -> bool:
        """Whether enough votes have come since the last round, or any and enough time; never while paused."""
        project, when = self.settings.project, self.settings.trainer
        with self.pool.connection() as connection:
            row = connection.execute("select paused from projects where id = %s", [project]).fetchone()
        if row is None or row["paused"]:
            return False
        arrived = examples.count(self.pool, project)
        new = arrived - record.votes_at_last_round(self.pool, project)
        waited = time.monotonic() - self.last_round >= when.round_seconds
        return arrived >= when.min_votes and (new >= when.round_votes or (new > 0 and waited))

    def round(self) -> str:
        """One round, recorded; returns its outcome. A round that fails leaves the live policy as it is."""
        self.last_round = started = time.monotonic()
        project = self.settings.project
        parent, directory = self._live()
        round_id, number = record.begin(self.pool, project, parent)
        figures: dict[str, Any] = {"votes": examples.count(self.pool, project), "parent": parent}
        try:
            outcome, reason = self._round(round_id, number, parent, directory, figures)
        except (psycopg.OperationalError, publish.Overtaken):
            raise
        except Exception as error:  # whatever it was, the next votes get another chance
            figures["traceback"] = traceback.format_exc()
            outcome, reason = "failed", f"{type(error).__name__}: {error}"
        figures["seconds"] = round(time.monotonic() - started, 1)
        record.finish(self.pool, self.settings, round_id, number, outcome, reason, figures)
        say = log.error if outcome == "failed" else log.info
        say("round ended", round=number, outcome=outcome, reason=reason, seconds=figures["seconds"])
        return outcome

    def _round(
        self, round_id: int, number: int, parent: str, directory: Path, figures: dict[str, Any]
    ) -> tuple[str, str | None]:
        settings, backbone = self.settings.trainer, self.backbone
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
        read_to = positions(self.pool)
        corpus = examples.load(self.pool, self.settings.project, backbone)
        fold, folds = number % settings.gate.folds, settings.gate.folds
        training = [example for example in corpus.examples if example.fold(folds) != fold]
        held_out = [example for example in corpus.examples if example.fold(folds) == fold]
        sent = examples.recent_prompts(self.pool, self.settings.project, RECENT_TURNS)
        practice = [prompt for turn, prompt in sent if examples.fold_of(turn, folds) != fold]
        exam = [prompt for turn, prompt in sent if examples.fold_of(turn, folds) == fold] or practice
        figures |= {
            "examples": len(training),
            "examples_new": sum(not example.learned for example in training),
            "held_out": len(held_out),
            "held_out_unseen": sum(not example.learned for example in held_out),
            "prompts": len(practice),
        }
        if not practice:
            return "skipped", "no prompts to practise on"
        if not corpus.votes(training)[0].says_something():
            return "skipped", "the votes say nothing yet: all thumbs alike, and no ranking or edit"
        log.info("round begins", round=number, parent=parent, examples=len(training), held_out=len(held_out))

        backbone.load_adapter(directory)
        tokens = settings.rl.max_tokens
        exam = exam[: settings.gate.prompts]
        live = gate.answer(backbone, exam, gate.REPLIES, tokens, generator)
        base = gate.answer(backbone, practice[:BASE_PROMPTS], BASE_REPLIES, tokens, generator, of_base=True)
        if not self.base_knows:
            with backbone.reference():
                self.base_knows = knowledge.ask(backbone, self.probes, BASE_ASKED, tokens, generator)

        self._see(corpus)
        model = self._fit(corpus, training, base.views, generator)
        judge = self._fit(corpus, held_out, base.views, generator)
        assert model is not None  # noqa: S101  (the training votes say something)
        figures["reward_model"] = self._skill(model, corpus, held_out)

        def report(step: int, seen: Step) -> None:
            log.info("step", round=number, step=step, reward=seen.reward, kl=seen.kl, length=seen.length)

        improvement = improve(
            backbone, practice, model.reward, settings.rl, generator, report, lambda: self._lost(generator)
        )
        figures["improvement"] = improvement.figures()

        candidate = gate.answer(backbone, exam, gate.REPLIES, tokens, generator)
        with backbone.merged():
            knows = knowledge.ask(backbone, self.probes, ASKED, tokens, generator)
        verdict = gate.judge(
            candidate, live, base, model, judge, (knows, self.base_knows), settings.gate, settings.rl
        )
        figures["gate"] = verdict.as_json()
        log.info("gate", round=number, passed=verdict.passed, **verdict.figures)
        if not verdict.passed:
            return "rejected", "; ".join(verdict.reasons)
        event_ids = [example.event_id for example in training]
        manifest = publish.write(
            backbone, self.settings, number, parent=parent, log_positions=read_to,
            event_ids=event_ids, metrics={"gate": verdict.figures, **improvement.figures()},
        )  # fmt: skip
        publish.announce(self.pool, self.settings, manifest, event_ids, round_id, verdict.as_json())
        figures["policy"] = manifest.id
        return "published", None

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

    def _see(self, corpus: Corpus) -> None:
        """Views of every reply that votes are about: computed once for each, forgotten with the reply."""
        self.views = {key: views for key, views in self.views.items() if key in corpus.replies}
        fresh = [key for key in corpus.replies if key not in self.views]
        if fresh:
            replies = [corpus.replies[key] for key in fresh]
            seen = measure(
                self.backbone, [reply.prompt_ids for reply in replies], [reply.token_ids for reply in replies]
            ).views
            for row, key in enumerate(fresh):
                self.views[key] = {name: view[row].clone() for name, view in seen.items()}

    def _views_of(self, keys: list[Key]) -> Views:
        names = self.views[keys[0]]
        return {name: torch.stack([self.views[key][name] for key in keys]) for name in names}

    def _lost(self, generator: torch.Generator) -> str | None:
        """What the guard says: that more knowledge was lost than the gate allows and chance explains."""
        probes = self.probes[:GUARD_PROBES]
        if not probes:
            return None
        tokens = self.settings.trainer.rl.max_tokens
        with self.backbone.merged():
            knows = knowledge.ask(self.backbone, probes, 1, tokens, generator)
        lost, error = knowledge.loss(self.base_knows[: len(probes)], knows)
        if lost - 2 * error <= self.settings.trainer.gate.knowledge_loss:
            return None
        return f"{lost:.1%} ± {error:.1%} of {len(probes)} probes are known no more"

    def _fit(
        self, corpus: Corpus, chosen: list[Example], base: Views, generator: torch.Generator
    ) -> RewardModel | None:
        """The reward model of some of the votes; None when they say nothing."""
        votes, keys = corpus.votes(chosen)
        if not votes.says_something():
            return None
        return reward_model.fit(
            self._views_of(keys), votes, base, BASE_REPLIES, self.settings.trainer.reward, generator
        )

    def _skill(self, model: RewardModel, corpus: Corpus, held_out: list[Example]) -> dict[str, Any]:
        """How the reward model orders replies whose votes it has not seen."""
        votes, keys = corpus.votes(held_out)
        if not keys:
            return {"held_out_accuracy": None}
        accuracy = reward_model.pairwise_accuracy(model.reward(self._views_of(keys)), votes)
        return {"held_out_accuracy": None if accuracy is None else round(accuracy, 4)}
