"""The plan of a round needs no weights, and is exact where it can be."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from deploy.cli import app
from schemas.settings import RLSettings, TrainerSettings
from tests.contract.engines import random_model, shared_tokenizer
from trainer.data.hyperparameters import Hyperparameters
from trainer.data.traffic import Traffic
from trainer.evaluation import screening
from trainer.model.backbone import Backbone
from trainer.model.device import Rates
from trainer.planning.fake_model import FakeBackbone
from trainer.planning.machine import Machine
from trainer.planning.op_profiler import ACTIVATIONS, BF16_WEIGHTS, CACHE, LOGITS
from trainer.planning.plan import Plan, plan, token_critic
from trainer.starter import MODEL_DIR

torch.set_num_threads(1)

pytestmark = pytest.mark.slow

RATES = Rates({torch.float32: 1e11, torch.bfloat16: 4e11}, 5e10, 4e9, 2e-6)


@pytest.fixture(autouse=True)
def _known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rates, "measure", classmethod(lambda cls, device, width: RATES))


def here(free: int) -> Machine:
    """A CPU with so many free bytes."""
    return Machine("cpu", False, free, 0, RATES)


@functools.cache
def planned(base: Path, **rl: int | bool | str) -> Plan:
    return plan(TrainerSettings(rl=RLSettings(**{"max_tokens": 24, **rl})), base, 40)


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter with one layer instead of four, and without weights: a plan takes time in proportion."""
    directory = tmp_path_factory.mktemp("base") / "one_layer"
    shutil.copytree(MODEL_DIR, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((MODEL_DIR / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    return directory


@pytest.fixture(params=["llama", "qwen3", "gemma3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory of a base model."""
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    random_model(request.param, len(tokenizer)).save_pretrained(tmp_path)
    return tmp_path


def test_it_counts_as_the_loaded_model_and_needs_no_weights(base: Path) -> None:
    rl = RLSettings(max_tokens=24)
    loaded = Backbone(base, rl)
    (base / "model.safetensors").unlink()
    fake = FakeBackbone(base, rl)
    assert fake.parameter_count == loaded.parameter_count
    assert [weight.shape for weight in fake.trainable()] == [weight.shape for weight in loaded.trainable()]
    weights, found = (
        sum(weight.nbytes for weight in each.model.parameters() if not weight.requires_grad)
        for each in (loaded, fake)
    )
    assert found == weights


def test_the_kv_cache_has_the_size_of_its_shape(one_layer: Path) -> None:
    config = json.loads((one_layer / "config.json").read_text())
    sampling = planned(one_layer).phases["sampling"].peak
    width = config["num_key_value_heads"] * config["head_dim"]
    one_more = 2 * config["num_hidden_layers"] + 1  # keys or values of a layer are copied as they grow
    assert sampling[CACHE] == pytest.approx(one_more * 128 * 64 * width * 4, rel=0.02)
    assert sampling[BF16_WEIGHTS] > 1.5 * 2**20


def test_gradient_checkpointing_needs_less_memory_and_more_time(tiny_base: Path) -> None:
    default = planned(tiny_base)
    kept, recomputed = default.phases["training"], default.toggled
    assert not default.gradient_checkpointing
    assert "gradient_checkpointing" in default.derived
    assert "token_critic" not in default.derived  # its vocabulary is small
    assert "gradient_checkpointing" not in planned(tiny_base, gradient_checkpointing=False).derived
    assert recomputed.peak[ACTIVATIONS] < 0.75 * kept.peak[ACTIVATIONS]
    assert recomputed.flops > 1.2 * kept.flops


def test_the_supervised_stage_counts_beside_every_round_and_grows_with_the_time_that_a_round_may_take(
    one_layer: Path,
) -> None:
    rl = RLSettings(max_tokens=24, prompts_per_step=4)
    short, longer = (
        plan(TrainerSettings(rl=rl, max_round_seconds=seconds), one_layer, 40) for seconds in (1, 4)
    )
    assert short.seconds == pytest.approx(longer.seconds)
    assert longer.supervised.seconds > 2 * short.supervised.seconds > 0


def test_a_gpu_that_is_not_here_has_its_own_memory_and_no_times(one_layer: Path) -> None:
    settings = TrainerSettings(rl=RLSettings(max_tokens=24))
    found = plan(settings, one_layer, 40, Machine.gpu(80))
    assert (found.fits, found.timed, found.free) == (True, False, int(0.95 * 80 * 2**30))
    weights = planned(one_layer).resident["weights of the base"]
    assert found.resident["weights of the base"] == pytest.approx(weights / 2, rel=0.01)  # in bfloat16
    assert BF16_WEIGHTS not in found.phases["training"].peak
    figures = found.as_json()
    assert (figures["seconds"], figures["supervised"]["seconds"], figures["utilisation"]) == (
        None,
        None,
        None,
    )
    assert not plan(settings, one_layer, 40, Machine.gpu(0.001)).fits


def test_gradient_checkpointing_is_derived_where_memory_would_not_do(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((tiny_base / "config.json").read_text())
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2**17}))
    found = {}
    for free in (2**40, 2**29, 2**20):
        monkeypatch.setattr(Machine, "here", classmethod(lambda cls, backbone, free=free: here(free)))
        found[free] = plan(TrainerSettings(rl=RLSettings(max_tokens=24)), base, 400)
    values = [each.derived["gradient_checkpointing"]["value"] for each in found.values()]
    assert (values[0], values[2]) == ("never", "always")
    assert values[1].startswith("above ")
    assert [each.gradient_checkpointing for each in found.values()][::2] == [False, True]


def test_more_and_longer_replies_take_more(one_layer: Path) -> None:
    some = planned(one_layer)
    assert some.fits
    assert not some.savings
    assert planned(one_layer, base_sft_coef=0).seconds < some.seconds
    assert planned(one_layer, samples_per_prompt=16).seconds > 1.4 * some.seconds
    longer = planned(one_layer, max_tokens=48)
    assert longer.peak > some.peak
    assert longer.seconds > 1.3 * some.seconds


def test_logits_of_a_large_vocabulary_are_never_whole(tmp_path: Path) -> None:
    tokenizer = shared_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    random_model("llama", 50_000).save_pretrained(tmp_path)
    whole = 16 * 48 * 50_000 * 4
    few = {"max_tokens": 48, "prompts_per_step": 4}
    found = planned(tmp_path, **few)
    assert 0 < found.phases["training"].peak[LOGITS] < 1.5 * whole

    assert found.derived["token_critic"]["value"] == "instead of sampled returns"
    rl = {**few, "learning_rate": 1.0, "steps_per_round": 1}
    backbone = FakeBackbone(tmp_path, RLSettings(**rl))
    many = Hyperparameters(**{**rl, "prompts_per_step": 32})
    assert token_critic(many, backbone) is None
    assert token_critic(Hyperparameters(**rl), backbone) is not None


def test_another_base_may_have_as_many_probes_as_there_can_be(
    one_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = planned(one_layer).phases["knowledge questions"].seconds
    monkeypatch.setattr(screening, "MAX_PROBES", 16)
    few = plan(TrainerSettings(rl=RLSettings(max_tokens=24)), one_layer, 40).phases["knowledge questions"]
    assert 0 < few.seconds < 0.5 * asked


def test_replies_that_vllm_samples_take_no_time_here(one_layer: Path) -> None:
    assert planned(one_layer, sampler="vllm").phases["sampling"].seconds == 0


@pytest.mark.full
def test_it_names_settings_that_save_memory_if_it_does_not_fit(
    one_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, backbone: here(-(2**40))))
    found = plan(TrainerSettings(rl=RLSettings(gradient_checkpointing=False)), one_layer, 40)
    assert not found.fits
    assert found.savings["trainer.rl.gradient_checkpointing = true"] < found.peak


def test_a_plan_is_of_the_replies_that_people_are_served(
    one_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The memory that this process uses is part of the peak, and grows with every test before this one.
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, backbone: here(2**40)))
    rl = RLSettings(prompts_per_step=4)
    few = Traffic(reply_length=200, longest_reply=400, new_votes=1)
    before, after = (
        plan(TrainerSettings(rl=rl, round_votes=40), one_layer, 40, traffic=traffic, learning_rate=rate)
        for traffic, rate in ((Traffic(), None), (few, 7e-5))
    )
    assert (before.derived["max_tokens"]["value"], after.derived["max_tokens"]["value"]) == (256, 500)
    assert after.derived["learning_rate"]["value"] == 7e-5
    assert after.derived["steps_per_round"]["value"] == 8, "a round begins with more votes than one"
    assert after.peak > 1.2 * before.peak


def test_the_command_prints_json(
    one_layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEARKEN_MODEL", str(one_layer))
    monkeypatch.setenv("HEARKEN_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        app(["train", "--plan", "--json", "--prompt-tokens", "40"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == (0 if found["fits"] else 1)
    assert found["prompt_tokens"] == 40
    assert "there is none" in found["unread"]
    assert found["peak"] > sum(found["resident"].values())
    assert found["seconds"] == pytest.approx(sum(phase["seconds"] for phase in found["phases"].values()))


def test_it_says_the_token_budget_and_the_longest_prompt_and_why(
    one_layer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = planned(one_layer).budget["row"]
    assert planned(one_layer).longest_prompt == context - 24
    assert planned(one_layer).longest_reason == "the context of the base"
    lower = TrainerSettings(rl=RLSettings(max_tokens=24), max_prompt_tokens=30)
    found = plan(lower, one_layer)
    assert (found.longest_prompt, found.prompt_tokens) == (30, 30)
    assert found.longest_reason == "trainer.max_prompt_tokens"


def test_batches_shrink_to_the_memory_that_there_is(one_layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainerSettings(rl=RLSettings(max_tokens=9))
    peaks = {}
    for free in (2**28, 2**33):
        monkeypatch.setattr(Machine, "here", classmethod(lambda cls, backbone, free=free: here(free)))
        found = plan(settings, one_layer)
        peaks[free] = found.peak - found.resident["Python, torch and its kernels"]
        assert found.fits
    assert peaks[2**28] < 0.7 * peaks[2**33]
