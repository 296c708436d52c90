"""The KV cache of a batch has one row per reply, padded on the left so that all rows append to one column.

Shapes: B rows, H heads, L columns, D dimensions of a head, T new columns.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicLayer

_SPARE_COLUMNS = 64  # allocated ahead, so that a step writes in place instead of copying the cache


class KVCacheLayer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values`, (B, H, L, D), are views of tensors that have spare columns."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends (B, H, T, D) to every row; returns all columns."""
        if not self.is_initialized:
            self.set_rows([keys[:, :, :0]], [values[:, :, :0]], 0)
        length, new = self.keys.shape[2], keys.shape[2]
        if length + new > self._keys.shape[2]:
            self.set_rows([self.keys], [self.values], length, spare=new + _SPARE_COLUMNS)
        self._keys[:, :, length : length + new] = keys
        self._values[:, :, length : length + new] = values
        self._set_length(length + new)
        return self.keys, self.values

    def set_rows(
        self, keys: list[Tensor], values: list[Tensor], length: int, spare: int = _SPARE_COLUMNS
    ) -> None:
        """Replaces the rows by those of these tensors, concatenated, with the last `length` columns of
        each."""
        self._keys, self._values = _concatenate(keys, length, spare), _concatenate(values, length, spare)
        self._set_length(length)
        self.is_initialized = True

    def _set_length(self, length: int) -> None:
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]


def _concatenate(parts: list[Tensor], length: int, spare: int) -> Tensor:
    """Returns the rows of all parts, aligned at column `length`. Padding is zero, since masked values still
    take part in a product."""
    _, heads, _, size = parts[0].shape
    out = parts[0].new_zeros(sum(len(part) for part in parts), heads, length + spare, size)
    row = 0
    for part in parts:
        part = part[:, :, max(part.shape[2] - length, 0) :]
        out[row : row + len(part), :, length - part.shape[2] : length] = part
        row += len(part)
    return out
