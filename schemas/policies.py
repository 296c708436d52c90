"""A policy: an immutable directory in PEFT's layout plus `manifest.json`, and the checks it must pass.

The registry row holds the sha256 of the manifest, the manifest the sha256 of each file, so one digest
vouches for the whole directory. Nothing here imports torch: weights are read as numbers, never unpickled.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import PolicyRejected

BASE = "p0"  # the base model itself, served as an adapter whose B is zero
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib"}
# Bit masks of the exponent: all ones means infinity or not a number.
_EXPONENTS = {"F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


class Probe(BaseModel):
    """Proof that a replica really serves the adapter: on `token_ids` its prompt logprobs (nats, one per
    token after the first) must lie near `logprobs`, and nearer to them than to `base_logprobs`."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


class Manifest(BaseModel):
    """What a policy is made of, enough to rebuild it. `files` maps names to sha256 in hex."""

    model_config = ConfigDict(frozen=True)

    format: Literal["hearken.policy.v1"] = "hearken.policy.v1"
    id: str
    project: str
    parent: str | None
    base_model: str
    base_digest: str
    files: dict[str, str]
    log_positions: dict[str, str]
    examples: int
    examples_digest: str
    configuration: dict[str, Any]
    seed: int
    versions: dict[str, str]
    metrics: dict[str, Any]
    probe: Probe
    created_at: datetime


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_digest(directory: Path) -> str:
    """sha256 over what decides a base model's answers: weights, configuration, tokenizer, template."""
    names = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix == ".safetensors"
        or path.name in {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    )
    lines = [f"{name} {file_digest(directory / name)}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def verify(policy: str, directory: Path, digest: str, base: str) -> Manifest:
    """The manifest of a directory that is exactly what was published, for the base with digest `base`.

    Raises PolicyRejected for anything else: missing, truncated, tampered with, of another base, with
    weights that are not finite, or with a file that does not belong (a pickle above all).
    """

    def reject(reason: str, message: str) -> PolicyRejected:
        return PolicyRejected(f"{policy}: {message}", policy=policy, reason=reason)

    if not (directory / MANIFEST).is_file():
        raise reject("missing", f"there is no {MANIFEST} in {directory}")
    for path in sorted(directory.rglob("*")):
        if path.suffix.lower() in _PICKLES:
            raise reject("pickle", f"{path.name} may hold pickled code and is never loaded")
    if file_digest(directory / MANIFEST) != digest:
        raise reject("digest", f"{MANIFEST} is not the one that was published")
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except ValidationError as error:
        raise reject("malformed", f"{MANIFEST}: {error.error_count()} fields are wrong") from None
    if manifest.base_digest != base:
        raise reject("wrong_base", f"it was trained on base {manifest.base_digest[:12]}, not {base[:12]}")
    present = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        raise reject("unexpected_file", f"{name} was not published with it")
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise reject("missing", f"{name} is gone")
        if name == WEIGHTS:
            _check_weights(path, reject)
        if file_digest(path) != expected:
            raise reject("digest", f"{name} is not the one that was published")
    if not {WEIGHTS, CONFIG} <= set(manifest.files):
        raise reject("missing", f"a policy needs {WEIGHTS} and {CONFIG}")
    return manifest


def _check_weights(path: Path, reject: Any) -> None:
    """Whole, in the safetensors layout, and finite. Memory-mapped, so size costs time and not memory."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise reject("truncated", f"{path.name} ends inside its header")
        try:
            header = json.loads(file.read(header_size))
        except ValueError:
            raise reject("malformed", f"{path.name} has no readable header") from None
    header.pop("__metadata__", None)
    start = 8 + header_size
    if start + max((entry["data_offsets"][1] for entry in header.values()), default=0) != size:
        raise reject("truncated", f"{path.name} is not as long as its header says")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, entry in header.items():
        if entry["dtype"] not in _EXPONENTS:
            raise reject("malformed", f"{name} has type {entry['dtype']}; adapters hold F32, F16 or BF16")
        kind, mask = _EXPONENTS[entry["dtype"]]
        first, last = entry["data_offsets"]
        bits = data[start + first : start + last].view(kind)
        if bool(np.any((bits & mask) == mask)):
            raise reject("not_finite", f"{name} holds values that are not finite numbers")
