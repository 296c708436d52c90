"""A person's choice, and what a project asks for, decide what is stored, on every path and at once."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from feedback.consent import choose
from feedback.store import Store
from schemas.database import AsyncPool
from schemas.errors import Conflict
from schemas.feedback import parse_vote
from serving.auth import SESSION_HEADER
from tests.integration.test_live import Socket, dial
from tests.service import Service, events
from tests.tenants import Team, new_team
from tests.voting import a_turn

ASK = [{"role": "user", "content": "Hello"}]
CHAT = {"messages": ASK, "max_tokens": 1}
SAID = {"messages": ASK, "replies": ["Hi."]}


@pytest.fixture(scope="module")
def team(service: Service) -> Team:
    return new_team(service, "consenting")


@pytest.fixture
def asking(team: Team) -> Iterator[Team]:
    """The team's project, which asks its visitors."""
    assert team.ask("PUT", "widget", json={"consent": "ask"}).status_code == 200
    yield team
    team.ask("PUT", "widget", json={})


def say(team: Team, path: str, learning: bool, key: str | None = None, **more: Any) -> dict[str, Any]:
    """Records a choice; returns the answer."""
    answer = team.ask("PUT", f"users/{path}/consent", key, json={"learning": learning}, **more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chat(team: Team, key: str, session: str | None = None, **fields: Any) -> dict[str, Any]:
    headers = {SESSION_HEADER: session} if session else {}
    answer = team.ask("POST", "chat/completions", key, json={**CHAT, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stored(reply: dict[str, Any]) -> bool:
    """Whether a reply may be voted on, as its id and its token say alike."""
    kept = not reply["id"].startswith("chatcmpl-nostore-")
    assert (reply["hearken"]["feedback_token"] is not None) == kept
    return kept


def turns(team: Team) -> int:
    return int(team.service.rows("select count(*) from turns where project = %s", team.id)[0][0])


def vote(team: Team, completion: str, key: str | None = None, **fields: Any) -> tuple[int, str]:
    """Status of a thumb, with the code of its error."""
    thumb = {"completion_id": completion, "type": "thumb", "value": "up", **fields}
    answer = team.ask("POST", "feedback", key or team.secret, json=thumb)
    return answer.status_code, answer.json().get("error", {}).get("code", "")


def new_session(team: Team) -> str:
    return str(team.ask("POST", "sessions", team.publishable).json()["token"])


def test_who_said_no_is_answered_on_every_path_as_with_store_false(service: Service, team: Team) -> None:
    chosen = say(team, "ada", False, team.secret)
    assert chosen["learning"] is False
    before = turns(team)
    assert not stored(chat(team, team.secret, user="ada"))
    with service.client(team.secret) as client:
        asked = {**CHAT, "user": "ada", "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            streamed = list(events(answer))
    assert not stored(streamed[-1])
    assert len({each["id"] for each in streamed}) == 1
    said = {"input": "Hello", "max_output_tokens": 1, "user": "ada"}
    response = team.ask("POST", "responses", team.secret, json=said).json()
    assert (response["store"], response["hearken"]["feedback_token"]) == (False, None)
    with dial(service) as socket:
        socket.send(type="auth", key=team.secret)
        socket.send(type="chat", id="a", **CHAT, user="ada")
        assert not stored(socket.next("done", "error")["completion"])
    elsewhere = team.ask("POST", "turns", team.secret, json={**SAID, "user": "ada"})
    assert (elsewhere.status_code, elsewhere.json()["feedback_token"]) == (200, None)
    assert vote(team, elsewhere.json()["completion_id"]) == (409, "not_stored")
    asked_for = team.ask("POST", "tastes/questions", team.secret, json={"user": "ada"})
    assert (asked_for.status_code, asked_for.json()["error"]["code"]) == (409, "not_stored")
    assert turns(team) == before
    assert stored(chat(team, team.secret, user="ben"))
    assert turns(team) == before + 1


def test_what_another_process_was_told_counts_at_once(service: Service, team: Team) -> None:
    say(team, "eve", True)
    for learning in (False, True):
        service.rows(
            "update consents set learning = %s where project = %s and hash = person_hash(project, %s)"
            " returning 1",
            learning, team.id, service.services.signer.rater_id(team.id, "eve", "secret"),
        )  # fmt: skip
        assert stored(chat(team, team.secret, user="eve")) is learning


def test_no_vote_of_who_said_no_is_stored_and_earlier_ones_are_taken_back(team: Team) -> None:
    mine, theirs = chat(team, team.secret, user="carl"), chat(team, team.secret, user="ben")
    thumb = {"completion_id": mine["id"], "type": "thumb", "value": "up"}
    once = {"headers": {"Idempotency-Key": "once"}}
    first = team.ask("POST", "feedback", team.secret, json=thumb, **once).json()
    say(team, "carl", False)
    assert team.ask("POST", "feedback", team.secret, json=thumb, **once).json() == first
    by_token = {"feedback_token": mine["hearken"]["feedback_token"]}
    refused = (409, "not_stored")
    assert vote(team, mine["id"]) == vote(team, mine["id"], team.publishable, **by_token) == refused
    assert vote(team, theirs["id"], user="carl") == refused
    again = team.ask("POST", "feedback", team.secret, json=thumb, headers={"Idempotency-Key": "new"})
    assert again.status_code == 409
    batch = team.ask("POST", "feedback/batch", team.secret, json={"feedback": [thumb]}).json()["feedback"]
    assert batch[0]["error"]["code"] == "not_stored"
    assert vote(team, theirs["id"]) == (201, "")
    assert vote(team, mine["id"], user="ann") == (201, ""), "what was stored before stays, also to be judged"
    assert team.ask("DELETE", f"feedback/{first['id']}", team.secret).status_code == 200
    say(team, "carl", True)
    assert vote(team, mine["id"]) == (201, "")


def test_a_project_that_asks_stores_nothing_of_who_has_not_agreed(asking: Team) -> None:
    ada, ben = new_session(asking), new_session(asking)
    page = asking.publishable
    assert not any(stored(chat(asking, page, session, user=None)) for session in (None, ada, ben))
    me = {"headers": {SESSION_HEADER: ada}}
    assert asking.ask("GET", "users/me/consent", page, **me).json() == {"learning": None, "set_at": None}
    chosen = say(asking, "me", True, page, **me)
    assert asking.ask("GET", "users/me/consent", page, **me).json() == chosen
    held = asking.ask("GET", "users/me", page, **me).json()["consent"]
    assert [(each["learning"], each["set_by"]) for each in held] == [(True, "visitor")]
    assert stored(chat(asking, page, ada))
    assert not stored(chat(asking, page, ben))
    assert stored(chat(asking, asking.secret, user="somebody"))
    recorded = asking.ask("POST", "turns", asking.secret, json=SAID).json()
    assert vote(asking, recorded["completion_id"], page, feedback_token=recorded["feedback_token"])[0] == 201
    asking.ask("PUT", "widget", json={"consent": "off"})
    assert not stored(chat(asking, page, ada))
    assert stored(chat(asking, asking.secret, user="somebody"))


def test_a_visitor_of_before_the_project_asked_votes_once_they_agree(team: Team) -> None:
    session = new_session(team)
    reply = chat(team, team.publishable, session)
    thumb = {"key": team.publishable, "feedback_token": reply["hearken"]["feedback_token"]}
    team.ask("PUT", "widget", json={"consent": "ask"})
    try:
        assert vote(team, reply["id"], **thumb) == (409, "not_stored")
        say(team, "me", True, team.publishable, headers={SESSION_HEADER: session})
        assert vote(team, reply["id"], **thumb) == (201, "")
    finally:
        team.ask("PUT", "widget", json={})


def test_a_choice_through_the_websocket_holds_for_what_is_sent_after_it(asking: Team) -> None:
    def answered(socket: Socket, learning: Any) -> dict[str, Any]:
        socket.send(type="consent", id="c", learning=learning)
        socket.send(type="chat", id="a", **CHAT)
        said = socket.next("consent", "error", id="c")
        return {**said, "stored": stored(socket.next("done", "error", id="a")["completion"])}

    with dial(asking.service) as socket:
        socket.send(type="auth", key=asking.publishable, session=new_session(asking))
        for learning in (True, False):
            found = answered(socket, learning)
            assert (found["learning"], found["stored"]) == (learning, learning)
        assert answered(socket, "yes")["error"]["param"] == "learning"
    with dial(asking.service) as socket:
        socket.send(type="auth", key=asking.publishable)
        assert answered(socket, True)["error"]["code"] == "missing_session"


async def test_what_comes_late_obeys_too(async_pool: AsyncPool) -> None:
    """A reply that was still being written, or waited in a spool, is stored by these calls."""
    store = Store(async_pool)
    await store.record_turn(a_turn("chatcmpl-early"))
    async with async_pool.connection() as connection:
        await choose(connection, "default", ["u_ada"], False, "visitor")
    await store.record_turn(a_turn("chatcmpl-late"))
    assert await store.votable_turn("chatcmpl-late") is None
    votable = await store.votable_turn("chatcmpl-early")
    assert votable is not None
    thumb = parse_vote({"completion_id": "chatcmpl-early", "type": "thumb", "value": "up"})
    with pytest.raises(Conflict, match="not kept"):
        await store.submit(votable, thumb, "u_ada")
    assert not (await store.submit(votable, thumb, "judge:a-model")).spooled


def test_a_refusal_outlives_the_erasure_and_an_agreement_does_not(team: Team) -> None:
    say(team, "dora", False), say(team, "emil", True)
    for user, left in (("dora", False), ("emil", None)):
        assert team.ask("DELETE", f"users/{user}").status_code == 202
        assert team.ask("GET", f"users/{user}/consent").json()["learning"] is left


def test_who_may_choose_for_whom(team: Team) -> None:
    def refusal(path: str, key: str, body: object, **headers: str) -> tuple[int, str, str | None]:
        answer = team.ask("PUT", path, key, content=json.dumps(body), headers=headers)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    no = {"learning": False}
    reads = team.make_key(roles=["read"])["key"]
    for key in (team.publishable, reads):
        assert refusal("users/ada/consent", key, no) == (403, "forbidden", None)
    assert refusal("users/me/consent", team.publishable, no) == (401, "missing_session", None)
    assert team.ask("GET", "users/ada/consent", team.publishable).status_code == 403
    assert team.ask("GET", "users/ada/consent", reads).status_code == 200
    for body, param in (({"learning": "no"}, "learning"), ({**no, "user": "x"}, "user"), ([], None)):
        status, _, named = refusal("users/ada/consent", team.secret, body)
        assert (status, named) == (400, param)
    assert refusal("users/ada/consent", team.secret, {})[0] == 400
    assert refusal("users/a%00b/consent", team.secret, no)[0] == 400
    with team.service.client(None) as client:
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "PUT"}
        assert client.options("/v1/users/me/consent", headers=asked).status_code == 200
