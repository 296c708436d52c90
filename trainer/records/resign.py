"""This module signs policies again: after a key was replaced, and once those of a release that signed none.

A directory is verified in full before its manifest is signed. It must be signed by a trusted key already,
unless the operator says that what the registry names is to be trusted.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas import signatures
from schemas.database import Pool
from schemas.errors import PolicyRejected
from schemas.policies import MANIFEST
from schemas.signatures import TrustedKeys
from schemas.verification import RegisteredPolicy, verify

_PAGE = 100  # rows of one query


@dataclass(frozen=True, slots=True)
class Resigned:
    """What was signed, what the key had signed before, and what was refused, with the reasons."""

    signed: list[str]
    kept: int
    refused: dict[str, str]


def sign_again(
    pool: Pool,
    key: Ed25519PrivateKey,
    base: str,
    trusted: TrustedKeys | None,
    *,
    unsigned: bool,
    actor: str = "service",
) -> Resigned:
    """Signs the policies of all projects whose files are there and are for the base with digest `base`. With
    `unsigned` also those that no trusted key has signed. Names are `PROJECT/POLICY`; the audit log names
    `actor`."""
    own = signatures.key_id(key.public_key())
    signed: list[str] = []
    refused: dict[str, str] = {}
    kept = 0
    for policy in _registered(pool):
        name = f"{policy.project}/{policy.id}"
        if signatures.signer_of(policy.signature) == own and not unsigned:
            kept += 1
            continue
        try:
            verify(policy, base, None if unsigned else trusted or {})
            content = (policy.directory / MANIFEST).read_bytes()
            if hashlib.sha256(content).hexdigest() != policy.digest:
                raise PolicyRejected(f"{policy.id} changes now", policy=policy.id, reason="digest")
        except PolicyRejected as error:
            refused[name] = error.message
            continue
        _store(pool, policy, signatures.sign(content, key), actor)
        signed.append(name)
    return Resigned(signed, kept, refused)


def _store(pool: Pool, policy: RegisteredPolicy, signature: str, actor: str) -> None:
    with pool.connection() as connection, connection.transaction():
        connection.execute("select set_config('hearken.actor', %s, true)", [actor])
        connection.execute(
            "update policies set signature = %s where project = %s and id = %s and digest = %s",
            [signature, policy.project, policy.id, policy.digest],
        )


def _registered(pool: Pool) -> list[RegisteredPolicy]:
    """Returns the policies whose files are kept, in all projects."""
    found: list[RegisteredPolicy] = []
    after = ("", "")
    while True:
        with pool.connection() as connection:
            rows = connection.execute(
                "select project, id, directory, digest, signature from policies"
                " where (project, id) > (%s, %s) and pruned_at is null order by project, id limit %s",
                [*after, _PAGE],
            ).fetchall()
        found += [
            RegisteredPolicy(
                row["project"], row["id"], Path(row["directory"]), row["digest"], row["signature"]
            )
            for row in rows
        ]
        if len(rows) < _PAGE:
            return found
        after = rows[-1]["project"], rows[-1]["id"]
