"""The policy gradient raises the reward of a tiny model, and the guard takes back steps beyond its limits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from tests.service import write_base
from tests.training import hyperparameters
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Diverged, SamplingSpec, adapter_sampler, sample
from trainer.reward.features import NO_TOKEN, FeatureGroups
from trainer.reward.projection import BaseFeatures, fit_projections
from trainer.reward.scoring import score
from trainer.rl import trust_region
from trainer.rl.advantages import leave_one_out
from trainer.rl.batch import Batch, OptimizeResult, StepStats
from trainer.rl.guard import CheckRecorder, Guard, RecordedChecks
from trainer.rl.objectives import CONFIDENT_KL_SCALE, Objective, PolicyGradient
from trainer.rl.optimize import optimize
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.rl.schedule import lr_factor
from trainer.rl.style_drift import StyleDrift

pytestmark = pytest.mark.slow


torch.set_num_threads(1)

RL = hyperparameters(
    steps_per_round=12, prompts_per_step=8, samples_per_prompt=8, max_tokens=6, no_eos_penalty=0.0,
    kl_coef=0.0, kl_per_reply=50.0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("optimize") / "tiny")


OBJECTIVE = PolicyGradient(leave_one_out, RL.importance_weight_cap)


def likes_low_tokens(features: FeatureGroups) -> torch.Tensor:
    """Share of the different tokens of a reply that have a number below 160."""
    ids = features["tokens"]
    return (ids < 160).sum(1) / (ids != NO_TOKEN).sum(1)


def not_finite(features: FeatureGroups) -> torch.Tensor:
    return torch.full((len(features["length"]),), torch.nan)


class Knowledge:
    """A knowledge check with given answers; it keeps the adapters that it was asked about."""

    def __init__(self, backbone: Backbone, failure: str | None = None, passes_after: int = 0) -> None:
        self.backbone = backbone
        self.failure = failure
        self.passes_after = passes_after
        self.guarded: list[list[torch.Tensor]] = []
        self.asked: list[list[torch.Tensor]] = []

    def guard_failure(self, generator: torch.Generator) -> str | None:
        self.guarded.append(self.backbone.snapshot())
        return self.failure

    def passes(self, generator: torch.Generator) -> bool:
        self.asked.append(self.backbone.snapshot())
        return len(self.asked) > self.passes_after


class RecordingGuard(Guard):
    """A guard that keeps the statistics of all steps, accepted or not."""

    def accepts(self, stats: StepStats) -> bool:
        self.__dict__.setdefault("seen", []).append(stats)
        return super().accepts(stats)


class Recording:
    """An objective without a gradient, which keeps its batches."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        self.batches.append(batch)


def train(
    backbone: Backbone,
    rl: Hyperparameters,
    guard: Guard | None = None,
    reward: ShapedReward | None = None,
    objective: Objective | None = None,
    texts: Sequence[str] = ("hello", "a b c", "tell me"),
) -> OptimizeResult:
    prompts = [backbone.render([{"role": "user", "content": text}]) for text in texts]
    generator = torch.Generator().manual_seed(0)
    sampler = adapter_sampler(backbone, SamplingSpec(rl.samples_per_prompt, rl.max_tokens), generator)
    sample = step_sampler(prompts, rl.prompts_per_step, sampler, generator)
    reward = reward or ShapedReward(likes_low_tokens, rl)
    return optimize(
        backbone, sample, reward, objective or OBJECTIVE, guard or Guard(backbone, rl.kl_per_reply), rl
    )


def run(
    backbone: Backbone,
    rl: Hyperparameters,
    failure: str | None = None,
    min_entropy: float = 0.0,
    style_drift: StyleDrift | None = None,
) -> tuple[list[StepStats], OptimizeResult]:
    """Trains, and returns the statistics of all steps and the result."""
    guard = RecordingGuard(backbone, rl.kl_per_reply, min_entropy, Knowledge(backbone, failure))
    result = train(backbone, rl, guard, ShapedReward(likes_low_tokens, rl, style_drift))
    return guard.__dict__["seen"], result


def test_reward_rises_and_distance_with_it(base: Path) -> None:
    seen, result = run(Backbone(base, RL), RL)
    assert result.stopped is None
    assert len(seen) == RL.steps_per_round
    first, last = (fmean(step.reward for step in part) for part in (seen[:4], seen[-4:]))
    assert last > first + 0.05
    assert abs(seen[0].kl) < 0.01 < seen[-1].kl


def test_above_the_kl_per_reply_nothing_is_kept(base: Path) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    tight = RL.model_copy(update={"kl_per_reply": 1e-6, "steps_per_round": 2, "learning_rate": 0.05})
    _, result = run(backbone, tight)
    assert result.stopped is not None
    assert "above the budget" in result.stopped
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


@pytest.mark.parametrize(("kl", "error", "beyond"), [(9.6, 3.1, False), (9.6, 1.0, True), (7.9, 0.0, False)])
def test_a_kl_that_a_few_replies_carry_is_not_beyond_the_budget(
    base: Path, kl: float, error: float, beyond: bool
) -> None:
    guard = Guard(Backbone(base, RL), kl_budget=8.0)
    within = StepStats(0.0, 0.02, 2.0, 0.1, 0.0, 1.0, 100.0, 1.0)
    guard.accept(within)
    assert (guard.violation(replace(within, kl_per_reply=kl, kl_error=error)) is not None) == beyond


def test_a_step_below_the_least_entropy_is_taken_back(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 6, "learning_rate": 0.1, "warmup_steps": 0})
    backbone = Backbone(base, rl)
    seen, result = run(backbone, rl, min_entropy=4.2)
    assert result.stopped is not None
    assert result.stopped.startswith("entropy of")
    assert min(step.entropy for step in result.steps) >= 4.2 > min(step.entropy for step in seen)
    uniform = float(torch.tensor(backbone.vocab_size).log())
    assert 0.5 * uniform < seen[0].entropy < uniform


def test_lost_knowledge_takes_the_steps_back(base: Path) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    seen, result = run(backbone, RL, failure="it forgot the capital of France")
    assert result.stopped == "it forgot the capital of France"
    assert len(seen) == 4
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


def far(base: Path, rl: Hyperparameters = RL) -> Backbone:
    """An adapter that is some way from the base."""
    backbone = Backbone(base, rl)
    generator = torch.Generator().manual_seed(1)
    for weight in backbone.trainable():
        weight.data += 0.15 * torch.randn(weight.shape, generator=generator)
    return backbone


def test_a_round_that_was_taken_back_has_moved_nothing(base: Path) -> None:
    assert not run(far(base), RL, failure="it forgot the capital of France")[1].moved
    tight = RL.model_copy(update={"kl_per_reply": 1e-6, "steps_per_round": 2})
    assert not run(Backbone(base, RL), tight)[1].moved
    assert run(Backbone(base, RL), RL.model_copy(update={"steps_per_round": 1}))[1].moved


def test_what_begins_above_the_kl_per_reply_may_come_nearer_to_it(base: Path) -> None:
    rl = RL.model_copy(update={"kl_per_reply": 0.01, "kl_coef": 3.0, "prompts_per_step": 32})
    seen, result = run(far(base, rl), rl)
    assert min(step.kl_per_reply for step in seen) > rl.kl_per_reply
    assert result.moved
    assert len(result.steps) > 2
    nearest = seen[0].kl_per_reply
    for step in result.steps:
        assert step.kl_per_reply < 1.1 * nearest
        nearest = min(nearest, step.kl_per_reply)
    assert nearest < seen[0].kl_per_reply


def test_what_begins_below_the_least_entropy_may_rise_towards_it(base: Path) -> None:
    rl = RL.model_copy(update={"kl_coef": 1.0, "steps_per_round": 4})
    seen, result = run(far(base), rl, min_entropy=50.0)
    assert result.moved
    assert result.steps == seen


def test_what_the_guard_goes_back_to_is_not_judged_by_other_samples(base: Path) -> None:
    rl = RL.model_copy(update={"kl_per_reply": 1e-6, "steps_per_round": 4, "learning_rate": 0.05})
    seen, result = run(Backbone(base, rl), rl)
    assert [step in result.steps for step in seen] == [True, False, True, False]
    assert not result.moved


def test_a_round_ends_with_the_mean_of_its_last_three_steps(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 4})
    backbone = Backbone(base, rl)
    knowledge = Knowledge(backbone)
    before: list[list[torch.Tensor]] = []  # the adapter at each step's samples

    def reward(features: FeatureGroups) -> torch.Tensor:
        before.append(backbone.snapshot())
        return likes_low_tokens(features)

    guard = Guard(backbone, rl.kl_per_reply, 0.0, knowledge)
    train(backbone, rl, guard, ShapedReward(reward, rl), texts=["hello"])
    assert (len(before), len(knowledge.guarded)) == (4, 1)
    for found, *last in zip(backbone.snapshot(), *before[2:], *knowledge.guarded, strict=True):
        torch.testing.assert_close(found, torch.stack(last).mean(0))


@pytest.mark.parametrize(("passes_after", "halvings"), [(0, 0), (1, 1), (9, 4)])
def test_lost_knowledge_halves_the_kl_of_the_way(base: Path, passes_after: int, halvings: int) -> None:
    rl = RL.model_copy(update={"steps_per_round": 2})
    backbone = far(base)
    start = backbone.snapshot()
    knowledge = Knowledge(backbone, passes_after=passes_after)
    result = train(backbone, rl, Guard(backbone, rl.kl_per_reply, 0.0, knowledge), texts=["hello"])
    assert result.halvings == halvings
    assert result.as_json()["halvings"] == halvings
    for before, whole, found in zip(start, knowledge.asked[0], backbone.snapshot(), strict=True):
        torch.testing.assert_close(found, before + (whole - before) * 0.5 ** (halvings / 2))


def test_a_round_is_repeated_with_the_knowledge_checks_that_were_kept(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 4})
    found = []
    kept: list[str | bool | None] = []
    for repeats in (False, True):
        backbone = far(base)
        checks = CheckRecorder(RecordedChecks(kept) if repeats else Knowledge(backbone, passes_after=1))
        result = train(backbone, rl, Guard(backbone, rl.kl_per_reply, 0.0, checks), texts=["hello"])
        kept = checks.results
        found.append((result.halvings, kept, backbone.snapshot()))
    (halvings, first_checks, first), (again, second_checks, second) = found
    assert (halvings, first_checks) == (again, second_checks) == (1, [None, False, True])
    assert all(map(torch.equal, first, second))
    with pytest.raises(Diverged):
        RecordedChecks([]).passes(torch.Generator())


def test_lost_knowledge_raises_the_kl_coef_of_confident_tokens_only(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 1, "kl_coef": 0.2})
    backbone = Backbone(base, rl)
    objective = Recording()
    train(backbone, rl, Guard(backbone, rl.kl_per_reply, knowledge_used=1.2), objective=objective)
    found = [(batch.kl_coef, batch.confident_kl_coef) for batch in objective.batches]
    assert found == [pytest.approx((0.2, CONFIDENT_KL_SCALE * 0.8))]


def test_a_reply_without_an_end_token_has_less_reward(base: Path) -> None:
    rl = RL.model_copy(update={"steps_per_round": 1, "samples_per_prompt": 32, "no_eos_penalty": 3.0})
    objective = Recording()
    reward = ShapedReward(lambda features: torch.ones(len(features["length"])), rl)
    assert not train(Backbone(base, rl), rl, reward=reward, objective=objective, texts=["hello"]).moved
    [batch] = objective.batches
    ended = torch.tensor([rollout.ended for rollout in batch.rollouts]).view(batch.rewards_PK.shape)
    assert 0 < int(ended.sum()) < ended.numel()
    assert torch.equal(batch.rewards_PK, torch.where(ended, 1.0, -2.0))


def test_a_reward_that_is_not_finite_moves_nothing(base: Path) -> None:
    backbone = Backbone(base, RL)
    before = backbone.snapshot()
    with pytest.raises(FloatingPointError):
        train(backbone, RL, reward=ShapedReward(not_finite, RL))
    assert all(torch.equal(one, two) for one, two in zip(before, backbone.snapshot(), strict=True))


def test_the_learning_rate_warms_up_and_settles() -> None:
    rl = hyperparameters(steps_per_round=8, warmup_steps=3, learning_rate=1.0)
    rates = [lr_factor(step, rl) for step in range(8)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.36)


def test_drift_is_held_by_its_penalty(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base's rewards are all equal, so every change counts as drift, and the penalty holds it."""
    monkeypatch.setattr(trust_region, "GROWTH", 1.0)
    backbone = Backbone(base, RL)
    prompt = backbone.render([{"role": "user", "content": "hello"}])
    replies = sample(backbone, [prompt], SamplingSpec(64, RL.max_tokens), torch.Generator().manual_seed(1))
    features = score(backbone, [prompt] * 64, [reply.token_ids for reply in replies]).features

    def drifted(penalty: float) -> StepStats:
        rl = RL.model_copy(update={"style_drift_coef": penalty, "steps_per_round": 16})
        drift = StyleDrift(
            fit_projections(BaseFeatures(features, 64), components=24), features, torch.zeros(64)
        )
        return run(Backbone(base, rl), rl, style_drift=drift)[0][-1]

    free, held = drifted(0.0), drifted(3.0)
    assert held.style_drift < 0.5 * free.style_drift
    assert held.kl < 0.5 * free.kl
    assert held.reward < free.reward
