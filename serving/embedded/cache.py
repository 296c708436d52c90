"""Keys and values of a batch, one row a reply, padded on the left so that all rows append to one column.

Shapes: B rows, H heads, L columns, D dimensions of a head, T new columns.
"""

from typing import Any

from torch import Tensor
from transformers import DynamicLayer

_ROOM = 64  # columns allocated ahead, so that a step writes in place instead of copying the cache


class Layer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values`, (B, H, L, D), are views on tensors that have room to grow."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) to every row; returns all columns."""
        if not self.is_initialized:
            self.arrange([keys[:, :, :0]], [values[:, :, :0]], 0)
        length, new = self.keys.shape[2], keys.shape[2]
        if length + new > self._keys.shape[2]:
            self.arrange([self.keys], [self.values], length, room=new + _ROOM)
        self._keys[:, :, length : length + new] = keys
        self._values[:, :, length : length + new] = values
        self._show(length + new)
        return self.keys, self.values

    def arrange(self, keys: list[Tensor], values: list[Tensor], length: int, room: int = _ROOM) -> None:
        """Hold the rows of these tensors instead, below each other, the last `length` columns of each."""
        self._keys, self._values = _stacked(keys, length, room), _stacked(values, length, room)
        self._show(length)
        self.is_initialized = True

    def _show(self, length: int) -> None:
        self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]


def _stacked(parts: list[Tensor], length: int, room: int) -> Tensor:
    """Rows of all parts below each other, aligned at column `length`; padding is zero, for a masked value
    still takes part in a product."""
    _, heads, _, size = parts[0].shape
    out = parts[0].new_zeros(sum(len(part) for part in parts), heads, length + room, size)
    row = 0
    for part in parts:
        part = part[:, :, max(part.shape[2] - length, 0) :]
        out[row : row + len(part), :, length - part.shape[2] : length] = part
        row += len(part)
    return out
