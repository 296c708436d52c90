"""This module lists the child processes of `hearken up`, with their commands and environments."""

import json
import os
import secrets
from collections.abc import Callable

from deploy.local import vllm
from deploy.local.ports import free_port
from deploy.local.process import Process
from schemas.settings import Settings
from serving.engine import KEY_VARIABLE

PATIENT = {"OMP_WAIT_POLICY": "passive"}
"""Lets threads that wait for others leave their cores: else they spin, which a busy machine pays for."""

_API_KEYS = {"HEARKEN_ADMIN_KEY", "HEARKEN_PUBLIC_KEY"}  # which serving only needs


def child_processes(settings: Settings, on_line: Callable[[str, str], None]) -> list[Process]:
    """Returns an engine on a free loopback port (unless `vllm.urls` names others), the chat API, the trainer,
    the relay if a broker is set, and the judge if its endpoint is set. Each gets the secrets that it needs
    only, and the engine a key of its own: nobody else on this machine may load adapters."""
    engines = settings.vllm.urls
    port = free_port()
    of_engine = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    of_engine |= {
        name: value for name, value in os.environ.items() if not name.upper().startswith("HEARKEN_")
    }
    environment = {
        **of_engine,
        **{name: value for name, value in os.environ.items() if name.upper().startswith("HEARKEN_")},
        "HEARKEN_DATABASE_URL": settings.database_url or "",
        "HEARKEN_DATA_DIR": str(settings.data_dir),
        "HEARKEN_HOST": settings.host,
        "HEARKEN_PORT": str(settings.port),
        "HEARKEN_MODEL": settings.model,
        "HEARKEN_ENGINE__KIND": settings.engine.kind,
        "HEARKEN_VLLM__URLS": json.dumps(engines or [f"http://127.0.0.1:{port}"]),
    }
    if not engines:
        of_engine[KEY_VARIABLE] = environment["HEARKEN_VLLM__KEY"] = secrets.token_urlsafe(24)
    without_keys = {name: value for name, value in environment.items() if name.upper() not in _API_KEYS}

    def child(name: str, command: list[str], environment: dict[str, str]) -> Process:
        log = settings.data_dir / "logs" / f"{name}.log"
        return Process(name, command, environment, log, on_line)

    own_vllm = settings.engine.kind == "vllm" and not engines
    shared_gpu = vllm.trainer_environment(settings) if own_vllm else {}
    children = [
        child("serving", ["deploy.cli", "serve", "--trainer-metrics"], environment),
        child("trainer", ["deploy.cli", "train"], PATIENT | without_keys | shared_gpu),
    ]
    if settings.kafka.servers:
        children.append(child("relay", ["deploy.cli", "relay"], without_keys))
    if settings.judge.url:
        children.append(child("judge", ["deploy.cli", "judge"], without_keys))
    if engines:
        return children
    if own_vllm:
        command = vllm.command(settings, port)
        return [child("engine", command, of_engine | vllm.environment(settings)), *children]
    return [child("engine", _embedded_engine(settings, port), of_engine), *children]


def _embedded_engine(settings: Settings, port: int) -> list[str]:
    return [
        "serving.embedded",
        *("--model", settings.model),
        *("--port", str(port)),
        *("--max-loras", str(settings.engine.max_adapters)),
        *("--max-num-seqs", str(settings.engine.max_streams)),
        *("--threads", str(settings.engine.threads)),
    ]
