"""The supervised stage learns demonstrations, stops by held-out ones, and stays within the guard's limits."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.service import write_base
from tests.training import hyperparameters
from trainer.data.demonstrations import HELD_OUT, split
from trainer.data.examples import Reply
from trainer.data.hyperparameters import Hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, adapter_sampler, replay
from trainer.reward.features import FeatureGroups
from trainer.rl.guard import Guard
from trainer.rl.reward_shaping import ShapedReward
from trainer.rl.sampling import step_sampler
from trainer.rl.sft import Demonstration, nll
from trainer.rl.supervised import BATCH_SIZE, MAX_BACKTRACKS, MAX_EPOCHS, SupervisedResult, SupervisedStage

torch.set_num_threads(1)

WORDS = ["red", "blue", "green", "yellow", "tree", "river", "stone", "cloud"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("supervised") / "tiny")


def rl_with(**values: object) -> Hyperparameters:
    return hyperparameters(
        **{"prompts_per_step": 2, "samples_per_prompt": 4, "max_tokens": 8, "kl_per_reply": 50.0, **values}
    )


def shown(backbone: Backbone, count: int, reply: str, first: int = 0) -> list[Demonstration]:
    """Demonstrations of one reply to many prompts."""
    found = []
    for number in range(first, first + count):
        text = f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} {number}"
        prompt = backbone.render([{"role": "user", "content": text}])
        found.append(Demonstration(prompt, backbone.encode_reply(reply), 1.0))
    return found


def no_reward(features: FeatureGroups) -> torch.Tensor:
    return torch.zeros(len(features["length"]))


def run(
    backbone: Backbone, training: Sequence[Demonstration], held_out: Sequence[Demonstration],
    rl: Hyperparameters, guard: Guard | None = None, rollouts: Sequence[list[Rollout]] | None = None,
) -> SupervisedResult:  # fmt: skip
    sampler = adapter_sampler(backbone, SamplingSpec(4, 8), torch.Generator().manual_seed(1))
    if rollouts is not None:
        sampler = replay(rollouts)
    prompts = [each.prompt_ids for each in training]
    sample = step_sampler(prompts, rl.prompts_per_step, sampler, torch.Generator().manual_seed(2))
    stage = SupervisedStage(
        backbone, rl, guard or Guard(backbone, rl.kl_per_reply), sample, ShapedReward(no_reward, rl)
    )
    return stage.run(training, held_out, torch.Generator().manual_seed(3))


def test_held_out_demonstrations_become_likelier(base: Path) -> None:
    rl = rl_with(learning_rate=5e-3)
    backbone = Backbone(base, rl)
    held_out = shown(backbone, 4, "the sky", first=100)
    before = nll(backbone, held_out, 1.0)
    result = run(backbone, shown(backbone, 40, "the sky"), held_out, rl)
    assert result.moved
    assert result.kept_steps > 0
    assert nll(backbone, held_out, 1.0) == pytest.approx(min(result.held_out_loss), abs=1e-3)
    assert min(result.held_out_loss) < before - 1
    assert result.held_out_loss[0] == pytest.approx(before, abs=1e-3)
    assert result.steps <= MAX_EPOCHS * -(-40 // BATCH_SIZE)


def test_the_same_demonstrations_give_the_same_bytes(base: Path) -> None:
    rl, found = rl_with(learning_rate=5e-3), []
    rollouts = None
    for _ in range(2):
        backbone = Backbone(base, rl)
        training, held_out = shown(backbone, 20, "the sky"), shown(backbone, 3, "the sky", first=100)
        result = run(backbone, training, held_out, rl, rollouts=rollouts)
        rollouts = result.rollouts
        found.append(backbone.snapshot())
    assert all(map(torch.equal, *found))


def test_what_held_out_demonstrations_contradict_is_not_learned(base: Path) -> None:
    """The loss on the held-out ones rises from the first step on: the adapter stays what it was."""
    rl = rl_with(learning_rate=5e-3, kl_per_reply=1e9)
    backbone = Backbone(base, rl)
    before = backbone.snapshot()
    held_out = shown(backbone, 4, "zyxw vuts rqpo", first=100)
    result = run(backbone, shown(backbone, 40, "aaaa"), held_out, rl)
    if result.kept_steps == 0:
        assert not result.moved
        assert all(map(torch.equal, before, backbone.snapshot()))
    assert nll(backbone, held_out, 1.0) <= result.held_out_loss[0] + 1e-3


def test_the_guard_takes_back_what_goes_too_far(base: Path) -> None:
    """The way is halved until the policy is within the budget, and ends when that does not help."""
    rl = rl_with(learning_rate=5e-2, kl_per_reply=3.0)
    backbone = Backbone(base, rl)
    guard = Guard(backbone, rl.kl_per_reply)
    result = run(
        backbone, shown(backbone, 64, "the sky"), shown(backbone, 4, "the sky", first=100), rl, guard
    )
    assert guard.steps_back > 0
    assert all(each.kl_per_reply <= rl.kl_per_reply for each in guard.accepted)
    assert result.kl_per_reply <= rl.kl_per_reply
    checks_and_backtracks = len(result.rollouts) - len(guard.accepted)
    assert checks_and_backtracks <= guard.steps_back + MAX_BACKTRACKS
    nothing_allowed = Backbone(base, rl)
    low = rl_with(learning_rate=5e-2, kl_per_reply=1e-9)
    stopped = run(
        nothing_allowed, shown(nothing_allowed, 64, "the sky"), shown(nothing_allowed, 4, "the sky", 100), low
    )
    assert stopped.stopped is not None
    assert "KL" in stopped.stopped
    assert not stopped.moved


class Forgets:
    """A knowledge check that fails from the first question on."""

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once

    def guard_failure(self, generator: torch.Generator) -> str | None:
        return "too much was forgotten" if self.at_once else None

    def passes(self, generator: torch.Generator) -> bool:
        return False


@pytest.mark.parametrize(("at_once", "why"), [(True, "forgotten"), (False, "cost more knowledge")])
def test_what_costs_knowledge_is_taken_back(base: Path, at_once: bool, why: str) -> None:
    rl = rl_with(learning_rate=5e-3)
    backbone = Backbone(base, rl)
    guard = Guard(backbone, rl.kl_per_reply, 0.0, Forgets(at_once=at_once))
    held_out = shown(backbone, 4, "the sky", first=100)
    result = run(backbone, shown(backbone, 40, "the sky"), held_out, rl, guard)
    assert not result.moved
    assert result.stopped is not None
    assert why in result.stopped


def test_steps_stay_within_the_trust_region(base: Path) -> None:
    rl = rl_with(learning_rate=5e-2, step_kl=0.1)
    backbone = Backbone(base, rl)
    result = run(backbone, shown(backbone, 64, "the sky"), shown(backbone, 4, "the sky", first=100), rl)
    assert result.step_kl[-1] < result.step_kl[0] / 4, "the learning rate followed"


def test_prompts_are_in_one_part_and_those_of_the_gate_held_out() -> None:
    replies = [Reply([number // 2], [number]) for number in range(60)]
    training, held_out = split(replies, [[3], [999]])
    assert sorted([*training, *held_out], key=lambda each: each.token_ids) == replies
    kept = {tuple(each.prompt_ids) for each in held_out}
    assert not kept & {tuple(each.prompt_ids) for each in training}
    assert kept == {(0,), (HELD_OUT,), (2 * HELD_OUT,), (3,)}


@pytest.mark.parametrize("replies", [[], [Reply([1], [2])], [Reply([1], [2]), Reply([1], [3])]])
def test_demonstrations_of_one_prompt_are_not_enough(replies: list[Reply]) -> None:
    assert split(replies, []) == ([], [])
