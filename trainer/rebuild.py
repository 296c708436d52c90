"""A rebuild trains the rounds of a policy again without the people who were erased since.

It starts from the newest ancestor that learned nothing from them. Each round after that has its own inputs,
settings and seeds, without the votes and prompts that are gone; its samples are drawn anew in this process,
and what one round hands to the next, the learning rate and the knowledge lost, comes from the rebuilt one. So
the result is, on the same kind of machine, byte by byte what the same rounds give where those people never
were. Compacted votes are the exception: they are taken out of the vote summary by subtraction, which is exact
up to rounding.
"""

import shutil
from pathlib import Path

import structlog

from schemas.database import Pool
from schemas.policies import Manifest, file_digest
from schemas.settings import Settings, TrainerSettings
from trainer.data import demonstrations, examples, summary_store, vote_summary
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.vote_summary import VoteSummary
from trainer.evaluation import gate
from trainer.learner import CandidateResult, Learner
from trainer.records import progress, publish, record
from trainer.records.published import configuration, read_published
from trainer.records.record import Ending, RoundRecord

log = structlog.get_logger("trainer")


class Rebuild:
    """Rebuilds policies of one project. `folder` has the vote summaries of the rounds to come, without the
    votes that are gone: they are prepared while the rows of these votes are still there to subtract."""

    def __init__(self, settings: Settings, pool: Pool, learner: Learner) -> None:
        self._settings = settings
        self._pool = pool
        self._learner = learner
        self.folder = learner.directory / "rebuild"

    def prepare(self, policy: str) -> None:
        """Writes the vote summary of a policy's round without the votes that are gone, if it had one."""
        manifest, directory = self._published(policy)
        own, base = self.folder / policy, self._learner.backbone.features_digest
        trainer = self._configuration(configuration(manifest))
        found = VoteSummary.read(own, base, trainer) or VoteSummary.read(directory, base, trainer)
        if found is None:
            return
        left = summary_store.without_erased(
            found, self._pool, self._settings.project, self._learner.directory
        )
        if left.weeks:
            left.copy_to(own)
        else:
            shutil.rmtree(own, ignore_errors=True)

    def run(self, policy: str, parent: str) -> str | None:
        """Trains the round of `policy` again from `parent`, and publishes the result; returns its name, or
        None where nothing is left to train on. Raises PolicyRejected where a directory is damaged,
        NotReproducible where a setting of its time is unknown, and LeadershipLost."""
        manifest, directory = self._published(policy)
        _, start = self._published(parent)
        kept = RoundInputs.read(directory / publish.INPUTS)
        if kept is None:
            return None
        trainer = self._configuration(configuration(manifest))
        data = self._data(kept, trainer, policy, parent)
        if (reason := data.skip_reason()) is not None:
            log.warning("round not rebuilt", of=policy, reason=reason)
            return None
        before = record.votes_at_last_round(self._pool, self._settings.project)
        row = record.begin(self._pool, self._settings.project, parent)
        with structlog.contextvars.bound_contextvars(round=row.number):
            log.info("round is rebuilt", of=policy, parent=parent, examples=len(data.training))
            candidate = self._learner.train_candidate(start, start, data, progress.recorded(self._pool, row))
            found = self._record(candidate, data)
            found.votes = before
            settings = self._settings.model_copy(update={"trainer": data.settings})
            events = data.training_events()
            trained = candidate.round
            artifacts = publish.TrainingArtifacts(
                data.inputs, trained.rollouts, trained.base.rollouts, trained.checks, events,
                {"gate": (found.gate or {}).get("figures"), **trained.optimized.as_json()},
                vote_summary.files(self.folder / policy) if data.history else [],
                rebuilds=policy, model=candidate.round.model,
            )  # fmt: skip
            made = publish.write(self._learner.backbone, settings, row.number, candidate.probe, artifacts)
            publish.register(self._pool, settings, made, events, row, found)
            found.policy = made.id
            ending = Ending("published", f"{policy} again, without people who were erased")
            record.finish(self._pool, self._settings, row, ending, found)
        return made.id

    def _published(self, policy: str) -> tuple[Manifest, Path]:
        """Returns the manifest and the directory of a policy. The base is in memory: its files, which may
        have many GB, are not read again. Raises as `read_published`."""
        return read_published(self._settings, self._pool, policy, self._learner.backbone.digest)

    def _configuration(self, trainer: TrainerSettings) -> TrainerSettings:
        """Returns the settings of a round: its own, with the auxiliary model that there is now, or, in a
        group of processes, those of all of them."""
        present = self._learner.settings.trainer
        if self._learner.group.size > 1:
            return present
        now = {"auxiliary_model": present.reward.auxiliary_model}
        return trainer.model_copy(update={"reward": trainer.reward.model_copy(update=now)})

    def _data(self, kept: RoundInputs, trainer: TrainerSettings, policy: str, parent: str) -> RoundData:
        """Returns the data of the round, of what is still there."""
        backbone, project = self._learner.backbone, self._settings.project
        own = self.folder / policy
        summary = VoteSummary.read(own, backbone.features_digest, trainer)
        budget = kept.token_budget.within(self._learner.token_budget)
        while True:
            events, turns = examples.still_held(self._pool, project, kept.events, kept.turns)
            try:
                shown = demonstrations.still_held(self._pool, project, kept.demonstrations)
                corpus = examples.load(self._pool, project, backbone, events, budget.row, turns)
                prompts = examples.load_prompts(self._pool, project, backbone, turns)
                replies = demonstrations.load(self._pool, project, backbone, shown, budget.row)
                break
            except examples.Erased:  # in between
                continue
        found = record.of_policy(self._pool, project, parent)
        rl = kept.hyperparameters(trainer.rl).model_copy(update={"sampler": "in_process"})
        lost = kept.knowledge_lost
        if found is not None and found.rebuilds:
            rate = trainer.rl.learning_rate or found.learning_rate or rl.learning_rate
            rl = rl.model_copy(update={"learning_rate": rate})
            lost = lost if found.knowledge_lost is None else found.knowledge_lost
        held = set(events)
        inputs = kept.model_copy(
            update={
                "parent": parent, "events": events, "turns": turns, "rl": rl, "knowledge_lost": lost,
                "demonstrations": shown, "attempts": 1, "token_budget": budget,
                "demonstrated": demonstrations.have_taught(self._pool, project, parent),
                "mentions": {event: said for event, said in kept.mentions.items() if event in held},
                "trusted": [event for event in kept.trusted if event in held],
                "vote_summary": file_digest(own / vote_summary.FILE) if summary else None,
            }
        )  # fmt: skip
        return RoundData(backbone, trainer, inputs, corpus, prompts, summary, replies)

    def _record(self, candidate: CandidateResult, data: RoundData) -> RoundRecord:
        """Returns the record of the round, with what the gate says of the result."""
        optimized = candidate.round.optimized
        models = gate.GateModels(
            candidate.round.model,
            candidate.round.held_out_model,
            candidate.round.evidence,
            candidate.round.criteria,
        )
        verdict = gate.evaluate(
            candidate.samples, models, candidate.accuracy, data.settings, candidate.constraints
        )
        verdict.require(candidate.round.moved, optimized.stopped or "no step moved the adapter")
        return RoundRecord(
            votes=0,
            parent=data.inputs.parent,
            seed=data.settings.seed,
            draw=data.inputs.draw,
            versions=publish.versions(self._learner.backbone),
            examples=len(data.training),
            examples_past=len(data.history.events) if data.history else 0,
            held_out=len(data.held_out),
            prompts=len(data.train_prompts),
            demonstrations=len(data.demonstrations),
            supervised=candidate.round.supervised_as_json(),
            optimization=optimized.as_json(),
            samples=candidate.shown,
            gate=verdict.as_json(),
        )


def refused(pool: Pool, project: str, policy: str) -> list[str]:
    """Returns why the gate refuses a policy; nothing where it does not."""
    with pool.connection() as connection:
        row = connection.execute(
            "select gate -> 'reasons' as reasons from policies where project = %s and id = %s",
            [project, policy],
        ).fetchone()
    return list((row and row["reasons"]) or [])
