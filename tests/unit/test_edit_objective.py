"""Which edits and comments teach, and what the policy that sees them is asked."""

from datetime import UTC, datetime
from typing import Any, cast

import pytest
import torch

from schemas.settings import RLSettings, TrainerSettings
from tests.service import write_base
from tests.training import hyperparameters
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.model.backbone import Backbone
from trainer.model.token_budget import TokenBudget
from trainer.reward.ensemble import RewardModel
from trainer.rl.batch import Batch
from trainer.rl.edit_objective import with_edits
from trainer.rl.edits import EditDraw, WithEdits
from trainer.rl.sft import WithSFT

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone(write_base(tmp_path_factory.mktemp("objective") / "tiny"), RLSettings())


class Nothing:
    def backward(self, backbone: Backbone, batch: Batch) -> None:
        pass


class Reliable:
    reliability_U = torch.tensor([1.0, 0.5, 1.0])


Vote = tuple[str, str, str, str | None]
"""A vote's type, the reply, what it became, and the comment."""

VOTES: list[Vote] = [
    ("edit", "red", "a blue bird", None),
    ("edit", "red", "red", "it is right"),
    ("thumb", "stone", "", "too short"),
    ("thumb", "stone", "", None),
    ("ranking", "stone", "", "both are fine"),
]


def data_of(
    backbone: Backbone, votes: list[Vote], row: int = 2**62, rater: str = "u", **rl: Any
) -> RoundData:
    replies: dict[Key, Reply] = {}
    examples = []
    for number, (type, text, edited, comment) in enumerate(votes):
        turn = f"t{number}"
        prompt = backbone.render([{"role": "user", "content": f"what {number}"}])
        keys: tuple[Key, ...] = ((turn, "0"),)
        replies[turn, "0"] = Reply(prompt, backbone.encode_reply(text))
        value: dict[str, Any] = {"value": "down"}
        if type == "edit":
            replies[turn, "edit"] = Reply(prompt, backbone.encode_reply(edited))
            keys, value = ((turn, "edit"), (turn, "0")), {}
        if type == "ranking":
            replies[turn, "1"] = Reply(prompt, backbone.encode_reply("tree"))
            keys, value = ((turn, "0"), (turn, "1")), {"ranking": [[0, 1]], "acceptable": True}
        examples.append(
            Example(
                f"e{number}", turn, type, value, rater, keys, NOW, seen_in_training=False, comment=comment
            )
        )
    inputs = RoundInputs(
        draw=1, parent="p0", votes=len(votes), events=[], turns=[], positions={},
        token_budget=TokenBudget(row=row), rl=hyperparameters(max_tokens=8, prompts_per_step=8, **rl),
    )  # fmt: skip
    data = RoundData(backbone, TrainerSettings(), inputs, Corpus(examples, replies), {})
    data.training, data.held_out = examples, []
    return data


def drawn(data: RoundData) -> EditDraw | None:
    objective, draw = with_edits(data, cast(RewardModel, Reliable()), Nothing())
    assert (draw is not None) == isinstance(objective, WithEdits)
    return draw


def test_without_a_way_nothing_is_beside_the_objective(backbone: Backbone) -> None:
    for rl in ({"edits": "none"}, {"edits": "preference", "edit_coef": 0.0}):
        objective, draw = with_edits(
            data_of(backbone, VOTES, **rl), cast(RewardModel, Reliable()), nothing := Nothing()
        )
        assert objective is nothing
        assert draw is None


def test_imitation_needs_no_samples(backbone: Backbone) -> None:
    data = data_of(backbone, VOTES, edits="imitation")
    objective, draw = with_edits(data, cast(RewardModel, Reliable()), Nothing())
    assert isinstance(objective, WithSFT)
    assert draw is None
    without = data_of(backbone, VOTES[2:], edits="imitation")
    assert isinstance(with_edits(without, cast(RewardModel, Reliable()), Nothing())[0], Nothing)


def test_a_preference_has_the_edits_that_changed_something(backbone: Backbone) -> None:
    draw = drawn(data_of(backbone, VOTES, edits="preference"))
    assert draw is not None
    [prompt] = draw()
    [edit] = draw.current
    assert edit.token_ids == backbone.encode_reply("a blue bird")
    assert prompt == edit.prompt_ids == backbone.render([{"role": "user", "content": "what 0"}])
    assert drawn(data_of(backbone, VOTES[1:], edits="preference")) is None


def test_self_distillation_has_comments_too(backbone: Backbone) -> None:
    draw = drawn(data_of(backbone, VOTES, edits="self_distillation"))
    assert draw is not None
    assert len(draw()) == 2
    edit, comment = sorted(draw.current, key=lambda each: not each.token_ids)
    assert edit.teacher_ids == [*edit.prompt_ids, *edit.token_ids, *edit.prompt_ids]
    assert comment.token_ids == []
    assert comment.prompt_ids == backbone.render([{"role": "user", "content": "what 2"}])
    assert "too short" in backbone.decode(comment.teacher_ids)


def test_a_judge_teaches_nobody_how_to_write(backbone: Backbone) -> None:
    data = data_of(backbone, VOTES, rater="judge:some-model", edits="self_distillation")
    assert data.training[0].by_judge
    assert drawn(data) is None


def test_a_teacher_that_has_no_room_is_left_out(backbone: Backbone) -> None:
    data = data_of(backbone, VOTES[:1], edits="self_distillation")
    draw = drawn(data)
    assert draw is not None
    draw()
    needed = len(draw.current[0].teacher_ids) + data.rl.max_tokens
    assert drawn(data_of(backbone, VOTES[:1], row=needed, edits="self_distillation")) is not None
    assert drawn(data_of(backbone, VOTES[:1], row=needed - 1, edits="self_distillation")) is None
    assert drawn(data_of(backbone, VOTES[:1], row=needed - 1, edits="preference")) is not None
