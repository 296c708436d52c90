"""The policy gradient on a tiny model: it moves towards the reward, and the guard takes back what it must."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest
import torch

from schemas.settings import RLSettings
from tests.service import write_base
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, in_process_sampler, sample
from trainer.reward.features import FeatureGroups
from trainer.reward.projection import BaseFeatures, fit_projections
from trainer.reward.scoring import score
from trainer.rl.losses import leave_one_out
from trainer.rl.objectives import HELD, PolicyGradient, Samples
from trainer.rl.optimize import Improvement, Step, improve, learning_rate
from trainer.rl.style_drift import Drift

torch.set_num_threads(1)

RL = RLSettings(
    steps_per_round=12, prompts_per_step=8, samples_per_prompt=8, max_tokens=6, no_eos_penalty=0.0,
    kl_coef=0.0, kl_budget=50.0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("improve") / "tiny")


OBJECTIVE = PolicyGradient(leave_one_out, RL.importance_weight_cap)


def likes_low_tokens(features: FeatureGroups) -> torch.Tensor:
    """Share of the different tokens of a reply that have a number below 160."""
    return features["tokens"][:, :160].float().sum(1) / features["tokens"].float().sum(1)


def nonsense(features: FeatureGroups) -> torch.Tensor:
    return torch.full((len(features["length"]),), torch.nan)


def run(
    backbone: Backbone,
    rl: RLSettings,
    guard: str | None = None,
    least_entropy: float = 0.0,
    drift: Drift | None = None,
) -> tuple[list[Step], str | None]:
    seen, result = run_whole(backbone, rl, guard, least_entropy, drift)
    return seen, result.stopped


def run_whole(
    backbone: Backbone,
    rl: RLSettings,
    guard: str | None = None,
    least_entropy: float = 0.0,
    drift: Drift | None = None,
) -> tuple[list[Step], Improvement]:
    seen: list[Step] = []
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in ("hello", "a b c", "tell me")]
    generator = torch.Generator().manual_seed(0)
    result = improve(
        backbone, prompts, likes_low_tokens, rl, generator, OBJECTIVE,
        in_process_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator),
        lambda number, step: seen.append(step), lambda: guard, least_entropy=least_entropy, drift=drift,
    )  # fmt: skip
    return seen, result


def test_reward_rises_and_distance_with_it(base: Path) -> None:
    seen, stopped = run(Backbone(base, RL), RL)
    assert stopped is None
    assert len(seen) == RL.steps_per_round
    first, last = (fmean(step.reward for step in part) for part in (seen[:4], seen[-4:]))
    assert last > first + 0.05
    assert abs(seen[0].kl) < 0.01 < seen[-1].kl


def test_above_the_kl_budget_nothing_is_kept(base: Path) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    tight = RL.model_copy(update={"kl_budget": 1e-6, "steps_per_round": 2, "learning_rate": 0.05})
    _, stopped = run(backbone, tight)
    assert stopped is not None
    assert "above the budget" in stopped
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


def test_a_step_below_the_least_entropy_is_taken_back(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 6, "learning_rate": 0.1, "warmup_steps": 0})
    backbone = Backbone(base, rl)
    seen, result = run_whole(backbone, rl, least_entropy=4.2)
    assert result.stopped is not None
    assert result.stopped.startswith("entropy of")
    assert min(step.entropy for step in result.steps) >= 4.2 > min(step.entropy for step in seen)
    uniform = float(torch.tensor(backbone.vocab_size).log())
    assert 0.5 * uniform < seen[0].entropy < uniform


def test_lost_knowledge_takes_the_steps_back(base: Path) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    seen, stopped = run(backbone, RL, guard="it forgot the capital of France")
    assert stopped == "it forgot the capital of France"
    assert len(seen) == 4
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


def far(base: Path, rl: RLSettings = RL) -> Backbone:
    """An adapter that is some way from the base."""
    backbone = Backbone(base, rl)
    generator = torch.Generator().manual_seed(1)
    for weight in backbone.trainable():
        weight.data += 0.15 * torch.randn(weight.shape, generator=generator)
    return backbone


def test_a_round_that_was_taken_back_has_moved_nothing(base: Path) -> None:
    assert not run_whole(far(base), RL, guard="it forgot the capital of France")[1].moved
    tight = RL.model_copy(update={"kl_budget": 1e-6, "steps_per_round": 2})
    assert not run_whole(Backbone(base, RL), tight)[1].moved
    assert run_whole(Backbone(base, RL), RL.model_copy(update={"steps_per_round": 1}))[1].moved


def test_what_begins_above_the_kl_budget_may_come_nearer_to_it(base: Path) -> None:
    rl = RL.model_copy(update={"kl_budget": 0.01, "kl_coef": 3.0, "steps_per_round": 8})
    seen, result = run_whole(far(base, rl), rl)
    assert min(step.kl for step in seen) > rl.kl_budget
    assert result.moved
    assert len(result.steps) > 2
    nearest = seen[0].kl
    for step in result.steps:
        assert step.kl < 1.1 * nearest
        nearest = min(nearest, step.kl)
    assert nearest < seen[0].kl


def test_what_begins_below_the_least_entropy_may_rise_towards_it(base: Path) -> None:
    rl = RL.model_copy(update={"kl_coef": 1.0, "steps_per_round": 4})
    seen, result = run_whole(far(base), rl, least_entropy=50.0)
    assert result.moved
    assert result.steps == seen


def test_what_the_guard_goes_back_to_is_not_judged_by_other_samples(base: Path) -> None:
    rl = RL.model_copy(update={"kl_budget": 1e-6, "steps_per_round": 4, "learning_rate": 0.05})
    seen, result = run_whole(Backbone(base, rl), rl)
    assert [step in result.steps for step in seen] == [True, False, True, False]
    assert not result.moved


def test_a_round_hands_on_the_mean_of_its_last_three_steps(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 4})
    backbone = Backbone(base, rl)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    generator = torch.Generator().manual_seed(0)
    sampler = in_process_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator)
    seen: list[list[torch.Tensor]] = []

    def watched(prompts: Sequence[list[int]]) -> list[Rollout]:
        seen.append(backbone.snapshot())
        return sampler(prompts)

    improve(
        backbone, [prompt], likes_low_tokens, rl, generator, OBJECTIVE, watched,
        guard=lambda: seen.append(backbone.snapshot()),
    )  # fmt: skip
    assert len(seen) == 5
    for found, *last in zip(backbone.snapshot(), *seen[2:], strict=True):
        torch.testing.assert_close(found, torch.stack(last).mean(0))


@pytest.mark.parametrize(("enough_after", "halvings"), [(0, 0), (1, 1), (9, 2)])
def test_where_it_knows_too_little_half_of_the_way_is_taken_back(
    base: Path, enough_after: int, halvings: int
) -> None:
    rl = RL.model_copy(update={"steps_per_round": 2})
    backbone = far(base)
    start = backbone.snapshot()
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    generator = torch.Generator().manual_seed(0)
    asked: list[list[torch.Tensor]] = []

    def knows() -> bool:
        asked.append(backbone.snapshot())
        return len(asked) > enough_after

    result = improve(
        backbone, [prompt], likes_low_tokens, rl, generator, OBJECTIVE,
        in_process_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator),
        knows=knows,
    )  # fmt: skip
    assert result.halvings == halvings
    assert result.figures()["halvings"] == halvings
    for before, whole, found in zip(start, asked[0], backbone.snapshot(), strict=True):
        torch.testing.assert_close(found, before + (whole - before) * 0.5**halvings)


def test_lost_knowledge_makes_only_what_holds_it_dearer(base: Path) -> None:
    class Listening:
        def descend(self, backbone: Backbone, samples: Samples) -> None:
            heard.append((samples.beta, samples.held))

    heard: list[tuple[float, float]] = []
    rl = RL.model_copy(update={"steps_per_round": 1, "kl_coef": 0.2})
    backbone = Backbone(base, rl)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    generator = torch.Generator().manual_seed(0)
    improve(
        backbone, [prompt], likes_low_tokens, rl, generator, Listening(),
        in_process_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator),
        forgotten=1.2,
    )  # fmt: skip
    assert heard == [pytest.approx((0.2, HELD * 0.8))]


def test_a_reply_that_does_not_end_is_worth_less(base: Path) -> None:
    class Listening:
        def descend(self, backbone: Backbone, samples: Samples) -> None:
            heard.append(samples)

    heard: list[Samples] = []
    rl = RL.model_copy(update={"steps_per_round": 1, "samples_per_prompt": 32, "no_eos_penalty": 3.0})
    backbone = Backbone(base, rl)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    generator = torch.Generator().manual_seed(0)
    sampler = in_process_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator)
    result = improve(
        backbone,
        [prompt],
        lambda features: torch.ones(len(features["length"])),
        rl,
        generator,
        Listening(),
        sampler,
    )
    assert not result.moved
    [samples] = heard
    ended = torch.tensor([rollout.ended for rollout in samples.rollouts]).view(samples.rewards_PK.shape)
    assert 0 < int(ended.sum()) < ended.numel()
    assert torch.equal(samples.rewards_PK, torch.where(ended, 1.0, -2.0))


def test_a_reward_that_is_no_number_moves_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    monkeypatch.setitem(globals(), "likes_low_tokens", nonsense)
    with pytest.raises(FloatingPointError):
        run(backbone, RL)
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


def test_the_learning_rate_warms_up_and_settles() -> None:
    rl = RLSettings(steps_per_round=8, warmup_steps=3, learning_rate=1.0)
    rates = [learning_rate(step, rl) for step in range(8)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.36)


def test_drift_is_held_by_its_penalty(base: Path) -> None:
    """With a drift that knows of no reward, whatever is learned is drift: held, it soon comes to a rest."""
    backbone = Backbone(base, RL)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    replies = sample(backbone, [prompt], SamplingSpec(64, RL.max_tokens), torch.Generator().manual_seed(1))
    features = score(backbone, [prompt] * 64, [reply.token_ids for reply in replies]).features

    def drifted(penalty: float) -> Step:
        rl = RL.model_copy(update={"style_drift_coef": penalty, "steps_per_round": 16})
        drift = Drift(fit_projections(BaseFeatures(features, 64), components=24), features, torch.zeros(64))
        return run(Backbone(base, rl), rl, drift=drift)[0][-1]

    free, held = drifted(0.0), drifted(3.0)
    assert held.drift < 0.5 * free.drift
    assert held.kl < 0.5 * free.kl
    assert held.reward < free.reward
