"""This module reads a published policy: its directory, checked against what was published, and the settings
that it was trained with."""

from pathlib import Path

from pydantic import ValidationError

from feedback import policy_store
from schemas import signatures
from schemas.database import Pool
from schemas.errors import HearkenError, NotFound
from schemas.policies import Manifest, base_digest
from schemas.settings import Settings, TrainerSettings
from schemas.verification import RegisteredPolicy, verify


class NotReproducible(HearkenError):
    """A policy cannot be reproduced: an input is missing, or this machine's arithmetic differs. The message
    says which; use the Hearken version or the kind of machine that it names."""


def read_published(
    settings: Settings, pool: Pool, policy: str, base: str | None = None
) -> tuple[Manifest, Path]:
    """Returns the manifest and the directory of a policy. `base` is the digest of the base in
    `settings.model`, if it is known. Raises NotFound, PolicyRejected when the directory is not what was
    published and signed, NotReproducible when it was pruned, and Conflict while a store of policies does not
    answer."""
    with pool.connection() as connection:
        row = connection.execute(
            "select directory, digest, signature,"
            " case when tainted_at is null then pruned_at else files_deleted_at end as pruned_at"
            " from policies where project = %s and id = %s",
            [settings.project, policy],
        ).fetchone()
    if row is None:
        raise NotFound(f"There is no policy {policy}.", code="policy_not_found")
    if row["pruned_at"] is not None:
        raise NotReproducible(f"{policy} was pruned on {row['pruned_at']:%Y-%m-%d}: its files are deleted.")
    directory = Path(row["directory"])
    found = RegisteredPolicy(settings.project, policy, directory, row["digest"], row["signature"])
    policy_store.fetch(settings, found)
    base = base or base_digest(Path(settings.model))
    return verify(found, base, signatures.trusted_keys(settings)), directory


def configuration(manifest: Manifest) -> TrainerSettings:
    """Returns the settings that a policy was trained with. Raises NotReproducible."""
    try:
        return TrainerSettings.model_validate(manifest.configuration)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise NotReproducible(
            f"{manifest.id} was trained with settings that this Hearken does not have or allow: {names}."
            f" Reproduce it with Hearken {manifest.versions.get('hearken', 'of its time')}."
        ) from None
