"""This module publishes a policy: it writes an immutable directory, then registers it in one transaction.

The directory is written under another name, flushed to disk and renamed, so a policy is complete or absent.
Its row, its round's record and the events of its votes are one transaction. A candidate that the gate refused
is kept in the same way, as a rejected policy. A trainer killed before it leaves an unregistered directory,
which the next start removes. It removes nothing else: a database that knows none of the policies in the data
folder is the wrong one, or was not restored.
"""

import hashlib
import json
import platform
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb
from safetensors.torch import save_file

from feedback import policy_store
from schemas import signatures
from schemas.database import Pool
from schemas.errors import HearkenError, StartError
from schemas.files import fsync
from schemas.policies import BASE, MANIFEST, TRAINING, WEIGHTS, Manifest, Probe, file_digest
from schemas.settings import Settings
from schemas.taste_model import REWARD, TASTES
from trainer.data import demonstrations
from trainer.data.round_inputs import RoundInputs
from trainer.model import device
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, pack
from trainer.records import taste_model
from trainer.records.record import Ending, RoundRecord, RoundRow, finite
from trainer.reward.ensemble import RewardModel

INPUTS, ROLLOUTS, BASE_SAMPLES = "inputs.json", "rollouts.safetensors", "base_samples.safetensors"
KNOWLEDGE_CHECKS = "knowledge_checks.json"
"""Files of a policy directory from which the policy can be reproduced, beside those of the vote summary."""

SAMPLED_SECONDS = 7_200.0
"""Age of an adapter from which nothing samples any more, seconds."""

_DRAFT = ".draft-"


class LeadershipLost(HearkenError):
    """Another trainer took over and closed this one's round. The round is dropped; its votes stay for the
    next."""


@dataclass(frozen=True, slots=True)
class TrainingArtifacts:
    """What a policy was trained from, kept in its directory so that it can be reproduced: the round's inputs,
    all steps' rollouts, the base's, the results of the guard's knowledge checks, the events of its votes, the
    files of the vote summary if there was one; the metrics of the round; and the reward model, for serving,
    where people's tastes differ. `rebuilds` is the policy whose round it was."""

    inputs: RoundInputs
    rollouts: Sequence[list[Rollout]]
    base: list[Rollout]
    checks: Sequence[str | bool | None]
    event_ids: Sequence[str]
    metrics: dict[str, Any]
    vote_summary: Sequence[Path] = ()
    rebuilds: str | None = None
    model: RewardModel | None = None


def write(
    backbone: Backbone,
    settings: Settings,
    number: int,
    probe: Probe,
    artifacts: TrainingArtifacts | None = None,
) -> Manifest:
    """Writes the policy directory of the current adapter, whose probe is given. Its name is the round's
    number and the digest of its weights, or `p0` without artifacts. The files of the vote summary are large
    and never change, so policies share them by hard links."""
    folder = settings.policies_dir / settings.project
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{_DRAFT}{number}"
    shutil.rmtree(draft, ignore_errors=True)
    save_adapter(backbone, draft)
    if artifacts is not None:
        _write_artifacts(artifacts, draft)
        if (model := artifacts.model) is not None:
            taste_model.write(model, backbone, draft / (TASTES if model.people else REWARD))
    name = BASE if artifacts is None else policy_name(number, draft / WEIGHTS)
    manifest = _manifest(name, backbone, settings, probe, artifacts, draft)
    (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    for path in [*draft.iterdir(), draft]:
        fsync(path)
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)  # of a publication that was killed before its transaction
    draft.rename(target)
    fsync(folder)
    policy_store.upload(settings, manifest, target, file_digest(target / MANIFEST))
    return manifest


def policy_name(number: int, weights: Path) -> str:
    """Returns the name of a round's policy, as `p17-3fa9c1`: the round's number and the start of the weights'
    digest. A name is never used again."""
    return f"p{number}-{file_digest(weights)[:6]}"


def _write_artifacts(artifacts: TrainingArtifacts, directory: Path) -> None:
    (directory / INPUTS).write_text(artifacts.inputs.model_dump_json() + "\n", encoding="utf-8")
    save_file(pack(artifacts.rollouts), directory / ROLLOUTS)
    save_file(pack([artifacts.base]), directory / BASE_SAMPLES)
    (directory / KNOWLEDGE_CHECKS).write_text(json.dumps(list(artifacts.checks)) + "\n", encoding="utf-8")
    for path in artifacts.vote_summary:
        copy = directory / path.name
        try:
            copy.hardlink_to(path)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, copy)


def _manifest(
    name: str,
    backbone: Backbone,
    settings: Settings,
    probe: Probe,
    artifacts: TrainingArtifacts | None,
    directory: Path,
) -> Manifest:
    inputs = artifacts.inputs if artifacts else None
    event_ids = artifacts.event_ids if artifacts else []
    return Manifest(
        id=name,
        project=settings.project,
        parent=inputs.parent if inputs else None,
        rebuilds=artifacts.rebuilds if artifacts else None,
        base_model=settings.model,
        base_digest=backbone.digest,
        files={path.name: file_digest(path) for path in sorted(directory.iterdir())},
        sizes={path.name: path.stat().st_size for path in sorted(directory.iterdir())},
        log_positions=inputs.positions if inputs else {},
        examples=len(event_ids),
        examples_digest=hashlib.sha256("\n".join(sorted(event_ids)).encode()).hexdigest(),
        configuration=settings.trainer.model_dump(mode="json"),
        seed=settings.trainer.seed,
        versions=versions(backbone),
        metrics=artifacts.metrics if artifacts else {},
        probe=probe,
        created_at=datetime.now(UTC),
    )


def register(
    pool: Pool,
    settings: Settings,
    manifest: Manifest,
    event_ids: list[str],
    row: RoundRow,
    record: RoundRecord,
) -> None:
    """Registers a policy in one transaction: its row, the first policy of its votes, that it learned its
    demonstrations, the round's outcome and record, and the notification. One that rebuilds another goes live
    only when it is asked for. Raises LeadershipLost when another trainer has closed the round."""
    with pool.connection() as connection, connection.transaction():
        _close(connection, row, Ending("published"), manifest.id, record)
        _insert(connection, settings, manifest, "retired" if manifest.rebuilds else "published", record.gate)
        untrained = connection.execute(
            "select event_id from training_examples where project = %s and first_policy is null",
            [settings.project],
        ).fetchall()
        connection.execute(
            "update training_examples set first_policy = %s where event_id = any(%s)",
            [manifest.id, list({row["event_id"] for row in untrained} & set(event_ids))],
        )
        _announce(connection, settings, manifest.id)


def register_refused(
    pool: Pool,
    settings: Settings,
    manifest: Manifest,
    event_ids: list[str],
    row: RoundRow,
    record: RoundRecord,
) -> None:
    """Registers a candidate that the gate refused, in one transaction: its row, rejected for the gate's
    reasons, the events of its votes, which it has taught nobody until an operator brings it back, that it
    learned its demonstrations, and the round's outcome and record. Raises as `register`."""
    reason = "; ".join((record.gate or {}).get("reasons", []))
    with pool.connection() as connection, connection.transaction():
        _close(connection, row, Ending("rejected", reason), manifest.id, record)
        _insert(connection, settings, manifest, "rejected", record.gate, reason)
        connection.execute(
            "insert into refused_candidates (project, policy, events) values (%s, %s, %s)",
            [settings.project, manifest.id, event_ids],
        )
        _announce(connection, settings, manifest.id)


def _close(connection: Any, row: RoundRow, ending: Ending, policy: str, record: RoundRecord) -> None:
    """Closes the round that made `policy`. Raises LeadershipLost when another trainer has closed it."""
    closed = connection.execute(
        "update rounds set outcome = %s, reason = %s, policy = %s, record = %s, ended_at = now()"
        " where id = %s and outcome = 'running'",
        [ending.outcome, ending.reason, policy, Jsonb(finite(record.as_json())), row.id],
    )
    if closed.rowcount == 0:
        raise LeadershipLost(f"another trainer took over before {policy} was published")


def _announce(connection: Any, settings: Settings, policy: str) -> None:
    """Notes what a new policy learned of demonstrations, and notifies every process of it."""
    inputs = RoundInputs.read(settings.policies_dir / settings.project / policy / INPUTS)
    demonstrations.note_policy(connection, inputs.demonstrations if inputs else [], policy)
    connection.execute("select pg_notify('hearken_policies', %s)", [settings.project])


def ensure_base(pool: Pool, backbone: Backbone, settings: Settings, probe: Probe) -> None:
    """Publishes `p0`, the zero adapter with the given probe, and routes everybody to it, if the project has
    none; removes the unregistered directories of killed trainers.

    Raises StartError when the project's policies are of another base model or have another LoRA rank, and
    when there are policy directories but the database knows none.
    """
    with pool.connection() as connection:
        rows = connection.execute(
            "select id, base_digest, manifest #> '{configuration,rl}' as rl from policies where project = %s",
            [settings.project],
        ).fetchall()
        rounds = connection.execute(
            "select count(*) from rounds where project = %s", [settings.project]
        ).fetchone()
    base = next((row for row in rows if row["id"] == BASE), None)
    if base is not None:
        _require(base, backbone, settings)
    folder = settings.policies_dir / settings.project
    unregistered = _policies(folder) - {row["id"] for row in rows}
    if base is None and unregistered - {BASE}:
        raise StartError(
            f"{folder} has policies that are not in the database. Set database_url to the database that they "
            "were made with, and restore it if it was lost; or use another data_dir."
        )
    assert rounds is not None  # noqa: S101  (an aggregate gives its row)
    remove_drafts(folder)
    for name in unregistered:
        if _round_of(name) <= rounds["count"]:
            shutil.rmtree(folder / name)
    if base is None:
        manifest = write(backbone, settings, 0, probe)
        with pool.connection() as connection, connection.transaction():
            _insert(connection, settings, manifest, "live", None)
            connection.execute(
                "insert into routes (project, live, previous) values (%s, %s, %s) on conflict do nothing",
                [settings.project, BASE, BASE],
            )
            connection.execute("select pg_notify('hearken_policies', %s)", [settings.project])


def _insert(
    connection: Any,
    settings: Settings,
    manifest: Manifest,
    state: str,
    gate: dict[str, Any] | None,
    reason: str | None = None,
) -> None:
    directory = (settings.policies_dir / settings.project / manifest.id).resolve()
    content = (directory / MANIFEST).read_bytes()
    key = signatures.signing_key(settings)
    connection.execute(
        "insert into policies (project, id, parent, rebuilds, base_digest, directory, digest, signature,"
        " manifest, gate, state, reason, live_at)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, case when %s = 'live' then now() end)"
        " on conflict do nothing",
        [
            settings.project, manifest.id, manifest.parent, manifest.rebuilds, manifest.base_digest,
            str(directory), hashlib.sha256(content).hexdigest(),
            signatures.sign(content, key) if key is not None else None,
            Jsonb(finite(manifest.model_dump(mode="json"))),
            Jsonb(finite(gate)) if gate is not None else None, state, reason, state,
        ],
    )  # fmt: skip


def versions(backbone: Backbone) -> dict[str, str]:
    """Returns the versions that an adapter's bytes depend on, with the kind of machine."""
    machine = device.device_kind(backbone.device, backbone.group.size)
    found = {"python": platform.python_version(), "machine": machine}
    if backbone.auxiliary is not None:
        found["auxiliary_model"] = backbone.auxiliary.digest
    for name in ("hearken", "torch", "transformers", "peft", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def _require(base: dict[str, Any], backbone: Backbone, settings: Settings) -> None:
    """Raises StartError unless `p0` adapts this base with these LoRA settings."""
    if base["base_digest"] != backbone.digest:
        raise StartError(
            f"The policies of project {settings.project} adapt base {base['base_digest'][:12]}, and "
            f"{settings.model} is {backbone.digest[:12]}. Use the model they were trained on, or another "
            "data_dir."
        )
    for name in ("rank", "alpha"):
        had, wanted = base["rl"][name], getattr(settings.trainer.rl, name)
        if had != wanted:
            raise StartError(
                f"trainer.rl.{name} is {wanted}, and the policies of project {settings.project} have {had}."
                f" Leave it at {had}, or use another data_dir."
            )


def _policies(folder: Path) -> set[str]:
    """Returns the names of the policy directories in a folder."""
    found = folder.glob("p*/") if folder.is_dir() else ()
    return {path.name for path in found if re.fullmatch(r"p\d+(-[0-9a-f]+)?", path.name)}


def _round_of(policy: str) -> int:
    return int(policy[1:].partition("-")[0])


def remove_drafts(folder: Path) -> None:
    """Removes what killed trainers left in the folder of a project that this one leads. An adapter to sample
    from may be of another project's round, which another trainer runs now: it must be old."""
    for path in folder.glob(f"{_DRAFT}*/"):
        shutil.rmtree(path)
    for path in folder.glob(f"{TRAINING}*/"):
        with suppress(FileNotFoundError):  # that round is through with it
            if time.time() - path.stat().st_mtime > SAMPLED_SECONDS:
                shutil.rmtree(path)
