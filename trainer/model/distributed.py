"""ProcessGroup implements data parallelism: one process a GPU, and the same training loop in each.

All processes hold the same adapter and run the same round. Each computes its shard of the rows of every
forward pass and gathers the others' results, so all get the same metrics and take the same decisions. The
gradients, which each process has of its own rows, are summed before the optimizer step. A single process
communicates nothing and needs no group.

If `sharded`, each process holds a part of the base's weights and gathers a layer's weights while it computes
the layer (FSDP: Zhao et al. 2023). accelerate starts the processes. Its `prepare` is not used: it would shard
the adapter too, and it expects calls of the outermost module, while large vocabularies call the trunk.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, distributed
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

GROUP_TIMEOUT = timedelta(days=365)
"""Timeout of collective operations. It is long because processes wait for the next round in a broadcast; the
launcher notices a process that dies and ends the others."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process is number `rank` of `size`. Rank 0 is the trainer; the others follow it."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @classmethod
    @contextmanager
    def from_environment(cls) -> "Iterator[ProcessGroup]":
        """Yields the group that `accelerate launch` or torchrun started, else this process alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        gpu = torch.cuda.is_available()
        state = PartialState(
            cpu=not gpu, backend="cuda:nccl,cpu:gloo" if gpu else "gloo", timeout=GROUP_TIMEOUT
        )
        sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        yield cls(state.process_index, state.num_processes, sharded)
        distributed.destroy_process_group()  # not after an error: it would wait for the others for ever

    def processes_here(self, device: torch.device) -> int:
        """Returns how many processes of the group share the memory of `device`: one a GPU, else all on this
        machine."""
        return 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard_rows(self, count: int) -> tuple[slice, int]:
        """Returns this process's shard of `count` rows and how many of its rows count. A process with an
        empty shard computes one row all the same: all must take part in the same forward passes."""
        start, end = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return slice(start, max(end, start + 1)), end - start

    def all_gather(self, part: Tensor) -> Tensor:
        """Returns the rows of all processes in rank order. Gradients flow back into own rows only."""
        if self.size == 1:
            return part
        lengths = self._lengths(len(part))
        padded = part.new_zeros(max(lengths), *part.shape[1:])
        padded[: len(part)] = part.detach()
        parts = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(parts, padded)
        parts = [found[:length] for found, length in zip(parts, lengths, strict=True)]
        parts[self.rank] = part
        return torch.cat(parts)

    def row_offset(self, length: int) -> tuple[int, int]:
        """Returns the offset of this process's `length` rows among all processes' rows, and their total."""
        if self.size == 1:
            return 0, length
        lengths = self._lengths(length)
        return sum(lengths[: self.rank]), sum(lengths)

    def least(self, numbers: list[int]) -> list[int]:
        """Returns the least of all processes' numbers, one by one."""
        rows: list[list[int]] = self.all_gather(torch.tensor([numbers])).tolist()
        return [min(column) for column in zip(*rows, strict=True)]

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))

    def broadcast(self, message: bytes = b"") -> bytes:
        """Returns the message of rank 0. The other processes wait for it and pass none."""
        return self.all_gather(torch.from_numpy(np.frombuffer(message, np.uint8).copy())).numpy().tobytes()

    def _lengths(self, length: int) -> list[int]:
        own = torch.tensor([length])
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        return [int(each) for each in found]


SINGLE_PROCESS = ProcessGroup()


def shard_base(base: PreTrainedModel, trunk: PreTrainedModel) -> None:
    """Shards the frozen weights of each layer (FSDP). The adapter stays whole, and so do the embeddings, as
    the first and the last layer may share them."""
    embeddings = [base.get_input_embeddings(), base.get_output_embeddings()]
    whole = {each for each in base.parameters() if each.requires_grad}
    whole |= {each for embedding in embeddings for each in embedding.parameters()}
    for module in base.modules():
        if type(module).__name__ in base._no_split_modules:
            fully_shard(module, ignored_params=whole)
    fully_shard(trunk, ignored_params=whole)
