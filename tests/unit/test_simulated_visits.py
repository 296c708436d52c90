"""Simulated users send no prompt of the evaluation, in whatever case or punctuation."""

import asyncio
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.simulation.api_client import ApiClient
from deploy.simulation.evaluation import (
    PolicyEvaluator,
    judged_prompts,
    judged_questions,
    trainer_questions,
)
from deploy.simulation.people import draw_people
from deploy.simulation.prompt_text import normalised
from deploy.simulation.visits import Visits
from tests.bench.disjoint import assert_disjoint
from trainer.starter.world import prompts


class RecordingApi:
    """Answers every chat with the same text, and records what was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def chat(self, messages: list[dict[str, str]], n: int = 1, **_: Any) -> dict[str, Any]:
        self.sent.append(messages[-1]["content"])
        return {
            "choices": [{"message": {"content": "It is Paris."}} for _ in range(n)],
            "hearken": {"policies": ["p0"] * n},
        }

    async def vote(self, completion: dict[str, Any], **_: Any) -> str:
        return "fb_1"


def send(held_out: set[str]) -> list[str]:
    api = RecordingApi()
    visits = Visits(cast(ApiClient, api), draw_people(3, 10), seed=3, votes=60, seconds=30, rate=100_000)
    asyncio.run(visits.run(held_out))
    assert len(visits.vote_ids) == 60
    return api.sent


def test_prompts_and_questions_of_the_evaluation_are_not_sent() -> None:
    people = draw_people(3, 10)
    evaluator = PolicyEvaluator(cast(ApiClient, RecordingApi()), people[0].preference, seed=3, votes=600)
    would_be_sent = {normalised(prompt.prompt) for prompt in prompts(60, 3)}
    assert would_be_sent & evaluator.held_out, "the test would notice nothing"
    assert not evaluator.held_out & set(map(normalised, send(evaluator.held_out)))
    judged = [each.prompt for each in (*judged_prompts(3, 600), *judged_questions(3, 600))]
    assert_disjoint(judged=judged, asked_by_the_gate=trainer_questions())
    assert set(map(normalised, judged)) | trainer_questions() == evaluator.held_out
    assert len(judged) == 40 + 200


def test_another_case_or_punctuation_makes_no_other_prompt() -> None:
    first = prompts(1, 3)[0].prompt
    assert first in send(set())
    assert normalised(first) not in map(normalised, send({normalised(first.upper() + " ?!")}))


@pytest.mark.parametrize("option", ["--users", "--votes", "--rate"])
def test_a_simulation_of_nothing_is_wrong_usage(option: str) -> None:
    refused = CliRunner().invoke(app, ["simulate", option, "0"])
    assert refused.exit_code == 2
    assert option in refused.output
