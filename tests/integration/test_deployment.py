"""Compose, Helm, Dockerfiles, alerts and dashboard agree with the code and are valid."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import yaml

from deploy.local import vllm
from deploy.local.base_model import download_model
from schemas.settings import RLSettings, Settings, TrainerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "hearken.json"
HELM = DEPLOY / "helm" / "hearken"
KEYS = {"HEARKEN_ADMIN_KEY", "HEARKEN_PUBLIC_KEY"}
READS_FILES = {"serve", "train", "download-model"}
"""Commands that read policies or the base; `test_commands` runs the others without them."""


def compose() -> dict[str, Any]:
    """Returns the services of compose.yaml."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@cache
def helm(*values: str) -> subprocess.CompletedProcess[str]:
    words = [word for value in values for word in ("--set", value)]
    command = [str(Path(sys.executable).parent / "helm"), "template", "hearken", str(HELM), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def rendered(*values: str) -> list[dict[str, Any]]:
    """Returns the rendered manifests."""
    done = helm(*values)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def deployments(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the pod specs by what they run: serving, trainer, …"""
    return {
        manifest["metadata"]["name"].removeprefix("hearken-"): manifest["spec"]["template"]["spec"]
        for manifest in manifests
        if manifest["kind"] == "Deployment"
    }


def flags(words: list[str]) -> list[str]:
    """Returns each flag as `--name=value`, sorted."""
    joined: list[str] = []
    for word in words:
        if word.startswith("--"):
            joined.append(word)
        else:
            joined[-1] += f"={word}"
    return sorted(joined)


def cpu_image() -> tuple[list[str], dict[str, str]]:
    """Returns the entry point and the environment of the CPU image."""
    text = (DEPLOY / "docker" / "vllm-cpu.Dockerfile").read_text().replace("\\\n", "")
    entry = re.search(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)
    variables = re.search(r"^ENV (.*)$", text, re.MULTILINE)
    assert entry is not None
    assert variables is not None
    return json.loads(entry[1]), dict(each.split("=") for each in variables[1].split())


def assert_equal_to_code(
    package: str,
    settings: Settings,
    command: list[str],
    environment: dict[str, str],
    patch: pytest.MonkeyPatch,
) -> None:
    """Asserts that a container starts vLLM as the code does, except for the address: its network is
    private."""
    patch.setattr(vllm, "installed", lambda: package)
    module, *words = vllm.command(settings, 8000)
    assert command[1:3] == ["-m", module]
    words[words.index("--host") + 1] = "0.0.0.0"  # noqa: S104
    assert flags(command[3:]) == flags(words)
    assert environment == vllm.environment(settings)


def duplicates(node: yaml.Node) -> list[str]:
    """Returns duplicate keys. Docker refuses them, while PyYAML keeps the last."""
    if isinstance(node, yaml.SequenceNode):
        return [name for each in node.value for name in duplicates(each)]
    if not isinstance(node, yaml.MappingNode):
        return []
    names = Counter(key.value for key, _ in node.value)
    found = [name for name, count in names.items() if count > 1]
    return found + [name for _, each in node.value for name in duplicates(each)]


def test_compose_has_no_duplicate_keys() -> None:
    node = yaml.compose(COMPOSE.read_text())
    assert node is not None
    assert duplicates(node) == []


@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_compose_starts_vllm_as_the_code_does(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = RLSettings(sampler="vllm")  # Compose has a slot for it, since users may set it
    settings = Settings(model="/data/base", trainer=TrainerSettings(rl=sampling))
    if package == "vllm":
        service = compose()["vllm-gpu"]
        entry, variables = service["entrypoint"], {}
    else:
        service = compose()["vllm-cpu"]
        entry, variables = cpu_image()
    assert_equal_to_code(
        package, settings, entry + service["command"], variables | service["environment"], monkeypatch
    )


@pytest.mark.parametrize("sampler", ["in_process", "vllm"])
@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_helm_starts_vllm_as_the_code_does(
    package: str, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = int(package == "vllm")
    manifests = rendered(f"vllm.gpus={gpus}", f"settings.TRAINER__RL__SAMPLER={sampler}")
    for name, value in config(manifests).items():
        monkeypatch.setenv(name, value)
    [container] = deployments(manifests)["vllm"]["containers"]
    entry, variables = (container["command"], {}) if gpus else cpu_image()
    variables |= {each["name"]: each["value"] for each in container["env"]}
    assert variables.pop("HOME")
    assert variables.pop("USER")
    assert_equal_to_code(package, Settings(), entry + container["args"], variables, monkeypatch)


def config(manifests: list[dict[str, Any]]) -> dict[str, str]:
    [found] = [manifest["data"] for manifest in manifests if manifest["kind"] == "ConfigMap"]
    return dict(found)


def test_the_example_of_compose_leaves_its_defaults_as_they_are() -> None:
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text()))
    lines = (DEPLOY / "compose.env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {name: value for name, value in example.items() if defaults.get(name, value) != value} == {}


def test_the_trainer_is_limited_to_the_gpu_memory_that_vllm_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "vllm")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    services = compose()
    assert vllm.trainer_environment(Settings()).items() <= services["trainer-gpu"]["environment"].items()
    assert services["trainer-gpu"]["deploy"] == services["vllm-gpu"]["deploy"]
    assert "PYTORCH_ALLOC_CONF" not in services["trainer"]["environment"]


EVERYTHING = [
    'kafka.servers={"broker:9092"}', "kafka.tlsSecret=broker", "serving.autoscaling.enabled=true",
    "vllm.autoscaling.enabled=true", "vllm.scrapers[0].namespaceSelector.matchLabels.name=monitoring",
    "vllm.environment.VLLM_LOGGING_LEVEL=WARNING", "trainer.gpus=1", "judge.url=http://judge:8000/v1",
    "storage.className=nfs", "settings.LOG_LEVEL=debug", "ingress.host=chat.example.org",
    "ingress.className=nginx", "ingress.tlsSecret=chat", "signingSecret=signing",
]  # fmt: skip


@pytest.mark.parametrize("values", [[], ["vllm.gpus=0"], EVERYTHING], ids=["default", "cpu", "everything"])
def test_rendered_manifests_are_valid_kubernetes(values: list[str]) -> None:
    """An unknown field is an error."""
    manifests = rendered(*values)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.34", strict=True)
    kinds = Counter(manifest["kind"] for manifest in manifests)
    assert kinds["Deployment"] == (5 if values is EVERYTHING else 3)
    assert kinds["HorizontalPodAutoscaler"] == (2 if values is EVERYTHING else 0)
    assert {name for name in config(manifests) if not is_setting(name)} == set()


def is_setting(variable: str) -> bool:
    model: Any = Settings
    for name in variable.removeprefix("HEARKEN_").lower().split("__"):
        if not hasattr(model, "model_fields") or name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


def test_settings_in_compose_exist() -> None:
    named = {name for service in compose().values() for name in service.get("environment", {})}
    assert {name for name in named if name.startswith("HEARKEN_") and not is_setting(name)} == set()


def test_only_commands_that_read_files_mount_the_data_folder() -> None:
    services = compose().values()
    ours = [service for service in services if service.get("image") in {"hearken-api", "hearken-trainer"}]
    assert len(ours) == 8
    for service in ours:
        mounted = any(":/data" in volume for volume in service.get("volumes", []))
        assert mounted == (service["command"][0] in READS_FILES), service["command"]
    pods = deployments(rendered(*EVERYTHING))
    del pods["vllm"]
    for pod in pods.values():
        for container in pod.get("initContainers", []) + pod["containers"]:
            mounted = any(mount["mountPath"] == "/data" for mount in container["volumeMounts"])
            reads = container["name"] == "base" or container["args"][0] in READS_FILES
            assert mounted == reads, container["name"]


def test_pods_wait_until_the_base_model_is_there_whole(tmp_path: Path) -> None:
    pods, base = deployments(rendered()), tmp_path / "base"
    [command] = {tuple(pods[name]["initContainers"][0]["command"]) for name in ("serving", "vllm")}
    assert pods["trainer"]["initContainers"][0]["args"] == ["download-model", "/data/base"]
    words = [word.replace("/data/base", str(base)) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "Waiting for the base model\n"
            download_model("starter", base)
            assert waiting.wait(60) == 0
        finally:
            waiting.kill()


def test_only_serving_has_the_api_keys() -> None:
    for name, service in compose().items():
        assert (set(service.get("environment", {})) >= KEYS) == name.startswith("serving"), name
        asks = service.get("command", [""])[0] in {"judge", "train"}
        assert ("HEARKEN_JUDGE__KEY" in service.get("environment", {})) == asks, name
    for name, pod in deployments(rendered(*EVERYTHING)).items():
        [container] = pod["containers"]
        assert not any("secretRef" in source for source in container.get("envFrom", []))
        given = {each["name"] for each in container["env"] if "valueFrom" in each}
        assert (given >= KEYS) == (name == "serving"), name
        assert ("HEARKEN_KAFKA__SASL_PASSWORD" in given) == (name in {"relay", "trainer"}), name
        assert ("HEARKEN_JUDGE__KEY" in given) == (name in {"judge", "trainer"}), name


def test_no_secret_of_compose_gets_into_an_image_or_into_git() -> None:
    """Images copy this folder, and the one of serving must not have the key that signs policies."""
    files = re.findall(r"^\w+_FILE=\./(\w+)/", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE)
    secret = {"deploy/compose.env", *(f"deploy/{folder}" for folder in files)}
    assert len(secret) == 2
    for name in (".dockerignore", ".gitignore"):
        ignored = {line.rstrip("/") for line in (DEPLOY.parent / name).read_text().splitlines()}
        assert secret <= ignored, name


def test_only_the_trainer_has_the_key_that_signs_policies() -> None:
    for name, service in compose().items():
        trains = service.get("command", [""])[0] == "train"
        assert ("signing-key" in service.get("secrets", [])) == trains, name
        assert ("trusted-keys" in service.get("secrets", [])) == (trains or name.startswith("serving")), name
    for name, pod in deployments(rendered(*EVERYTHING)).items():
        [container] = pod["containers"]
        keys = [each for each in pod["volumes"] if each["name"] == "signing"]
        mounted = any(mount["mountPath"] == "/signing" for mount in container["volumeMounts"])
        assert bool(keys) == mounted == (name in {"serving", "trainer"}), name
        whole = bool(keys) and "items" not in keys[0]["secret"]
        assert whole == (name == "trainer"), name
        assert whole == any(each["name"] == "HEARKEN_SIGNING__KEY_FILE" for each in container.get("env", []))


def test_only_serving_and_trainer_share_the_network_of_vllm() -> None:
    services = compose()
    reach = {name for name, service in services.items() if "engines" in service.get("networks", [])}
    trainers = {name for name, service in services.items() if service.get("command", [""])[0] == "train"}
    assert reach == {"serving-1", "serving-2", "vllm-gpu", "vllm-cpu"} | trainers
    assert all(not services[name].get("ports") for name in reach)
    assert all("default" not in services[name]["networks"] for name in ("vllm-gpu", "vllm-cpu"))


def test_the_chart_trusts_the_ingress_to_name_visitors() -> None:
    """Else all visitors would share the ingress's address, and its rate limit."""

    def trusted(*values: str) -> Any:
        [settings] = [each for each in rendered(*values) if each["kind"] == "ConfigMap"]
        return json.loads(settings["data"]["HEARKEN_SERVING__TRUSTED_PROXIES"])

    assert "10.0.0.0/8" in trusted()
    assert trusted("serving.trustedProxies={192.0.2.7}") == ["192.0.2.7"]


def test_a_changed_setting_replaces_the_pods_that_read_it() -> None:
    def digests(*values: str) -> dict[str, str]:
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
            for each in rendered(*EVERYTHING, *values)
            if each["kind"] == "Deployment" and each["metadata"]["name"] != "hearken-vllm"
        }

    before, after = digests(), digests("settings.LOG_LEVEL=info")
    assert len(before) == 4
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize("pod", ["trainer", "vllm"])
def test_a_pod_has_its_own_limits_beside_its_gpus(pod: str) -> None:
    manifests = rendered(f"{pod}.gpus=2", f"{pod}.resources.limits.memory=9Gi")
    [container] = deployments(manifests)[pod]["containers"]
    assert container["resources"]["limits"] == {"memory": "9Gi", "nvidia.com/gpu": 2}
    assert container["resources"]["requests"]["cpu"] == "2"


def test_a_base_is_downloaded_to_the_disk_which_may_be_larger_than_the_memory() -> None:
    base = compose()["base"]
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        assert base["environment"][name].startswith("/data/")


def test_the_chart_starts_no_engine_where_some_run_already() -> None:
    manifests = rendered("vllm.urls={http://engines.llm:8000}")
    assert not any(each["metadata"]["name"] == "hearken-vllm" for each in manifests)
    [settings] = [each for each in manifests if each["kind"] == "ConfigMap"]
    assert json.loads(settings["data"]["HEARKEN_VLLM__URLS"]) == ["http://engines.llm:8000"]


def network_policies(*values: str) -> dict[str, dict[str, Any]]:
    """Returns the network policies by what they protect."""
    return {
        each["metadata"]["name"].removeprefix("hearken-"): each["spec"]
        for each in rendered(*values)
        if each["kind"] == "NetworkPolicy"
    }


def test_every_pod_has_a_network_policy_and_no_token_of_the_cluster() -> None:
    policies, pods = network_policies(*EVERYTHING), deployments(rendered(*EVERYTHING))
    chosen = {policy["podSelector"]["matchLabels"].get("hearken") for policy in policies.values()}
    chosen |= set(policies["workers"]["podSelector"]["matchExpressions"][0]["values"])
    assert chosen - {None} == set(pods)
    assert all(pod["automountServiceAccountToken"] is False for pod in pods.values())
    assert "ingress" not in policies["workers"]
    monitoring = "scrapers[0].podSelector.matchLabels.app=prometheus"
    [rule] = network_policies(monitoring)["workers"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
    [open_to_all] = network_policies()["serving"]["ingress"]
    assert set(open_to_all) == {"ports"}
    clients = "serving.clients[0].podSelector.matchLabels.app=ingress"
    [rule] = network_policies(monitoring, clients)["serving"]["ingress"]
    assert len(rule["from"]) == 2


def test_our_containers_are_unprivileged_with_a_read_only_root() -> None:
    for name, service in compose().items():
        if service.get("image") in {"hearken-api", "hearken-trainer"}:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
    for name, pod in deployments(rendered(*EVERYTHING)).items():
        for container in pod.get("initContainers", []) + pod["containers"]:
            security = container["securityContext"]
            assert security["runAsNonRoot"], name
            assert security.get("readOnlyRootFilesystem", name == "vllm"), name
    for file in (DEPLOY / "docker").glob("*.Dockerfile"):
        assert re.search(r"^USER 10001$", file.read_text(), re.MULTILINE), file


@pytest.mark.parametrize(
    ("image", "rooms"),
    [("api", ("schemas", "feedback", "serving")), ("trainer", ("schemas", "feedback", "trainer"))],
)
def test_images_have_the_extras_that_their_code_asks_for(image: str, rooms: tuple[str, ...]) -> None:
    sources = [path.read_text() for room in rooms for path in (DEPLOY.parent / room).rglob("*.py")]
    asked_for = {extra for source in sources for extra in re.findall(r"hearken\[(\w+)\]", source)}
    installed = re.search(r"'\.\[([\w,-]+)\]'", (DEPLOY / "docker" / f"{image}.Dockerfile").read_text())
    assert installed is not None
    assert asked_for <= set(installed[1].split(","))


def test_the_network_policy_admits_serving_trainer_and_scrapers() -> None:
    def admitted(*values: str) -> list[dict[str, Any]]:
        [rule] = network_policies(*values)["vllm"]["ingress"]
        peers: list[dict[str, Any]] = rule["from"]
        return peers

    [only] = admitted()
    assert only["podSelector"]["matchExpressions"][0]["values"] == ["serving", "trainer"]
    assert admitted(*EVERYTHING)[1:] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert "vllm.scrapers" in helm("vllm.autoscaling.enabled=true").stderr


def test_metrics_are_not_served_to_the_outside() -> None:
    manifests = rendered(*EVERYTHING)
    [ingress] = [each for each in manifests if each["kind"] == "Ingress"]
    behind = {
        path["path"]: path["backend"]["service"]["name"]
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    }
    selectors = {
        each["metadata"]["name"]: each["spec"].get("selector")
        for each in manifests
        if each["kind"] == "Service"
    }
    assert selectors[behind["/"]]["hearken"] == "serving"
    assert selectors[behind["/metrics"]] is None
    balanced = (DEPLOY / "Caddyfile").read_text()
    assert re.search(r"@metrics path /metrics /metrics/\*\n\s+respond @metrics 404", balanced)
    replicas = {name for name in compose() if name.startswith("serving")}
    assert set(re.findall(r"(serving-\d):8000", balanced)) == replicas


def queries(part: Any) -> Iterator[str]:
    """Yields every PromQL expression of alerts or dashboard."""
    if isinstance(part, dict):
        if isinstance(part.get("expr"), str):
            yield part["expr"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from queries(inner)


def test_every_query_is_promql() -> None:
    alerts = list(queries(yaml.safe_load(ALERTS.read_text())))
    panels = list(queries(json.loads(DASHBOARD.read_text())))
    assert alerts
    assert panels
    for query in alerts + panels:
        promql_parser.parse(query.replace("$__rate_interval", "5m"))


def test_the_dashboard_is_valid_for_grafana() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    [source] = yaml.safe_load((DEPLOY / "grafana" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel.get("datasource", {}).get("uid") in {source["uid"], None}
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    text = (DEPLOY.parent / "docs" / "alerts.md").read_text()
    assert re.findall(r"^## (Hearken\w+)$", text, re.MULTILINE) == [rule["alert"] for rule in rules]
