"""The processes that train together, one a GPU: the same loop in each, in step.

All hold the same adapter and go through the same round. Each computes its share of the rows of every pass
through the model and gathers the results of the others, so all come to the same figures and decisions; the
gradients, each of one's own rows, are summed before the optimizer's step. One process alone gathers nothing
and has no group.

Where `sharded`, each holds a part of the base's weights only, and has those of a layer while it is in it
(FSDP: Zhao et al. 2023). accelerate starts the processes; its `prepare` is not used, since it would shard the
adapter too and counts on the outermost module being called, where large vocabularies call the trunk.
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
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

GROUP_TIMEOUT = timedelta(days=365)
"""A trainer waits as long as nobody votes. Who dies is noticed by the launcher, which ends the others."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """`count` processes, of which this is number `rank`. The first is the trainer; the others follow it."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @classmethod
    @contextmanager
    def from_environment(cls) -> "Iterator[ProcessGroup]":
        """Those that `accelerate launch` or torchrun started, else this one alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        gpu = torch.cuda.is_available()
        state = PartialState(
            cpu=not gpu, backend="cuda:nccl,cpu:gloo" if gpu else "gloo", timeout=GROUP_TIMEOUT
        )
        sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
        yield cls(state.process_index, state.num_processes, sharded)
        distributed.destroy_process_group()  # not after an error: the others may wait for this one for ever

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard_rows(self, count: int) -> tuple[slice, int]:
        """Which of `count` rows this process computes, and how many of them it contributes: one whose share
        is empty computes a row all the same, since all must make the same passes."""
        start, end = count * self.rank // self.size, count * (self.rank + 1) // self.size
        return slice(start, max(end, start + 1)), end - start

    def all_gather(self, part: Tensor) -> Tensor:
        """The rows of all processes, in their order. The gradient of a process's own flows back, and that of
        the others' in theirs."""
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
        """Where `length` rows begin among those of all processes, and how many these are."""
        if self.size == 1:
            return 0, length
        lengths = self._lengths(length)
        return sum(lengths[: self.rank]), sum(lengths)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes the sum of what the processes have of it."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))

    def broadcast(self, message: bytes = b"") -> bytes:
        """What the first process says; the others, which say nothing, wait for it."""
        return self.all_gather(torch.from_numpy(np.frombuffer(message, np.uint8).copy())).numpy().tobytes()

    def _lengths(self, length: int) -> list[int]:
        own = torch.tensor([length])
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        return [int(each) for each in found]


SINGLE_PROCESS = ProcessGroup()


def shard_base(base: PreTrainedModel, trunk: PreTrainedModel) -> None:
    """Of each layer's frozen weights keep this process's part. The adapter stays whole, and so do the
    embeddings, which the first and the last layer may share."""
    embeddings = [base.get_input_embeddings(), base.get_output_embeddings()]
    whole = {each for each in base.parameters() if each.requires_grad}
    whole |= {each for embedding in embeddings for each in embedding.parameters()}
    for module in base.modules():
        if type(module).__name__ in base._no_split_modules:
            fully_shard(module, ignored_params=whole)
    fully_shard(trunk, ignored_params=whole)
    # transformers knows by its class's name what a model can hand out, and torch has changed the name.
    _CAN_RECORD_REGISTRY[str(type(trunk))] = trunk._can_record_outputs
