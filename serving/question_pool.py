"""The question pool has replies of the live policy from which pairs are picked to ask people about.

A prompt that one person sent is never shown to another. So the pool's prompts are the examples that the
project gives its visitors, prompts that several people have sent in the same words, and, where these are few,
questions of everyday life. The pool of a policy is made when somebody is first asked under it, and kept.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, LiteralString

import numpy as np
import psycopg
import structlog
from psycopg.types.json import Jsonb
from psycopg_pool import PoolTimeout

from feedback.person import person_of
from schemas.chat import parse_chat
from schemas.errors import EngineError, RequestError
from schemas.turns import Reply
from serving.completion import Completion
from serving.keys import Caller
from serving.person_weights import Values
from serving.services import Services
from serving.tastes import TasteFile

log = structlog.get_logger()

MAX_PROMPTS = 24
"""Prompts of a pool."""

ENOUGH = 12
"""Prompts with which a pool is complete: more than a person is asked about."""

CHOICES = 4
"""Replies to each of them."""

SEVERAL = 3
"""People who must have sent a prompt in the same words before it is shown to others. Those of one network
whom no server names count as one."""

EVERYDAY = (
    "Hello, how are you?",
    "Tell me a joke",
    "How can I sleep better?",
    "What should I cook tonight?",
    "I have a long day ahead. Any advice?",
    "What is a good way to learn a language?",
    "Can you recommend a hobby?",
    "I feel a bit sad today",
    "What is the capital of Portugal?",
    "Why is the sky blue?",
    "How do I write a polite email?",
    "What can I do on a rainy weekend?",
    "Explain what a black hole is",
    "How do I make friends in a new city?",
    "Thank you for your help!",
    "What should I read next?",
)
"""Prompts that everybody may see, in a project that has few of its own."""

_MAX_LETTERS = 200  # of a prompt that is shown
_NEWEST = 5_000  # turns among which prompts that several people sent are looked for
_COMMON: LiteralString = """
    select prompt from (
        select who, messages -> -1 ->> 'content' as prompt from (
            select {person} as who, messages from turns t
            where project = %s and not request ?| array['media', 'question']
            order by created_at desc limit %s
        ) as newest
        where jsonb_path_query_array(messages, '$[*] ? (@.role != "system")') @? '$ ? (@.size() == 1)'
            and jsonb_typeof(messages -> -1 -> 'content') = 'string'
    ) as asked
    where length(prompt) between 1 and %s
    group by prompt having count(distinct who) >= %s order by count(distinct who) desc, prompt limit %s
"""
_ADD: LiteralString = """
    insert into taste_questions (project, policy, prompt, messages, prompt_token_ids, sampling, replies)
    values (%s, %s, %s, %s, %s, %s, %s) on conflict do nothing
"""
_FAILURES = (RequestError, EngineError, psycopg.Error, PoolTimeout)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt with replies of a policy, and the replies' (N, M, C) values."""

    prompt: str
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    sampling: dict[str, Any]
    replies: list[Reply]
    values_NMC: Values


async def candidates(services: Services, caller: Caller, model: TasteFile) -> list[Candidate]:
    """Returns what there is of the pool; starts to make it where it is not complete."""
    async with services.pool.connection() as connection:
        cursor = await connection.execute(
            "select * from taste_questions where project = %s and policy = %s limit %s",
            [caller.project, model.policy, MAX_PROMPTS],
        )
        rows = await cursor.fetchall()
    key = caller.project, model.policy
    if len(rows) < ENOUGH and key not in services.making_questions:
        done = {row["prompt"] for row in rows}
        services.making_questions[key] = asyncio.create_task(_make(services, caller, model, done))
        services.making_questions[key].add_done_callback(lambda _: services.making_questions.pop(key, None))
    return [_candidate(row) for row in rows]


async def _make(services: Services, caller: Caller, model: TasteFile, done: set[str]) -> None:
    try:
        prompts = [each for each in await _prompts(services, caller.project) if each not in done]
        random.shuffle(prompts)  # several processes then share the work
        async with services.pool.connection() as connection:
            await connection.execute(
                "delete from taste_questions where project = %s and policy <> %s",
                [caller.project, model.policy],
            )
        for prompt in prompts[: MAX_PROMPTS - len(done)]:
            await _add(services, caller, model, prompt)
    except _FAILURES as error:
        log.warning("questions_not_made", project=caller.project, error=str(error))


async def _add(services: Services, caller: Caller, model: TasteFile, prompt: str) -> None:
    count = min(CHOICES, services.settings.serving.max_choices)
    request = parse_chat({"messages": [{"role": "user", "content": prompt}], "n": count, "store": False})
    completion = Completion(services, caller, request, policy=model.policy)
    async with aclosing(completion.deltas()) as deltas:
        async for _ in deltas:
            pass
    replies = [reply for reply in completion.replies() if reply.text.strip()]
    if len({reply.text for reply in replies}) < 2:
        return
    scored = await services.tastes.score(
        model, completion.prompt_token_ids, [reply.token_ids for reply in replies]
    )
    found = [
        {
            "policy": reply.policy, "text": reply.text, "token_ids": reply.token_ids,
            "logprobs": reply.logprobs, "finish_reason": reply.finish_reason, "values": values.tolist(),
        }
        for reply, values in zip(replies, scored.values_NMC, strict=True)
    ]  # fmt: skip
    async with services.pool.connection() as connection:
        await connection.execute(
            _ADD,
            [
                caller.project, model.policy, prompt, Jsonb(completion.messages),
                completion.prompt_token_ids, Jsonb(completion.sampling()), Jsonb(found),
            ],
        )  # fmt: skip


async def _prompts(services: Services, project: str) -> list[str]:
    """Returns the prompts that everybody in a project may see, its own first."""
    async with services.pool.connection() as connection:
        cursor = await connection.execute("select widget from projects where id = %s", [project])
        row = await cursor.fetchone()
        cursor = await connection.execute(
            _COMMON.format(person=person_of("t")), [project, _NEWEST, _MAX_LETTERS, SEVERAL, MAX_PROMPTS]
        )
        common: Sequence[str] = [each["prompt"] for each in await cursor.fetchall()]
    examples = (row["widget"].get("examples") or []) if row else []
    own = list(dict.fromkeys([*examples, *common]))
    return (own if len(own) >= ENOUGH else list(dict.fromkeys([*own, *EVERYDAY])))[:MAX_PROMPTS]


def _candidate(row: dict[str, Any]) -> Candidate:
    replies = [
        Reply(
            choice, each["policy"], 1.0, each["text"], each["token_ids"], each["logprobs"],
            each["finish_reason"],
        )
        for choice, each in enumerate(row["replies"])
    ]  # fmt: skip
    values_NMC = np.array([each["values"] for each in row["replies"]])
    return Candidate(
        row["prompt"], row["messages"], row["prompt_token_ids"], row["sampling"], replies, values_NMC
    )
