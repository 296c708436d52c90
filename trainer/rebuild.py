"""A policy made again from what its directory keeps: the names of its votes and prompts, the rollouts, the
configuration and the seed, from the adapter of its parent.

On the same kind of machine the weights are the same byte by byte; on another they answer alike within a
tolerance. Where votes or prompts were erased since, or went with their time, it cannot be made again.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from schemas.database import Pool
from schemas.errors import HearkenError, NotFound
from schemas.policies import WEIGHTS, Manifest, base_digest, file_digest, verify
from schemas.settings import Settings, TrainerSettings
from trainer import examples, publish
from trainer.backbone import Backbone
from trainer.inputs import Inputs
from trainer.knowledge import Exam
from trainer.past import Past, made_for
from trainer.rollouts import as_kept, unpack
from trainer.round import Round, Seen


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`identical` bytes, or `distance`: how far the logprobs of the probe are off, nats a token."""

    policy: str
    identical: bool
    distance: float
    tolerance: float

    @property
    def alike(self) -> bool:
        return self.identical or self.distance <= self.tolerance


class CannotRebuild(HearkenError):
    """Something that the policy was made from is not there."""


def rebuild(settings: Settings, pool: Pool, policy: str) -> Rebuilt:
    """`settings.model` is the base's directory. Raises NotFound, PolicyRejected where a directory is not what
    was published, and CannotRebuild."""
    manifest, directory = _published(settings, pool, policy)
    inputs = Inputs.read(directory / publish.INPUTS)
    if inputs is None:
        raise CannotRebuild(f"{policy} keeps no inputs: it is the base, or of an older Hearken.")
    _, parent = _published(settings, pool, inputs.parent)
    trainer = TrainerSettings.model_validate(manifest.configuration)
    torch.set_num_threads(trainer.threads)
    backbone = Backbone(Path(settings.model), trainer.rl)
    past = Past.read(directory / publish.PAST, made_for(backbone.digest, trainer))
    if inputs.past and past is None:
        raise CannotRebuild(f"What {policy} kept of older votes is broken, or of another Hearken.")
    try:
        if past is not None:
            past.require(pool, settings.project)
        corpus = examples.load(pool, settings.project, backbone, inputs.events)
        prompts = examples.prompts(pool, settings.project, backbone, inputs.turns)
    except examples.Erased as error:
        raise CannotRebuild(f"{policy} cannot be rebuilt: {error.message}") from None
    work = Round(backbone, trainer, inputs, corpus, prompts, past)
    kept = unpack(load_file(directory / publish.ROLLOUTS))
    backbone.load_adapter(parent)
    work.learn(Seen(backbone), Exam(backbone, trainer), as_kept(kept))
    return _compare(backbone, manifest, settings.engine.probe_tolerance)


def _published(settings: Settings, pool: Pool, policy: str) -> tuple[Manifest, Path]:
    with pool.connection() as connection:
        row: dict[str, Any] | None = connection.execute(
            "select directory, digest from policies where project = %s and id = %s",
            [settings.project, policy],
        ).fetchone()
    if row is None:
        raise NotFound(f"There is no policy {policy}.", code="policy_not_found")
    directory = Path(row["directory"])
    return verify(policy, directory, row["digest"], base_digest(Path(settings.model))), directory


def _compare(backbone: Backbone, manifest: Manifest, tolerance: float) -> Rebuilt:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS
        publish.save_weights(backbone, weights)
        identical = file_digest(weights) == manifest.files[WEIGHTS]
    found = publish.probe(backbone).logprobs
    differences = [abs(now - then) for now, then in zip(found, manifest.probe.logprobs, strict=True)]
    return Rebuilt(manifest.id, identical, sum(differences) / len(differences), tolerance)
