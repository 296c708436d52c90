"""The files under deploy/ say what the code says."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy import vllm
from schemas.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
HELM = DEPLOY / "helm" / "hearken"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def flags(words: list[str]) -> set[str]:
    """`--name=value` for each, whichever way it was written."""
    joined: list[str] = []
    for word in words:
        if word.startswith("--"):
            joined.append(word)
        else:
            joined[-1] += f"={word}"
    return set(joined)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """vLLM's flags with a GPU of its own, as the code would set them in a container."""
    monkeypatch.setattr(vllm, "installed", lambda: "vllm")
    ours = flags(vllm.command(Settings(model="/data/base"), 8000)[1:])
    return {flag for flag in ours if "gpu-memory" not in flag and "--host" not in flag}


@pytest.mark.parametrize("service", ["vllm-gpu", "vllm-cpu"])
def test_compose_starts_vllm_with_the_same_flags(service: str, wanted: set[str]) -> None:
    found = compose()["services"][service]
    assert flags(found["command"]) - {"--host=0.0.0.0"} == wanted
    ours = vllm.environment(Settings())
    assert all(ours[name] == value for name, value in found["environment"].items())


def test_the_image_for_cpus_adds_what_only_they_want(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DEPLOY / "docker" / "vllm-cpu.Dockerfile").read_text()
    settings = Settings(model="/data/base")
    monkeypatch.setattr(vllm, "installed", lambda: "vllm")
    everywhere = flags(vllm.command(settings, 8000)[1:]), set(vllm.environment(settings))
    monkeypatch.setattr(vllm, "installed", lambda: "vllm-cpu")
    environment = vllm.environment(settings)
    mine = {name: environment[name] for name in set(environment) - everywhere[1] - {"OMP_NUM_THREADS"}}
    assert mine.items() <= dict(re.findall(r"(\w+)=(\w+)", text)).items()
    added = flags(vllm.command(settings, 8000)[1:]) - everywhere[0] - {"--dtype=float32"}
    assert added == set(re.findall(r'"(--[\w-]+=\w+)"', text))


def test_helm_starts_vllm_with_the_same_flags(wanted: set[str]) -> None:
    values = yaml.safe_load((HELM / "values.yaml").read_text())["vllm"]
    template = (HELM / "templates" / "vllm.yaml").read_text()
    found = re.findall(r"^ +- (--.*)$", template, re.MULTILINE)
    filled = {
        re.sub(r"{{ \.Values\.vllm\.(\w+) }}", lambda name: str(values[name[1]]), flag) for flag in found
    }
    different = {"--host=0.0.0.0", f"--max-num-seqs={values['maxStreams']}"}
    assert filled - different == wanted - {"--max-num-seqs=32"}


EVERYTHING = [
    'kafka.servers={"broker:9092"}', "serving.autoscaling.enabled=true", "vllm.autoscaling.enabled=true",
    "trainer.gpus=1", "judge.url=http://judge:8000/v1", "storage.className=nfs", "settings.LOG_LEVEL=debug",
]  # fmt: skip


@pytest.mark.parametrize("values", [[], ["vllm.gpus=0"], EVERYTHING], ids=["default", "cpu", "everything"])
def test_what_helm_renders_is_valid_kubernetes(values: list[str]) -> None:
    """Strictly: a field that Kubernetes does not know is an error."""
    helm = str(Path(sys.executable).parent / "helm")
    subprocess.run([helm, "lint", "--quiet", str(HELM)], check=True)
    words = [word for value in values for word in ("--set", value)]
    rendered = subprocess.run(
        [helm, "template", "hearken", str(HELM), *words], check=True, capture_output=True, text=True
    ).stdout
    manifests = [manifest for manifest in yaml.safe_load_all(rendered) if manifest]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    kinds = Counter(manifest["kind"] for manifest in manifests)
    assert kinds["Deployment"] == (5 if values is EVERYTHING else 3)
    assert kinds["HorizontalPodAutoscaler"] == (2 if values is EVERYTHING else 0)
    [config] = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert {name.removeprefix("HEARKEN_").split("__")[0].lower() for name in config} <= set(
        Settings.model_fields
    )


def test_settings_that_compose_names_exist() -> None:
    found = compose()["services"]["serving-1"]["environment"]
    known = Settings.model_fields
    assert {name.removeprefix("HEARKEN_").split("__")[0].lower() for name in found} <= set(known)


def test_only_those_who_may_reach_vllm_share_its_network() -> None:
    services = compose()["services"]
    reach = {name for name, service in services.items() if "engines" in service.get("networks", [])}
    assert reach == {"serving-1", "serving-2", "vllm-gpu", "vllm-cpu"}
    assert all(not services[name].get("ports") for name in reach)


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    text = (DEPLOY.parent / "docs" / "operations.md").read_text()
    explained = {
        name for group in re.findall(r"\*\*(Hearken[\w, ]+)\.\*\*", text) for name in group.split(", ")
    }
    assert explained == {rule["alert"] for rule in rules}
