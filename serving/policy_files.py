"""The files of policies are verified before an engine loads them, and again while it holds them.

Files that did not change since (their inodes say so) are not read again, unless a key was replaced.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from psycopg.rows import DictRow

from feedback import policy_store
from schemas import signatures
from schemas.database import AsyncPool
from schemas.errors import Conflict, PolicyRejected
from schemas.policies import CONFIG, WEIGHTS, Manifest, base_digest
from schemas.settings import Settings
from schemas.verification import RegisteredPolicy, verify

_MOST_KEPT = 256  # manifests in memory

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""The name, inode, size, and times of change (ns) of each file of a directory."""


def registered(project: str, policy: str, row: DictRow) -> RegisteredPolicy:
    """Returns a policy by its row, of which `directory`, `digest` and `signature` are asked for."""
    directory = Path(row["directory"]).absolute()
    return RegisteredPolicy(project, policy, directory, row["digest"], row["signature"])


def stamp(directory: Path) -> Stamp:
    """Returns what tells whether a file of the directory has changed. Raises OSError."""
    found = ((path.name, path.lstat()) for path in sorted(directory.iterdir()))
    return tuple((name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in found)


def _read_by_engines(files: Stamp) -> list[object]:
    """Returns what may not change while an engine reads. Other files are linked into newer policies."""
    return [each if each[0] in (WEIGHTS, CONFIG) else each[0] for each in files]


class PolicyFiles:
    """Verifies directories for one base. Its methods block, so they are called in other threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base: str | None = None
        self._kept: OrderedDict[RegisteredPolicy, tuple[Stamp, frozenset[str], Manifest]] = OrderedDict()

    def verify(self, policy: RegisteredPolicy) -> tuple[Manifest, Stamp]:
        """Returns the manifest of a policy that may serve, and the stamp of the files that were read. Raises
        PolicyRejected, Conflict while they cannot be read here or a store of policies does not answer, and
        StartError where the trusted keys cannot be read."""
        if self._base is None:
            self._base = base_digest(Path(self._settings.model))
        trusted = signatures.trusted_keys(self._settings)
        before: Stamp = ()
        try:
            policy_store.fetch(self._settings, policy)
            with suppress(OSError):  # then there is no manifest either
                before = stamp(policy.directory)
            manifest = verify(policy, self._base, trusted)
        except OSError as error:
            raise Conflict(
                f"The files of {policy.id} cannot be read here: {error}", code="policy_unreadable"
            ) from None
        self._kept[policy] = before, frozenset(trusted or ()), manifest
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return manifest, before

    def verify_again(self, policy: RegisteredPolicy) -> Manifest:
        """Does the same, but reads only what changed since."""
        kept = self._kept.get(policy)
        if kept is not None:
            trusted = frozenset(signatures.trusted_keys(self._settings) or ())
            try:
                if (stamp(policy.directory), trusted) == kept[:2]:
                    return kept[2]
            except OSError:
                pass
        return self.verify(policy)[0]

    def require_unchanged(self, policy: RegisteredPolicy, before: Stamp) -> None:
        """Raises PolicyRejected if a file changed since `before`: what an engine read meanwhile may not be
        what was verified."""
        try:
            now = stamp(policy.directory)
        except OSError:
            now = ()
        if _read_by_engines(now) != _read_by_engines(before):
            raise PolicyRejected(
                f"{policy.id}: its files changed while it was loaded", policy=policy.id, reason="digest"
            )


async def forget_deleted(settings: Settings, pool: AsyncPool) -> None:
    """Deletes this machine's copies of policies that the trainer has deleted from the store of policies."""
    copies = await asyncio.to_thread(policy_store.cached, settings)
    if not copies:
        return
    projects, policies = zip(*copies, strict=True)
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select project, id from policies where files_deleted_at is not null"
            " and (project, id) in (select * from unnest(%s::text[], %s::text[]))",
            [list(projects), list(policies)],
        )
        gone = [(row["project"], row["id"]) for row in await cursor.fetchall()]
    await asyncio.to_thread(policy_store.forget, settings, gone)
