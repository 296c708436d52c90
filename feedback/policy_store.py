"""Policies in an object store, by the digest of their manifest: a trainer and the engines that answer by its
policies need no common disk.

The trainer writes each policy to its own folder and to the store, before it is registered. Who lacks the
folder fetches it, verified by digest, signature and size, and synced to disk, before it is in place; from
then on it is a local cache. What is pruned, or learned from somebody who was erased, is deleted from the
store and from the caches.
"""

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from feedback.object_store import open_store, summary
from schemas.errors import Conflict, PolicyRejected, Reason
from schemas.files import fsync
from schemas.policies import MANIFEST, Manifest
from schemas.settings import Settings
from schemas.signatures import trusted_keys
from schemas.verification import MAX_MANIFEST_BYTES, RegisteredPolicy, read_manifest

log = structlog.get_logger()

_FETCHING = ".fetch-"  # prefix of folders that are not whole


def upload(settings: Settings, manifest: Manifest, directory: Path, digest: str) -> None:
    """Writes a policy to the store, if there is one, the manifest last. Raises OSError, StartError."""
    if settings.policy_store is None:
        return
    store = open_store(settings.policy_store)
    from obstore import put
    from obstore.exceptions import BaseError

    try:
        for name in (*manifest.files, MANIFEST):
            put(store, f"{digest}/{name}", directory / name)
    except BaseError as error:
        raise OSError(f"the store of policies refuses {manifest.id}: {summary(error)}") from None


def fetch(settings: Settings, policy: RegisteredPolicy) -> None:
    """Fetches a policy's folder if it is not there and there is a store. Raises PolicyRejected where the
    store has something else than was published, and Conflict while it does not answer."""
    if settings.policy_store is None or policy.directory.exists():
        return
    store = open_store(settings.policy_store)
    from obstore.exceptions import BaseError, NotFoundError

    draft = policy.directory.with_name(f"{_FETCHING}{policy.id}-{secrets.token_hex(4)}")
    draft.mkdir(parents=True)
    try:
        _fetch(store, settings, replace(policy, directory=draft))
        for path in (*draft.iterdir(), draft):
            fsync(path)
        draft.rename(policy.directory)
        fsync(policy.directory.parent)
        log.info("policy_fetched", project=policy.project, policy=policy.id)
    except (NotFoundError, FileNotFoundError):
        raise PolicyRejected(
            f"{policy.id} is not in the store of policies", policy=policy.id, reason="missing"
        ) from None
    except BaseError as error:
        raise Conflict(
            f"The store of policies does not give {policy.id}: {summary(error)}", code="policy_store_away"
        ) from None
    except OSError:
        if not policy.directory.exists():  # else another process was first
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def delete(settings: Settings, digest: str) -> None:
    """Deletes a policy from the store, if there is one. Raises OSError, StartError."""
    if settings.policy_store is None:
        return
    store = open_store(settings.policy_store)
    import obstore
    from obstore.exceptions import BaseError

    try:
        for page in obstore.list(store, prefix=f"{digest}/"):
            obstore.delete(store, [each["path"] for each in page])
    except BaseError as error:
        raise OSError(f"the store of policies does not delete {digest[:12]}: {summary(error)}") from None


def forget(settings: Settings, gone: Iterable[tuple[str, str]]) -> None:
    """Deletes this machine's copies of policies, each a project and an id, whose files are deleted."""
    if settings.policy_store is None:
        return
    for project, policy in gone:
        shutil.rmtree(settings.policies_dir / project / policy, ignore_errors=True)


def cached(settings: Settings) -> list[tuple[str, str]]:
    """Returns the policies that this machine has copies of, each a project and an id."""
    if settings.policy_store is None or not settings.policies_dir.is_dir():
        return []
    return [(path.parent.name, path.name) for path in settings.policies_dir.glob("*/p*/")]


def _fetch(store: Any, settings: Settings, policy: RegisteredPolicy) -> None:
    """Fetches the manifest, and, if it is the policy's own, the files that it names."""
    _write(store, policy, MANIFEST, MAX_MANIFEST_BYTES, exact=False)
    manifest = read_manifest(policy, trusted_keys(settings))
    for name in manifest.files:
        _write(store, policy, name, manifest.sizes.get(name), exact=True)


def _write(store: Any, policy: RegisteredPolicy, name: str, size: int | None, *, exact: bool) -> None:
    """Writes an object of at most `size` bytes, or of just as many, to a file."""
    from obstore import get

    found = get(store, f"{policy.digest}/{name}")
    has = found.meta["size"]
    if size is not None and (has > size or (exact and has != size)):
        reason: Reason = "oversized" if has > size else "truncated"
        raise PolicyRejected(
            f"{policy.id}: {name} has {has} bytes in the store instead of {size}",
            policy=policy.id,
            reason=reason,
        )
    with (policy.directory / name).open("xb") as file:
        for piece in found.stream():
            file.write(piece)
