"""A step that moves the policy further than it may is shortened, and the learning rate follows."""

from pathlib import Path

import pytest
import torch

from tests.service import write_base
from tests.training import hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample
from trainer.rl.trust_region import GROWTH, SHRINKAGE, TrustRegion

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("trust") / "tiny")


def moved(
    base: Path, size: float, step_kl: float, factor: float = 1.0, prompts: int = 32, logit_scale: float = 1.0
) -> tuple[TrustRegion, float]:
    """Makes a random step of some size; returns what is left of it, as a share."""
    rl = hyperparameters(step_kl=step_kl, learning_rate=1e-3, prompts_per_step=prompts)
    backbone = Backbone(base, rl)
    backbone.model.get_output_embeddings().weight.data *= logit_scale
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    rollouts = sample(backbone, [prompt], SamplingSpec(24, 8), torch.Generator().manual_seed(0))
    region = TrustRegion(backbone, rl, 2 * rl.prompts_per_step * rl.samples_per_prompt)
    region.begin([prompt] * len(rollouts), [rollout.token_ids for rollout in rollouts])
    start, generator = backbone.snapshot(), torch.Generator().manual_seed(1)
    for weight in backbone.trainable():
        weight.data += size * torch.randn(weight.shape, generator=generator)
    after = backbone.snapshot()
    region.end(factor)
    whole = torch.cat([(b - a).flatten() for a, b in zip(start, after, strict=True)])
    left = torch.cat([(b - a).flatten() for a, b in zip(start, backbone.snapshot(), strict=True)])
    torch.testing.assert_close(left, whole * (left.norm() / whole.norm()), rtol=1e-4, atol=1e-6)
    return region, float(left.norm() / whole.norm())


def test_a_step_within_the_region_stays_and_the_rate_grows(base: Path) -> None:
    region, left = moved(base, 0.01, step_kl=1.0)
    assert left == 1
    assert region.learning_rate == pytest.approx(1e-3 * GROWTH)
    assert 0 < region.step_kl[0] < 1


def test_a_step_beyond_it_is_shortened_and_the_rate_falls(base: Path) -> None:
    region, left = moved(base, 0.2, step_kl=0.02)
    ratio = (0.02 / region.step_kl[0]) ** 0.5
    assert left == pytest.approx(ratio, rel=1e-2)
    assert region.learning_rate == pytest.approx(1e-3 * max(ratio, SHRINKAGE), rel=1e-2)


def test_the_limit_of_a_step_with_a_part_of_the_rate_is_smaller(base: Path) -> None:
    region, whole = moved(base, 0.1, step_kl=0.05)
    quarter, left = moved(base, 0.1, step_kl=0.05, factor=0.25)
    assert region.step_kl == quarter.step_kl
    assert left < whole
    assert left == pytest.approx(0.25 * (0.05 / region.step_kl[0]) ** 0.5, rel=1e-2)


def test_the_kl_is_of_the_distributions(base: Path) -> None:
    """k3 on samples of the old policy estimates Σ over tokens of KL(old‖new)."""
    rl = hyperparameters(step_kl=1e9)
    backbone = Backbone(base, rl)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    rollouts = sample(backbone, [prompt], SamplingSpec(16, 4), torch.Generator().manual_seed(0))
    replies = [rollout.token_ids for rollout in rollouts]

    def logprobs(reply: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = backbone.model(torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(1)

    region = TrustRegion(backbone, rl, 2 * rl.prompts_per_step * rl.samples_per_prompt)
    region.begin([prompt] * len(rollouts), [rollout.token_ids for rollout in rollouts])
    old = [logprobs(reply) for reply in replies]
    for weight in backbone.trainable():
        weight.data += 0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    new = [logprobs(reply) for reply in replies]
    region.end(1.0)
    exact = [float((p.exp() * (p - q)).sum()) for p, q in zip(old, new, strict=True)]
    assert region.step_kl[0] == pytest.approx(sum(exact) / len(exact), rel=0.5)


def test_a_step_of_few_samples_may_spend_less(base: Path) -> None:
    region, left = moved(base, 0.2, step_kl=0.08, prompts=4)
    assert left == pytest.approx((0.02 / region.step_kl[0]) ** 0.5, rel=1e-2)


def test_the_rounding_of_large_logits_is_no_step(base: Path) -> None:
    region, left = moved(base, 1e-3, step_kl=0.02, logit_scale=40.0)
    assert left == 1
    assert 0 < region.step_kl[0] < 0.01
