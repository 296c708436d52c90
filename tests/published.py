"""A policy's directory and row as a trainer publishes them, for tests of what is accepted."""

import json
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save_file

from schemas import signatures
from schemas.policies import CONFIG, MANIFEST, WEIGHTS, Manifest, Probe, file_digest

POLICY, OTHER = "p1-abcdef", "p2-123456"
PROBE = Probe(token_ids=[1, 2, 3], logprobs=[-1.0, -2.0], base_logprobs=[-1.5, -2.5])
KEY, NEW_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
BASE_DIGEST = "b" * 64


@dataclass
class Published:
    """A policy as it was published: its directory, and what its row says."""

    directory: Path
    row: dict[str, Any] = field(default_factory=dict)

    def write(self, key: Ed25519PrivateKey | None = KEY, weights: Any = None, **changes: Any) -> None:
        """Writes the directory as a trainer would that has `key`, and notes its row."""
        self.directory.mkdir(parents=True, exist_ok=True)
        save_file(
            {"lora_A": np.ones((2, 3), np.float32) if weights is None else weights}, self.directory / WEIGHTS
        )
        (self.directory / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
        names = (WEIGHTS, CONFIG)
        manifest = Manifest(
            id=POLICY, project="default", parent=None, base_model="tiny", base_digest=BASE_DIGEST,
            files={name: file_digest(self.directory / name) for name in names},
            sizes={name: (self.directory / name).stat().st_size for name in names},
            log_positions={}, examples=0, examples_digest="", configuration={}, seed=0, versions={},
            metrics={}, probe=PROBE, created_at=datetime(2026, 1, 1, tzinfo=UTC),
        ).model_copy(update=changes)  # fmt: skip
        self.sign(manifest.model_dump_json(), key)

    def sign(self, manifest: str, key: Ed25519PrivateKey | None) -> None:
        (self.directory / MANIFEST).write_text(manifest)
        self.follow()
        if key is not None:
            self.row["signature"] = signatures.sign(manifest.encode(), key)

    def follow(self) -> None:
        """The row's digest follows the manifest, as where the database is written by an attacker."""
        self.row["digest"] = file_digest(self.directory / MANIFEST)

    def edit(self, **changes: Any) -> None:
        manifest = json.loads((self.directory / MANIFEST).read_text())
        (self.directory / MANIFEST).write_text(json.dumps({**manifest, **changes}))
        self.follow()

    def outside(self, name: str) -> Path:
        """Moves a file out of the directory."""
        moved = self.directory.parent / f"outside-{name}"
        shutil.move(self.directory / name, moved)
        return moved


def flip(policy: Published) -> None:
    weights = bytearray((policy.directory / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (policy.directory / WEIGHTS).write_bytes(weights)
