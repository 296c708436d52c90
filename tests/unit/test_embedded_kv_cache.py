"""The KV cache aligns rows on the right, with spare columns and zero padding."""

import torch

from serving.embedded.kv_cache import KVCacheLayer


def column(*values: float) -> torch.Tensor:
    """One new column of shape (B, 1, 1, 1), one value a row."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def rows(tensor: torch.Tensor) -> list[list[float]]:
    return tensor[:, 0, :, 0].tolist()


def test_columns_are_appended() -> None:
    layer = KVCacheLayer()
    layer.update(column(1, 2), column(10, 20))
    keys, values = layer.update(column(3, 4), column(30, 40))
    assert rows(keys) == [[1, 3], [2, 4]]
    assert rows(values) == [[10, 30], [20, 40]]
    assert layer.get_seq_length() == 2


def test_it_grows_past_its_spare_columns() -> None:
    layer = KVCacheLayer()
    for step in range(200):
        keys, _ = layer.update(column(step), column(step))
    assert rows(keys) == [list(range(200))]


def test_rows_of_different_length_meet_on_the_right() -> None:
    layer = KVCacheLayer()
    layer.update(column(1), column(1))
    longer = torch.arange(3.0).view(1, 1, 3, 1) + 7
    layer.set_rows([layer.keys, longer], [layer.values, longer], 3)
    assert rows(layer.keys) == [[0, 0, 1], [7, 8, 9]]
    assert rows(layer.update(column(2, 3), column(2, 3))[0]) == [[0, 0, 1, 2], [7, 8, 9, 3]]


def test_columns_that_no_row_needs_are_dropped() -> None:
    layer = KVCacheLayer()
    for step in range(5):
        layer.update(column(step), column(-step))
    layer.set_rows([layer.keys], [layer.values], 2)
    assert rows(layer.keys) == [[3, 4]]
    assert rows(layer.values) == [[-3, -4]]
