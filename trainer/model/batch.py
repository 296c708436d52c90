"""PaddedBatch holds prompts with their replies as left-padded tensors.

All replies of a batch begin in the same column, so a model needs to compute logits in the last columns only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """B rows of T columns: `mask_BT` is 1 at tokens. The last R columns (`reply_length`) hold the replies,
    and `reply_mask_BR` is 1 at each row's reply tokens (its end token included)."""

    tokens_BT: Tensor
    mask_BT: Tensor
    reply_mask_BR: Tensor

    @classmethod
    def of(
        cls,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        pad_id: int,
        device: torch.device,
    ) -> "PaddedBatch":
        longest_reply = _round_up(max(map(len, replies)))
        rows = [
            [*prompt, *reply, *[pad_id] * (longest_reply - len(reply))]
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        width = padded_width(max(map(len, prompts)), longest_reply)
        tokens_BT = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows], device=device)
        mask_BT = torch.zeros_like(tokens_BT)
        reply_mask_BR = torch.zeros(len(rows), longest_reply, device=device)
        for index, (row, reply) in enumerate(zip(rows, replies, strict=True)):
            end = width - (longest_reply - len(reply))
            mask_BT[index, width - len(row) : end] = 1
            reply_mask_BR[index, : len(reply)] = 1
        return cls(tokens_BT, mask_BT, reply_mask_BR)

    @property
    def reply_length(self) -> int:
        return int(self.reply_mask_BR.shape[1])

    @property
    def reply_tokens_BR(self) -> Tensor:
        return self.tokens_BT[:, -self.reply_length :]

    @property
    def positions_BT(self) -> Tensor:
        return (self.mask_BT.cumsum(1) - 1).clamp_min(0)

    def __getitem__(self, rows: slice) -> "PaddedBatch":
        return PaddedBatch(self.tokens_BT[rows], self.mask_BT[rows], self.reply_mask_BR[rows])


def padded_width(prompt: int, reply: int) -> int:
    """Returns the columns of a batch whose longest prompt and longest reply have these lengths."""
    return _round_up(prompt + _round_up(reply))


def _round_up(length: int) -> int:
    """Rounds up to a multiple of eight: a CPU's kernels are compiled and cached for each shape."""
    return -(-length // 8) * 8
