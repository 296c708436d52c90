"""A policy directory is complete and verifiable, and has the same bytes for the same weights."""

import json
import os
import time
from pathlib import Path

import pytest
import torch

from schemas.database import Pool
from schemas.errors import StartError
from schemas.policies import BASE, CONFIG, MANIFEST, WEIGHTS, Manifest, file_digest
from schemas.settings import RLSettings, Settings
from schemas.verification import RegisteredPolicy, verify
from tests.service import write_base
from trainer.data.round_inputs import RoundInputs
from trainer.model.adapter import probe
from trainer.model.backbone import Backbone
from trainer.records import publish, record

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("publish") / "tiny"), RLSettings())


def write(backbone: Backbone, data_dir: Path, number: int, parent: str | None = BASE) -> Manifest:
    settings = Settings(data_dir=data_dir, model=str(backbone.directory))
    if parent is None:
        return publish.write(backbone, settings, number, probe(backbone))
    inputs = RoundInputs(
        draw=number,
        parent=parent,
        votes=2,
        events=["ev_a", "ev_b"],
        turns=[],
        positions={"postgres:0": "7:3"},
    )
    artifacts = publish.TrainingArtifacts(inputs, [], [], [], ["ev_b", "ev_a"], {"kl": 0.05})
    return publish.write(backbone, settings, number, probe(backbone), artifacts)


def change(backbone: Backbone, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in backbone.trainable():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)


def test_a_written_directory_verifies(backbone: Backbone, tmp_path: Path) -> None:
    change(backbone, 1)
    manifest = write(backbone, tmp_path, 17)
    folder = tmp_path / "policies" / "default"
    assert manifest.id == f"p17-{file_digest(folder / manifest.id / WEIGHTS)[:6]}"
    directory = folder / manifest.id
    registered = RegisteredPolicy("default", manifest.id, directory, file_digest(directory / MANIFEST))
    assert verify(registered, backbone.digest, None) == manifest
    assert manifest.sizes.keys() == manifest.files.keys()
    assert [path.name for path in folder.iterdir()] == [manifest.id]
    assert len(manifest.probe.logprobs) == len(manifest.probe.token_ids) - 1
    assert manifest.examples == 2


def test_the_same_weights_are_the_same_bytes(backbone: Backbone, tmp_path: Path) -> None:
    change(backbone, 2)
    one, two = write(backbone, tmp_path / "one", 3), write(backbone, tmp_path / "two", 3)
    assert one.files == two.files
    change(backbone, 3)
    assert write(backbone, tmp_path / "one", 3).id != one.id


def test_a_half_written_policy_of_a_killed_trainer_is_replaced(backbone: Backbone, tmp_path: Path) -> None:
    change(backbone, 4)
    draft = tmp_path / "policies" / "default" / ".draft-5"
    draft.mkdir(parents=True)
    (draft / "unknown").write_text("")
    manifest = write(backbone, tmp_path, 5)
    assert set(manifest.files) == {
        WEIGHTS, CONFIG, publish.INPUTS, publish.ROLLOUTS, publish.BASE_SAMPLES, publish.KNOWLEDGE_CHECKS,
    }  # fmt: skip


def test_an_adapter_is_loaded_as_it_was_saved(backbone: Backbone, tmp_path: Path) -> None:
    change(backbone, 5)
    before = backbone.snapshot()
    manifest = write(backbone, tmp_path, 6)
    change(backbone, 6)
    backbone.load_adapter(tmp_path / "policies" / "default" / manifest.id)
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))
    assert all(weight.requires_grad for weight in backbone.trainable())


def test_the_configuration_names_no_path_and_no_secret(backbone: Backbone, tmp_path: Path) -> None:
    manifest = write(backbone, tmp_path, 7)
    config = json.loads((tmp_path / "policies" / "default" / manifest.id / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["inference_mode"] is True


def test_policies_of_another_base_are_refused(
    backbone: Backbone, tmp_path: Path, pool: Pool, database_url: str
) -> None:
    settings = Settings(data_dir=tmp_path, model=str(backbone.directory), database_url=database_url)
    adapter_probe = probe(backbone)
    publish.ensure_base(pool, backbone, settings, adapter_probe)
    publish.ensure_base(pool, backbone, settings, adapter_probe)
    with pool.connection() as connection:
        connection.execute("update policies set base_digest = 'another'")
    with pytest.raises(StartError, match="adapt base another"):
        publish.ensure_base(pool, backbone, settings, adapter_probe)


@pytest.fixture
def settings(backbone: Backbone, tmp_path: Path, pool: Pool, database_url: str) -> Settings:
    """Returns a project with a base and one published policy, of its first round."""
    settings = Settings(data_dir=tmp_path, model=str(backbone.directory), database_url=database_url)
    publish.ensure_base(pool, backbone, settings, probe(backbone))
    row = record.begin(pool, "default", BASE)
    change(backbone, 8)
    manifest = write(backbone, tmp_path, row.number)
    publish.register(pool, settings, manifest, [], row, record.RoundRecord(2, BASE, gate={}))
    return settings


def folders(settings: Settings) -> set[str]:
    return {path.name[:3] for path in (settings.policies_dir / "default").iterdir()}


def test_a_database_without_the_policies_is_refused_and_nothing_is_removed(
    backbone: Backbone, settings: Settings, pool: Pool
) -> None:
    with pool.connection() as connection:
        connection.execute("truncate rounds, routes, rollouts, policies")
    with pytest.raises(StartError, match="not in the database"):
        publish.ensure_base(pool, backbone, settings, probe(backbone))
    assert folders(settings) == {"p0", "p1-"}


def test_only_the_directories_of_killed_trainers_are_removed(
    backbone: Backbone, settings: Settings, pool: Pool
) -> None:
    record.begin(pool, "default", BASE)
    change(backbone, 9)
    write(backbone, settings.data_dir, 2)  # then the trainer was killed
    write(backbone, settings.data_dir, 3)  # of a round that is not in this database, which was restored
    folder = settings.policies_dir / "default"
    for name in (".draft-4", "training-f00", "training-f01"):
        (folder / name).mkdir()
    long_ago = time.time() - 2 * publish.SAMPLED_SECONDS
    os.utime(folder / "training-f00", (long_ago, long_ago))
    publish.ensure_base(pool, backbone, settings, probe(backbone))
    assert folders(settings) == {"p0", "p1-", "p3-", "tra"}
    assert not (folder / "training-f00").exists(), "the other is sampled from now"


@pytest.mark.parametrize(("name", "value"), [("rank", 8), ("alpha", 64)])
def test_another_lora_shape_is_refused(
    backbone: Backbone, settings: Settings, pool: Pool, name: str, value: int
) -> None:
    rl = settings.trainer.rl.model_copy(update={name: value})
    settings.trainer = settings.trainer.model_copy(update={"rl": rl})
    with pytest.raises(StartError, match=f"trainer.rl.{name} is {value}"):
        publish.ensure_base(pool, backbone, settings, probe(backbone))
