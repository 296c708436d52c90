"""A table of features outlives its process, and forgets what is dropped."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.data.feature_table import DIGEST_BYTES, FeatureTable, digest_of


def groups(*seeds: int) -> dict[str, Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return {
        "mean": torch.stack([torch.randn(6, generator=each) for each in generators]).half(),
        "tokens": torch.stack([torch.randint(9, (3,), generator=each) for each in generators]).int(),
        "total": torch.stack([torch.randn(1, generator=each).double() for each in generators]),
    }


A, B, C = (digest_of([number], [number, 7]) for number in range(3))


@pytest.mark.parametrize("on_disk", [True, False])
def test_rows_come_back_as_they_were_in_any_order(tmp_path: Path, on_disk: bool) -> None:
    table = FeatureTable(tmp_path / "features.bin" if on_disk else None)
    table.add([A, B], groups(1, 2))
    table.add([C], groups(3))
    for name, expected in groups(3, 1).items():
        found = table.rows([C, A])[name]
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    table.keep({A, C})
    assert (A in table, B in table, len(table)) == (True, False, 2)
    assert torch.equal(table.rows([C])["mean"], groups(3)["mean"])
    with pytest.raises(KeyError):
        table.rows([B])


def test_a_new_process_finds_the_rows_and_adds_to_them(tmp_path: Path) -> None:
    path = tmp_path / "rounds" / "features.bin"
    FeatureTable(path).add([A], groups(1))
    again = FeatureTable(path)
    again.add([B], groups(2))
    assert torch.equal(FeatureTable(path).rows([B, A])["total"], groups(2, 1)["total"])


def test_what_is_dropped_is_gone_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "features.bin"
    table = FeatureTable(path)
    table.add([A, B], groups(1, 2))
    table.keep([B])
    assert A not in path.read_bytes()
    assert groups(1)["mean"].numpy().tobytes() not in path.read_bytes()
    table.keep([])
    assert (len(table), len(FeatureTable(path))) == (0, 0)


@pytest.mark.parametrize("lost", [1, 20, 40, 10_000])
def test_a_row_that_was_written_in_part_is_missing_and_the_others_stay(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "features.bin"
    table = FeatureTable(path)
    table.add([A, B], groups(1, 2))
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - lost)])
    table = FeatureTable(path)
    assert B not in table
    assert (A in table) == (lost < 10_000)
    table.add([C], groups(3))
    assert torch.equal(FeatureTable(path).rows([C])["tokens"], groups(3)["tokens"])


def test_a_row_whose_bytes_changed_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "features.bin"
    FeatureTable(path).add([A, B], groups(1, 2))
    content = bytearray(path.read_bytes())
    content[content.index(A) + DIGEST_BYTES + 6] ^= 1
    path.write_bytes(content)
    table = FeatureTable(path)
    assert (A in table, B in table) == (False, True)
    table.keep({A, B})
    table.add([A], groups(1))
    assert torch.equal(FeatureTable(path).rows([A, B])["mean"], groups(1, 2)["mean"])


def test_a_file_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "features.bin"
    table = FeatureTable(path)
    table.add([A], groups(1))
    path.unlink()
    table.add([B], groups(2))
    assert torch.equal(FeatureTable(path).rows([A, B])["mean"], groups(1, 2)["mean"])


def test_other_columns_begin_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "features.bin"
    table = FeatureTable(path)
    table.add([A], groups(1))
    table.add([B], {"mean": torch.ones(1, 2)})
    assert (A in table, B in table, len(FeatureTable(path))) == (False, True, 1)
