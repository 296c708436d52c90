"""`hearken doctor` prints the effective settings with their sources, and checks the installation."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.local.base_model import base_directory, licence
from deploy.local.postgres import check_url
from deploy.local.served import served
from feedback.broker import connection
from schemas import signatures
from schemas.database import migrations
from schemas.errors import StartError
from schemas.generation_defaults import read_generation_defaults
from schemas.policies import base_digest
from schemas.settings import KafkaSettings, Settings
from schemas.settings.sources import effective_settings
from trainer.data.knowledge_probes import ProbeSet, probe_file
from trainer.evaluation.questions import is_starter, own_questions, unjudged


def examine(settings: Settings, data_dir_given: bool, as_json: bool) -> int:
    """Prints settings and checks; returns 0 if every check passed, warnings aside, else 1."""
    flags = frozenset({"data_dir"}) if data_dir_given else frozenset()
    rows = list(effective_settings(settings, flags))
    checks = list(_checks(settings))
    if as_json:
        print(json.dumps({"settings": rows, "checks": checks}, default=str))
    else:
        _print(rows, checks)
    return 0 if all(check["ok"] for check in checks) else 1


def _checks(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yields the result of each check: disk, model, knowledge, memory, hyperparameters, database, broker,
    keys, engines, schema. What works, but less well than it could, has a `warning`."""
    folder = settings.data_dir.resolve()
    folder = next(each for each in (folder, *folder.parents) if each.is_dir())
    free = shutil.disk_usage(folder).free // 2**20
    yield {"check": "disk", "ok": free > 1024, "detail": f"{free} MiB free for {settings.data_dir}"}
    try:
        base = base_directory(settings.model)
        yield {"check": "model", "ok": True, "detail": _model(base)}
        yield {"check": "knowledge", **_knowledge(settings, base)}
        yield from _memory(settings, base)
    except StartError as error:
        yield {"check": "model", "ok": False, "detail": error.message}
    if settings.database_url:
        try:
            check_url(settings.database_url)
            with psycopg.connect(settings.database_url, connect_timeout=5) as database:
                version = database.info.server_version // 10_000
            yield {"check": "database", "ok": version >= 15, "detail": f"Postgres {version}"}
        except StartError as error:
            yield {"check": "database", "ok": False, "detail": error.message}
        except psycopg.OperationalError as error:
            yield {"check": "database", "ok": False, "detail": str(error)}
    else:
        yield {"check": "database", "ok": True, "detail": "embedded"}
    if settings.kafka.servers:
        yield {"check": "broker", **_broker(settings.kafka)}
    yield {"check": "signing", **_signing(settings)}
    for url in settings.vllm.urls:
        yield {"check": "engine", **_engine(url, settings.vllm.key)}
    yield {"check": "schema", "ok": True, "detail": f"this release has version {migrations()[-1][0]}"}


def _model(directory: Path) -> str:
    """Returns the model's directory, its generation defaults, and the licence that its card states."""
    served = read_generation_defaults(directory)
    detail = f"{directory}, served at temperature {served.temperature:g} and top_p {served.top_p:g}"
    stated = licence(directory)
    return f"{detail}; licence {stated}, see README.md there" if stated else detail


def _knowledge(settings: Settings, base: Path) -> dict[str, Any]:
    """The questions by which lost knowledge is noticed."""
    try:
        own = own_questions(base, settings.trainer.gate, settings.trainer.seed)
    except StartError as error:
        return {"ok": False, "detail": error.message}
    detail = f"{len(own)} questions"
    if is_starter(base):
        return {"ok": True, "detail": detail}
    path = probe_file(settings.data_dir, base_digest(base))
    probes = ProbeSet.parse(path.read_bytes()) if path.is_file() else None
    if probes is None:
        return {"ok": True, "detail": f"{detail} of your own; the base's are measured after the first vote"}
    topics = ", ".join(f"{topic} {count}" for topic, count in probes.topics.items())
    reason = unjudged(len(own) + len(probes.probes))
    detail += f" of your own, and {len(probes.probes)} that the base answers alike ({topics})"
    return {"ok": True, "detail": detail} | ({} if reason is None else {"warning": reason})


def _memory(settings: Settings, base: Path) -> Iterator[dict[str, Any]]:
    """What a round of training would fit into the free memory, and the hyperparameters that it would have;
    nothing where there is no trainer."""
    try:
        from trainer.planning.plan import fit
    except ModuleNotFoundError:  # torch is not installed
        return
    traffic, learning_rate, unread = served(settings)
    found = fit(settings.trainer, base, traffic, learning_rate)
    where = found["checkpointing"]
    detail = f"{found['batches']}; gradient checkpointing {where['value']}: {where['reason']}"
    warning = {} if found["fits"] else {"warning": "training does not fit, see hearken train --plan"}
    yield {"check": "memory", "ok": True, "detail": detail} | warning
    values = found["derived"].items()
    derived = [f"{name} {_short(each['value'])} ({each['reason']})" for name, each in values]
    detail = "; ".join(derived) + (f". {unread}" if unread else "")
    yield {"check": "hyperparameters", "ok": True, "detail": detail}


def _short(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _signing(settings: Settings) -> dict[str, Any]:
    """The keys that sign policies, and those whose policies may serve."""
    try:
        key, trusted = signatures.signing_key(settings), signatures.trusted_keys(settings)
    except StartError as error:
        return {"ok": False, "detail": error.message}
    own = None if key is None else signatures.key_id(key.public_key())
    detail = f"policies are signed by {own}" if own else "no key signs policies here"
    if trusted is None:
        return {"ok": True, "detail": f"{detail}; no key is trusted, so signatures are not checked"}
    ok = own is None or own in trusted
    return {"ok": ok, "detail": f"{detail}; trusted: {', '.join(trusted)}"}


def _broker(kafka: KafkaSettings) -> dict[str, Any]:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**connection(kafka))
    except (KafkaError, OSError, ValueError) as error:
        return {"ok": False, "detail": f"{', '.join(kafka.servers)}: {error}"}
    try:
        exists = kafka.topic in admin.list_topics()
    except KafkaError as error:
        return {"ok": False, "detail": f"{', '.join(kafka.servers)}: {error}"}
    finally:
        admin.close()
    return {
        "ok": True,
        "detail": f"topic {kafka.topic}" if exists else f"no topic {kafka.topic} yet; the relay creates it",
    }


def _engine(url: str, key: SecretStr | None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        answer = httpx.get(f"{url}/v1/models", headers=headers, timeout=5).raise_for_status()
        resident = [card["id"] for card in answer.json()["data"] if card.get("parent")]
    except httpx.HTTPError as error:
        return {"ok": False, "detail": f"{url}: {error}"}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"ok": False, "detail": f"{url} is no engine: it lists no models at /v1/models"}
    return {"ok": True, "detail": f"{url} holds {', '.join(resident) or 'no adapter yet'}"}


def _print(rows: list[dict[str, Any]], checks: list[dict[str, Any]]) -> None:
    console = Console(markup=False, emoji=False)  # values are other people's text
    table = Table("setting", "value", "source", "description")
    for row in rows:
        table.add_row(row["name"], str(row["value"]), row["source"], row["description"])
    console.print(table)
    for check in checks:
        mark = ("ok", "green") if check["ok"] else ("no", "red")
        console.print(Text.assemble(mark, f"  {check['check']}: {check['detail']}"))
        if "warning" in check:
            console.print(Text.assemble(("!!", "yellow"), f"  {check['check']}: {check['warning']}"))
