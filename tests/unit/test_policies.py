"""A policy directory is accepted only if it is exactly as published, and safe."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from schemas.errors import PolicyRejected
from schemas.policies import CONFIG, MANIFEST, WEIGHTS, Manifest, Probe, base_digest, file_digest
from schemas.verification import RegisteredPolicy, verify

BASE = "b" * 64


def publish(directory: Path, weights: dict[str, np.ndarray] | None = None, **changes: object) -> str:
    """Write a policy as the trainer does; returns the digest for the registry."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights or {"lora_A": np.ones((2, 3), np.float32)}, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    manifest = Manifest(
        id="p1-abcdef",
        project="default",
        parent="p0",
        base_model="starter",
        base_digest=BASE,
        files={name: file_digest(directory / name) for name in (WEIGHTS, CONFIG)},
        log_positions={"0": "5:1"},
        examples=40,
        examples_digest="e" * 64,
        configuration={},
        seed=0,
        versions={"torch": "2.13.0"},
        metrics={"kl": 0.02},
        probe=Probe(token_ids=[1, 2, 3], logprobs=[-1.0, -2.0], base_logprobs=[-1.5, -2.5]),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    ).model_copy(update=changes)
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return file_digest(directory / MANIFEST)


def accept(directory: Path, digest: str, base: str = BASE) -> Manifest:
    return verify(RegisteredPolicy("default", "p1-abcdef", directory, digest), base, None)


def reason(directory: Path, digest: str, base: str = BASE) -> str:
    with pytest.raises(PolicyRejected) as caught:
        accept(directory, digest, base)
    assert "p1-abcdef" in caught.value.message
    return caught.value.reason


def test_what_was_published_is_accepted(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    assert accept(tmp_path, digest).metrics == {"kl": 0.02}


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert reason(tmp_path / "nowhere", "d" * 64) == "missing"


def test_weights_that_were_truncated(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[:-4])
    assert reason(tmp_path, digest) == "truncated"
    (tmp_path / WEIGHTS).write_bytes(data[:5])
    assert reason(tmp_path, digest) == "truncated"
    (tmp_path / WEIGHTS).write_bytes(b"")
    assert reason(tmp_path, digest) == "truncated"


def test_a_header_that_lies(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    for header in (b"not json at all!", b'["a list"]      ', b'{"x": {"data_offsets": "no"}}'):
        (tmp_path / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
        assert reason(tmp_path, digest) == "malformed"


def test_weights_that_were_tampered_with(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(bytes(data))
    assert reason(tmp_path, digest) == "digest"


def test_a_manifest_that_was_rewritten_to_match(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    publish(tmp_path, {"lora_A": np.zeros((2, 3), np.float32)})
    assert reason(tmp_path, digest) == "digest"


def test_a_policy_of_another_base(tmp_path: Path) -> None:
    assert reason(tmp_path, publish(tmp_path), base="c" * 64) == "wrong_base"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, kind: type) -> None:
    weights = np.ones((2, 3), kind)
    weights[1, 2] = value
    assert reason(tmp_path, publish(tmp_path, {"lora_A": weights})) == "not_finite"


def test_a_pickle_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    assert reason(tmp_path, digest) == "pickle"


def test_a_file_that_was_not_published(tmp_path: Path) -> None:
    digest = publish(tmp_path)
    (tmp_path / "modeling.py").write_text("import os")
    assert reason(tmp_path, digest) == "unexpected_file"


def test_a_manifest_that_is_no_manifest(tmp_path: Path) -> None:
    publish(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "hearken.policy.v9"}')
    assert reason(tmp_path, file_digest(tmp_path / MANIFEST)) == "malformed"


def test_a_name_that_leads_out_of_the_directory(tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    directory = tmp_path / "policy"
    publish(directory)
    files = {"../outside.json": file_digest(outside)}
    assert reason(directory, publish(directory, files=files)) == "malformed"


def test_the_base_digest_follows_what_decides_its_answers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = base_digest(tmp_path)
    (tmp_path / "README.md").write_text("prose does not count")
    assert base_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert base_digest(tmp_path) != before
