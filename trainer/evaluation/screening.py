"""Screening finds a base's knowledge probes: the shipped questions that it answers right nine times of ten.

A question that the base answers at random says nothing of what a policy forgot, so only those that it answers
alike are kept. Screening is sequential, since most questions of a small base fail at once: one greedy reply,
then a few samples, then the rest. The accuracy that later samples are compared with comes from replies that
did not select the question, or chance would make it too high.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

import structlog
import torch

from trainer.data.hyperparameters import MIN_TEMPERATURE, MIN_TOP_P
from trainer.data.knowledge_probes import KnowledgeProbe, ProbeSet, probe_file
from trainer.evaluation.answers import correct_answers, prompt_ids
from trainer.evaluation.questions import Question, is_starter, shipped_questions
from trainer.model.backbone import Backbone
from trainer.model.rollouts import SamplingSpec
from trainer.model.tokenizer import ChatTokenizer

MAX_PROBES = 96
"""Probes after which screening ends."""

FIRST_REPLIES, SCREENING_REPLIES, MAX_WRONG = 2, 10, 1
"""Replies sampled first and in all, and how many of them may be wrong."""

BASE_REPLIES = 32
"""Replies by which the base's accuracy on a probe is measured, once for all policies: its error is in every
loss of knowledge that is measured."""

PREAMBLE_TOKENS = 16
"""Tokens that a reply may have beside the longest accepted answer."""

MAX_TEMPERATURE, MAX_TOP_P = 0.7, 0.9
"""Highest temperature and top-p of a reply to a probe: above, a small base answers hardly anything alike."""

Ask = Callable[[Sequence[Question], int, bool], list[list[bool]]]
"""Returns which of so many replies, sampled or greedy, to each question are correct."""

log = structlog.get_logger("trainer")


def reply_tokens(tokenizer: ChatTokenizer) -> int:
    """Returns the longest reply to a shipped question, tokens."""
    answers = (answer for question in shipped_questions() for answer in question.accept)
    return PREAMBLE_TOKENS + max(len(tokenizer.encode_reply(answer)) for answer in answers)


def probe_spec(backbone: Backbone) -> SamplingSpec:
    """Returns how a reply to a shipped question is sampled, from the base and from its policies alike: at the
    base's own generation defaults, but not above MAX_TEMPERATURE and MAX_TOP_P. The prompts begin with the
    same tokens, which are more than half of them where the chat template has a system prompt."""
    tokens = reply_tokens(backbone)
    prompts = [prompt_ids(backbone, question.prompt, tokens) for question in shipped_questions()]
    first, last = min(prompts), max(prompts)  # if these begin alike, so do those between
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    shared = next(differ, len(first) - 1)
    temperature = min(max(backbone.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE)
    top_p = min(max(backbone.top_p, MIN_TOP_P), MAX_TOP_P)
    return SamplingSpec(1, tokens, temperature, top_p, shared_prefix=shared)


def base_probes(backbone: Backbone, data_dir: Path) -> ProbeSet | None:
    """Returns the probes of a base, which are measured if `data_dir` does not have them; None for the
    starter, which has questions of its own. All processes of a group call it together."""
    if is_starter(backbone.directory):
        return None
    spec = probe_spec(backbone)
    path, key = probe_file(data_dir, backbone.digest), _key(backbone, spec)
    content = path.read_bytes() if backbone.group.is_main and path.is_file() else b""
    found = ProbeSet.parse(backbone.group.broadcast(content))
    if found is None or found.key != key:
        found = _measure(backbone, spec, key)
        if backbone.group.is_main:
            found.write(path)
    return found


def screen(questions: Sequence[Question], ask: Ask) -> tuple[dict[str, int], list[KnowledgeProbe]]:
    """Returns the number of questions asked by topic, and at most MAX_PROBES probes. A base that has none
    among the first MAX_PROBES questions is asked no more."""
    order = list(by_turns(questions))
    asked = dict.fromkeys((question.topic for question in order), 0)
    probes: list[KnowledgeProbe] = []
    for start in range(0, len(order), MAX_PROBES):
        batch = order[start : start + MAX_PROBES]
        for question in batch:
            asked[question.topic] += 1
        left = [question for question, [right] in zip(batch, ask(batch, 1, True), strict=True) if right]
        few = {
            question: correct
            for question, correct in zip(left, ask(left, FIRST_REPLIES, False), strict=True)
            if correct.count(False) <= MAX_WRONG
        }
        rest = ask(list(few), SCREENING_REPLIES - FIRST_REPLIES + BASE_REPLIES, False)
        for (question, first), more in zip(few.items(), rest, strict=True):
            screening, fresh = [*first, *more[:-BASE_REPLIES]], more[-BASE_REPLIES:]
            if screening.count(False) <= MAX_WRONG:
                probes.append(KnowledgeProbe(**asdict(question), base=sum(fresh) / BASE_REPLIES))
        if not probes or len(probes) >= MAX_PROBES:
            break
    return asked, probes[:MAX_PROBES]


def by_turns(questions: Sequence[Question]) -> Iterator[Question]:
    """Yields one question of each topic in turn, so that the first ones are of all topics."""
    topics: dict[str, list[Question]] = {}
    for question in questions:
        topics.setdefault(question.topic, []).append(question)
    for turn in zip_longest(*topics.values()):
        yield from (question for question in turn if question is not None)


def _measure(backbone: Backbone, spec: SamplingSpec, key: str) -> ProbeSet:
    generator = torch.Generator().manual_seed(0)

    def ask(questions: Sequence[Question], replies: int, greedy: bool) -> list[list[bool]]:
        how = replace(spec, samples_per_prompt=replies, greedy=greedy)
        return correct_answers(backbone, questions, how, generator)

    began = time.monotonic()
    if backbone.group.is_main:
        log.info("measuring what the base knows", questions=len(shipped_questions()))
    with backbone.reference():
        asked, probes = screen(shipped_questions(), ask)
    found = ProbeSet(key=key, asked=asked, probes=tuple(probes))
    if backbone.group.is_main:
        seconds = round(time.monotonic() - began, 1)
        log.info("base measured", probes=len(probes), topics=found.topics, seconds=seconds)
    return found


def _key(backbone: Backbone, spec: SamplingSpec) -> str:
    """Returns a digest of all that the probes follow from."""
    replies = FIRST_REPLIES, SCREENING_REPLIES, MAX_WRONG, BASE_REPLIES, MAX_PROBES
    parts = backbone.digest, shipped_questions(), asdict(spec), replies
    return hashlib.sha256(repr(parts).encode()).hexdigest()
