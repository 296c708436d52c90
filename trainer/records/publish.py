"""Making a policy public: an immutable directory, then one transaction that says it exists.

The directory is written under another name, flushed and renamed, so a policy is whole or absent. Its row,
the record of its round and the names of the votes it learned from are one transaction: a trainer killed
before it leaves a directory that nobody knows, which the next start removes. It removes nothing else: a
database that knows none of the policies that are there is the wrong one, or was not restored.
"""

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb
from safetensors.torch import save_file

from schemas.database import Pool
from schemas.errors import HearkenError, StartError
from schemas.policies import BASE, MANIFEST, TRAINING, WEIGHTS, Manifest, Probe, file_digest
from schemas.settings import Settings
from trainer.data.round_inputs import RoundInputs
from trainer.model import device
from trainer.model.adapter import save_adapter
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, pack
from trainer.records.record import finite

INPUTS, ROLLOUTS, PAST = "inputs.json", "rollouts.safetensors", "past.safetensors"
"""Beside the adapter: what it was made from, so that it can be made again."""

_DRAFT = ".draft-"


class LeadershipLost(HearkenError):
    """Another trainer took over and closed this one's round. The round is dropped; its votes stay for the next."""


def write(
    backbone: Backbone,
    settings: Settings,
    number: int,
    probe: Probe,
    inputs: RoundInputs | None = None,
    rollouts: Sequence[list[Rollout]] = (),
    event_ids: Sequence[str] = (),
    metrics: dict[str, Any] | None = None,
    past: Path | None = None,
) -> Manifest:
    """The directory of the adapter as it is now, of which `probe` is: named by `number` and its weights, `p0`
    without inputs. `past` is the file of what was left of older votes (`past`): one of many megabytes, which
    is never written to again, and so is shared by the policies that have the same."""
    folder = settings.policies_dir / settings.project
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{_DRAFT}{number}"
    shutil.rmtree(draft, ignore_errors=True)
    save_adapter(backbone, draft)
    if inputs is not None:
        (draft / INPUTS).write_text(inputs.model_dump_json() + "\n", encoding="utf-8")
        save_file(pack(rollouts), draft / ROLLOUTS)
    if past is not None:
        try:
            (draft / PAST).hardlink_to(past)
        except OSError:  # it lies on another file system, or on one that has no links
            shutil.copyfile(past, draft / PAST)
    policy = BASE if inputs is None else f"p{number}-{file_digest(draft / WEIGHTS)[:6]}"
    manifest = Manifest(
        id=policy,
        project=settings.project,
        parent=inputs.parent if inputs else None,
        base_model=settings.model,
        base_digest=backbone.digest,
        files={path.name: file_digest(path) for path in sorted(draft.iterdir())},
        log_positions=inputs.positions if inputs else {},
        examples=len(event_ids),
        examples_digest=hashlib.sha256("\n".join(sorted(event_ids)).encode()).hexdigest(),
        configuration=settings.trainer.model_dump(mode="json"),
        seed=settings.trainer.seed,
        versions=versions(backbone),
        metrics=metrics or {},
        probe=probe,
        created_at=datetime.now(UTC),
    )
    (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    for path in [*draft.iterdir(), draft]:
        _flush(path)
    target = folder / policy
    shutil.rmtree(target, ignore_errors=True)  # of a publication that was killed before its transaction
    draft.rename(target)
    _flush(folder)
    return manifest


def announce(
    pool: Pool,
    settings: Settings,
    manifest: Manifest,
    event_ids: list[str],
    round_id: int,
    gate: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """One transaction: the registry row, the votes' first policy, the round's outcome and record, and the
    news. Raises LeadershipLost when the round was closed meanwhile."""
    with pool.connection() as connection, connection.transaction():
        closed = connection.execute(
            "update rounds set outcome = 'published', policy = %s, record = %s, ended_at = now()"
            " where id = %s and outcome = 'running'",
            [manifest.id, Jsonb(finite(record)), round_id],
        )
        if closed.rowcount == 0:
            raise LeadershipLost(f"another trainer took over before {manifest.id} was published")
        _insert(connection, settings, manifest, "published", gate)
        unlearned = connection.execute(
            "select event_id from training_examples where project = %s and first_policy is null",
            [settings.project],
        ).fetchall()
        connection.execute(
            "update training_examples set first_policy = %s where event_id = any(%s)",
            [manifest.id, list({row["event_id"] for row in unlearned} & set(event_ids))],
        )
        connection.execute("select pg_notify('hearken_policies', %s)", [settings.project])


def ensure_base(pool: Pool, backbone: Backbone, settings: Settings, probe: Probe) -> None:
    """Make `p0`, the zero adapter, whose probe is given, and route everybody to it, where the project has
    none; remove what killed trainers left.

    Raises StartError when the project's policies belong to another base model, or are adapters of another
    shape, and when the database knows none and there are some.
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
    strangers = _policies(folder) - {row["id"] for row in rows}
    if base is None and strangers - {BASE}:
        raise StartError(
            f"{folder} has policies that the database knows nothing of. Is database_url the one that they "
            "were made with, and restored? Else use another data_dir."
        )
    assert rounds is not None  # noqa: S101  (an aggregate gives its row)
    _remove_drafts(folder)
    for name in strangers:
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
    connection: Any, settings: Settings, manifest: Manifest, state: str, gate: dict[str, Any] | None
) -> None:
    directory = (settings.policies_dir / settings.project / manifest.id).resolve()
    connection.execute(
        "insert into policies (project, id, parent, base_digest, directory, digest, manifest, gate, state,"
        " live_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, case when %s = 'live' then now() end)"
        " on conflict do nothing",
        [
            settings.project, manifest.id, manifest.parent, manifest.base_digest, str(directory),
            file_digest(directory / MANIFEST), Jsonb(manifest.model_dump(mode="json")),
            Jsonb(gate) if gate is not None else None, state, state,
        ],
    )  # fmt: skip


def versions(backbone: Backbone) -> dict[str, str]:
    """Of what an adapter's bytes depend on, the kind of machine being one."""
    machine = device.device_kind(backbone.device, backbone.group.size)
    found = {"python": platform.python_version(), "machine": machine}
    for name in ("hearken", "torch", "transformers", "peft", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def _require(base: dict[str, Any], backbone: Backbone, settings: Settings) -> None:
    """That this is the base that `p0` adapts, and these are the settings that its adapter has; all that is
    learned begins with it. Raises StartError."""
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
    """The names of what looks like a policy."""
    found = folder.glob("p*/") if folder.is_dir() else ()
    return {path.name for path in found if re.fullmatch(r"p\d+(-[0-9a-f]+)?", path.name)}


def _round_of(policy: str) -> int:
    return int(policy[1:].partition("-")[0])


def _remove_drafts(folder: Path) -> None:
    for path in [*folder.glob(f"{_DRAFT}*/"), *folder.glob(f"{TRAINING}*/")]:
        shutil.rmtree(path)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
