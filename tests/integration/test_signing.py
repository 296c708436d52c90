"""The first start makes keys and signs what was published; `hearken sign` signs the rest."""

import json
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.local.signing import ensure_signing_keys
from schemas import signatures
from schemas.database import Pool
from schemas.errors import PolicyRejected
from schemas.policies import base_digest
from schemas.settings import Settings
from tests.installation import Installation
from tests.published import KEY, NEW_KEY, POLICY, Published, flip
from trainer.records.published import read_published


@pytest.fixture
def installation(
    database_url: str, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Settings, Published]:
    """The data folder of a release that signed nothing, with one policy."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url, model=str(base))
    policy = Published(settings.policies_dir / "default" / POLICY)
    policy.write(key=None, base_digest=base_digest(base))
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values ('default') on conflict do nothing")
        connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state)"
            " values ('default', %s, %s, %s, %s, '{}', 'retired')",
            [POLICY, base_digest(base), str(policy.directory), policy.row["digest"]],
        )
    return settings, policy


def test_the_first_start_makes_keys_and_signs_what_was_published(
    installation: tuple[Settings, Published], pool: Pool
) -> None:
    settings, _ = installation
    ensure_signing_keys(settings)
    files = [settings.signing_dir / name for name in ("key.pem", "trusted.pem")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    read_published(settings, pool, POLICY)
    before = [path.read_bytes() for path in files]
    ensure_signing_keys(settings)
    assert [path.read_bytes() for path in files] == before


def test_the_first_start_signs_nothing_that_differs_from_its_row(
    installation: tuple[Settings, Published], pool: Pool
) -> None:
    settings, policy = installation
    flip(policy)
    ensure_signing_keys(settings)
    with pytest.raises(PolicyRejected):
        read_published(settings, pool, POLICY)


def test_later_starts_sign_nothing_that_is_unsigned(
    installation: tuple[Settings, Published], pool: Pool
) -> None:
    """Else whoever writes the database would have any policy signed by removing its signature."""
    settings, _ = installation
    ensure_signing_keys(settings)
    with pool.connection() as connection:
        connection.execute("update policies set signature = null")
    ensure_signing_keys(settings)
    (settings.signing_dir / "key.pem").unlink()
    ensure_signing_keys(settings)
    with pytest.raises(PolicyRejected) as caught:
        read_published(settings, pool, POLICY)
    assert caught.value.reason == "unsigned"


def test_a_deleted_key_is_replaced_and_the_old_one_may_be_removed_at_once(
    installation: tuple[Settings, Published], pool: Pool
) -> None:
    settings, _ = installation
    ensure_signing_keys(settings)
    old = signatures.trusted_keys(settings) or {}
    (settings.signing_dir / "key.pem").unlink()
    ensure_signing_keys(settings)
    both = signatures.trusted_keys(settings) or {}
    assert set(old) < set(both)
    [new] = [key for id, key in both.items() if id not in old]
    (settings.signing_dir / "trusted.pem").write_bytes(signatures.public_pem(new))
    read_published(settings, pool, POLICY)


@pytest.mark.parametrize("stop", ["trusted.pem", "key.pem"])
def test_a_first_start_that_was_killed_is_begun_again(
    installation: tuple[Settings, Published], pool: Pool, stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = installation
    from deploy.local import signing

    write = signing._write_private

    def killed(path: Path, content: bytes) -> None:
        if path.name == stop:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(signing, "_write_private", killed)
        with pytest.raises(KeyboardInterrupt):
            ensure_signing_keys(settings)
    ensure_signing_keys(settings)
    read_published(settings, pool, POLICY)


def test_the_command_signs_what_a_trusted_key_signed_and_with_unsigned_the_rest(
    installation: tuple[Settings, Published], pool: Pool, tiny_base: Path, tmp_path: Path
) -> None:
    settings, policy = installation
    policy.write(key=None, base_digest=base_digest(tiny_base))
    with pool.connection() as connection:
        connection.execute("update policies set digest = %s", [policy.row["digest"]])
    key = tmp_path / "key.pem"
    key.write_bytes(signatures.private_pem(KEY))
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(signatures.public_pem(KEY.public_key()) + signatures.public_pem(NEW_KEY.public_key()))

    def sign(*words: str, code: int = 0) -> dict[str, Any]:
        done = subprocess.run(
            Installation.hearken("sign", "--json", *words),
            env={
                "HEARKEN_DATABASE_URL": settings.database_url or "",
                "HEARKEN_DATA_DIR": str(settings.data_dir),
                "HEARKEN_MODEL": str(tiny_base),
                "HEARKEN_SIGNING__KEY_FILE": str(key),
                "HEARKEN_SIGNING__TRUSTED_FILE": str(trusted),
            },
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    name = f"default/{POLICY}"
    assert name in sign(code=1)["refused"]
    assert sign("--unsigned")["signed"] == [name]
    assert sign() == {"signed": [], "kept": 1, "refused": {}}
    key.write_bytes(signatures.private_pem(NEW_KEY))
    assert sign()["signed"] == [name]
    with pool.connection() as connection:
        rows = connection.execute(
            "select actor, action from audit_log where target = %s", [POLICY]
        ).fetchall()
    assert [row["action"] for row in rows] == ["policy.changed"] * 2
    assert all(row["actor"].startswith("command:") for row in rows)
