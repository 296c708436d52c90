"""Two processes train as one does: the same replies, and the same adapter up to the order of float sums, with
whole and with sharded weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deploy.local.ports import free_port
from schemas.database import Pool
from tests.distributed_worker import train
from tests.training import add_key, edited, ranked, send, small_settings, some_turns, thumbs_by_parity
from trainer.model.backbone import Backbone
from trainer.reproduce import reproduce

torch.set_num_threads(1)

TOLERANCE = 1e-3
"""Relative norm of a difference: float32 is summed in another order."""

TIMEOUT = 120.0


def launch(sharded: bool, *commands: list[str], **more: str) -> None:
    """Runs `python -m …` once for each process, as `accelerate launch` does on GPUs."""
    port = str(free_port())
    children = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | more | {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                "WORLD_SIZE": str(len(commands)), "LOCAL_WORLD_SIZE": str(len(commands)),
                "OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": str(sharded).lower(),
            },
        )
        for rank, command in enumerate(commands)
    ]  # fmt: skip
    try:
        assert [child.wait(TIMEOUT) for child in children] == [0] * len(commands)
    finally:
        for child in children:
            child.kill()


@pytest.fixture(scope="module")
def alone() -> dict[str, Tensor]:
    return train()


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "sharded", [False, pytest.param(True, marks=pytest.mark.full)], ids=["whole", "sharded"]
)
def test_two_processes_learn_what_one_does(sharded: bool, alone: dict[str, Tensor], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first", "second")]
    launch(sharded, *(["tests.distributed_worker", str(file)] for file in files))
    first, second = map(load_file, files)
    for name in ("step", "prompt", "ended", "length", "token_ids"):
        assert torch.equal(first[name], alone[name]), name
    assert torch.equal(first["moved"], second["moved"])
    assert difference(first["moved"], alone["moved"]) < TOLERANCE
    assert difference(first["gradient"], alone["gradient"]) < TOLERANCE
    assert (float(first["held"]) < 0.7 * float(alone["held"])) == sharded


def test_one_process_reproduces_what_two_trained(
    database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool, backbone: Backbone
) -> None:
    add_key(pool)
    turns = some_turns(backbone, 24, seed=1)
    votes = [*thumbs_by_parity(turns[:22]), ranked(turns[22], [[0], [1]]), edited(turns[23], "blue bird")]
    send(database_url, turns, votes)
    settings = small_settings(database_url, tmp_path, tiny_base)
    launch(
        True, *[["deploy.cli", "train", "--once"]] * 2,
        HEARKEN_DATABASE_URL=database_url, HEARKEN_DATA_DIR=str(tmp_path), HEARKEN_MODEL=str(tiny_base),
        HEARKEN_TRAINER=settings.trainer.model_dump_json(),
    )  # fmt: skip
    with pool.connection() as connection:
        [row] = connection.execute("select outcome, reason, policy from rounds").fetchall()
    assert row["outcome"] == "published", row["reason"]
    reproduced = reproduce(settings, pool, row["policy"])
    # Adam's first step is a sign: a few weights whose gradient is nearly zero go the other way.
    assert reproduced.probe_distance < 0.01, reproduced
