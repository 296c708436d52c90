"""A policy is an immutable directory in PEFT's layout plus `manifest.json`; `verify` checks its integrity.

The registry row holds the sha256 of the manifest, and the manifest the sha256 of each file, so one digest
covers the whole directory. This module does not import torch: weights are read as numbers, never unpickled.
"""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    RootModel,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas.errors import PolicyRejected, Reason

BASE = "p0"
"""The base model, served as a LoRA whose B is zero."""
ADAPTER_DIGITS = 16
"""Hexadecimal digits of a policy's digest in its adapter's name: 64 bits."""
TRAINING = "training-"
"""Prefix of the adapters that only a training round samples from."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib"}
# Bit masks of the exponent: all ones means infinity or not a number.
_EXPONENTS = {"F32": (np.uint32, 0x7F80_0000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)}


class Probe(BaseModel):
    """A probe tells whether a replica serves the adapter: its logprobs of `token_ids` (nats, one per token
    after the first) must be near `logprobs`, and nearer to them than to `base_logprobs`."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


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


class Manifest(BaseModel):
    """The provenance of a policy, from which it can be reproduced. `files` maps names to sha256 in hex.
    `rebuilds` is the policy that it replaces: its round again, without what was erased since."""

    model_config = ConfigDict(frozen=True)

    format: Literal["hearken.policy.v1"] = "hearken.policy.v1"
    id: str
    project: str
    parent: str | None
    rebuilds: str | None = None
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

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("a file's name leads out of the policy's directory")
        return files


def adapter_name(project: str, policy: str, digest: str) -> str:
    """Returns the name of a policy's adapter on the engines, which projects and installations may share. A
    policy's own name is unique in its project only. The base is the same for all, and has one name."""
    return BASE if policy == BASE else f"{project}.{policy}.{digest[:ADAPTER_DIGITS]}"


def project_of(adapter: str) -> str:
    """Returns the project of an adapter by its name on the engines; of the base, the name itself."""
    return adapter.rsplit(".", 2)[0]


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_digest(directory: Path) -> str:
    """Returns the sha256 over a base model's weights, configuration, tokenizer and chat template."""
    names = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix == ".safetensors"
        or path.name in {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    )
    lines = [f"{name} {file_digest(directory / name)}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def verify(policy: str, directory: Path, digest: str, base: str) -> Manifest:
    """Returns the manifest of a directory that is exactly as published, for the base with digest `base`.

    Raises PolicyRejected for any other: missing, truncated, altered, of another base, with weights that are
    not finite, or with an unexpected file (a pickle above all).
    """

    def reject(reason: Reason, message: str) -> PolicyRejected:
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
    """Check that the weights are complete, in the safetensors layout, and finite. They are memory-mapped."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if size < 8 or header_size > size - 8:
            raise reject("truncated", f"{path.name} ends inside its header")
        try:
            tensors = _Header.model_validate_json(file.read(header_size)).tensors()
        except ValidationError:
            raise reject("malformed", f"{path.name} has no readable header") from None
    start = 8 + header_size
    if start + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0) != size:
        raise reject("truncated", f"{path.name} is not as long as its header says")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    for name, tensor in tensors.items():
        kind, mask = _EXPONENTS[tensor.dtype]
        first, last = tensor.data_offsets
        if first > last or (last - first) % np.dtype(kind).itemsize:
            raise reject("malformed", f"{name} does not fill whole numbers")
        bits = data[start + first : start + last].view(kind)
        if bool(np.any((bits & mask) == mask)):
            raise reject("not_finite", f"{name} holds values that are not finite numbers")
