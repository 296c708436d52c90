"""Whatever is done to a policy's files, or to its row, is refused before an engine is called."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.errors import PolicyRejected
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, file_digest
from tests.policy_loading import Serving
from tests.published import KEY, OTHER, POLICY, Published, flip

STRANGER = Ed25519PrivateKey.generate()


def flip_and_follow(policy: Published) -> None:
    flip(policy)
    policy.edit(files={name: file_digest(policy.directory / name) for name in (WEIGHTS, CONFIG)})


def truncate(policy: Published) -> None:
    os.truncate(policy.directory / WEIGHTS, 60)


def append(policy: Published) -> None:
    with (policy.directory / WEIGHTS).open("ab") as file:
        file.write(b"more")


def grow_without_bytes(policy: Published) -> None:
    os.truncate(policy.directory / CONFIG, 2**40)


def link_the_weights(policy: Published) -> None:
    (policy.directory / WEIGHTS).symlink_to(policy.outside(WEIGHTS))


def link_the_manifest(policy: Published) -> None:
    (policy.directory / MANIFEST).symlink_to(policy.outside(MANIFEST))


def link_a_folder(policy: Published) -> None:
    folder = policy.directory.parent / "elsewhere"
    folder.mkdir()
    (folder / "new_embeddings.safetensors").write_bytes(b"x")
    (policy.directory / "more").symlink_to(folder, target_is_directory=True)


def link_the_directory(policy: Published) -> None:
    moved = policy.directory.with_name("moved")
    policy.directory.rename(moved)
    policy.directory.symlink_to(moved, target_is_directory=True)


def pipe(policy: Published) -> None:
    (policy.directory / CONFIG).unlink()
    os.mkfifo(policy.directory / CONFIG)  # who opens it waits for ever


def bloat_the_manifest(policy: Published) -> None:
    with (policy.directory / MANIFEST).open("a") as file:
        file.write(" " * (17 * 2**20))
    policy.follow()


def strip_the_signature(policy: Published) -> None:
    policy.row["signature"] = None


def replay_another_policy(policy: Published) -> None:
    policy.write(id=OTHER)


def replay_another_project(policy: Published) -> None:
    policy.write(project="shop")


def replay_an_older_one(policy: Published) -> None:
    """This policy's own earlier manifest, signed, while the registry has the newer."""
    row = dict(policy.row)
    policy.write(metrics={"kl": 9.0})
    policy.row = row


def swap_signatures(policy: Published) -> None:
    row = dict(policy.row)
    policy.write(id=OTHER)
    other = policy.row["signature"]
    policy.write()
    policy.row = {**row, "signature": other}


def name_a_way_out(policy: Published) -> None:
    outside = policy.directory.parent / "outside.json"
    outside.write_text("{}")
    policy.write(files={"../outside.json": file_digest(outside)})


def name_an_absolute_path(policy: Published) -> None:
    policy.write(files={"/etc/hostname": "0" * 64})


TAMPERINGS: list[tuple[Callable[[Published], Any], str]] = [
    (flip, "digest"),
    (flip_and_follow, "signature"),
    (truncate, "truncated"),
    (append, "oversized"),
    (grow_without_bytes, "oversized"),
    (lambda policy: (policy.directory / CONFIG).write_text('{"peft_type": "LOHA"}'), "digest"),
    (lambda policy: (policy.directory / CONFIG).unlink(), "missing"),
    (lambda policy: (policy.directory / MANIFEST).unlink(), "missing"),
    (lambda policy: shutil.rmtree(policy.directory), "missing"),
    (lambda policy: (policy.directory / "extra.json").write_text("{}"), "unexpected_file"),
    (lambda policy: (policy.directory / "adapter_model.bin").write_bytes(b"cos\n"), "pickle"),
    (lambda policy: (policy.directory / "checkpoint").mkdir(), "unexpected_file"),
    (link_the_weights, "symlink"),
    (link_the_manifest, "symlink"),
    (link_a_folder, "symlink"),
    (link_the_directory, "symlink"),
    (pipe, "unexpected_file"),
    (bloat_the_manifest, "oversized"),
    (lambda policy: policy.edit(probe={}), "signature"),
    (lambda policy: policy.sign('{"format": "hearken.policy.v9"}', KEY), "malformed"),
    (strip_the_signature, "unsigned"),
    (lambda policy: policy.write(key=STRANGER), "unsigned"),
    (lambda policy: policy.row.update(signature="no signature"), "unsigned"),
    (swap_signatures, "signature"),
    (replay_another_policy, "another_policy"),
    (replay_another_project, "another_policy"),
    (replay_an_older_one, "digest"),
    (lambda policy: policy.write(base_digest="c" * 64), "wrong_base"),
    (name_a_way_out, "malformed"),
    (name_an_absolute_path, "malformed"),
    (lambda policy: policy.write(weights=np.full((2, 3), np.inf, np.float32)), "not_finite"),
]


@pytest.mark.parametrize(("tamper", "reason"), TAMPERINGS)
async def test_what_was_tampered_with_never_reaches_an_engine(
    serving: Serving, tamper: Callable[[Published], Any], reason: str
) -> None:
    tamper(serving.policy)
    await serving.register(serving.policy, state="retired")
    with pytest.raises(PolicyRejected) as caught:
        await serving.swap.promote("default", POLICY)
    assert caught.value.reason == reason
    assert serving.engine.changes == []
    assert await serving.live() == BASE
