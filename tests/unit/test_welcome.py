"""The welcome of `hearken up` names commands that the shell that started it can run."""

from pathlib import Path

import httpx
import pytest

from deploy.local.console import reachable, welcome
from schemas.settings import load
from serving.keys import NewKeys
from trainer.starter import MODEL_DIR


def test_the_simulation_is_started_as_the_installation_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = NewKeys("sk-hearken-1", "sk-hearken-2", "pk-hearken-1")
    monkeypatch.setattr("sys.argv", [".venv/bin/hearken", "up"])
    assert "\n  .venv/bin/hearken simulate\n" in welcome(load(), made)
    monkeypatch.setattr("sys.argv", ["/opt/hear ken/hearken", "up"])
    command = f"HEARKEN_PORT=8123 '/opt/hear ken/hearken' simulate --data-dir {tmp_path}"
    assert f"\n  {command}\n" in welcome(load(port=8123, data_dir=tmp_path), made)


def test_the_starter_is_called_a_toy_and_no_other_model_is(tmp_path: Path) -> None:
    made = NewKeys(None, None, None)
    starter = welcome(load(model=str(MODEL_DIR.resolve())), made)
    assert "the starter, a toy. A small real model: make up MODEL=smollm2\n" in starter
    assert "toy" not in welcome(load(model=str(tmp_path)), made)


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("chat.example", "chat.example")],  # noqa: S104
)
def test_the_address_is_one_that_a_url_may_have(host: str, address: str) -> None:
    assert reachable(host) == address
    assert httpx.URL(f"http://{reachable(host)}:8000/readyz").port == 8000
