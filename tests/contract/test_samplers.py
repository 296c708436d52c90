"""The contract of samplers: they return replies of the current adapter with its log-probabilities."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from engines import World

from schemas.errors import EngineError
from schemas.policies import TRAINING
from schemas.settings import RLSettings
from serving.embedded import sampling as embedded
from trainer.model import vllm_rollouts
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Sampler, SamplingSpec, adapter_sampler, sample
from trainer.model.vllm_rollouts import VllmEngine

torch.set_num_threads(1)

REPLIES, MAX_TOKENS = 4, 24
SPEC = SamplingSpec(REPLIES, MAX_TOKENS)

AS_SERVED = SamplingSpec(REPLIES, MAX_TOKENS, temperature=0.5, top_p=0.8)

PENALISED = SamplingSpec(
    REPLIES, MAX_TOKENS, temperature=0.9, top_k=4, min_p=0.1,
    repetition_penalty=1.3, presence_penalty=0.3, frequency_penalty=0.2,
)  # fmt: skip

MakeSampler = Callable[..., Sampler]
"""Of a backbone, a seed and, where it is not SPEC, a SamplingSpec."""


@pytest.fixture
def backbone(world: World) -> Backbone:
    """A backbone whose adapter is far from the base."""
    backbone = Backbone(world.base, RLSettings(rank=8, alpha=16))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in backbone.trainable():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
    return backbone


@pytest.fixture(params=["in_process", "vllm"])
def sampler(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSampler:
    def make(backbone: Backbone, seed: int, spec: SamplingSpec = SPEC) -> Sampler:
        if request.param == "vllm":
            backbone.engine = VllmEngine([request.getfixturevalue("vllm_url")], tmp_path)
        return adapter_sampler(backbone, spec, torch.Generator().manual_seed(seed))

    return make


def prompts(backbone: Backbone) -> list[list[int]]:
    texts = ["Hello!", "Tell me about the cat, the mat and the tea.", "Paris? 🙂"]
    return [backbone.render([{"role": "user", "content": text}]) for text in texts]


def test_each_prompt_gets_its_replies_in_order(backbone: Backbone, sampler: MakeSampler) -> None:
    rollouts = sampler(backbone, 0)(prompts(backbone))
    assert [rollout.prompt for rollout in rollouts] == [0] * REPLIES + [1] * REPLIES + [2] * REPLIES
    assert all(0 < len(rollout.token_ids) <= MAX_TOKENS for rollout in rollouts)
    assert len({tuple(rollout.token_ids) for rollout in rollouts}) > REPLIES


def test_logprobs_are_the_adapters(backbone: Backbone, sampler: MakeSampler) -> None:
    with backbone.full_precision():
        rollouts = sampler(backbone, 1)(prompts(backbone))
    for rollout in rollouts:
        batch = backbone.pad([prompts(backbone)[rollout.prompt]], [rollout.token_ids])
        with torch.no_grad(), backbone.full_precision():
            expected = backbone.logprobs_BR(batch)[0, : len(rollout.token_ids)]
            with backbone.reference():
                of_base = backbone.logprobs_BR(batch)[0, : len(rollout.token_ids)]
        found = torch.tensor(rollout.logprobs)
        assert float((found - expected).abs().max()) < 0.02
        assert float((found - of_base).abs().mean()) > 0.05


def test_replies_are_sampled_as_people_are_served(backbone: Backbone, sampler: MakeSampler) -> None:
    """Each token is of the nucleus at the temperature, and its log-probability is at the temperature, too."""
    with backbone.full_precision():
        rollouts = sampler(backbone, 1, AS_SERVED)(prompts(backbone))
    for rollout in rollouts:
        prompt = prompts(backbone)[rollout.prompt]
        ids = torch.tensor([prompt + rollout.token_ids])
        with torch.no_grad():
            logits_RV = backbone.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        logp_RV = (logits_RV / AS_SERVED.temperature).log_softmax(-1)
        expected_R = logp_RV.gather(1, torch.tensor(rollout.token_ids)[:, None]).squeeze(1)
        assert rollout.logprobs == pytest.approx(expected_R.tolist(), abs=0.02)
        likelier_R = logp_RV.exp().where(logp_RV > expected_R[:, None] + 0.02, 0).sum(1)
        assert float(likelier_R.max()) < AS_SERVED.top_p + 0.02


def test_penalties_and_cuts_are_those_of_serving(backbone: Backbone, sampler: MakeSampler) -> None:
    """Each token is among those that may be drawn after the penalties; its log-probability is from before."""
    setting = embedded.Sampling(
        repetition_penalty=PENALISED.repetition_penalty,
        presence_penalty=PENALISED.presence_penalty,
        frequency_penalty=PENALISED.frequency_penalty,
    )
    with backbone.full_precision():
        rollouts = sampler(backbone, 1, PENALISED)(prompts(backbone))
    for rollout in rollouts:
        prompt, reply = prompts(backbone)[rollout.prompt], rollout.token_ids
        with torch.no_grad():
            logits_RV = backbone.model(input_ids=torch.tensor([prompt + reply])).logits[0].float()
        for place, token in enumerate(reply):
            logits_V = logits_RV[len(prompt) - 1 + place]
            expected = float((logits_V / PENALISED.temperature).log_softmax(0)[token])
            assert rollout.logprobs[place] == pytest.approx(expected, abs=0.02)
            [scores_V] = embedded._penalised(logits_V[None], [setting], [prompt], [Counter(reply[:place])])
            least = scores_V.topk(PENALISED.top_k).values[-1]
            likely = scores_V.max() + PENALISED.temperature * math.log(PENALISED.min_p)
            assert scores_V[token] > max(least, likely) - 0.02


def test_a_reply_has_ended_if_its_last_token_ends_it(backbone: Backbone, sampler: MakeSampler) -> None:
    with torch.no_grad():
        for weight in backbone.trainable():
            weight.zero_()  # the base of these tests ends soon enough
    rollouts = [each for seed in range(4) for each in sampler(backbone, seed)(prompts(backbone))]
    for rollout in rollouts:
        assert rollout.ended == (rollout.token_ids[-1] in backbone.eos_ids)
        assert not set(rollout.token_ids[:-1]) & set(backbone.eos_ids)
        assert rollout.ended or len(rollout.token_ids) == MAX_TOKENS


def test_a_step_samples_from_the_current_adapter(backbone: Backbone, sampler: MakeSampler) -> None:
    ask = sampler(backbone, 2)
    ask(prompts(backbone))
    with torch.no_grad():
        for weight in backbone.trainable():
            weight.zero_()
    with backbone.full_precision():
        [first, *_] = ask(prompts(backbone))
    batch = backbone.pad([prompts(backbone)[0]], [first.token_ids])
    with torch.no_grad(), backbone.full_precision(), backbone.reference():
        of_base = backbone.logprobs_BR(batch)[0, : len(first.token_ids)]
    assert float((torch.tensor(first.logprobs) - of_base).abs().max()) < 0.02


def test_the_base_and_the_most_likely_tokens_are_sampled_alike(
    backbone: Backbone, sampler: MakeSampler
) -> None:
    """Inside `reference` replies are the base's, and greedy replies are the same on every engine, with
    penalties too."""
    asked, greedy = prompts(backbone), SamplingSpec(1, MAX_TOKENS, greedy=True, logprobs=False)
    specs = [greedy, replace(PENALISED, samples_per_prompt=1, greedy=True)]
    with backbone.full_precision():
        here = [each for spec in specs for each in sample(backbone, asked, spec, torch.Generator())]
        sampler(backbone, 3)  # which sets the engine
        there = [each for spec in specs for each in sample(backbone, asked, spec, torch.Generator())]
        with backbone.reference():
            rollouts = sample(backbone, asked, SPEC, torch.Generator().manual_seed(4))
    assert [each.token_ids for each in here] == [each.token_ids for each in there]
    assert [each.token_ids for each in here[:3]] != [each.token_ids for each in here[3:]]
    for rollout in rollouts:
        batch = backbone.pad([asked[rollout.prompt]], [rollout.token_ids])
        with torch.no_grad(), backbone.full_precision(), backbone.reference():
            expected = backbone.logprobs_BR(batch)[0, : len(rollout.token_ids)]
        assert float((torch.tensor(rollout.logprobs) - expected).abs().max()) < 0.02


def test_nothing_is_left_on_a_server_or_the_disk(backbone: Backbone, vllm_url: str, tmp_path: Path) -> None:
    backbone.engine = VllmEngine([vllm_url], tmp_path)
    for _ in range(6):  # more than there are adapter slots
        sample(backbone, prompts(backbone), SPEC, torch.Generator())
    models = httpx.get(f"{vllm_url}/v1/models").json()["data"]
    assert not [model["id"] for model in models if model["id"].startswith(TRAINING)]
    assert list(tmp_path.iterdir()) == []


def test_the_base_is_asked_for_as_an_adapter(
    backbone: Backbone, vllm_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    call = vllm_rollouts._call

    def noted(client: httpx.Client, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        asked.append((body or {}).get("model", TRAINING))
        return call(client, method, url, body)

    monkeypatch.setattr(vllm_rollouts, "_call", noted)
    backbone.engine = VllmEngine([vllm_url], tmp_path)
    with backbone.reference():
        sample(backbone, prompts(backbone), SPEC, torch.Generator())
    assert len(asked) >= len(prompts(backbone))
    assert all(name.startswith(TRAINING) for name in asked)


def test_a_server_that_is_away_raises_an_engine_error(backbone: Backbone, tmp_path: Path) -> None:
    backbone.engine = VllmEngine(["http://127.0.0.1:9"], tmp_path)
    with pytest.raises(EngineError, match="cannot be reached"):
        sample(backbone, prompts(backbone), SPEC, torch.Generator())
    assert list(tmp_path.iterdir()) == []
