"""`POST /v1/tastes/questions` asks a person which of two replies they prefer, ten times.

A question is a turn of that person with two replies, so its answer is a vote like any other
(`POST /v1/feedback`, a ranking): durable, retractable, and learned from. The pair is the one that says most
about the person's weights on the shared tastes; no prompt is asked twice. After the tenth answer, the
person's next reply is chosen by what they said.
"""

import secrets
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, LiteralString

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, TypeAdapter

from feedback.store import not_agreed
from schemas.errors import Conflict, Forbidden, InvalidRequest, Unavailable
from schemas.feedback import Id
from schemas.turns import Turn, new_id
from schemas.users import UserName
from schemas.wire import check, decode
from serving import question_pool
from serving.auth import SESSION_HEADER, User, network_of, visitor
from serving.identity import Visitor, origin_of
from serving.keys import Caller
from serving.openapi import request_body
from serving.person_weights import PersonPosterior, information, prior
from serving.question_pool import Candidate
from serving.services import Services, services
from serving.tastes import TasteFile

QUESTIONS = 10
"""Pairs that a person is asked about."""

_MAX_ASKED = 64  # newest questions of a person that are looked at
_ASKED: LiteralString = """
    select t.id, t.messages -> -1 ->> 'content' as prompt,
        array(select text from replies where turn_id = t.id order by choice) as replies,
        exists (
            select from feedback f where f.turn_id = t.id and f.type = 'ranking' and f.rater = t.rater
                and f.superseded_by is null and f.retracted_at is null
        ) as answered
    from turns t where t.project = %s and t.rater = %s and t.request ? 'question'
    order by t.created_at desc limit %s
"""

router = APIRouter()


class NextQuestion(BaseModel):
    """Who is asked, where a server's key asks for its user; and a question that is left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user: UserName | None = None
    skip: Id | None = None


_NEXT = TypeAdapter(NextQuestion)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies of a candidate, and the information in nats that an answer is expected to give."""

    candidate: Candidate
    first: int
    second: int
    information: float


@router.post("/v1/tastes/questions", openapi_extra=request_body("/v1/tastes/questions", NextQuestion))
async def next_question(request: Request, caller: User) -> dict[str, Any]:
    """Returns the next pair, or the one that is not answered yet; none after the tenth answer. While the
    first questions are being made, `ready` is false; ask again in a moment."""
    parts = services(request)
    body = await request.body()
    said = check(_NEXT, decode(body)) if body else NextQuestion()
    person = await _person(request, parts, caller, said.user)
    if not await parts.store.may_store(caller.project, person.rater, caller.key_id):
        raise not_agreed()
    model = await parts.tastes.model(caller.project)
    if model is None:
        raise Conflict(
            "There is nothing to ask: the votes here support one taste for all, or no engine scores replies.",
            code="no_tastes",
        )
    async with parts.pool.connection() as connection:
        cursor = await connection.execute(_ASKED, [caller.project, person.rater, _MAX_ASKED])
        asked = await cursor.fetchall()
    answered = sum(row["answered"] for row in asked)
    if answered >= QUESTIONS or len(asked) == _MAX_ASKED:
        return _answer(parts, None, answered)
    if asked and not asked[0]["answered"] and asked[0]["id"] != said.skip:
        return _answer(parts, asked[0], answered)
    candidates = await question_pool.candidates(parts, caller, model)
    left = {row["prompt"] for row in asked}
    known, _ = await parts.tastes.posterior(model, caller.project, person.rater)
    pair = pick([each for each in candidates if each.prompt not in left], known)
    if pair is None:
        making = (caller.project, model.policy) in parts.making_questions
        if not candidates and not making:
            raise Unavailable(
                "No questions could be made; try again later.", code="no_questions", retry_after=60
            )
        return _answer(parts, None, answered, ready=not making)
    origin = origin_of(parts.signer, caller, network_of(request), named=person.named)
    return _answer(parts, await _ask(parts, caller, person.rater, origin, model, pair), answered)


def pick(candidates: list[Candidate], known: PersonPosterior | None) -> Pair | None:
    """Returns the pair of replies whose comparison is expected to say most about the person's weights."""
    found: list[Pair] = []
    for candidate in candidates:
        values_NMC = candidate.values_NMC
        posterior = known or prior(values_NMC.shape[2] - 1)
        for first, second in combinations(range(len(candidate.replies)), 2):
            if candidate.replies[first].text != candidate.replies[second].text:
                gain = information(values_NMC[first] - values_NMC[second], posterior)
                found.append(Pair(candidate, first, second, gain))
    return max(found, key=lambda pair: pair.information, default=None)


async def _person(request: Request, parts: Services, caller: Caller, user: str | None) -> Visitor:
    """Returns the person who is asked. Raises Forbidden and InvalidRequest."""
    known = await visitor(request, caller, request.headers.get(SESSION_HEADER))
    if user is not None and caller.kind == "publishable":
        raise Forbidden(
            "A publishable key names nobody; send the visitor's session.", code="user_not_allowed"
        )
    if known is not None and user is None:
        return known
    if known is None and user is not None:
        return Visitor(parts.signer.rater_id(caller.project, user, caller.kind), caller.key_id, named=True)
    raise InvalidRequest(
        "Say who is asked: send the header Hearken-Session, or with a secret key `user`.",
        code="missing",
        param="user",
    )


async def _ask(
    parts: Services, caller: Caller, person: str, origin: str | None, model: TasteFile, pair: Pair
) -> dict[str, Any]:
    """Stores the pair as a turn of the person; returns it as the question."""
    candidate, chosen = pair.candidate, [pair.first, pair.second]
    secrets.SystemRandom().shuffle(chosen)
    replies = [replace(candidate.replies[each], choice=choice) for choice, each in enumerate(chosen)]
    turn = Turn(
        id=new_id(),
        project=caller.project,
        conversation_id=f"questions-{secrets.token_hex(12)}",
        rater=person,
        key_id=caller.key_id,
        messages=candidate.messages,
        prompt_token_ids=candidate.prompt_token_ids,
        sampling=candidate.sampling,
        replies=replies,
        request={"question": {"information": round(pair.information, 4)}},
        origin=origin,
    )
    await parts.store.record_turn(turn)
    values = candidate.values_NMC.mean(1)
    parts.tastes.keep({(model.digest, turn.id, at): values[each] for at, each in enumerate(chosen)})
    return {"id": turn.id, "prompt": candidate.prompt, "replies": [reply.text for reply in replies]}


def _answer(
    parts: Services, row: dict[str, Any] | None, answered: int, *, ready: bool = True
) -> dict[str, Any]:
    question = row and {
        "completion_id": row["id"],
        "feedback_token": parts.signer.feedback_token(row["id"]),
        "prompt": row["prompt"],
        "replies": row["replies"],
    }
    return {"question": question, "answered": answered, "of": QUESTIONS, "ready": ready}
