"""A policy's card says what a policy learned from, in aggregate, how it was judged, and how to opt out.

`GET /v1/policies/{policy}/card` is for the project; `GET /cards/{project}/{policy}`, and `/cards/{project}`
for the live policy, are for everybody where the project says so (`public_cards`). Nothing in it is about one
person: votes of few people (`feedback.person`) are not counted, and what operators wrote is left out. Votes
past their retention are of nobody, as it is no longer known which network they came from. The sections follow
"Model Cards for Model Reporting" (Mitchell et al. 2019).
"""

from typing import Any, LiteralString

from fastapi import APIRouter, Request
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from feedback.person import person_of
from schemas.errors import NotFound
from schemas.feedback import JUDGE
from serving.admin import with_times
from serving.auth import Viewer, charge
from serving.card_page import CONTENT_POLICY, FEWEST, html, markdown
from serving.console.policies import policy
from serving.services import services

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
_LIVE: LiteralString = "select live from routes where project = %s"
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


@router.get("/v1/policies/{policy}/card")
async def policy_card(request: Request, policy: str, caller: Viewer) -> dict[str, Any]:
    async with services(request).pool.connection() as connection:
        return await card(connection, caller.project, policy)


@router.get("/cards/{project}", response_class=PlainTextResponse)
async def live_card(request: Request, project: str) -> Response:
    """Returns the card of the live policy. Raises NotFound as `public_card`."""
    return await _public(request, project, None)


@router.get("/cards/{project}/{policy}", response_class=PlainTextResponse)
async def public_card(request: Request, project: str, policy: str) -> Response:
    """Returns the card as a page where the request accepts HTML, else as Markdown. Raises NotFound where the
    project does not publish its cards."""
    return await _public(request, project, policy)


async def _public(request: Request, project: str, policy: str | None) -> Response:
    charge(request, None, "requests")
    try:
        async with services(request).pool.connection() as connection:
            live = await (await connection.execute(_LIVE, [project])).fetchone()
            found = await card(connection, project, policy or (live["live"] if live else ""))
    except NotFound:
        found = {"public": False}
    if not found["public"]:
        raise NotFound("There is no such card.", code="card_not_found")
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(
            html(found), headers={"Content-Security-Policy": CONTENT_POLICY, "Vary": "Accept"}
        )
    return PlainTextResponse(markdown(found), headers={"Vary": "Accept"})
