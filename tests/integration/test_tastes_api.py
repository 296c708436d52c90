"""Ten answers choose a person's next reply: by the taste model of the live policy, with no training."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from feedback.person_votes import VOTED
from schemas.taste_model import TASTES
from serving import tastes
from serving.pairs import MOST_LIKELY
from serving.questions import QUESTIONS
from tests.conftest import new_database
from tests.service import ADMIN, PUBLIC, Service, run_service
from tests.tastes import evenness, write_tastes

POLICY = "p1-aaaaaa"
CHATS = 24
"""Replies that are compared with as many of somebody who gave no answers."""


@pytest.fixture(scope="module")
def plain(postgres_url: str, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose live policy has no taste model."""
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path_factory.mktemp("tastes"), tiny_base, max_tokens=12) as service,
    ):
        yield service


@pytest.fixture(scope="module")
def tasteful(plain: Service) -> Service:
    """The same service, now with one. Tests that need none come first in this file."""
    base = Path(plain.settings.model)
    plain.registry.publish(POLICY, seed=0, prepare=lambda directory: write_tastes(base, directory))
    plain.until(lambda: plain.routed() == POLICY)
    return plain


def visitor(service: Service) -> httpx.Client:
    """Returns the client of a new visitor."""
    with service.client(PUBLIC) as page:
        token = page.post("/v1/sessions").json()["token"]
    client = service.client(PUBLIC)
    client.headers["Hearken-Session"] = token
    return client


def question(client: httpx.Client, service: Service, **body: Any) -> dict[str, Any]:
    """Returns the answer once the questions are made."""
    answers: list[httpx.Response] = []

    def ready() -> bool:
        answers.append(client.post("/v1/tastes/questions", json=body))
        return answers[-1].status_code != 200 or answers[-1].json()["ready"]

    service.until(ready, seconds=90)
    assert answers[-1].status_code == 200, answers[-1].text
    found: dict[str, Any] = answers[-1].json()
    return found


def tokens_of(service: Service, turn: str) -> list[list[int]]:
    rows = service.rows("select token_ids from replies where turn_id = %s order by choice", turn)
    return [tokens for (tokens,) in rows]


def answer(client: httpx.Client, service: Service, asked: dict[str, Any]) -> str:
    """Prefers the reply with more even tokens; returns the vote's id."""
    turn = asked["completion_id"]
    first, second = map(evenness, tokens_of(service, turn))
    vote = {"completion_id": turn, "feedback_token": asked["feedback_token"], "type": "ranking"}
    ranking = [[0], [1]] if first > second else [[1], [0]]
    given = client.post("/v1/feedback", json={**vote, "ranking": ranking})
    assert given.status_code == 201, given.text
    return str(given.json()["id"])


def chats(client: httpx.Client, service: Service, count: int) -> tuple[list[float], list[Any]]:
    """Returns how even the replies to some messages are, and out of how many each was chosen."""
    evens, best_of = [], []
    for number in range(count):
        body = {"messages": [{"role": "user", "content": f"Message {number}"}], "max_tokens": 12}
        turn = client.post("/v1/chat/completions", json=body).json()["id"]
        [tokens] = tokens_of(service, turn)
        evens.append(evenness(tokens))
        best_of.append(service.rows("select request -> 'best_of' from turns where id = %s", turn)[0][0])
    return evens, best_of


def test_with_one_taste_there_is_nothing_to_ask_and_nothing_is_chosen(plain: Service) -> None:
    with visitor(plain) as client:
        refused = client.post("/v1/tastes/questions")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_tastes")
        assert chats(client, plain, 2)[1] == [None] * 2


def test_ten_answers_choose_the_next_reply(tasteful: Service) -> None:
    with visitor(tasteful) as client, visitor(tasteful) as other:
        prompts, votes = [], []
        for number in range(QUESTIONS):
            asked = question(client, tasteful)
            assert (asked["answered"], asked["of"]) == (number, QUESTIONS)
            assert len(set(asked["question"]["replies"])) == 2
            assert question(client, tasteful)["question"] == asked["question"]  # as it waits for an answer
            prompts.append(asked["question"]["prompt"])
            votes.append(answer(client, tasteful, asked["question"]))
        assert len(set(prompts)) == QUESTIONS
        ended = {"question": None, "answered": QUESTIONS, "of": QUESTIONS, "ready": True}
        assert question(client, tasteful) == ended
        [(rater,)] = tasteful.rows("select rater from feedback where id = %s", votes[0])

        def row() -> list[tuple[Any, ...]]:
            return tasteful.rows("select policy, weights, votes from person_tastes where rater = %s", rater)

        tasteful.until(lambda: row() and row()[0][2] == QUESTIONS)
        [(policy, [weight], _)] = row()
        assert policy == POLICY
        assert weight > 0.5
        own, best_of = chats(client, tasteful, CHATS)
        assert best_of == [tasteful.settings.serving.personal_choices] * CHATS
        others, chosen = chats(other, tasteful, CHATS)
        assert chosen == [None] * CHATS
        assert statistics.fmean(own) > statistics.fmean(others)

        asked_again = client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "stream": True}
        )
        assert asked_again.text.endswith("data: [DONE]\n\n")

        for turn, vote in tasteful.rows("select turn_id, id from feedback where id = any(%s)", votes):
            token = tasteful.services.signer.feedback_token(turn)
            gone = client.delete(f"/v1/feedback/{vote}", headers={"X-Feedback-Token": token})
            assert gone.status_code == 200, gone.text
        tasteful.until(lambda: row() == [])
        assert chats(client, tasteful, 2)[1] == [None] * 2


def test_a_question_that_is_skipped_does_not_come_again(tasteful: Service) -> None:
    with visitor(tasteful) as client:
        first = question(client, tasteful)["question"]
        second = question(client, tasteful, skip=first["completion_id"])["question"]
        assert second["prompt"] != first["prompt"]
        assert question(client, tasteful, skip=first["completion_id"])["question"] == second


def test_a_servers_key_asks_for_its_user_and_a_page_for_its_visitor(tasteful: Service) -> None:
    with tasteful.client(ADMIN) as server, tasteful.client(PUBLIC) as page:
        one = question(server, tasteful, user="ada")["question"]
        assert question(server, tasteful, user="ada")["question"] == one
        assert question(server, tasteful, user="grace")["question"]["completion_id"] != one["completion_id"]
        for client, body, status, code in (
            (server, {}, 400, "missing"),
            (page, {}, 400, "missing"),
            (page, {"user": "ada"}, 403, "user_not_allowed"),
            (page, {"who": "me"}, 400, "unknown_parameter"),
            (page, {"skip": 3}, 400, "invalid_value"),
        ):
            refused = client.post("/v1/tastes/questions", json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


def message(client: httpx.Client, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "compare": 0.5, **fields}
    found: dict[str, Any] = client.post("/v1/chat/completions", json=body).json()
    return found


def until_asked(client: httpx.Client) -> dict[str, Any]:
    """Sends messages that are all looked at, until one becomes a pair."""
    for number in range(40):
        found = message(client, f"Message {number}")
        if len(found["choices"]) == 2:
            return found
    raise AssertionError("no message became a pair")


def pair_of(service: Service, turn: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = service.rows("select request -> 'pair' from turns where id = %s", turn)[0][
        0
    ]
    return found


def test_a_message_becomes_a_pair_where_the_page_can_show_it(tasteful: Service) -> None:
    with visitor(tasteful) as client:
        asked = until_asked(client)
        assert [choice["index"] for choice in asked["choices"]] == [0, 1]
        assert len(tokens_of(tasteful, asked["id"])) == 2
        said = pair_of(tasteful, asked["id"])
        assert said is not None
        assert said["asked"]
        assert 0 < said["propensity"] <= MOST_LIKELY
        assert said["information"] is not None
        looked_at = tasteful.rows("select request -> 'pair' from turns where request ? 'pair'")
        assert all(0 <= pair["propensity"] <= MOST_LIKELY for (pair,) in looked_at)

        # Whoever leaves a pair unanswered is asked no more that day.
        left = [message(client, f"Left {number}") for number in range(10)]
        assert [(len(each["choices"]), pair_of(tasteful, each["id"])) for each in left] == [(1, None)] * 10

        vote = {"completion_id": asked["id"], "type": "ranking", "ranking": [[1], [0]]}
        token = {"feedback_token": asked["hearken"]["feedback_token"]}
        assert client.post("/v1/feedback", json=vote | token).status_code == 201
        until_asked(client)


@pytest.mark.parametrize(
    "fields", [{"compare": None}, {"compare": 0}, {"store": False}, {"seed": 7}, {"temperature": 0}]
)
def test_nobody_is_asked_who_did_not_offer_it(tasteful: Service, fields: dict[str, Any]) -> None:
    with visitor(tasteful) as client:
        found = [message(client, f"Message {number}", **fields) for number in range(6)]
    assert {len(each["choices"]) for each in found} == {1}


def test_a_person_is_asked_so_often_a_day(tasteful: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with visitor(tasteful) as client:
        monkeypatch.setattr(tasteful.settings.serving, "pairs_per_day", 1)
        asked = until_asked(client)
        vote = {"completion_id": asked["id"], "type": "ranking", "ranking": [[0, 1]]}
        token = {"feedback_token": asked["hearken"]["feedback_token"]}
        assert client.post("/v1/feedback", json=vote | token).status_code == 201
        found = [message(client, f"Message {number}") for number in range(10)]
        assert {len(each["choices"]) for each in found} == {1}


def test_questions_show_nobodys_own_words(tasteful: Service) -> None:
    with visitor(tasteful) as client:
        secret = "My account number is 4711"
        client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": secret}]})
        shown = tasteful.rows("select prompt from taste_questions")
        assert secret not in {prompt for (prompt,) in shown}


def test_where_nothing_can_be_scored_the_reply_is_as_it_comes(tasteful: Service) -> None:
    """Its taste model is no taste model."""
    unreadable = "p2-bbbbbb"
    tasteful.registry.publish(
        unreadable, seed=0, prepare=lambda directory: (directory / TASTES).write_bytes(b"nothing") and None
    )
    tasteful.until(lambda: tasteful.routed() == unreadable)
    rater = tasteful.services.signer.rater_id("default", "linus", "admin")
    tasteful.rows(
        "insert into person_tastes (project, rater, policy, weights, votes)"
        " values ('default', %s, %s, '{1.0}', 10) returning votes",
        rater,
        unreadable,
    )
    found = tasteful.chat(user="linus", temperature=1)
    assert found["choices"][0]["finish_reason"] in ("stop", "length")
    [(best_of,)] = tasteful.rows("select request -> 'best_of' from turns where id = %s", found["id"])
    assert best_of == tasteful.settings.serving.personal_choices


def test_no_weights_are_kept_of_who_has_no_vote(tasteful: Service) -> None:
    """As after an erasure that ended while they were found."""
    values = {"project": "default", "rater": "u_nobody", "policy": POLICY, "weights": [1.0], "votes": 5}
    with psycopg.connect(tasteful.settings.database_url or "") as connection:
        assert connection.execute(tastes._KEEP.format(voted=VOTED), values).rowcount == 0
