"""A policy made again from what its directory keeps: the names of its votes and prompts, the rollouts, the
configuration and the seed, from the adapter of its parent.

On the same kind of machine the weights are the same byte by byte; on another they answer alike within a
tolerance: on the probe that replicas are tried with, and on the replies that the policy's last step sampled.
Where votes or prompts were erased since, or went with their time, it cannot be made again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from schemas.database import Pool
from schemas.errors import HearkenError, NotFound
from schemas.policies import WEIGHTS, Manifest, base_digest, file_digest, verify
from schemas.settings import Settings, TrainerSettings
from trainer.data import examples, vote_summary
from trainer.data.round_inputs import RoundInputs
from trainer.data.vote_summary import VoteSummary, compatibility_key
from trainer.evaluation.knowledge import Exam
from trainer.model.adapter import probe, save_weights
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Diverged, Rollout, replay, unpack
from trainer.records import publish
from trainer.reward.scoring import MICRO_BATCH, sort_by_length
from trainer.round import Round, Seen


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`identical` bytes, or how far logprobs are off, nats a token: `distance` those of the probe,
    `of_replies` those of the replies of the last step. `differs` names what bytes depend on and is not as it
    was, as "torch 2.13.0 → 2.14.0"; empty on the same kind of machine."""

    policy: str
    identical: bool
    distance: float
    of_replies: float
    tolerance: float
    differs: list[str]

    @property
    def alike(self) -> bool:
        return self.identical or max(self.distance, self.of_replies) <= self.tolerance


class NotReproducible(HearkenError):
    """A policy cannot be reproduced: an input is missing, or this machine's arithmetic differs. The message says
    which; use the Hearken version or the kind of machine that it names."""


def rebuild(settings: Settings, pool: Pool, policy: str) -> Rebuilt:
    """`settings.model` is the base's directory. Raises NotFound, PolicyRejected where a directory is not what
    was published, and NotReproducible."""
    manifest, directory = _published(settings, pool, policy)
    inputs = RoundInputs.read(directory / publish.INPUTS)
    if inputs is None:
        raise NotReproducible(f"{policy} keeps no inputs: it is the base, or of an older Hearken.")
    _, parent = _published(settings, pool, inputs.parent)
    try:
        trainer = TrainerSettings.model_validate(manifest.configuration)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise NotReproducible(
            f"{policy} was trained with settings that this Hearken does not have or allow: {names}. Rebuild"
            f" it with Hearken {manifest.versions.get('hearken', 'of its time')}."
        ) from None
    torch.set_num_threads(trainer.threads)
    backbone = Backbone(Path(settings.model), trainer.rl)
    past = VoteSummary.read(vote_summary.find(directory), compatibility_key(backbone.digest, trainer))
    if inputs.vote_summary and past is None:
        raise NotReproducible(f"What {policy} kept of older votes is broken, or of another Hearken.")
    try:
        if past is not None:
            past.require_present(pool, settings.project)
        corpus = examples.load(pool, settings.project, backbone, inputs.events)
        prompts = examples.load_prompts(pool, settings.project, backbone, inputs.turns)
    except examples.Erased as error:
        raise NotReproducible(f"{policy} cannot be rebuilt: {error.message}") from None
    work = Round(backbone, trainer, inputs, corpus, prompts, past)
    kept = unpack(load_file(directory / publish.ROLLOUTS))
    backbone.load_adapter(parent)
    asked: list[list[list[int]]] = []
    again = replay(kept)

    def sampler(prompts: Sequence[list[int]]) -> list[Rollout]:
        asked.append(list(prompts))
        return again(prompts)

    try:
        learned = work.learn(Seen(backbone), Exam(backbone, trainer), sampler)
        if len(learned.improvement.rollouts) < len(kept):
            raise Diverged(len(learned.improvement.rollouts))
    except Diverged as error:
        raise NotReproducible(f"{policy} cannot be rebuilt here: {error.message}.") from None
    prompts_of_last = [asked[-1][rollout.prompt] for rollout in kept[-1]]
    return _compare(
        backbone, manifest, directory, prompts_of_last, [rollout.token_ids for rollout in kept[-1]],
        settings.engine.probe_tolerance,
    )  # fmt: skip


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


def _compare(
    backbone: Backbone,
    manifest: Manifest,
    directory: Path,
    prompts: Sequence[list[int]],
    replies: Sequence[list[int]],
    tolerance: float,
) -> Rebuilt:
    """The backbone's adapter, which is lost, with the one in `directory`."""
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / WEIGHTS
        save_weights(backbone, weights)
        identical = file_digest(weights) == manifest.files[WEIGHTS]
    distance = _apart(probe(backbone).logprobs, manifest.probe.logprobs)
    of_rebuilt = _logprobs(backbone, prompts, replies)
    now = publish.versions(backbone)
    then = {name: manifest.versions.get(name, "unknown") for name in now}
    backbone.load_adapter(directory)
    of_published = _logprobs(backbone, prompts, replies)
    return Rebuilt(
        manifest.id, identical, distance, _apart(of_rebuilt, of_published), tolerance,
        [f"{name} {then[name]} → {now[name]}" for name in now if now[name] != then[name]],
    )  # fmt: skip


@torch.no_grad()
def _logprobs(backbone: Backbone, prompts: Sequence[list[int]], replies: Sequence[list[int]]) -> list[float]:
    """Of all tokens of the replies, by the adapter as it is now."""
    found: list[float] = []
    order = sort_by_length(prompts, replies)
    with backbone.full_precision():
        for start in range(0, len(order), MICRO_BATCH):
            rows = order[start : start + MICRO_BATCH]
            batch = backbone.pad([prompts[row] for row in rows], [replies[row] for row in rows])
            found += backbone.logprobs_BR(batch)[batch.reply_mask_BR > 0].tolist()
    return found


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(now - then) for now, then in zip(one, other, strict=True)) / len(one)
