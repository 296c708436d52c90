"""This module measures the device's throughput (in about a second) and memory, and names its hardware."""

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig

from schemas.settings import TrainerSettings

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's large tensors in huge pages: fewer page faults

MEASURE_SECONDS = 0.2
"""Seconds that each measurement takes. The fastest run counts; without a GPU it is timed in this thread's CPU
time, so that other work on the machine does not count."""

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux shows a container its own limits (cgroup v2)."""

WIDE = 512
"""Least width of hidden states that several threads train faster than one, on a CPU."""

NICENESS = 10
"""Niceness of a trainer that uses several cores."""

MMAP_THRESHOLD = 2**25
"""Bytes of a tensor from which glibc maps fresh pages for it and returns them when it is freed."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The device's limits: `matmul` FLOP/s of matrix products by type, `bandwidth` bytes/s read and written,
    `page_bandwidth` bytes/s of fresh pages, and `overhead` seconds of the smallest operation."""

    matmul: dict[torch.dtype, float]
    bandwidth: float
    page_bandwidth: float
    overhead: float

    def seconds(self, flops: int, moved: int, fresh: int, dtype: torch.dtype) -> float:
        """Returns the seconds of an operation by the roofline model (Williams et al. 2009)."""
        computing = flops / self.matmul.get(dtype, min(self.matmul.values()))
        return self.overhead + max(computing, moved / self.bandwidth) + fresh / self.page_bandwidth

    @classmethod
    def measure(cls, device: torch.device, width: int) -> "Rates":
        """Measures the device, with matrix products as wide as the model's hidden states (`width`)."""
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
    """Returns the hardware that an adapter's bytes depend on: the GPU, or the CPU with its extensions."""
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


def with_threads(settings: TrainerSettings, base: Path, processes: int = 1) -> TrainerSettings:
    """Returns the settings with the torch threads that each of so many processes on this machine has for
    training the base in a directory."""
    if settings.threads is not None:
        return settings
    width = int(AutoConfig.from_pretrained(base).get_text_config().hidden_size)
    shared = width >= WIDE and not torch.cuda.is_available()
    threads = max(1, usable_cores() // processes) if shared else 1
    return settings.model_copy(update={"threads": threads})


def usable_cores() -> int:
    """Returns the cores that this process may use, in its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return cores


def give_way() -> None:
    """Lowers this process's priority, so that it takes the time only that others on its machine leave."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # Linux may share the cores among sessions first (autogroups)
        Path("/proc/self/autogroup").write_text(str(NICENESS))


def free_memory(device: torch.device) -> int:
    """Returns the bytes that this process could allocate, in its container or its share of the GPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        share = torch.cuda.get_per_process_memory_fraction()
        return int(min(free, share * total - torch.cuda.memory_reserved()))
    return min(int(psutil.virtual_memory().available), _free_in_container())


def _free_in_container() -> int:
    """Returns the bytes that the container may still allocate, its reclaimable page cache included; 2**63
    without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        cache = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return 2**63
    return limit - used + cache


def memory_in_use(device: torch.device) -> int:
    """Returns the bytes that this process uses; on a GPU, tensors only."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def release_memory() -> None:
    """Returns freed memory from glibc's heap to the system: batches of different shapes fragment it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
