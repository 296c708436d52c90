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
from trainer.log_reader import LogReader
from trainer.model.backbone import Backbone

TOOLS = ("weather", "time")
THUMBS = 60
HELD_OUT = 20


def call(tool: str) -> str:
    """Returns the text of a reply that calls a tool, as the embedded engine's models write it."""
    return f'<tool_call>\n{{"name": "{tool}", "arguments": {{}}}}\n</tool_call>'


def question(rng: random.Random) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What about {' '.join(rng.choices(WORDS, k=3))}?"}]


def a_turn(backbone: Backbone, number: int, wanted: str, rng: random.Random) -> tuple[Turn, Vote]:
    """A turn that calls either tool, with a thumb up where it is the one that people want."""
    called, messages = rng.choice(TOOLS), question(rng)
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
    value = "up" if called == wanted else "down"
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
    """People want the tool that the base calls less often."""
    learner = Learner(settings)
    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), learner)
    backbone, rng = learner.backbone, random.Random("tools")
    questions = [question(rng) for _ in range(HELD_OUT)]

    def share(tool: str) -> float:
        """Returns the share of held-out questions at which this tool is the likelier call."""
        found = []
        for messages in questions:
            replies = [backbone.encode_reply(call(each)) for each in TOOLS]
            batch = backbone.pad([backbone.render(messages)] * len(TOOLS), replies)
            with torch.no_grad():
                found.append(TOOLS[int(backbone.logprobs_BR(batch).sum(1).argmax())] == tool)
        return sum(found) / len(found)

    wanted = min(TOOLS, key=share)
    assert share(wanted) <= 0.5
    asked = [a_turn(backbone, number, wanted, rng) for number in range(THUMBS)]
    send(database_url, [turn for turn, _ in asked], asked)
    assert trainer.lead()
    ingest_until(pool, trainer.reader.votes, THUMBS)
    trainer.round()
    assert share(wanted) >= 0.9
    trainer.election.release()
