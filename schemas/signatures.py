"""Each policy's manifest is signed (Ed25519, RFC 8032), so that who can write the policies' folder, or the
registry, cannot make a policy that serves.

One key signs; the public keys of several may be trusted, so that keys rotate. Both are PEM files as OpenSSL
writes them, read again at each use: a key that is replaced counts without a restart. What is signed is
CONTEXT and the bytes of `manifest.json`, which names project, policy, base, and each file's digest.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from schemas.errors import StartError
from schemas.settings import Settings

CONTEXT = b"hearken.policy.signature.v1\n"
"""Precedes what is signed, so that a signature of anything else never fits a manifest."""

MOST_KEYS = 20
"""Public keys of one file."""

_KEY_ID_DIGITS = 16  # of the sha256 of a public key
_END = "-----END PUBLIC KEY-----"

TrustedKeys = Mapping[str, Ed25519PublicKey]
"""Public keys by their ids."""


def signing_key(settings: Settings) -> Ed25519PrivateKey | None:
    """Returns the key that signs policies, if there is one. Raises StartError where its file is damaged, or
    named in the settings and not there."""
    path = settings.signing_key_path
    return read_signing_key(path) if path is not None else None


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """Returns the keys whose policies may serve; None where no file names any, and signatures are not
    checked. Raises as `signing_key`."""
    path = settings.trusted_keys_path
    return read_trusted_keys(path) if path is not None else None


def key_id(key: Ed25519PublicKey) -> str:
    """Returns the name of a key: the start of the sha256 of its 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID_DIGITS]


def sign(manifest: bytes, key: Ed25519PrivateKey) -> str:
    """Returns the signature of a manifest's bytes, as `KEY_ID:SIGNATURE` in hex."""
    return f"{key_id(key.public_key())}:{key.sign(CONTEXT + manifest).hex()}"


def signer_of(signature: str | None) -> str | None:
    """Returns the id of the key that a signature names."""
    return None if signature is None else signature.partition(":")[0]


def fits(manifest: bytes, signature: str, key: Ed25519PublicKey) -> bool:
    """Returns whether `key` made the signature of a manifest's bytes."""
    try:
        key.verify(bytes.fromhex(signature.partition(":")[2]), CONTEXT + manifest)
    except (ValueError, InvalidSignature):
        return False
    return True


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Returns the key of a PEM file. Raises StartError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StartError(
            f"The key that signs policies cannot be read from {path}: {error}. Make one with"
            f" `openssl genpkey -algorithm ed25519 -out {path.name}`."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StartError(f"{path} holds another kind of key than Ed25519, which signs policies.")
    return key


def read_trusted_keys(path: Path) -> TrustedKeys:
    """Returns the public keys of a PEM file, of which there is at least one. Raises StartError."""
    try:
        blocks = path.read_text(encoding="ascii").split(_END)[:-1]
        keys = [load_pem_public_key((block + _END).encode()) for block in blocks]
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise StartError(f"The trusted keys cannot be read from {path}: {error}") from None
    found = {key_id(key): key for key in keys if isinstance(key, Ed25519PublicKey)}
    if not found or len(found) < len(keys) or len(keys) > MOST_KEYS:
        raise StartError(
            f"{path} must hold 1 to {MOST_KEYS} different Ed25519 public keys in PEM, one after another, as"
            " `openssl pkey -pubout` writes them."
        )
    return found


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Returns a key as the content of its file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Returns a public key as its block in the file of trusted keys."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
