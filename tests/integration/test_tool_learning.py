"""Thumbs teach which tool to call: the reward model and the losses see a reply's tool calls as its tokens."""

import random
from pathlib import Path

import pytest
import torch

from feedback.open_log import open_log
from schemas.database import Pool
from schemas.feedback import Thumb, Vote
from schemas.settings import Settings
from schemas.turns import Reply, Turn
from tests.events import ingest_until
from tests.training import WORDS, add_key, send, small_settings
from trainer import loop
from trainer.learner import Learner
from trainer.model.backbone import Backbone

TOOLS = {"weather": "Is it sunny in", "time": "How late is it in"}
THUMBS = 60
HELD_OUT = 20


def call(tool: str) -> str:
    """Returns the text of a reply that calls a tool, as the embedded engine's models write it."""
    return f'<tool_call>\n{{"name": "{tool}", "arguments": {{}}}}\n</tool_call>'


def question(tool: str, rng: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{TOOLS[tool]} {' '.join(rng.choices(WORDS, k=2))}?"}]


def a_turn(backbone: Backbone, number: int, rng: random.Random) -> tuple[Turn, Vote]:
    """A turn that calls either tool, with a thumb up where it is the one that was asked for."""
    asked, called = rng.choice(list(TOOLS)), rng.choice(list(TOOLS))
    messages = question(asked, rng)
    ids = backbone.encode_reply(call(called))
    function = {"name": called, "arguments": "{}"}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    reply = Reply(0, "p0", 0.98, "", ids, [-1.0] * len(ids), "tool_calls", message)
    turn = Turn(
        id=f"chatcmpl-tool-{number}",
        project="default",
        conversation_id=f"conv-{number}",
        rater=f"u_{number % 5}",
        key_id="default-admin",
        messages=messages,
        prompt_token_ids=backbone.render(messages),
        sampling={"temperature": 1.0, "top_p": 1.0},
        replies=[reply],
    )
    value = "up" if called == asked else "down"
    return turn, Thumb.model_validate({"type": "thumb", "completion_id": turn.id, "value": value})


@pytest.fixture
def settings(database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool) -> Settings:
    add_key(pool)
    found = small_settings(database_url, tmp_path, tiny_base, round_votes=THUMBS)
    change = {"algorithm": "kto", "steps_per_round": 30, "prompts_per_step": 8, "learning_rate": 3e-3}
    found.trainer.rl = found.trainer.rl.model_copy(
        update={**change, "kl_per_reply": 1e3, "step_kl": 1e9, "max_tokens": 4}
    )
    return found


def test_sixty_thumbs_teach_which_tool_to_call(settings: Settings, pool: Pool, database_url: str) -> None:
    learner = Learner(settings)
    trainer = loop.Trainer(settings, pool, open_log(settings, pool), learner)
    backbone, rng = learner.backbone, random.Random("tools")
    questions = [(tool, question(tool, rng)) for tool in TOOLS for _ in range(HELD_OUT // 2)]

    def right() -> float:
        """Returns the share of held-out questions at which the right tool is the likelier call."""
        found = []
        for tool, messages in questions:
            batch = backbone.pad(
                [backbone.render(messages)] * len(TOOLS),
                [backbone.encode_reply(call(each)) for each in TOOLS],
            )
            with torch.no_grad():
                likeliest = int(backbone.logprobs_BR(batch).sum(1).argmax())
            found.append(list(TOOLS)[likeliest] == tool)
        return sum(found) / len(found)

    assert right() <= 0.7  # the base calls mostly one of them
    asked = [a_turn(backbone, number, rng) for number in range(THUMBS)]
    send(database_url, [turn for turn, _ in asked], asked)
    assert trainer.lead()
    ingest_until(pool, trainer.log, THUMBS)
    trainer.round()
    assert right() >= 0.9
    trainer.election.release()
