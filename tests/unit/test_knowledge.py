"""A base makes its own knowledge probes of the shipped questions, and forgetting them is noticed."""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from schemas.errors import StartError
from schemas.settings import GateSettings, RLSettings, TrainerSettings
from trainer.data.hyperparameters import MIN_TEMPERATURE
from trainer.data.knowledge_probes import KnowledgeProbe, ProbeSet, probe_file
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation import screening
from trainer.evaluation.knowledge import MAX_TIMES, KnowledgeEval, accuracy_drop
from trainer.evaluation.questions import MIN_QUESTIONS, Question, own_questions, shipped_questions
from trainer.evaluation.screening import BASE_REPLIES, MAX_PROBES, base_probes, probe_spec, screen
from trainer.model.backbone import Backbone
from trainer.starter import MODEL_DIR

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("accept", "whole", "reply", "correct"),
    [
        (["Paris"], False, "The capital is paris.", True),
        (["Paris"], False, "Parisians live there.", False),
        (["12", "twelve"], False, "7 + 5 = 12", True),
        (["12", "twelve"], False, "It is Twelve!", True),
        (["12", "twelve"], False, "It is 112.", False),
        (["can't"], False, "I’m sorry, I can’t help.", True),
        (["cat cat"], True, "Cat, cat.", True),
        (["cat cat"], True, "Sure: cat cat", False),
        (["cat cat"], True, "cat", False),
        (["1 2 3", "one two three"], True, "1, 2, 3", True),
        (["done"], True, "", False),
    ],
)
def test_an_answer_is_right_by_whole_words(accept: list[str], whole: bool, reply: str, correct: bool) -> None:
    assert Question("?", tuple(accept), whole=whole).is_correct(reply) == correct


def test_the_shipped_questions_are_of_many_topics_and_do_not_hold_their_answers() -> None:
    questions = shipped_questions()
    assert 300 <= len(questions) <= 400
    assert len({" ".join(re.findall(r"\w+", each.prompt.lower())) for each in questions}) == len(questions)
    topics = Counter(each.topic for each in questions)
    assert len(topics) == 10
    assert min(topics.values()) >= 30
    assert [each.prompt for each in questions if not each.whole and each.is_correct(each.prompt)] == []


def some_questions(**topics: int) -> list[Question]:
    return [
        Question(f"{topic} {n}", ("yes",), topic) for topic, count in topics.items() for n in range(count)
    ]


class Base:
    """Answers questions with these replies in turn, each right or wrong; all others always right."""

    def __init__(self, replies: dict[str, list[bool]] | None = None) -> None:
        self.replies = replies or {}
        self.asked: list[tuple[str, int]] = []

    def __call__(self, questions: Sequence[Question], replies: int, greedy: bool) -> list[list[bool]]:
        self.asked += [(question.prompt, replies) for question in questions]
        return [
            [
                self.replies[each.prompt].pop(0) if each.prompt in self.replies else True
                for _ in range(replies)
            ]
            for each in questions
        ]


def test_probes_are_taken_from_all_topics_by_turns_up_to_a_limit() -> None:
    asked, probes = screen(some_questions(a=200, b=200, c=5), Base())
    assert len(probes) == MAX_PROBES
    assert Counter(each.topic for each in probes) == {"a": 46, "b": 45, "c": 5}
    assert sum(asked.values()) == MAX_PROBES


def test_a_topic_that_the_base_does_not_answer_leaves_its_place_to_the_others() -> None:
    replies = {each.prompt: [False] for each in some_questions(b=60)}
    asked, probes = screen(some_questions(a=60, b=60), Base(replies))
    assert asked == {"a": 60, "b": 60}
    assert Counter(each.topic for each in probes) == {"a": 60}


def test_a_base_that_knows_nothing_is_not_asked_everything() -> None:
    base = Base({each.prompt: [False] for each in some_questions(a=300)})
    asked, probes = screen(some_questions(a=300), base)
    assert (asked, probes) == ({"a": MAX_PROBES}, [])


def test_nine_right_of_ten_make_a_probe_and_its_accuracy_is_measured_afresh() -> None:
    right, wrong, quarter = [True], [False], BASE_REPLIES // 4
    base = Base(
        {
            "a 0": right + right * 2 + right * 7 + wrong + right * (3 * quarter) + wrong * quarter,
            "a 1": right + right + wrong + right * 7 + wrong + right * BASE_REPLIES,
            "a 2": right + wrong * 2,
            "a 3": wrong,
        }
    )
    _, probes = screen(some_questions(a=4), base)
    assert [(each.prompt, each.base) for each in probes] == [("a 0", 0.75)]
    rest = 10 - 2 + BASE_REPLIES
    assert base.asked == [
        ("a 0", 1), ("a 1", 1), ("a 2", 1), ("a 3", 1),
        ("a 0", 2), ("a 1", 2), ("a 2", 2),
        ("a 0", rest), ("a 1", rest),
    ]  # fmt: skip


def operators_file(path: Path, *lines: str) -> GateSettings:
    path.write_text("\n".join(lines), encoding="utf-8")
    return GateSettings(knowledge_file=path, knowledge_questions=20)


def test_an_operators_questions_come_before_the_starters_own(tmp_path: Path) -> None:
    line = '{"prompt": "When do we open?", "accept": ["9", "nine"], "whole": true}'
    gate = operators_file(tmp_path / "questions.jsonl", line, "")
    found = own_questions(MODEL_DIR, gate, seed=0)
    assert found[0] == Question("When do we open?", ("9", "nine"), "your own", True)
    assert found[1:] == own_questions(MODEL_DIR, GateSettings(knowledge_questions=19), seed=0)
    assert own_questions(tmp_path, gate, seed=0) == found[:1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "Line 2"),
        ('{"prompt": "When?"}', "accept"),
        ('{"prompt": "When?", "accept": []}', "accept"),
        ('{"prompt": "When?", "accept": "nine"}', "accept"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str, said: str) -> None:
    gate = operators_file(tmp_path / "questions.jsonl", '{"prompt": "Who?", "accept": ["I"]}', line)
    with pytest.raises(StartError, match=said):
        own_questions(tmp_path, gate, seed=0)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="nowhere"):
        own_questions(tmp_path, GateSettings(knowledge_file=tmp_path / "nowhere"), seed=0)


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Backbone:
    return Backbone(tiny_base, RLSettings(max_tokens=12))


def test_probes_are_measured_once_per_base(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = shipped_questions()[:3]
    monkeypatch.setattr(screening, "shipped_questions", lambda: questions)
    found = base_probes(tiny, tmp_path)
    assert found is not None
    assert sum(found.asked.values()) == 3
    path = probe_file(tmp_path, tiny.digest)
    marked = found.model_copy(update={"asked": {"a mark": 1}})
    marked.write(path)
    assert base_probes(tiny, tmp_path) == marked
    path.write_bytes(path.read_bytes()[:-20])
    assert base_probes(tiny, tmp_path) == found
    marked.model_copy(update={"key": "of another base"}).write(path)
    assert base_probes(tiny, tmp_path) == found
    assert ProbeSet.parse(path.read_bytes()) == found
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("served_at", "sampled_at"), [(0.6, 0.6), (0.0, MIN_TEMPERATURE), (1.0, 0.7)])
def test_probes_are_sampled_as_the_base_is_served_but_not_hot(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, served_at: float, sampled_at: float
) -> None:
    monkeypatch.setattr(tiny, "temperature", served_at)
    monkeypatch.setattr(tiny, "top_p", served_at or 1.0)
    spec = probe_spec(tiny)
    assert (spec.temperature, spec.top_p) == (sampled_at, 0.6 if served_at == 0.6 else 0.9)
    prompts = [tiny.render([{"role": "user", "content": each.prompt}]) for each in shipped_questions()]
    shared = {tuple(prompt[: spec.shared_prefix]) for prompt in prompts}
    longer = {tuple(prompt[: spec.shared_prefix + 1]) for prompt in prompts}
    assert len(shared) == 1 < len(longer)


def probes(count: int) -> ProbeSet:
    each = KnowledgeProbe(prompt="What is 2 + 2?", accept=("4",), topic="sums", whole=False, base=1.0)
    return ProbeSet(key="k", asked={"sums": 20, "words": 5}, probes=(each,) * count)


def test_too_few_questions_are_said_and_judge_nothing(tiny: Backbone) -> None:
    few = KnowledgeEval(tiny, TrainerSettings(), probes(MIN_QUESTIONS - 1))
    assert few.unjudged is not None
    assert "knowledge_file" in few.unjudged
    assert few.facts == {
        "own": 0, "probes": 7, "sums": "7 of 20", "words": "0 of 5", "notice": few.unjudged,
    }  # fmt: skip
    assert few.passes(torch.Generator())
    assert few.guard_failure(torch.Generator()) is None


def test_a_policy_that_lost_what_the_base_knows_fails(tiny: Backbone) -> None:
    enough = KnowledgeEval(tiny, TrainerSettings(), probes(MIN_QUESTIONS))
    assert enough.unjudged is None
    assert enough.base_accuracy() == [1.0] * MIN_QUESTIONS
    assert not enough.passes(torch.Generator())  # a random model says anything
    assert "8 knowledge questions" in str(enough.guard_failure(torch.Generator()))


@pytest.mark.parametrize(
    ("wrong", "times"),
    [(0, 1), (1, MAX_TIMES), (MIN_QUESTIONS, 1)],  # of the first replies; the later ones are all right
)
def test_probes_are_asked_until_two_standard_errors_tell(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch, wrong: int, times: int
) -> None:
    shares = iter([[0.5] * wrong + [1.0] * (MIN_QUESTIONS - wrong), *([[1.0] * MIN_QUESTIONS] * MAX_TIMES)])
    evaluation = KnowledgeEval(tiny, TrainerSettings(), probes(MIN_QUESTIONS))
    monkeypatch.setattr(evaluation, "_probe_accuracy", lambda *_: next(shares))
    found = evaluation.adapter_accuracy(torch.Generator())
    assert len(list(shares)) == 1 + MAX_TIMES - times
    assert found == [1 - 0.5 / times] * wrong + [1.0] * (MIN_QUESTIONS - wrong)


def test_a_round_keeps_its_probes(tmp_path: Path) -> None:
    inputs = RoundInputs(draw=1, parent="p0", votes=9, events=[], turns=[], positions={}, probes=probes(2))
    inputs.write(tmp_path / "inputs.json")
    assert RoundInputs.read(tmp_path / "inputs.json") == inputs


@pytest.mark.slow
def test_any_base_makes_its_own_probes_and_guards_them(tmp_path: Path) -> None:
    directory = shutil.copytree(MODEL_DIR, tmp_path / "base")
    backbone = Backbone(directory, RLSettings(max_tokens=24))
    found = base_probes(backbone, tmp_path)
    assert found is not None
    assert len(found.probes) >= MIN_QUESTIONS
    assert len(Counter(each.topic for each in found.probes)) >= 3
    knowledge = KnowledgeEval(backbone, TrainerSettings(), found)
    again = knowledge.adapter_accuracy(torch.Generator().manual_seed(1))
    drop, error = accuracy_drop(knowledge.base_accuracy(), again)
    assert abs(drop) < 3 * error
    assert knowledge.guard_failure(torch.Generator().manual_seed(1)) is None
    generator = torch.Generator().manual_seed(2)
    for weight in backbone.trainable():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    assert not knowledge.passes(torch.Generator().manual_seed(1))
    assert knowledge.guard_failure(torch.Generator().manual_seed(1)) is not None
