"""Answers to knowledge questions are sampled from a model and compared with the accepted ones."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from trainer.evaluation.questions import Question
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec, sample


def prompt_ids(backbone: Backbone, prompt: str, max_tokens: int) -> list[int]:
    """Returns a prompt's token ids, with room for a reply of `max_tokens`."""
    return backbone.truncate_prompt(backbone.render([{"role": "user", "content": prompt}]), max_tokens)


def correct_answers(
    backbone: Backbone,
    questions: Sequence[Question],
    spec: SamplingSpec,
    generator: torch.Generator,
) -> list[list[bool]]:
    """Samples replies to each question; returns which of them are correct."""
    if not questions:
        return []
    samples = spec.samples_per_prompt
    prompts = [prompt_ids(backbone, question.prompt, spec.max_tokens) for question in questions]
    replies = sample(backbone, prompts, replace(spec, logprobs=False), generator)
    correct = [questions[reply.prompt].is_correct(backbone.decode(reply.token_ids)) for reply in replies]
    return [correct[start : start + samples] for start in range(0, len(correct), samples)]


def answer_accuracy(
    backbone: Backbone,
    questions: Sequence[Question],
    spec: SamplingSpec,
    generator: torch.Generator,
) -> list[float]:
    """Returns, for each question, the share of correct replies among those sampled."""
    return [sum(each) / len(each) for each in correct_answers(backbone, questions, spec, generator)]
