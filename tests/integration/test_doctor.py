"""`hearken doctor` names what is missing, and does not print secrets."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import SecretStr

from deploy.doctor import examine
from schemas.policies import base_digest
from schemas.settings import KafkaSettings, Settings, VllmSettings, load
from tests.broker import Broker
from trainer.data.knowledge_probes import KnowledgeProbe, ProbeSet, probe_file
from trainer.model.device import Rates

RATES = Rates({torch.float32: 1e11, torch.bfloat16: 4e11}, 5e10, 4e9, 2e-6)


@pytest.fixture(autouse=True)
def _known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure this machine takes seconds, each time."""
    monkeypatch.setattr(Rates, "measure", classmethod(lambda cls, device, width: RATES))


def ask(settings: Settings, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Returns the exit code, the checks by name, and the output."""
    code = examine(settings, data_dir_given=True, as_json=True)
    said = capsys.readouterr().out
    return code, {check["check"]: check for check in json.loads(said)["checks"]}, said


def test_a_machine_that_has_everything(
    tmp_path: Path, database_url: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = Broker()
    broker.start()
    try:
        settings = Settings(
            data_dir=tmp_path,
            database_url=database_url,
            admin_key="sk-hearken-not-to-be-seen",
            kafka=KafkaSettings(servers=[broker.address], sasl_password=SecretStr("not-to-be-seen")),
            vllm=VllmSettings(urls=[engine]),
        )
        code, checks, said = ask(settings, capsys)
    finally:
        broker.kill()
    assert code == 0, checks
    assert set(checks) == {
        "disk", "model", "knowledge", "memory", "hyperparameters", "database", "broker", "signing", "engine",
        "schema",
    }  # fmt: skip
    assert "gradient checkpointing never" in checks["memory"]["detail"]
    assert "max_tokens 256 (nobody was served yet)" in checks["hyperparameters"]["detail"]
    assert "No database was read" not in checks["hyperparameters"]["detail"]
    assert "the relay creates it" in checks["broker"]["detail"]
    assert engine in checks["engine"]["detail"]
    assert "not-to-be-seen" not in said


class KeyedEngine(BaseHTTPRequestHandler):
    """An engine that answers those only who show its key, as vLLM does."""

    def do_GET(self) -> None:
        knows = self.headers["Authorization"] == "Bearer not-to-be-seen"
        self.send_response(200 if knows else 401)
        self.end_headers()
        self.wfile.write(b'{"data": []}')


def test_an_engine_is_asked_with_its_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), KeyedEngine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}"]
        settings = Settings(data_dir=tmp_path, vllm=VllmSettings(urls=urls, key=SecretStr("not-to-be-seen")))
        _, checks, said = ask(settings, capsys)
        server.shutdown()
    assert checks["engine"]["ok"], checks["engine"]
    assert "not-to-be-seen" not in said


class Page(BaseHTTPRequestHandler):
    """A server that is no engine."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")


def test_what_is_something_else_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings(
            data_dir=tmp_path / "not" / "yet",
            database_url="hearken:not-to-be-seen@db",
            model=str(tmp_path),
            vllm=VllmSettings(urls=[f"http://127.0.0.1:{server.server_port}"]),
        )
        code, checks, said = ask(settings, capsys)
        server.shutdown()
    assert code == 1
    assert "is no engine" in checks["engine"]["detail"]
    assert "is no URL" in checks["database"]["detail"]
    assert "free for" in checks["disk"]["detail"]
    assert "not-to-be-seen" not in said


def test_failing_checks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(
        data_dir=tmp_path,
        database_url="postgresql://postgres@127.0.0.1:9/hearken",
        model=str(tmp_path),
        kafka=KafkaSettings(servers=["127.0.0.1:9"]),
        vllm=VllmSettings(urls=["http://127.0.0.1:9"]),
    )
    code, checks, _ = ask(settings, capsys)
    assert code == 1
    assert {name for name, check in checks.items() if not check["ok"]} == {
        "model", "database", "broker", "engine",
    }  # fmt: skip
    assert "127.0.0.1:9" in checks["broker"]["detail"]
    assert "127.0.0.1:9" in checks["engine"]["detail"]


def test_a_base_that_knows_too_little_to_judge_is_a_warning(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path, model=str(tiny_base))
    code, checks, _ = ask(settings, capsys)
    assert (code, checks["knowledge"]["ok"]) == (0, True)
    assert "measured after the first vote" in checks["knowledge"]["detail"]
    assert "before the first chat: there is none" in checks["hyperparameters"]["detail"]
    probe = KnowledgeProbe(prompt="Who?", accept=("I",), topic="names", whole=False, base=1.0)
    path = probe_file(tmp_path, base_digest(tiny_base))
    ProbeSet(key="k", asked={"names": 9}, probes=(probe,) * 8).write(path)
    code, checks, _ = ask(settings, capsys)
    assert code == 0
    assert "8 that the base answers alike (names 8)" in checks["knowledge"]["detail"]
    assert "warning" not in checks["knowledge"]
    ProbeSet(key="k", asked={"names": 9}, probes=(probe,)).write(path)
    code, checks, _ = ask(settings, capsys)
    assert (code, checks["knowledge"]["ok"]) == (0, True)
    assert "cannot be judged" in checks["knowledge"]["warning"]
    examine(settings, data_dir_given=True, as_json=False)
    assert "!!  knowledge: lost knowledge cannot be judged" in " ".join(capsys.readouterr().out.split(" "))


def test_it_says_where_training_needs_gradient_checkpointing_and_where_it_does_not_fit(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2**17}))
    settings = Settings(data_dir=tmp_path, model=str(base))
    for free, expected in ((2**40, "never"), (2**29, "above "), (2**20, "always")):
        monkeypatch.setattr("trainer.planning.plan.free_memory", lambda device, free=free: free)
        code, checks, _ = ask(settings, capsys)
        assert code == 0
        assert f"gradient checkpointing {expected}" in checks["memory"]["detail"]
        assert ("warning" in checks["memory"]) == (free == 2**20)


def test_a_setting_under_its_old_name_has_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hearken.toml").write_text("[trainer.rl]\nsteps = 5\nprompts_per_step = 6\n")
    monkeypatch.setenv("HEARKEN_TRAINER__GATE__PROBES", "7")
    examine(load(), data_dir_given=False, as_json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    found = [
        (rows[name]["value"], rows[name]["source"])
        for name in (
            "trainer.rl.steps_per_round",
            "trainer.rl.prompts_per_step",
            "trainer.gate.knowledge_questions",
        )
    ]
    assert found == [(5, "hearken.toml"), (6, "hearken.toml"), (7, "HEARKEN_TRAINER__GATE__PROBES")]


def test_values_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    folder = tmp_path / "[x] [" / "bold] :cat:"
    examine(Settings(data_dir=folder, model="/nowhere/[red]"), data_dir_given=True, as_json=False)
    said = capsys.readouterr().out
    assert said.count(str(folder)) >= 2  # the setting, and the check of the disk
    assert "/nowhere/[red]" in said
