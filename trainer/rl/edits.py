"""Edits and comments teach on the policy's own samples to the prompts that they were written to.

self_distillation   the policy that has the edit or the comment in its prompt is the teacher; without it, the
                    policy matches the teacher's distribution, token by token, on its own samples
preference          the edit is preferred to each of the policy's own samples

Plain imitation of edits (`sft`) needs no samples. A step's first prompts are those of the edits that it
learns from, so their samples also serve the objective beside this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.token_budget import split
from trainer.reward.scoring import MICRO_BATCH, micro_batches
from trainer.rl import losses
from trainer.rl.batch import Batch
from trainer.rl.objectives import EpochSampler, Objective


@dataclass(frozen=True, slots=True)
class Edit:
    """What a person wrote about a reply to a prompt: the edited reply, empty where it is only a comment, and
    the teacher's prompt, which has it; `weight` as of a vote."""

    prompt_ids: list[int]
    token_ids: list[int]
    teacher_ids: list[int]
    weight: float


def prompt_with_edit(prompt_ids: Sequence[int], edit_ids: Sequence[int]) -> list[int]:
    """Returns the prompt of a teacher that answered with the edit and is asked the same again: a
    demonstration in context."""
    return [*prompt_ids, *edit_ids, *prompt_ids]


def prompt_with_comment(
    backbone: Backbone, prompt_ids: Sequence[int], reply_ids: Sequence[int], comment: str
) -> list[int]:
    """Returns the prompt of a teacher that is told the comment on its reply."""
    return [*prompt_ids, *reply_ids, *backbone.render([{"role": "user", "content": comment}])]


class EditDraw:
    """Draws the edits of each step, epoch after epoch. `current` has those of the step."""

    def __init__(self, edits: Sequence[Edit], per_step: int, generator: torch.Generator) -> None:
        self._edits = edits
        self._draw = EpochSampler(len(edits), min(per_step, len(edits)), generator)
        self.current: list[Edit] = []

    def __call__(self) -> list[list[int]]:
        """Draws the edits of a step and returns their prompts."""
        self.current = [self._edits[index] for index in self._draw()]
        return [each.prompt_ids for each in self.current]


@dataclass(frozen=True, slots=True)
class WithEdits:
    """An objective beside which the edits of `draw` teach, whose prompts are the first of the step's."""

    objective: Objective
    draw: EditDraw
    way: Literal["self_distillation", "preference"]
    coef: float
    temperature: float = 1.0

    def backward(self, backbone: Backbone, batch: Batch) -> None:
        self.objective.backward(backbone, batch)
        match self.way:
            case "self_distillation":
                self._distil(backbone, batch)
            case "preference":
                self._prefer(backbone, batch)
            case _:
                assert_never(self.way)

    def _distil(self, backbone: Backbone, batch: Batch) -> None:
        count = batch.rewards_PK.shape[1]
        edits = [edit for edit in self.draw.current for _ in range(count)]
        prompts, replies = batch.prompts[: len(edits)], batch.replies[: len(edits)]
        teachers, tokens = [edit.teacher_ids for edit in edits], sum(map(len, replies))
        for rows in micro_batches(backbone, teachers, replies):
            own = [replies[row] for row in rows]
            with torch.no_grad():
                seeing = backbone.pad([teachers[row] for row in rows], own)
                teacher_BR = backbone.logprobs_BR(seeing, self.temperature)
            padded = backbone.pad([prompts[row] for row in rows], own)
            mask_BR = padded.reply_mask_BR
            weights_B = torch.tensor([edits[row].weight for row in rows], device=backbone.device)
            logprobs_BR = backbone.logprobs_BR(padded, self.temperature)
            loss = losses.self_distillation(logprobs_BR, teacher_BR, mask_BR, weights_B)
            (self.coef * loss * mask_BR.sum() / tokens).backward()  # type: ignore[no-untyped-call]

    def _prefer(self, backbone: Backbone, batch: Batch) -> None:
        count, replies = batch.rewards_PK.shape[1], batch.replies
        groups = [
            [edit.token_ids, *replies[count * index : count * (index + 1)]]
            for index, edit in enumerate(self.draw.current)
            if edit.token_ids
        ]
        edits = [edit for edit in self.draw.current if edit.token_ids]
        lengths = [
            (len(edit.prompt_ids), max(map(len, group))) for edit, group in zip(edits, groups, strict=True)
        ]
        tokens, most = backbone.token_budget.training // (1 + count), max(1, MICRO_BATCH // (1 + count))
        for rows in split(lengths, tokens, most, backbone.group.size):
            part = groups[rows]
            prompts = [edit.prompt_ids for edit in edits[rows] for _ in range(1 + count)]
            ratio_B = self._log_ratios(backbone, prompts, [reply for group in part for reply in group])
            ratio_EG = ratio_B.view(len(part), 1 + count)
            weight_E = torch.tensor([edit.weight for edit in edits[rows]], device=ratio_B.device)
            loss_E = losses.edit_preference(ratio_EG[:, 0], ratio_EG[:, 1:], batch.kl_coef)
            (self.coef * (weight_E * loss_E).sum() / len(edits)).backward()  # type: ignore[no-untyped-call]

    def _log_ratios(
        self, backbone: Backbone, prompts: Sequence[list[int]], replies: Sequence[list[int]]
    ) -> Tensor:
        """Returns (B,) log π − log π_base of whole replies, with the gradient of log π."""
        padded = backbone.pad(prompts, replies)
        with torch.no_grad(), backbone.reference():
            base_B = backbone.logprobs_BR(padded, self.temperature).sum(1)
        return backbone.logprobs_BR(padded, self.temperature).sum(1) - base_B
