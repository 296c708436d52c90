"""The artefact chain: whatever is done to a policy's files, or to its row, is refused before an engine is
called; keys rotate; and what replaced an adapter on an engine is found."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import numpy as np
import obstore
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg.types.json import Jsonb
from safetensors.numpy import save_file

from deploy.local.ports import free_port
from deploy.local.signing import ensure_signing_keys
from feedback import policy_store
from feedback.object_store import open_store
from schemas import signatures
from schemas.database import AsyncPool, Pool, open_async_pool
from schemas.errors import Conflict, PolicyRejected
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Manifest, Probe, base_digest, file_digest
from schemas.settings import Settings, SigningSettings, VllmSettings
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.policy_files import forget_deleted
from serving.router import Router
from serving.swap import Swap
from tests.installation import Installation
from trainer.records.published import read_published

POLICY, OTHER = "p1-abcdef", "p2-123456"
PROBE = Probe(token_ids=[1, 2, 3], logprobs=[-1.0, -2.0], base_logprobs=[-1.5, -2.5])
KEY, NEW_KEY, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
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


class Recorder:
    """An engine that keeps what it is asked, and answers a probe as the manifest says."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.changes: list[str] = []
        self.replaced = False
        self.on_load: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/{path:.*}", self._change)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        cards = [{"id": name, "root": root, "parent": "base"} for name, root in self.loaded.items()]
        return web.json_response({"data": cards})

    async def _change(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.changes.append(request.path)
        if request.path == "/v1/load_lora_adapter":
            self.on_load()
            self.loaded[body["lora_name"]] = body["lora_path"]
            self.replaced = False
        elif request.path == "/v1/unload_lora_adapter":
            self.loaded.pop(body["lora_name"], None)
        else:
            known = dict(zip(PROBE.token_ids[1:], PROBE.logprobs, strict=True))
            value = known[body["allowed_token_ids"][0]] - 3.0 * self.replaced
            return web.json_response({"choices": [{"logprobs": {"token_logprobs": [value]}}]})
        return web.json_response({})


@dataclass
class Serving:
    """The part of serving that loads policies, over an engine that keeps what it is asked."""

    swap: Swap
    fleet: Fleet
    engine: Recorder
    metrics: Metrics
    settings: Settings
    pool: AsyncPool
    policy: Published

    async def register(self, published: Published, policy: str = POLICY, state: str = "published") -> None:
        async with self.pool.connection() as connection:
            await connection.execute("delete from policies where id = %s", [policy])
            await connection.execute(
                "insert into policies"
                " (project, id, base_digest, directory, digest, signature, manifest, state)"
                " values ('default', %s, %s, %s, %s, %s, %s, %s)",
                [policy, BASE_DIGEST, str(published.directory), published.row["digest"],
                 published.row["signature"], Jsonb({}), state],
            )  # fmt: skip

    async def live(self) -> str:
        async with self.pool.connection() as connection:
            row = await (await connection.execute("select live from routes")).fetchone()
        assert row is not None
        return str(row["live"])


def trust(settings: Settings, *keys: Ed25519PrivateKey) -> None:
    path = settings.trusted_keys_path
    assert path is not None
    path.write_bytes(b"".join(signatures.public_pem(key.public_key()) for key in keys))


@pytest.fixture
async def serving(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Serving]:
    monkeypatch.setattr("serving.policy_files.base_digest", lambda directory: BASE_DIGEST)
    engine = Recorder()
    async with engine.running() as url, open_async_pool(database_url) as pool:
        settings = Settings(
            data_dir=tmp_path / "data",
            database_url=database_url,
            model=str(tmp_path),
            vllm=VllmSettings(urls=[url]),
            signing=SigningSettings(trusted_file=tmp_path / "trusted.pem"),
        )
        trust(settings, KEY)
        fleet, router, metrics = Fleet([url], timeout=5), Router(0.0), Metrics()
        swap = Swap(settings, pool, fleet, router, metrics, lambda route: None)
        policy = Published(tmp_path / "policies" / "default" / POLICY)
        policy.write()
        found = Serving(swap, fleet, engine, metrics, settings, pool, policy)
        base = Published(tmp_path / "policies" / "default" / BASE)
        base.write(id=BASE)
        async with pool.connection() as connection:
            await connection.execute("insert into projects (id) values ('default') on conflict do nothing")
        await found.register(base, BASE, "live")
        await found.register(policy, state="retired")
        async with pool.connection() as connection:
            await connection.execute(
                "insert into routes (project, live, previous) values ('default', 'p0', 'p0')"
            )
        await fleet.health_check()
        await swap.reconcile()
        engine.changes.clear()
        yield found
        await fleet.close()


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


async def test_what_was_published_is_loaded(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    assert serving.engine.changes[0] == "/v1/load_lora_adapter"
    assert await serving.live() == POLICY


async def test_files_that_change_while_they_are_loaded_are_refused(serving: Serving) -> None:
    serving.engine.on_load = lambda: flip(serving.policy)
    with pytest.raises(PolicyRejected, match="changed while"):
        await serving.swap.promote("default", POLICY)
    assert set(serving.engine.loaded) == {BASE}
    assert await serving.live() == BASE


async def test_keys_rotate(serving: Serving) -> None:
    """The old key stays trusted beside the new one, until it is removed; no restart."""
    trust(serving.settings, KEY, NEW_KEY)
    await serving.swap.promote("default", POLICY)
    newer = Published(serving.policy.directory.with_name(OTHER))
    newer.write(key=NEW_KEY, id=OTHER)
    await serving.register(newer, OTHER)
    await serving.swap.promote("default", OTHER)
    trust(serving.settings, NEW_KEY)
    third = Published(serving.policy.directory.with_name("p3-777777"))
    third.write(key=KEY, id="p3-777777")
    await serving.register(third, "p3-777777")
    with pytest.raises(PolicyRejected) as caught:
        await serving.swap.promote("default", "p3-777777")
    assert caught.value.reason == "unsigned"


async def test_where_no_key_is_trusted_digests_decide(serving: Serving) -> None:
    serving.settings.signing.trusted_file = None
    serving.policy.row["signature"] = None
    await serving.register(serving.policy, state="retired")
    await serving.swap.promote("default", POLICY)
    assert await serving.live() == POLICY


async def test_an_adapter_that_was_replaced_on_the_engine_is_found_and_loaded_again(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    await serving.swap.reconcile()
    assert not await serving.swap.second_look.look()
    serving.engine.replaced = True
    serving.engine.changes.clear()
    assert await serving.swap.second_look.look()
    assert "/v1/unload_lora_adapter" in serving.engine.changes
    await serving.swap.reconcile()
    assert not await serving.swap.second_look.look()
    assert serving.metrics.registry.get_sample_value("hearken_adapters_replaced_total") == 2


async def test_one_process_looks_at_what_several_share(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.shared_checks.is_shared", lambda url: True)
    await serving.swap.promote("default", POLICY)
    [replica] = serving.fleet.replicas
    name = next(name for name in replica.loaded if name != BASE)

    async def checks(statement: LiteralString) -> None:
        async with serving.pool.connection() as connection:
            await connection.execute(statement, [name])

    async def probes() -> int:
        serving.engine.changes.clear()
        await serving.swap.second_look.look()
        return serving.engine.changes.count("/v1/completions")

    assert await probes() == 0  # somebody checked it just now
    await checks("update adapter_checks set checked_at = now() - interval '1 minute' where adapter = %s")
    assert await probes() > 0
    assert await probes() == 0
    await checks("delete from adapter_checks where adapter = %s")  # another process took it from the engine
    await serving.swap.second_look.look()
    assert name not in replica.verified


async def test_an_adapter_of_another_folder_is_unloaded_at_the_next_health_check(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    name = next(name for name in serving.engine.loaded if name != BASE)
    serving.engine.loaded[name] = "/elsewhere/theirs"
    for _ in range(2):  # the first is answered by the tokens of the probe
        await serving.fleet.health_check()
    assert not serving.fleet.serves(name)
    await serving.swap.reconcile()
    assert serving.engine.loaded[name] == str(serving.policy.directory)


async def test_damaged_files_are_told_of_while_what_was_loaded_goes_on(serving: Serving) -> None:
    await serving.swap.promote("default", POLICY)
    await serving.swap.second_look.look()
    flip(serving.policy)
    assert not await serving.swap.second_look.look()
    assert serving.metrics.registry.get_sample_value("hearken_policies_damaged") == 1
    assert len(serving.engine.loaded) == 2


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
