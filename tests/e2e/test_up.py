"""`hearken up` explains failures, stops cleanly, and restarts on its data folder."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from deploy.local import data_folder, supervisor
from deploy.local.console import PlainConsole
from deploy.local.ports import free_port
from deploy.local.postgres import EmbeddedPostgres
from deploy.simulation.own_project import own_project
from schemas.errors import StartError
from schemas.settings import Settings, load
from serving.engine import KEY_VARIABLE
from tests.installation import ADMIN_KEY, Installation, wait


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Is ready before each test that uses it."""
    with Installation(tmp_path_factory.mktemp("up")) as installation:
        yield installation


def test_pages_that_are_not_built_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.serving, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(StartError, match="run `make install`"):
        supervisor.up(load(data_dir=tmp_path / "data"), PlainConsole())
    assert not (tmp_path / "data").exists()


def up(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        Installation.hearken("up", *words), capture_output=True, text=True, timeout=60, check=False
    )


def chat(installation: Installation) -> str:
    with installation.client() as client:
        answer = client.post(
            "/v1/chat/completions",
            json={"model": "default", "messages": [{"role": "user", "content": "Hi!"}]},
        )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_nobody_else_on_the_machine_reads_its_files_or_changes_its_engine(installation: Installation) -> None:
    engine, trainer = installation.find("engine"), installation.find("trainer")
    assert engine is not None
    assert trainer is not None
    words = engine.cmdline()
    url = f"http://127.0.0.1:{words[words.index('--port') + 1]}"
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.get(f"{url}/v1/models").status_code == 401
    unload = {"json": {"lora_name": "p0"}, "headers": {"Authorization": f"Bearer {ADMIN_KEY}"}}
    assert httpx.post(f"{url}/v1/unload_lora_adapter", **unload).status_code == 401
    key = engine.environ()[KEY_VARIABLE]
    assert not any(key in word for word in words)
    assert ADMIN_KEY not in {**engine.environ(), **trainer.environ()}.values()
    assert "HEARKEN_DATABASE_URL" not in engine.environ()
    for name in ("logs", "policies", "postgres", "rounds", "spool"):
        assert not (installation.data_dir / name).stat().st_mode & 0o077, name


def test_it_answers_stops_cleanly_and_starts_again(installation: Installation) -> None:
    assert chat(installation)
    with installation.client(None) as client:
        figures = client.get("/metrics").text
        assert 'hearken_votes_unlearned{project="default"} 0.0' in figures  # of the trainer
        assert "hearken_approval_z" in figures
    status = installation.run("status")
    assert "p0 answers" in status.stdout, status.stderr
    assert ADMIN_KEY not in (installation.data_dir / "logs" / "serving.log").read_text()
    assert ADMIN_KEY not in installation.console()  # it came from the environment
    family = psutil.Process(installation.process.pid).children(recursive=True)
    postgres = installation.find("postgres")
    assert len(family) >= 3
    assert postgres is not None
    taken = up("--data-dir", str(installation.data_dir), "--port", "1")
    assert taken.returncode == 1
    assert "in use by another Hearken" in taken.stderr
    assert str(installation.process.pid) in taken.stderr
    assert installation.stop() == 0
    _, alive = psutil.wait_procs([*family, postgres], timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert "\x1b" not in installation.console()  # a file gets plain lines
    assert "Ctrl-C stops everything." in installation.console()
    installation.start(terminal=True)
    installation.wait_until_ready()
    assert chat(installation)


def test_a_terminal_shows_one_screen(installation: Installation) -> None:
    def shows(*words: str) -> bool:
        return all(word in installation.console() for word in words)

    address = f"{installation.url}/console"
    wait(lambda: shows(address, "p0. It is the base", "0 new votes; 40 more", "Training waits"), "the screen")
    with installation.client() as client:
        said = client.get("/v1/chat/completions").json()["data"][0]
        vote = {"completion_id": said["id"], "type": "thumb", "value": "up"}
        assert client.post("/v1/feedback", json=vote).status_code == 201
    wait(lambda: shows("1 new votes; 39 more"), "the vote on the screen")


def test_simulated_people_have_a_project_that_one_command_removes(installation: Installation) -> None:
    settings = load(data_dir=installation.data_dir, port=installation.port)
    with own_project(settings) as (url, key, _), httpx.Client(base_url=url, timeout=30) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        ask = {"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 4}
        reply = client.post("/v1/chat/completions", json=ask).json()
        vote = {"completion_id": reply["id"], "type": "thumb", "value": "up"}
        assert client.post("/v1/feedback", json=vote).status_code == 201
        with installation.client() as other:
            assert other.get(f"/v1/chat/completions/{reply['id']}").status_code == 404
    with psycopg.connect(installation.database_url()) as connection:
        count = "select count(*) from projects p join turns t on t.project = p.id where p.id = 'simulation'"
        assert connection.execute(count).fetchone() == (1,)
        before = connection.execute("select count(*) from turns where project = 'default'").fetchone()
        removed = installation.run("simulate", "--remove")
        assert removed.returncode == 0, removed.stderr
        left = connection.execute("select id from projects").fetchall()
        assert left == [("default",)]
        assert connection.execute("select count(*) from turns").fetchone() == before
    assert chat(installation)
    assert not (installation.data_dir / "policies" / "simulation").exists()


def test_it_starts_again_at_once_after_everything_was_killed_at_once(installation: Installation) -> None:
    """Locks and sockets name processes that nobody has reaped yet, or that are just ending."""
    killed, postgres = installation.process, installation.find("postgres")
    assert postgres is not None
    for root in (psutil.Process(killed.pid), postgres):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    installation.start()
    installation.wait_until_ready()
    assert chat(installation)
    killed.wait()


def test_its_children_end_with_it_even_if_it_is_killed(installation: Installation) -> None:
    """The last test with this installation."""
    family = psutil.Process(installation.process.pid).children(recursive=True)
    installation.process.send_signal(signal.SIGKILL)
    installation.process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        answer = up("--data-dir", str(tmp_path), "--port", str(port))
    assert answer.returncode == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in answer.stderr
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    answer = up("--data-dir", str(tmp_path), "--model", str(tmp_path))
    assert answer.returncode == 1
    assert "needs config.json" in answer.stderr


def test_an_engine_that_does_not_exist(tmp_path: Path) -> None:
    answer = up("--data-dir", str(tmp_path), "--engine", "steam")
    assert answer.returncode == 1
    assert "engine.kind" in answer.stderr


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_folder, "_MIN_FREE_BYTES", 2**62)
    with pytest.raises(StartError, match=r"The disk of .* is full"):
        supervisor.up(load(data_dir=tmp_path), PlainConsole())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_download_is_broken_off(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    @contextmanager
    def prepared(settings: Settings) -> Iterator[Settings]:
        signal.raise_signal(number)
        yield settings

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(supervisor, "prepared", prepared)
    monkeypatch.setattr(supervisor, "create_keys", lambda settings: pytest.fail("it went on"))
    settings = load(data_dir=tmp_path, port=free_port(), database_url=database_url)
    try:
        with pytest.raises(KeyboardInterrupt):
            supervisor.up(settings, PlainConsole())
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    answer = up("--data-dir", str(tmp_path / "file"))
    assert answer.returncode == 1
    assert "cannot be written" in answer.stderr


def test_a_database_that_is_newer_than_the_code(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    url = postgres.start()
    with psycopg.connect(url) as connection:
        connection.execute("create table migrations (version int, name text, applied_at timestamptz)")
        connection.execute("insert into migrations values (9999, '9999_the_future', now())")
    postgres.stop()
    answer = up("--data-dir", str(tmp_path))
    assert answer.returncode == 1
    assert "Install a newer Hearken" in answer.stderr
    assert not postgres.running()


def test_a_command_on_a_folder_without_hearken(tmp_path: Path) -> None:
    answer = Installation(tmp_path).run("policies")
    assert answer.returncode == 1
    assert "There is no Hearken in" in answer.stderr


def test_the_api_and_the_command_line_start_without_torch() -> None:
    code = "import sys, deploy.cli, deploy.local.supervisor, serving.app; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
