"""What the gate blocked changes the next round: a penalty on what a reply shows, else a larger KL penalty."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.constraints import CONSTRAINTS
from trainer.data.cautions import MOST_LEVEL, RECALL, cautious, levels
from trainer.data.hyperparameters import Hyperparameters
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation.constraints.penalty import PENALTY, BehaviourPenalty
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout

RL = Hyperparameters(learning_rate=1e-3, steps_per_round=8, prompts_per_step=8, max_tokens=64)
TEXTS = ["Rome.", "Rate me!", "What do you mean?"]


def replies(*kinds: int) -> list[Rollout]:
    """Returns replies whose only token is the number of their text."""
    return [Rollout(0, [kind], [0.0], True) for kind in kinds]


def penalty(cautions: dict[str, int], base: list[Rollout]) -> BehaviourPenalty:
    backbone = SimpleNamespace(think_ids=None, decode=lambda token_ids: TEXTS[token_ids[0]])
    return BehaviourPenalty(cast(Backbone, backbone), cautions, base)


@given(st.lists(st.lists(st.sampled_from([*CONSTRAINTS, "of another release"])), max_size=RECALL))
def test_a_level_counts_candidates(blocked: list[list[str]]) -> None:
    found = levels(blocked)
    for name in CONSTRAINTS:
        count = sum(name in each for each in blocked)
        assert found.get(name, 0) == min(count, MOST_LEVEL)
    assert "of another release" not in found


def test_what_no_reply_shows_raises_beta() -> None:
    described: dict[str, Any] = {}
    found = cautious(RL, {"sycophancy": 2, "begging": 3}, described)
    assert found.kl_coef == pytest.approx(4 * RL.kl_coef)
    assert described["kl_coef"]["value"] == found.kl_coef
    assert "giving in to a false claim" in described["kl_coef"]["reason"]
    assert found == RL.model_copy(update={"kl_coef": found.kl_coef})


def test_what_a_reply_shows_leaves_beta_alone() -> None:
    described: dict[str, Any] = {}
    assert cautious(RL, {"begging": 3}, described) == RL
    assert cautious(RL, {}, described) == RL
    assert described == {}


def test_a_reply_that_behaves_as_blocked_ones_did_costs_its_level() -> None:
    found = penalty({"begging": 2}, replies(0, 0, 0, 0))(replies(0, 1, 2, 1))
    assert found.tolist() == [0, 2 * PENALTY, 0, 2 * PENALTY]
    both = penalty({"begging": 1, "dodging": 1}, replies(0))(replies(0, 1, 2))
    assert both.tolist() == [0, PENALTY, PENALTY]


def test_what_the_base_does_as_often_costs_nothing() -> None:
    base = replies(0, 2)
    assert penalty({"dodging": 3}, base)(replies(0, 2, 0, 2)).tolist() == [0] * 4
    more = penalty({"dodging": 1}, base)(replies(2, 2, 2, 0))
    assert more.tolist() == pytest.approx([PENALTY / 3] * 3 + [0])
    assert torch.equal(penalty({}, base)(replies(1, 2)), torch.zeros(2))


def test_the_levels_are_kept_with_the_inputs() -> None:
    inputs = RoundInputs(
        draw=1, parent="p0", votes=0, events=[], turns=[], positions={}, cautions={"begging": 2}
    )
    assert RoundInputs.model_validate_json(inputs.model_dump_json()).cautions == {"begging": 2}
    old = inputs.model_dump(exclude={"cautions"})
    assert RoundInputs.model_validate(old).cautions == {}
