"""Policies are fetched from an object store where trainer and engines have no common disk."""

import shutil
from pathlib import Path

import obstore
import pytest

from feedback import policy_store
from feedback.object_store import open_store
from schemas.errors import Conflict, PolicyRejected
from schemas.files import fsync
from schemas.policies import CONFIG, MANIFEST, WEIGHTS, Manifest
from serving.policy_files import forget_deleted
from tests.policy_loading import Serving
from tests.published import OTHER, POLICY


def in_store(serving: Serving, bucket: Path) -> Path:
    """Puts the policy into a store, and takes its folder away, as on another machine; returns the object's
    folder."""
    serving.settings.policy_store = "s3://bucket/policies"
    found = serving.policy
    manifest = Manifest.model_validate_json((found.directory / MANIFEST).read_bytes())
    policy_store.upload(serving.settings, manifest, found.directory, found.row["digest"])
    shutil.rmtree(found.directory)
    return bucket / "policies" / str(found.row["digest"])


async def test_a_policy_is_fetched_from_an_object_store(serving: Serving, bucket: Path) -> None:
    objects = in_store(serving, bucket)
    assert {path.name for path in objects.iterdir()} == {WEIGHTS, CONFIG, MANIFEST}
    await serving.swap.promote("default", POLICY)
    assert await serving.live() == POLICY
    assert {path.name for path in serving.policy.directory.iterdir()} == {WEIGHTS, CONFIG, MANIFEST}
    policy_store.delete(serving.settings, serving.policy.row["digest"])
    assert not objects.is_dir() or list(objects.iterdir()) == []


async def test_a_fetched_policy_is_on_disk_before_it_has_its_name(
    serving: Serving, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses power has a damaged copy, for which the policy would be rejected."""
    in_store(serving, bucket)
    directory, synced = serving.policy.directory, list[tuple[str, bool]]()

    def note(path: Path) -> None:
        synced.append((path.name, directory.exists()))
        fsync(path)

    monkeypatch.setattr(policy_store, "fsync", note)
    await serving.swap.promote("default", POLICY)
    assert {(name, False) for name in (WEIGHTS, CONFIG, MANIFEST)} < set(synced)
    assert synced[-1] == (directory.parent.name, True)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (CONFIG, b"{}", "truncated"),
        (CONFIG, b'{"peft_type": "LOHA"}', "digest"),
        (WEIGHTS, b"x" * 10_000, "oversized"),
        (WEIGHTS, None, "missing"),
        (MANIFEST, b"{}", "digest"),
        (MANIFEST, None, "missing"),
    ],
)
async def test_a_tampered_store_never_reaches_an_engine(
    serving: Serving, bucket: Path, name: str, content: bytes | None, reason: str
) -> None:
    in_store(serving, bucket)
    store, path = open_store("s3://bucket/policies"), f"{serving.policy.row['digest']}/{name}"
    if content is None:
        obstore.delete(store, path)
    else:
        obstore.put(store, path, content)
    with pytest.raises(PolicyRejected) as caught:
        await serving.swap.promote("default", POLICY)
    assert caught.value.reason == reason
    assert serving.engine.changes == []
    assert not list(serving.policy.directory.parent.glob(".fetch-*"))


async def test_a_store_that_is_away_condemns_nobody(
    serving: Serving, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_store(serving, bucket)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Conflict, match="does not give"):
        await serving.swap.promote("default", POLICY)
    assert not serving.policy.directory.exists()


async def test_copies_of_deleted_policies_are_forgotten(serving: Serving, bucket: Path) -> None:
    in_store(serving, bucket)
    copies = [serving.settings.policies_dir / "default" / name for name in (POLICY, OTHER)]
    for copy in copies:
        copy.mkdir(parents=True)
    async with serving.pool.connection() as connection:
        await connection.execute(
            "update policies set files_deleted_at = now(), pruned_at = now() where id = %s", [POLICY]
        )
    await forget_deleted(serving.settings, serving.pool)
    assert [copy.exists() for copy in copies] == [False, True]
