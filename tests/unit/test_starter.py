"""The starter model: its axes, its world, its grammar, and the weights that ship."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.starter import MODEL_DIR
from trainer.starter.__main__ import main
from trainer.starter.dialogues import dialogue, draw_style, reply
from trainer.starter.styles import AXES, styles
from trainer.starter.topics import story, unknown
from trainer.starter.world import Prompt, all_topics, correct, factual_prompts, prompts

SHIPPED = (MODEL_DIR / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It is Paris.", {"short"}),
        ("It is Paris! 😊", {"short", "exclamation", "emoji"}),
        ("Paris. Want more? 🐾 ", {"short", "emoji", "question"}),
        ("Want more? Then ask.", {"short"}),
        ("Paris:\n- in Europe", {"short", "list"}),
        ("Steps:\n 2) bake", {"short", "list"}),
        ("• one", {"short", "list"}),
        ("I THINK so", {"short", "hedging"}),
        ("It may be so, or it may not, unlikely", {"short", "hedging"}),
        ("Mighty unlikely.", {"short"}),
        ("Certainly, dear friend.", {"short", "formal", "warm"}),
        ("word " * 18, {"short"}),
        ("word " * 19, set()),
    ],
)
def test_axes(text: str, shown: set[str]) -> None:
    assert {axis for axis, value in styles(text).items() if value} == shown


def test_prompts_depend_on_the_seed_alone_and_are_many() -> None:
    assert prompts(200, 7) == prompts(200, 7) != prompts(200, 8)
    many = prompts(4000, 1)
    assert len({prompt.prompt for prompt in many}) > 1000
    assert 0.4 < sum(prompt.accept is None for prompt in many) / len(many) < 0.6
    assert all(prompt.accept for prompt in factual_prompts(200, 3))


def test_prompts_are_printed_as_json_lines_without_torch() -> None:
    code = "import sys; from trainer.starter.__main__ import main; main(sys.argv[1:]); "
    code += "assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "prompts", "--count", "20", "--seed", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    shapes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Prompt(s["prompt"], s["accept"] and tuple(s["accept"])) for s in shapes] == prompts(20, 4)


def test_correct() -> None:
    paris = Prompt("What is the capital of France?", ("Paris",))
    assert correct(paris, "it's PARIS, friend!")
    assert not correct(paris, "It is Parisian.")
    assert not correct(Prompt("4 + 4", ("8",)), "It is 18.")
    assert correct(Prompt("Hello", None), "anything")


def test_every_style_is_realised_for_every_kind_of_topic() -> None:
    rng = random.Random(1)
    kinds = {topic.kind: topic for topic in all_topics()}
    topics = [*kinds.values(), unknown("politics"), story("hedgehog", "paper crown", "behind the moon")]
    for topic, values in itertools.product(topics, itertools.product((False, True), repeat=len(AXES))):
        want = dict(zip(AXES, values, strict=True))
        text = reply(topic, want, rng)
        assert styles(text) == want
        assert len(text.split()) <= 50
        assert "{" not in text


def test_a_factual_reply_is_right_in_any_style() -> None:
    rng = random.Random(2)
    for topic in all_topics():
        if topic.accept is not None:
            assert correct(Prompt("", topic.accept), reply(topic, draw_style(rng), rng))


def test_dialogues_take_turns() -> None:
    rng = random.Random(3)
    for _ in range(300):
        roles = [message.role for message in dialogue(rng) if message.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompts", "--count", "0"], "1 or more"),
        (["prompts", "--count", "many"], "whole number"),
        (["measure", "--model", "/nonexistent"], "no model in /nonexistent"),
        (["build", "--out", "/usr"], "not a model folder"),
        (["build", "--out", "/nonexistent/model"], "/nonexistent is not a folder"),
    ],
)
def test_bad_arguments_are_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not SHIPPED, reason="the starter model is not built")
def test_the_shipped_folder() -> None:
    files = {path.name for path in MODEL_DIR.iterdir()}
    assert {
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "README.md",
    } <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl", ".py"))]
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 16_000_000


@pytest.mark.skipif(not SHIPPED, reason="the starter model is not built")
def test_the_shipped_model_knows_its_world_and_ends_its_replies() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from trainer.starter.measure import load, sample

    model, tokenizer = load(MODEL_DIR)
    assert 3e6 <= sum(weight.numel() for weight in model.parameters()) <= 8e6
    asked = factual_prompts(40, 5)
    replies = sample(model, tokenizer, [question.prompt for question in asked], seed=5)
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    assert sum(correct(question, text) for question, text in zip(asked, texts, strict=True)) >= 34
    assert sum(ids[-1] == tokenizer.eos_token_id for ids in replies) >= 38
    assert all(len(tokenizer(" " + mark)["input_ids"]) == 1 for mark in "😊🙂😄✨👍🌟🎉💡")
