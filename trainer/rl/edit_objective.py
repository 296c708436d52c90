"""This module builds what edits and comments teach in a round, in the way that the settings name."""

from collections.abc import Sequence

from trainer.data.examples import Example, Reply
from trainer.data.split import RoundData
from trainer.model.batch import padded_width
from trainer.reward.ensemble import RewardModel
from trainer.rl.edits import Edit, EditDraw, WithEdits, prompt_with_comment, prompt_with_edit
from trainer.rl.objectives import Objective
from trainer.rl.sft import Demonstration, SFTLoss, WithSFT
from trainer.rl.training_objective import weighted_votes

IMITATED_PER_STEP = 8
"""Batch size of SFT on edits."""

PROMPTS_SHARE = 0.25
"""Most of a step's prompts that are those of edits."""

COEFS = {"none": 0.0, "imitation": 1.0, "self_distillation": 1.0, "preference": 0.1}
"""Weight of each way beside the policy gradient, where no setting names one: of 0.1 and 1, what made held-out
edits likelier on development seed 4101 of `tests/bench/demonstrations`."""


def with_edits(
    data: RoundData, model: RewardModel, objective: Objective
) -> tuple[Objective, EditDraw | None]:
    """Returns the objective with what edits teach beside it, and the draw of the edits whose prompts the step
    is to begin with; None where there is none. Those that the token budget has no room for are left out."""
    rl = data.rl
    way, coef = rl.edits, COEFS[rl.edits] if rl.edit_coef is None else rl.edit_coef
    if way == "none" or not coef:
        return objective, None
    weighted = weighted_votes(data, model)
    if way == "imitation":
        shown = [
            Demonstration(edit.prompt_ids, edit.token_ids, weight)
            for example, weight in weighted
            if example.type == "edit"
            for edit in [data.corpus.replies[example.reply_keys[0]]]
        ]
        sft = SFTLoss(shown, coef, IMITATED_PER_STEP, data.generator("imitation"), rl.temperature)
        return (WithSFT(objective, sft) if shown else objective), None
    fits = _fits_distillation if way == "self_distillation" else _fits_preference
    edits = [each for each in _edits(data, weighted) if fits(data, each)]
    if not edits:
        return objective, None
    draw = EditDraw(edits, max(1, round(PROMPTS_SHARE * rl.prompts_per_step)), data.generator("edits"))
    return WithEdits(objective, draw, way, coef, rl.temperature), draw


def _fits_distillation(data: RoundData, edit: Edit) -> bool:
    """Whether the teacher's prompt leaves room for a reply."""
    row = min(data.backbone.context_length, data.inputs.token_budget.row)
    return len(edit.teacher_ids) + data.rl.max_tokens <= row


def _fits_preference(data: RoundData, edit: Edit) -> bool:
    """Whether there is an edited reply, and room for it in one batch with the samples to its prompt."""
    rl, budget = data.rl, data.inputs.token_budget
    width = padded_width(len(edit.prompt_ids), max(len(edit.token_ids), rl.max_tokens))
    fits = len(edit.prompt_ids) + rl.max_tokens <= min(data.backbone.context_length, budget.row)
    return bool(edit.token_ids) and fits and (1 + rl.samples_per_prompt) * width <= budget.training


def _edits(data: RoundData, weighted: Sequence[tuple[Example, float]]) -> list[Edit]:
    """Returns the edits, and the comments on single replies, of people, without edits that changed
    nothing."""
    replies, backbone = data.corpus.replies, data.backbone
    found: list[Edit] = []
    for example, weight in weighted:
        if not example.by_person or not weight:
            continue
        reply = replies[example.reply_keys[-1]]
        edited: Reply | None = replies[example.reply_keys[0]] if example.type == "edit" else None
        if edited is not None and edited.token_ids != reply.token_ids:
            teacher = prompt_with_edit(edited.prompt_ids, edited.token_ids)
            found.append(Edit(edited.prompt_ids, edited.token_ids, teacher, weight))
        elif edited is None and example.type == "thumb" and example.comment:
            teacher = prompt_with_comment(backbone, reply.prompt_ids, reply.token_ids, example.comment)
            found.append(Edit(reply.prompt_ids, [], teacher, weight))
    return found
