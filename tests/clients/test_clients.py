"""Clients that people use work unchanged: their newest releases, installed for the run, on SmolLM2 with a
chat template that takes tools."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.base_model import base_directory
from tests.client_packages import PYTHON as PYTHON_CLIENT
from tests.client_packages import packed
from tests.installation import ADMIN_KEY, Installation
from tests.recipes import recipe
from tests.unlimited import UNLIMITED_ENVIRONMENT

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- if messages[0].role == 'system' %}
{{ messages[0].content }}
{%- endif %}
You may call these functions:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
To call one, write its name and arguments:
<tool_call>
{"name": "a name", "arguments": {}}
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') %}<|im_start|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
PYTHON = (
    "openai_whole_and_streamed", "openai_parse", "openai_tools", "openai_responses", "openai_stored",
    "langchain", "litellm", "instructor", "pydantic_ai", "llm",
)  # fmt: skip
NODE = (
    "openai_streamed", "openai_parse", "openai_run_tools", "openai_responses",
    "ai_chat", "ai_object", "ai_tools", "ai_responses",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with a template that takes tools."""
    directory = tmp_path_factory.mktemp("base") / "smollm2"
    directory.mkdir()
    for file in base_directory("smollm2").iterdir():
        if file.name not in ("chat_template.jinja", "tokenizer_config.json"):
            (directory / file.name).symlink_to(file)
    configuration = json.loads((base_directory("smollm2") / "tokenizer_config.json").read_text())
    configuration.pop("chat_template", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def environment(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running installation's address and key, as variables."""
    folder = tmp_path_factory.mktemp("clients")
    settings = {"HEARKEN_MODEL": str(base), "HEARKEN_SERVING__BASE_SHARE": "0", **UNLIMITED_ENVIRONMENT}
    with Installation(folder / "data", **settings) as installation:
        assert installation.run("pause").returncode == 0
        yield {
            **os.environ,
            "HEARKEN_URL": installation.url,
            "HEARKEN_KEY": ADMIN_KEY,
            "LLM_USER_PATH": str(folder / "llm"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for a price list first
        }


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python of its own, with the clients."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    executable = str(folder / "bin" / "python")
    packages = ["-r", str(HERE / "requirements.txt"), str(PYTHON_CLIENT)]
    subprocess.run([executable, "-m", "pip", "install", "--quiet", *packages], check=True)
    return executable


@pytest.fixture(scope="module")
def node(python: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the scripts of Node, with their packages beside them."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "node_clients.mjs"):
        (folder / name).write_text((HERE / name).read_text())
    tools = Path(python).parent
    path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    install = [str(tools / "npm"), "install", "--silent"]
    subprocess.run(install, cwd=folder, check=True, env=path)
    subprocess.run([*install, str(packed(folder))], cwd=folder, check=True, env=path)
    return [str(tools / "node"), str(folder / "node_clients.mjs")]


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("client", PYTHON)
def test_python(python: str, environment: dict[str, str], client: str) -> None:
    run([python, str(HERE / "python_clients.py"), client], environment)


@pytest.mark.parametrize("client", NODE)
def test_node(node: list[str], environment: dict[str, str], client: str) -> None:
    run([*node, client], environment)


@pytest.mark.parametrize("heading", ["LangChain", "LiteLLM"])
def test_recipe_in_python(python: str, environment: dict[str, str], heading: str) -> None:
    code = recipe("clients.md", heading, "python", url=environment["HEARKEN_URL"], secret=ADMIN_KEY)
    assert run([python, "-c", code], environment).splitlines()[-1] == "recorded"


def test_recipe_in_javascript(node: list[str], environment: dict[str, str]) -> None:
    code = recipe("clients.md", "AI SDK", "js", url=environment["HEARKEN_URL"], secret=ADMIN_KEY)
    module = Path(node[1]).with_name("recipe.mjs")
    module.write_text(code)
    assert run([node[0], str(module)], environment).splitlines()[-1] == "recorded"


def test_all_clients_are_run(python: str, environment: dict[str, str]) -> None:
    listing = "import python_clients; print(*python_clients.CLIENTS)"
    done = subprocess.run(
        [python, "-c", listing], cwd=HERE, env=environment, capture_output=True, text=True, check=True
    )
    assert tuple(done.stdout.split()) == PYTHON
    assert sys.version_info >= (3, 11)
