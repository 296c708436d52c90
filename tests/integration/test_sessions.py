"""A session token says who uses a key, and nobody can make one up."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from serving.auth import SESSION_HEADER
from serving.keys import key_hash
from serving.token_signer import Session, TokenSigner
from tests.integration.test_live import dial
from tests.service import ADMIN, PUBLIC, Service, run_api

ASK = [{"role": "user", "content": "Hello"}]
SECRET = "sk-hearken-a-teams-server-0123"


def session(service: Service, key: str = PUBLIC, **body: str) -> str:
    with service.client(key) as client:
        answer = client.post("/v1/sessions", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_at"].endswith("Z")
    return str(answer.json()["token"])


def rater(service: Service, key: str = PUBLIC, token: str | None = None, **fields: Any) -> str:
    """The rater of a chat."""
    body = {"messages": ASK, "max_tokens": 1, **fields}
    with service.client(key) as client:
        reply = client.post(
            "/v1/chat/completions", json=body, headers={SESSION_HEADER: token} if token else {}
        )
    assert reply.status_code == 200, reply.text
    return str(service.rows("select rater from turns where id = %s", reply.json()["id"])[0][0])


def refusal(service: Service, token: str | bytes, key: str = PUBLIC, **fields: str) -> tuple[int, str]:
    with service.client(key) as client:
        body = {"messages": ASK, "max_tokens": 1, **fields}
        answer = client.post("/v1/chat/completions", json=body, headers={SESSION_HEADER: token})
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def secret(service: Service) -> Iterator[str]:
    """A secret key that a team's server has; it is revoked in the end."""
    values = ["default-secret", "default", "secret", key_hash(SECRET)]
    service.rows(
        "insert into keys (id, project, kind, hash) values (%s, %s, %s, %s) on conflict (id) do update"
        " set revoked_at = null returning id",
        *values,
    )
    yield SECRET
    service.rows("update keys set revoked_at = now() where id = 'default-secret' returning id")


def test_a_visitor_is_one_rater_and_another_is_another(service: Service) -> None:
    one, other = session(service), session(service)
    assert rater(service, token=one) == rater(service, token=one)
    assert rater(service, token=one) != rater(service, token=other)


def test_a_session_is_prolonged_for_the_same_person(service: Service) -> None:
    token = session(service)
    known = service.services.signer.read_session(token)
    assert known is not None
    old = service.services.signer.session_token(replace(known, expires=known.expires - 3600))
    with service.client(PUBLIC) as client:
        longer = client.post("/v1/sessions", headers={SESSION_HEADER: old}).json()["token"]
        wrong = client.post("/v1/sessions", headers={SESSION_HEADER: old[:-1] + "x"})
    prolonged = service.services.signer.read_session(longer)
    assert prolonged is not None
    assert (prolonged.rater, prolonged.expires >= known.expires) == (known.rater, True)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_session")


def test_a_user_that_a_server_names_is_the_same_on_the_page(service: Service, secret: str) -> None:
    token = session(service, secret, user="ada")
    assert rater(service, PUBLIC, token) == rater(service, secret, user="ada")
    assert rater(service, PUBLIC, token) != rater(service, PUBLIC, user="ada")
    with service.client(PUBLIC) as client:
        named = client.post("/v1/sessions", json={"user": "ada"})
    assert (named.status_code, named.json()["error"]["code"]) == (403, "user_not_allowed")
    with service.client(secret) as client:
        unnamed = client.post("/v1/sessions", json={})
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "user")


def test_a_publishable_key_makes_nobody_up(service: Service, secret: str) -> None:
    """Each name and each conversation is the one anonymous person of the network; sessions are people, of
    whom the network is known; and a server's users come from nowhere."""
    token, named = session(service), session(service, secret, user="ada")
    claims = [{}, {"user": "ada"}, {"user": "bob"}, {"metadata": {"conversation_id": "c1"}}]
    [anonymous] = {rater(service, **claim) for claim in claims}
    assert anonymous.startswith("a_")
    visitors = {rater(service, token=each) for each in (token, session(service))}
    assert {each[:2] for each in visitors} == {"v_"}
    ada = {rater(service, token=named), rater(service, secret, user="ada")}
    origins = dict(service.rows("select distinct rater, origin from turns"))
    assert len({origins[each] for each in (anonymous, *visitors)}) == 1
    assert origins[anonymous]
    assert {origins[each] for each in ada} == {None}


def test_who_vouches_for_a_session_is_its_key_and_not_its_pseudonym(service: Service, secret: str) -> None:
    """A page's session of an earlier release has a pseudonym as a server's user has, and counts by its
    network. A server's user does not, also once the page has prolonged the session, which ends with the
    server's key as before."""
    signer, ends = service.services.signer, int(time.time()) + 60
    old = signer.session_token(Session("default", f"u_{'0' * 32}", "default-publishable", ends))
    named = session(service, secret, user="ada")
    with service.client(PUBLIC) as client:
        for token in (old, named):
            client.headers[SESSION_HEADER] = token
            longer = client.post("/v1/sessions").json()["token"]
            before, after = signer.read_session(token), signer.read_session(longer)
            assert before is not None
            assert after is not None
            assert (after.rater, after.key_id) == (before.rater, before.key_id)
            rater(service, token=token), rater(service, token=longer)
    origins: dict[str, set[str | None]] = {}
    for person, origin in service.rows("select rater, origin from turns where rater like 'u%%'"):
        origins.setdefault(person, set()).add(origin)
    [of_page] = origins.pop(f"u_{'0' * 32}")
    assert of_page
    assert origins[signer.rater_id("default", "ada", "secret")] == {None}
    service.rows("update keys set revoked_at = now() where id = 'default-secret' returning id")
    service.services.keys._kinds.clear()
    assert refusal(service, longer) == (401, "invalid_session")


def test_a_name_made_up_is_nobody_elses(service: Service, secret: str) -> None:
    """A page's visitor who claims a name is told nothing of that person's votes, and no name is that of a
    conversation."""
    by_conversation = {"metadata": {"conversation_id": "c1"}}
    assert rater(service, secret, **by_conversation) != rater(service, secret, user="conversation:c1")
    for key, heard in ((PUBLIC, False), (secret, True)):
        with dial(service) as socket:
            socket.send(type="auth", key=key)
            socket.send(type="chat", id="a", messages=ASK, max_tokens=1, user="ada", store=False)
            socket.next("done")
            kind = "secret" if heard else "publishable"
            [own] = [each for each in service.services.hub._subscribers if each.caller.kind == kind]
            assert bool(own.raters) == heard


def test_who_has_a_session_names_no_user(service: Service) -> None:
    assert refusal(service, session(service), user="ada") == (400, "invalid_value")


def test_no_session_can_be_made_up(service: Service, secret: str) -> None:
    token = session(service)
    signer = service.services.signer
    known = signer.read_session(token)
    assert known is not None
    said, tag = token.removeprefix("hs_").split(".")
    forged = {
        "nothing": "",
        "no token": "hs_.",
        "another tag": f"hs_{said}.{'0' * len(tag)}",
        "another rater": f"hs_{said[:-4]}AAAA.{tag}",
        "another installation": TokenSigner(b"x" * 32).session_token(known),
        "another project": signer.session_token(replace(known, project="other")),
        "ended": signer.session_token(replace(known, expires=int(time.time()) - 1)),
        "unknown key": signer.session_token(replace(known, key_id="nobody")),
        "too long": "hs_" + "A" * 2_000 + ".0",
        "a feedback token": signer.feedback_token("chatcmpl-x"),
        "not ASCII": b"hs_\xe4.\xf6",
    }
    answers = {name: refusal(service, each) for name, each in forged.items()}
    assert answers == dict.fromkeys(forged, (401, "invalid_session"))
    assert refusal(service, token, key=ADMIN, user="x") == (400, "invalid_value")


def test_a_session_ends_with_its_key(service: Service, secret: str) -> None:
    token = session(service, secret, user="ada")
    assert rater(service, token=token)
    service.rows("update keys set revoked_at = now() where id = 'default-secret' returning id")
    service.services.keys._kinds.clear()  # it is looked up again after seconds
    assert refusal(service, token) == (401, "invalid_session")


def test_a_websocket_takes_a_session_or_closes(service: Service) -> None:
    token = session(service)
    with dial(service) as socket:
        socket.send(type="auth", key=PUBLIC, session=token)
        limits = socket.next("ready")["limits"]
        assert limits["bytes"] == service.settings.serving.max_body_bytes
        socket.send(type="chat", id="a", messages=ASK, max_tokens=1)
        completion = socket.next("done")["completion"]
    rows = service.rows("select rater from turns where id = %s", completion["id"])
    assert rows == [(rater(service, token=token),)]
    for wrong in ("hs_x.y", 7):
        with dial(service) as socket:
            socket.send(type="auth", key=PUBLIC, session=wrong)
            assert socket.next("error")["error"]["code"] == "invalid_session"
            with pytest.raises(Exception, match="4401"):
                socket.connection.recv(timeout=10)


def test_one_address_gets_a_bounded_number_of_sessions(service: Service) -> None:
    serving = service.settings.serving.model_copy(update={"address_requests_per_minute": 20})
    with (
        run_api(service.settings.model_copy(update={"serving": serving})) as (url, _),
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {PUBLIC}"}) as client,
    ):
        answers = [client.post("/v1/sessions").status_code for _ in range(3)]
    assert answers == [201, 201, 429]


def test_one_network_casts_a_bounded_number_of_votes(service: Service, secret: str) -> None:
    """From whatever sessions, by whatever request; a flip counts. A server's users have no such limit."""
    serving = service.settings.serving.model_copy(update={"network_votes_per_hour": 5})
    with run_api(service.settings.model_copy(update={"serving": serving})) as (url, _):
        service.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        page, server = (
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) for key in (PUBLIC, secret)
        )
        with page, server:
            votes = [a_vote(page, {SESSION_HEADER: session(service)}) for _ in range(3)]
            codes = [page.post("/v1/feedback", json=vote).status_code for vote in (*votes, votes[0])]
            batch = page.post("/v1/feedback/batch", json={"feedback": votes}).json()["feedback"]
            refused = page.post("/v1/feedback", json=a_vote(page, {}))
            named = [a_vote(server, {}, user="ada") for _ in range(6)]
            codes_of_server = [server.post("/v1/feedback", json=vote).status_code for vote in named]
    assert codes == [201] * 4
    assert [each.get("error", {}).get("code") for each in batch] == [None] + ["rate_limit_exceeded"] * 2
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 60
    assert "votes from one network an hour" in refused.json()["error"]["message"]
    assert codes_of_server == [201] * 6


def a_vote(client: httpx.Client, headers: dict[str, str], **fields: Any) -> dict[str, Any]:
    """A vote on a new reply."""
    body = {"messages": ASK, "max_tokens": 1, **fields}
    reply = client.post("/v1/chat/completions", json=body, headers=headers).json()
    token = reply["hearken"]["feedback_token"]
    return {"completion_id": reply["id"], "type": "thumb", "value": "up", "feedback_token": token}


def test_a_token_votes_on_nothing_but_what_its_holder_was_shown(service: Service) -> None:
    """Neither another's completion, nor by its session, nor by a batch, nor by a token without its key."""
    mine, other = session(service), session(service)
    with service.client(PUBLIC) as client:
        shown = a_vote(client, {SESSION_HEADER: mine})
        secret_one = a_vote(client, {SESSION_HEADER: other})
        stolen = {**shown, "completion_id": secret_one["completion_id"]}
        without = {name: value for name, value in stolen.items() if name != "feedback_token"}
        headers = {SESSION_HEADER: mine}
        answers = [client.post("/v1/feedback", json=each, headers=headers) for each in (stolen, without)]
        batch = client.post("/v1/feedback/batch", json={"feedback": [stolen, shown]}).json()["feedback"]
        vote = batch[1]["id"]
        theirs = {"X-Feedback-Token": secret_one["feedback_token"]}
        answers += [
            client.request(method, f"/v1/feedback/{vote}", headers=theirs) for method in ("GET", "DELETE")
        ]
    with service.client(None) as client:
        answers.append(client.post("/v1/feedback", json=stolen))
    assert {(each.status_code, each.json()["error"]["code"]) for each in answers} == {
        (403, "invalid_feedback_token")
    }
    assert batch[0]["error"]["code"] == "invalid_feedback_token"
    rows = service.rows(
        "select f.turn_id, f.rater = t.rater, f.retracted_at from feedback f join turns t on t.id = f.turn_id"
        " where f.turn_id = any(%s)",
        [shown["completion_id"], secret_one["completion_id"]],
    )
    assert rows == [(shown["completion_id"], True, None)]


def test_a_token_says_what_it_was_made_with() -> None:
    signer = TokenSigner(b"secret")
    made = Session("default", "u_ada", "default-publishable", 2_000_000_000)
    assert signer.read_session(signer.session_token(made)) == made
