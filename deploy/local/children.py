"""This module lists the child processes of `hearken up`, with their commands and environments."""

import json
import os
from collections.abc import Callable

from deploy.local import vllm
from deploy.local.ports import free_port
from deploy.local.process import Process
from schemas.settings import Settings


def child_processes(settings: Settings, on_line: Callable[[str, str], None]) -> list[Process]:
    """Returns an engine on a free loopback port (unless `vllm.urls` names others), the chat API, the trainer,
    the relay if a broker is set, and the judge if its endpoint is set."""
    engines = settings.vllm.urls
    port = free_port()
    environment = {
        **os.environ,
        "HEARKEN_DATABASE_URL": settings.database_url or "",
        "HEARKEN_DATA_DIR": str(settings.data_dir),
        "HEARKEN_HOST": settings.host,
        "HEARKEN_PORT": str(settings.port),
        "HEARKEN_MODEL": settings.model,
        "HEARKEN_VLLM__URLS": json.dumps(engines or [f"http://127.0.0.1:{port}"]),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }

    def child(name: str, command: list[str], **more: str) -> Process:
        log = settings.data_dir / "logs" / f"{name}.log"
        return Process(name, command, environment | more, log, on_line)

    own_vllm = settings.engine.kind == "vllm" and not engines
    shared_gpu = vllm.trainer_environment(settings) if own_vllm else {}
    children = [
        child("serving", ["deploy.cli", "serve", "--trainer-metrics"]),
        child("trainer", ["deploy.cli", "train"], **shared_gpu),
    ]
    if settings.kafka.servers:
        children.append(child("relay", ["deploy.cli", "relay"]))
    if settings.judge.url:
        children.append(child("judge", ["deploy.cli", "judge"]))
    if engines:
        return children
    if own_vllm:
        command = vllm.command(settings, port)
        return [child("engine", command, **vllm.environment(settings)), *children]
    return [child("engine", _embedded_engine(settings, port)), *children]


def _embedded_engine(settings: Settings, port: int) -> list[str]:
    return [
        "serving.embedded",
        *("--model", settings.model),
        *("--port", str(port)),
        *("--max-loras", str(settings.engine.max_adapters)),
        *("--max-num-seqs", str(settings.engine.max_streams)),
        *("--threads", str(settings.engine.threads)),
    ]
