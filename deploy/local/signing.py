"""`hearken up` makes the keys that sign policies: `key.pem` and `trusted.pem` in the folder `signing`.

Whoever deletes `key.pem` has the key replaced at the next start: a new one is made and trusted beside the
old ones, and policies that a trusted key has signed are signed again. The first start with this release signs
what the registry names, since nothing was signed before. The files are written in an order in which a start
that was killed anywhere is begun again.
"""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas import signatures
from schemas.database import open_pool
from schemas.policies import base_digest
from schemas.settings import Settings


def ensure_signing_keys(settings: Settings) -> None:
    """Makes the keys where there are none and the settings name none; `settings` are prepared. Raises
    StartError where a file of keys is damaged."""
    if settings.signing.key_file or settings.signing.trusted_file:
        signatures.signing_key(settings)
        signatures.trusted_keys(settings)
        return
    folder = settings.signing_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = signatures.trusted_keys(settings) or {}
    key = signatures.signing_key(settings)
    made = key is None
    key = key or Ed25519PrivateKey.generate()
    if not known:
        _sign_all(settings, key, known)
    if signatures.key_id(key.public_key()) not in known:
        trusted = [*known.values(), key.public_key()]
        _write_private(folder / "trusted.pem", b"".join(map(signatures.public_pem, trusted)))
    if made:
        if known:
            _sign_all(settings, key, known)
        _write_private(folder / "key.pem", signatures.private_pem(key))


def _sign_all(settings: Settings, key: Ed25519PrivateKey, known: signatures.TrustedKeys) -> None:
    from trainer.records.resign import sign_again

    with open_pool(settings.database_url or "", size=2) as pool:
        sign_again(pool, key, base_digest(Path(settings.model)), known, unsigned=not known)


def _write_private(path: Path, content: bytes) -> None:
    """Writes a file that its owner alone may read, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
