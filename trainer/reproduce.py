"""Reproduction trains a policy again from what its directory keeps, and compares the weights byte by byte.

The directory has the round's inputs (the names of its votes and prompts), all rollouts, the results of the
guard's knowledge checks, the configuration and the seed; training starts from the adapter of its parent. On
the same kind of machine the weights are identical. On another, log-probabilities agree within a tolerance, on
the probe and on the replies of the last step. A policy whose votes or prompts were erased, or are past their
retention, cannot be reproduced.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from schemas.database import Pool
from schemas.policies import WEIGHTS, Manifest, file_digest
from schemas.settings import Settings, TrainerSettings
from trainer.data import demonstrations, examples, summary_store
from trainer.data.feature_cache import FeatureCache
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.vote_summary import VoteSummary
from trainer.evaluation.knowledge import KnowledgeEval
from trainer.model.adapter import probe, save_weights
from trainer.model.auxiliary import AuxiliaryModel
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Diverged, Rollout, replay, unpack
from trainer.records import publish
from trainer.records.published import NotReproducible, configuration, read_published
from trainer.reward.scoring import micro_batches
from trainer.rl.guard import KnowledgeCheck, RecordedChecks
from trainer.round import run_round


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The result of a reproduction: whether the weights are `identical`, else the mean distances of the
    log-probabilities in nats per token, on the probe and on the replies of the last step. `differs` lists
    what the bytes depend on and has changed, as "torch 2.13.0 → 2.14.0"."""

    policy: str
    identical: bool
    probe_distance: float
    reply_distance: float
    tolerance: float
    differs: list[str]

    @property
    def equivalent(self) -> bool:
        """Whether the weights are identical or the log-probabilities agree within the tolerance."""
        return self.identical or max(self.probe_distance, self.reply_distance) <= self.tolerance


@dataclass(frozen=True, slots=True)
class _LastStep:
    """The samples of the last step, as token ids."""

    prompts: list[list[int]]
    replies: list[list[int]]


def reproduce(settings: Settings, pool: Pool, policy: str) -> Reproduction:
    """Reproduces a policy; `settings.model` is the base's directory. Raises NotFound, PolicyRejected when a
    directory is not what was published, and NotReproducible."""
    manifest, directory = read_published(settings, pool, policy)
    inputs = RoundInputs.read(directory / publish.INPUTS)
    if inputs is None:
        raise NotReproducible(f"{policy} has no {publish.INPUTS}: it is the base, or of an older Hearken.")
    _, parent = read_published(settings, pool, inputs.parent)
    trainer = configuration(manifest)
    torch.set_num_threads(trainer.threads or 1)
    backbone = Backbone(Path(settings.model), trainer.rl)
    if trainer.reward.auxiliary_model is not None:
        backbone.auxiliary = AuxiliaryModel(trainer.reward.auxiliary_model, backbone.device)
    backbone.token_budget = inputs.token_budget
    data = _data(settings, pool, backbone, trainer, inputs, directory)
    backbone.load_adapter(parent)
    last = _train(data, directory)
    return _compare(backbone, manifest, directory, last, settings.engine.probe_tolerance)


def _data(
    settings: Settings,
    pool: Pool,
    backbone: Backbone,
    trainer: TrainerSettings,
    inputs: RoundInputs,
    directory: Path,
) -> RoundData:
    summary = VoteSummary.read(directory, backbone.features_digest, trainer)
    if inputs.vote_summary and (summary is None or summary.lost):
        raise NotReproducible(f"The vote summary in {directory} is damaged, or of another Hearken.")
    try:
        if summary is not None:
            summary_store.require_present(summary, pool, settings.project)
        row = inputs.token_budget.row
        corpus = examples.load(pool, settings.project, backbone, inputs.events, row, inputs.turns)
        prompts = examples.load_prompts(pool, settings.project, backbone, inputs.turns)
        shown = demonstrations.load(pool, settings.project, backbone, inputs.demonstrations, row)
    except examples.Erased as error:
        raise NotReproducible(f"{directory.name} cannot be reproduced: {error.message}") from None
    return RoundData(backbone, trainer, inputs, corpus, prompts, summary, shown)


def _train(data: RoundData, directory: Path) -> _LastStep:
    """Trains on the samples kept in a policy's directory; an older Hearken did not keep the base's, which are
    then sampled again. Raises NotReproducible when the guard decides otherwise than before."""
    rollouts, base = unpack(load_file(directory / publish.ROLLOUTS)), None
    if (directory / publish.BASE_SAMPLES).is_file():
        [base] = unpack(load_file(directory / publish.BASE_SAMPLES))
    drawn: list[list[list[int]]] = []
    replayed = replay(rollouts)

    def sampler(prompts: Sequence[list[int]]) -> list[Rollout]:
        drawn.append(list(prompts))
        return replayed(prompts)

    backbone = data.backbone
    try:
        checks = _knowledge_checks(data, directory / publish.KNOWLEDGE_CHECKS)
        result = run_round(data, FeatureCache(backbone), checks, sampler, base)
        if len(result.rollouts) < len(rollouts):
            raise Diverged(len(result.rollouts))
    except Diverged as error:
        raise NotReproducible(f"{directory.name} cannot be reproduced here: {error.message}.") from None
    last = rollouts[-1]
    return _LastStep([drawn[-1][each.prompt] for each in last], [each.token_ids for each in last])


def _knowledge_checks(data: RoundData, path: Path) -> KnowledgeCheck:
    """Returns the results of the knowledge checks that were kept; an older Hearken did not keep them, and
    they are made again."""
    if not path.is_file():
        return KnowledgeEval(data.backbone, data.settings, data.inputs.probes)
    return RecordedChecks(json.loads(path.read_bytes()))


def _compare(
    backbone: Backbone, manifest: Manifest, directory: Path, last: _LastStep, tolerance: float
) -> Reproduction:
    """Compares the backbone's adapter, which it then replaces, with the adapter in `directory`."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS
        save_weights(backbone, weights)
        identical = file_digest(weights) == manifest.files[WEIGHTS]
    probe_distance = _mean_distance(probe(backbone).logprobs, manifest.probe.logprobs)
    reproduced = _logprobs(backbone, last)
    now = publish.versions(backbone)
    then = {name: manifest.versions.get(name, "unknown") for name in now}
    backbone.load_adapter(directory)
    return Reproduction(
        manifest.id, identical, probe_distance, _mean_distance(reproduced, _logprobs(backbone, last)),
        tolerance, [f"{name} {then[name]} → {now[name]}" for name in now if now[name] != then[name]],
    )  # fmt: skip


@torch.no_grad()
def _logprobs(backbone: Backbone, last: _LastStep) -> list[float]:
    """Returns the current adapter's log-probabilities of all reply tokens."""
    found: list[float] = []
    with backbone.full_precision():
        for rows in micro_batches(backbone, last.prompts, last.replies):
            batch = backbone.pad([last.prompts[row] for row in rows], [last.replies[row] for row in rows])
            found += backbone.logprobs_BR(batch)[batch.reply_mask_BR > 0].tolist()
    return found


def _mean_distance(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
