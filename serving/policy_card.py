"""A policy's card says what a policy learned from, in aggregate, how it was judged, and how to opt out.

`GET /v1/policies/{policy}/card` is for the project; `GET /cards/{project}/{policy}` is for everybody where
the project says so (`public_cards`). Nothing in it is about one person: votes of few people
(`feedback.person`) are not counted, and what operators wrote is left out. Votes past their retention are of
nobody, as it is no longer known which network they came from. The sections follow "Model Cards for Model
Reporting" (Mitchell et al. 2019).
"""

from collections.abc import Iterator
from typing import Any, LiteralString

from fastapi import APIRouter, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from starlette.responses import PlainTextResponse, Response

from feedback.person import person_of
from schemas.errors import NotFound
from schemas.feedback import JUDGE
from serving.admin import with_times
from serving.auth import Viewer, charge
from serving.console.policies import policy
from serving.services import services

FEWEST = 5
"""People below which the card does not count votes."""

router = APIRouter()

_VOTES: LiteralString = """
with votes as (
    select e.type, coalesce(e.value ->> 'value', e.value ->> 'signal') as value,
        case when f.id is not null and not starts_with(e.rater, %(judge)s) then {person} end as person
    from training_examples e left join feedback f on f.id = e.feedback_id
    where e.project = %(project)s and e.first_policy = %(policy)s
)
select type, value, count(*) as votes, count(distinct person) as people
from votes group by grouping sets ((type, value), ()) order by type nulls first, votes desc
"""
_ABOUT: LiteralString = """
select manifest ->> 'base_model' as base_model, base_digest, digest, public_cards
from policies join projects on projects.id = policies.project
where project = %(project)s and policies.id = %(policy)s
"""
_ROLLOUTS: LiteralString = """
select kind, share, automatic, state, case when automatic then reason end as reason, started_at, ended_at
from rollouts where project = %(project)s and policy = %(policy)s order by started_at limit 100
"""
_OPT_OUT = (
    "Chats are kept, and votes learned from, unless you opt out: on the page under Privacy, or by"
    " `PUT /v1/users/me/consent`; for one request by `store: false`. On the page you can also have all that"
    " is kept of you deleted; so can who runs this service."
)


async def card(connection: AsyncConnection[DictRow], project: str, id: str) -> dict[str, Any]:
    """Returns the card of a policy. Raises NotFound."""
    shown = await policy(connection, project, id)
    values = {"project": project, "policy": id, "judge": JUDGE}
    about = await (await connection.execute(_ABOUT, values)).fetchone()
    votes = await (await connection.execute(_VOTES.format(person=person_of("f", "e")), values)).fetchall()
    rollouts = await (await connection.execute(_ROLLOUTS, values)).fetchall()
    assert about is not None  # noqa: S101  (the policy was there)
    whole, *kinds = votes
    enough = whole["people"] >= FEWEST
    return {
        "policy": id,
        "project": project,
        "state": shown["state"],
        "made_at": shown["created_at"],
        "live_at": shown["live_at"],
        "base_model": (about["base_model"] or "").rsplit("/", 1)[-1],
        "base_digest": about["base_digest"],
        "digest": about["digest"],
        "lineage": shown["ancestors"],
        "learned_from": {
            "votes": whole["votes"] if enough else None,
            "people": whole["people"] if enough else None,
            "kinds": [
                {"type": row["type"], "value": row["value"], "votes": row["votes"]}
                for row in kinds
                if row["people"] >= FEWEST
            ],
        },
        "verdict": shown["headline"],
        "checks": shown["checks"],
        "rollouts": [with_times(row) for row in rollouts],
        "opt_out": _OPT_OUT,
        "public": about["public_cards"],
    }


def markdown(found: dict[str, Any]) -> str:
    """Returns a card as a text."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    learned = found["learned_from"]
    yield f"# Policy {found['policy']}\n"
    yield f"A LoRA adapter of {found['base_model']}, made {found['made_at'][:10]}; it is {found['state']}.\n"
    yield "## What it learned from\n"
    if learned["votes"] is None:
        yield f"New votes of fewer than {FEWEST} people, or none."
    else:
        yield f"{learned['votes']} new votes of {learned['people']} people:\n"
        yield from (
            f"- {row['votes']} of type {row['type']}" + (f" ({row['value']})" if row["value"] else "")
            for row in learned["kinds"]
        )
    yield f"\nBefore that: {', '.join(found['lineage']) or 'nothing'}.\n"
    yield f"## How it was judged\n\n{found['verdict']}\n"
    yield from (
        f"- {each['name']}: {each['found']} (limit {each['limit']}): {each['state']}"
        for each in found["checks"]
    )
    yield "\n## Who was answered by it\n"
    for each in found["rollouts"]:
        ended = f" until {each['ended_at'][:10]}" if each["ended_at"] else ""
        why = f": {each['reason']}" if each["reason"] else ""
        yield f"- {each['share']:.0%} from {each['started_at'][:10]}{ended}, {each['state']}{why}"
    yield f"\n## Opt out\n\n{found['opt_out']}\n"
    yield f"Digest of the policy {found['digest']}, of its base {found['base_digest']}."


@router.get("/v1/policies/{policy}/card")
async def policy_card(request: Request, policy: str, caller: Viewer) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await card(connection, caller.project, policy)


@router.get("/cards/{project}/{policy}", response_class=PlainTextResponse)
async def public_card(request: Request, project: str, policy: str) -> Response:
    """Returns the card as Markdown. Raises NotFound where the project does not publish its cards."""
    charge(request, None, "requests")
    try:
        async with services(request).pool.connection() as connection:
            found = await card(connection, project, policy)
    except NotFound:
        found = {"public": False}
    if not found["public"]:
        raise NotFound("There is no such card.", code="card_not_found")
    return PlainTextResponse(markdown(found))
