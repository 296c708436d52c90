"""A policy is an immutable directory in PEFT's layout plus `manifest.json`.

The registry row holds the sha256 of the manifest, and the manifest the sha256 of each file, so one digest,
and one signature, cover the whole directory (`schemas.verification`).
"""

import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, field_validator

BASE = "p0"
"""The base model, served as a LoRA whose B is zero."""
ADAPTER_DIGITS = 16
"""Hexadecimal digits of a policy's digest in its adapter's name: 64 bits."""
TRAINING = "training-"
"""Prefix of the adapters that only a training round samples from."""
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


class Probe(BaseModel):
    """A probe tells whether a replica serves the adapter: its logprobs of `token_ids` (nats, one per token
    after the first) must be near `logprobs`, and nearer to them than to `base_logprobs`."""

    model_config = ConfigDict(frozen=True)

    token_ids: list[int]
    logprobs: list[float]
    base_logprobs: list[float]


class Manifest(BaseModel):
    """The provenance of a policy, from which it can be reproduced. `files` maps names to sha256 in hex,
    `sizes` the same names to bytes; older releases wrote no sizes. `rebuilds` is the policy that it replaces:
    its round again, without what was erased since."""

    model_config = ConfigDict(frozen=True)

    format: Literal["hearken.policy.v1"] = "hearken.policy.v1"
    id: str
    project: str
    parent: str | None
    rebuilds: str | None = None
    base_model: str
    base_digest: str
    files: dict[str, str]
    sizes: dict[str, NonNegativeInt] = {}
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
        if any(not _FILE_NAME.fullmatch(name) or name == MANIFEST for name in files):
            raise ValueError("a file's name is none of a file in the policy's directory")
        return files


def adapter_name(project: str, policy: str, digest: str) -> str:
    """Returns the name of a policy's adapter on the engines, which projects and installations may share. A
    policy's own name is unique in its project only. The base is the same for all, and has one name."""
    return BASE if policy == BASE else f"{project}.{policy}.{digest[:ADAPTER_DIGITS]}"


def round_of(policy: str) -> int:
    """Returns the number of the round that made a policy: 12 of p12-abcdef, 0 of the base."""
    return int(policy[1:].partition("-")[0])


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
