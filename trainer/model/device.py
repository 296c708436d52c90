"""What this machine is, and what its device does in a second, measured in one."""

import functools
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import torch

MEASURE_SECONDS = 0.2
"""Seconds that each measurement takes. The fastest turn counts, by this thread's own time without a GPU:
nobody else's work is to be measured."""

MMAP_THRESHOLD = 2**25
"""Bytes from which on glibc asks the system for fresh pages for each tensor, and hands them back with it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Floating point operations a second in matrix products by type; bytes a second that are read and written
    where nothing is computed, and bytes of fresh pages; seconds that an operation takes however small it is.
    """

    matmul: dict[torch.dtype, float]
    bandwidth: float
    page_bandwidth: float
    overhead: float

    def seconds(self, flops: int, moved: int, fresh: int, dtype: torch.dtype) -> float:
        """An operation's, by what holds it up (the roofline: Williams et al. 2009)."""
        computing = flops / self.matmul.get(dtype, min(self.matmul.values()))
        return self.overhead + max(computing, moved / self.bandwidth) + fresh / self.page_bandwidth

    @classmethod
    def measure(cls, device: torch.device, width: int) -> "Rates":
        """Matrix products as wide as the model's hidden states."""
        matmul = {}
        for dtype in (torch.float32, torch.bfloat16):
            rows = torch.ones(2048, width, device=device, dtype=dtype)
            weight = torch.ones(width, width, device=device, dtype=dtype)
            product = functools.partial(torch.matmul, rows, weight)
            matmul[dtype] = 2 * rows.numel() * width / _fastest(device, product)
        much, other = (
            torch.ones(2 * MMAP_THRESHOLD // 4, device=device),
            torch.ones(2 * MMAP_THRESHOLD // 4, device=device),
        )
        copying = _fastest(device, lambda: other.copy_(much))
        paging = max(_fastest(device, much.clone) - copying, 1e-9)
        tiny = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(20))).to(device)
        one = torch.ones(1, 8, device=device)
        overhead = _fastest(device, lambda: tiny(one)) / (
            2 * len(tiny)
        )  # of each layer, a view and a product
        return cls(matmul, 2 * much.nbytes / copying, much.nbytes / paging, overhead)


def device_kind(device: torch.device, processes: int) -> str:
    """What of a machine an adapter's bytes depend on: its GPU, or what its processor can compute with."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        able = torch.cpu.get_capabilities()
        extensions = sorted(each for each, there in able.items() if there is True and each.startswith("a"))
        name = " ".join([platform.machine(), str(able.get("cpu_name", "")), *extensions])
    return name if processes == 1 else f"{processes} processes, each on {name}"


@torch.no_grad()
def _fastest(device: torch.device, work: Callable[[], object]) -> float:
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    best, began = float("inf"), clock()
    while (before := clock()) - began < MEASURE_SECONDS:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - before)
    return best


def free_memory(device: torch.device) -> int:
    """Bytes that one process more could have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def memory_in_use(device: torch.device) -> int:
    """Bytes that this process has taken: on a GPU, of tensors only."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)
