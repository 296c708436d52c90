"""Edits and comments teach a tiny model on its own samples."""

import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.service import write_base
from tests.training import hyperparameters
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, adapter_sampler
from trainer.model.token_budget import TokenBudget
from trainer.reward.scoring import score
from trainer.rl.batch import Batch
from trainer.rl.edits import Edit, EditDraw, WithEdits, prompt_with_comment, prompt_with_edit
from trainer.rl.sampling import step_sampler

torch.set_num_threads(1)

RL = hyperparameters(prompts_per_step=3, samples_per_prompt=4, max_tokens=8)
Way = Literal["self_distillation", "preference"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("edits") / "tiny")


@pytest.fixture
def backbone(base: Path) -> Backbone:
    return Backbone(base, RL)


class Nothing:
    def backward(self, backbone: Backbone, batch: Batch) -> None:
        pass


def edits_of(backbone: Backbone, weights: tuple[float, ...] = (1.0, 1.0)) -> list[Edit]:
    found = []
    for index, weight in enumerate(weights):
        prompt = backbone.render([{"role": "user", "content": f"what {index}"}])
        edited = backbone.encode_reply(["red", "blue bird", "stone"][index])
        found.append(Edit(prompt, edited, prompt_with_edit(prompt, edited), weight))
    return found


def batch_of(backbone: Backbone, draw: EditDraw) -> Batch:
    """The step's samples: those to the prompts of the edits come first."""
    others = [backbone.render([{"role": "user", "content": text}]) for text in ("hello", "tell", "a b c")]
    sampler = adapter_sampler(backbone, SamplingSpec(4, 8), torch.Generator().manual_seed(0))
    prompts, rollouts = step_sampler(others, 3, sampler, torch.Generator().manual_seed(0), draw)()
    scored = score(backbone, prompts, [rollout.token_ids for rollout in rollouts])
    return Batch(prompts, rollouts, scored, torch.zeros(3, 4), 0.5, 0.0)


def with_edits(edits: list[Edit], way: Way, coef: float = 1.0) -> tuple[WithEdits, EditDraw]:
    draw = EditDraw(edits, len(edits), torch.Generator().manual_seed(0))
    return WithEdits(Nothing(), draw, way, coef), draw


def gradient(backbone: Backbone, objective: WithEdits, of: Batch) -> torch.Tensor:
    objective.backward(backbone, of)
    grads = [each.grad.flatten() for each in backbone.trainable() if each.grad is not None]
    for each in backbone.trainable():
        each.grad = None
    return torch.cat(grads) if grads else torch.zeros(1)


def logprobs(backbone: Backbone, prompts: list[list[int]], replies: list[list[int]]) -> torch.Tensor:
    with torch.no_grad(), backbone.full_precision():
        return backbone.logprobs_BR(backbone.pad(prompts, replies)).sum(1)


def test_a_step_begins_with_the_prompts_of_its_edits(backbone: Backbone) -> None:
    draw = EditDraw(edits_of(backbone), 1, torch.Generator().manual_seed(0))
    seen = set()
    for _ in range(2):
        of = batch_of(backbone, draw)
        assert all(prompt == draw.current[0].prompt_ids for prompt in of.prompts[:4])
        assert draw.current[0].prompt_ids not in of.prompts[4:]
        assert len(of.prompts) == 12
        seen.add(tuple(draw.current[0].prompt_ids))
    assert len(seen) == 2, "each edit is taken once before any is taken again"


def test_the_edit_becomes_likelier_than_the_samples(backbone: Backbone) -> None:
    edits = edits_of(backbone)
    objective, draw = with_edits(edits, "preference")
    of = batch_of(backbone, draw)
    by_prompt = [(edit.prompt_ids, edit.token_ids) for edit in draw.current]
    prompts, replies = [each[0] for each in by_prompt], [each[1] for each in by_prompt]
    samples = list(of.prompts[:8]), of.replies[:8]
    before = logprobs(backbone, prompts, replies), logprobs(backbone, *samples)
    optimizer = torch.optim.AdamW(backbone.trainable(), lr=5e-3, weight_decay=0.0)
    for _ in range(12):
        objective.backward(backbone, of)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    gain = logprobs(backbone, prompts, replies) - before[0]
    theirs = logprobs(backbone, *samples) - before[1]
    assert bool((gain > theirs.view(2, 4).max(1).values + 0.3).all())


def test_the_policy_comes_nearer_to_the_one_that_sees_the_edit(backbone: Backbone) -> None:
    edits = edits_of(backbone)
    objective, draw = with_edits(edits, "self_distillation")
    batch_of(backbone, draw)
    current = draw.current
    optimizer = torch.optim.AdamW(backbone.trainable(), lr=3e-3, weight_decay=0.0)

    def gap() -> float:
        """The mean of log π − log teacher on samples of the policy, whose expectation is the KL."""
        sampler = adapter_sampler(backbone, SamplingSpec(256, 8), torch.Generator().manual_seed(7))
        rollouts = sampler([edit.prompt_ids for edit in current])
        own = [rollout.token_ids for rollout in rollouts]
        seen = [current[rollout.prompt].teacher_ids for rollout in rollouts]
        asked = [current[rollout.prompt].prompt_ids for rollout in rollouts]
        return float((logprobs(backbone, asked, own) - logprobs(backbone, seen, own)).mean())

    before = gap()
    for _ in range(20):
        objective.backward(backbone, batch_of(backbone, draw))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert 0 < gap() < 0.7 * before


def test_the_gradient_of_self_distillation_is_by_hand_that_of_its_tokens(backbone: Backbone) -> None:
    objective, draw = with_edits(edits_of(backbone), "self_distillation", coef=0.5)
    with backbone.full_precision():
        of = batch_of(backbone, draw)
        found = gradient(backbone, objective, of)
        total = torch.zeros(())
        tokens = sum(map(len, of.replies[:8]))
        for row, reply in enumerate(of.replies[:8]):
            edit = draw.current[row // 4]
            own = backbone.logprobs_BR(backbone.pad([edit.prompt_ids], [reply]))
            with torch.no_grad():
                teacher = backbone.logprobs_BR(backbone.pad([edit.teacher_ids], [reply]))
            total = total + 0.5 * ((own.detach() - teacher) * own).sum() / tokens
        total.backward()  # type: ignore[no-untyped-call]
        grads = [each.grad.flatten() for each in backbone.trainable() if each.grad is not None]
    torch.testing.assert_close(found, torch.cat(grads), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("way", ["self_distillation", "preference"])
def test_the_gradient_is_the_same_in_batches_of_any_size(backbone: Backbone, way: Way) -> None:
    found = []
    for budget in (TokenBudget(), TokenBudget(training=100)):
        objective, draw = with_edits(edits_of(backbone, (1.0, 0.5, 0.25)), way)
        backbone.token_budget = TokenBudget()
        with backbone.full_precision():
            of = batch_of(backbone, draw)
            backbone.token_budget = budget
            found.append(gradient(backbone, objective, of))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("way", ["self_distillation", "preference"])
def test_an_edit_of_no_weight_teaches_nothing(backbone: Backbone, way: Way) -> None:
    objective, draw = with_edits(edits_of(backbone, (0.0, 0.0)), way)
    assert gradient(backbone, objective, batch_of(backbone, draw)).abs().max() == 0


def test_a_comment_teaches_by_what_the_policy_would_have_said_with_it(backbone: Backbone) -> None:
    prompt = backbone.render([{"role": "user", "content": "what"}])
    reply = backbone.encode_reply("red")
    teacher = prompt_with_comment(backbone, prompt, reply, "too short")
    assert teacher[: len(prompt) + len(reply)] == [*prompt, *reply]
    assert "too short" in backbone.decode(teacher)
    comment = [Edit(prompt, [], teacher, 1.0)]
    for way, teaches in (("self_distillation", True), ("preference", False)):
        draw = EditDraw(comment, 1, torch.Generator())
        objective = WithEdits(Nothing(), draw, "self_distillation" if teaches else "preference", 1.0)
        found = gradient(backbone, objective, batch_of(backbone, draw))
        assert bool(found.abs().max() > 0) == teaches, way
        assert bool(found.isfinite().all())


def test_an_edit_that_the_policy_writes_itself_pulls_nowhere_in_particular(backbone: Backbone) -> None:
    """The edit equals every sample: the margins are 0, and so is their gradient."""
    prompt = backbone.render([{"role": "user", "content": "what"}])
    reply = backbone.encode_reply("red")
    draw = EditDraw([Edit(prompt, reply, prompt_with_edit(prompt, reply), 1.0)], 1, torch.Generator())
    draw()
    rollouts = [Rollout(0, reply, [-1.0] * len(reply), ended=True)] * 4
    scored = score(backbone, [prompt] * 4, [reply] * 4)
    of = Batch([prompt] * 4, rollouts, scored, torch.zeros(1, 4), 0.5, 0.0)
    with backbone.full_precision():
        found = gradient(backbone, WithEdits(Nothing(), draw, "preference", 1.0), of)
    assert float(found.abs().max()) < 1e-6
    assert math.isfinite(float(found.sum()))
