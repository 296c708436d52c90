"""`verify` accepts a policy's directory only if it is exactly what was published, signed, and safe to load.

The directory is flat: regular files, each named by the manifest with its sha256 and size. Nothing is followed
out of it, and nothing is read that is larger than published. This module does not import torch: weights are
read as numbers, never unpickled.
"""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Self

import numpy as np
from pydantic import BaseModel, NonNegativeInt, RootModel, ValidationError, model_validator

from schemas import signatures
from schemas.errors import PolicyRejected, Reason
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Manifest, file_digest
from schemas.signatures import TrustedKeys

MAX_MANIFEST_BYTES = 16 * 2**20
"""Largest manifest that is read. One of a round takes some kilobytes."""

_MAX_HEADER_BYTES = 16 * 2**20  # of a safetensors file; safetensors itself allows 100 MB
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib"}
# Bit masks of the exponent: all ones means infinity or not a number.
_EXPONENTS = {"F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}

Reject = Callable[[Reason, str], NoReturn]


@dataclass(frozen=True, slots=True)
class RegisteredPolicy:
    """What the registry's row says of a policy: where its directory is, the sha256 of its manifest, and the
    manifest's signature, which policies of older releases lack."""

    project: str
    id: str
    directory: Path
    digest: str
    signature: str | None = None


class _Tensor(BaseModel):
    """A tensor in a safetensors header. Adapters hold floating-point numbers only."""

    dtype: Literal["F32", "F16", "BF16"]
    shape: list[NonNegativeInt]
    data_offsets: tuple[NonNegativeInt, NonNegativeInt]


class _Header(RootModel[dict[str, _Tensor | dict[str, str]]]):
    """A safetensors header: tensors by name, and strings under `__metadata__`."""

    @model_validator(mode="after")
    def _only_metadata_is_text(self) -> Self:
        if any(not isinstance(entry, _Tensor) for name, entry in self.root.items() if name != "__metadata__"):
            raise ValueError("an entry is no tensor")
        return self

    def tensors(self) -> dict[str, _Tensor]:
        return {name: entry for name, entry in self.root.items() if isinstance(entry, _Tensor)}


def verify(policy: RegisteredPolicy, base: str, trusted: TrustedKeys | None) -> Manifest:
    """Returns the manifest of a directory that is exactly as published, for the base with digest `base`, and
    signed by one of the `trusted` keys; None: signatures are not checked.

    Raises PolicyRejected for any other: missing, truncated, altered, of another base, policy or project, with
    weights that are not finite, a link, or an unexpected file (a pickle above all).
    """

    reject = _rejecting(policy.id)
    sizes = _check_names(policy.directory, reject)
    manifest = _read_manifest(policy, sizes, trusted, reject)
    if manifest.base_digest != base:
        reject("wrong_base", f"it was trained on base {manifest.base_digest[:12]}, not {base[:12]}")
    _check_files(policy.directory, manifest, sizes, reject)
    return manifest


def read_manifest(policy: RegisteredPolicy, trusted: TrustedKeys | None) -> Manifest:
    """Returns the manifest of a directory, without a look at the files that it names. Raises PolicyRejected
    where it is not the policy's own, or not signed by one of the `trusted` keys."""
    reject = _rejecting(policy.id)
    return _read_manifest(policy, _check_names(policy.directory, reject), trusted, reject)


def _rejecting(policy: str) -> Reject:
    def reject(reason: Reason, message: str) -> NoReturn:
        raise PolicyRejected(f"{policy}: {message}", policy=policy, reason=reason)

    return reject


def _check_names(directory: Path, reject: Reject) -> dict[str, int]:
    """Returns the sizes of the files in a directory, in bytes, by name. Nothing is opened."""
    if directory.is_symlink():
        reject("symlink", f"{directory} is a link, and policies are never followed")
    if not (directory / MANIFEST).exists():
        reject("missing", f"there is no {MANIFEST} in {directory}")
    sizes = {}
    for path in sorted(directory.iterdir()):
        found = path.lstat()
        if path.suffix.lower() in _PICKLES:
            reject("pickle", f"{path.name} may hold pickled code and is never loaded")
        if stat.S_ISLNK(found.st_mode):
            reject("symlink", f"{path.name} is a link, and is never followed")
        if not stat.S_ISREG(found.st_mode):
            reject("unexpected_file", f"{path.name} is no regular file, and a policy is a flat directory")
        sizes[path.name] = found.st_size
    return sizes


def _read_manifest(
    policy: RegisteredPolicy, sizes: dict[str, int], trusted: TrustedKeys | None, reject: Reject
) -> Manifest:
    """Returns the manifest, if it is the registered policy's own."""
    path = policy.directory / MANIFEST
    if sizes[MANIFEST] > MAX_MANIFEST_BYTES:
        reject("oversized", f"{MANIFEST} has {sizes[MANIFEST]} bytes")
    if file_digest(path) != policy.digest:
        reject("digest", f"{MANIFEST} is not the one that was published")
    content = path.read_bytes()
    if trusted is not None:
        _check_signature(content, policy.signature, trusted, reject)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        reject("malformed", f"{MANIFEST}: {error.error_count()} fields are wrong")
    if manifest.id != policy.id:
        reject("another_policy", f"{MANIFEST} is that of {manifest.id}")
    if manifest.project != policy.project and policy.id != BASE:  # all projects are based on the same files
        reject("another_policy", f"{MANIFEST} is of the project {manifest.project}")
    return manifest


def _check_signature(manifest: bytes, signature: str | None, trusted: TrustedKeys, reject: Reject) -> None:
    key = trusted.get(signatures.signer_of(signature) or "")
    if signature is None:
        reject("unsigned", "it was not signed; `hearken sign` signs policies of an older release")
    if key is None:
        signer = signatures.signer_of(signature)
        reject("unsigned", f"it was signed by the key {signer}, which signing.trusted_file does not name")
    if not signatures.fits(manifest, signature, key):
        reject("signature", f"the signature of {MANIFEST} does not fit it")


def _check_files(directory: Path, manifest: Manifest, sizes: dict[str, int], reject: Reject) -> None:
    for name in sorted(sizes.keys() - set(manifest.files) - {MANIFEST}):
        reject("unexpected_file", f"{name} was not published with it")
    for name, expected in manifest.files.items():
        if name not in sizes:
            reject("missing", f"{name} is gone")
        published = manifest.sizes.get(name, sizes[name])
        if sizes[name] != published:
            reason: Reason = "truncated" if sizes[name] < published else "oversized"
            reject(reason, f"{name} has {sizes[name]} bytes instead of {published}")
        if name == WEIGHTS:
            _check_weights(directory / name, reject)
        if file_digest(directory / name) != expected:
            reject("digest", f"{name} is not the one that was published")
    if not {WEIGHTS, CONFIG} <= set(manifest.files):
        reject("missing", f"a policy needs {WEIGHTS} and {CONFIG}")


def _check_weights(path: Path, reject: Reject) -> None:
    """Checks that the weights are complete, in the safetensors layout, and finite. They are memory-mapped."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            reject("truncated", f"{path.name} ends inside its header")
        if header_size > _MAX_HEADER_BYTES:
            reject("oversized", f"the header of {path.name} has {header_size} bytes")
        try:
            tensors = _Header.model_validate_json(file.read(header_size)).tensors()
        except ValidationError:
            reject("malformed", f"{path.name} has no readable header")
    start = 8 + header_size
    if start + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0) != size:
        reject("truncated", f"{path.name} is not as long as its header says")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, tensor in tensors.items():
        kind, mask = _EXPONENTS[tensor.dtype]
        first, last = tensor.data_offsets
        if first > last or (last - first) % np.dtype(kind).itemsize:
            reject("malformed", f"{name} does not fill whole numbers")
        bits = data[start + first : start + last].view(kind)
        if bool(np.any((bits & mask) == mask)):
            reject("not_finite", f"{name} holds values that are not finite numbers")
