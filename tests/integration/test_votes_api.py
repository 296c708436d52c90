"""/v1/feedback over a socket: authorisation, validation, idempotency."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.turns import new_id
from tests.voting import ADMIN, PUBLIC, SECRET, SIGNER, STRANGER, a_turn, add_keys, serve_votes

TURN = "chatcmpl-1"
TOKEN = SIGNER.feedback_token(TURN)
THUMB = {"completion_id": TURN, "type": "thumb", "value": "up"}


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


class Api:
    """`api(method, path, key=…)`; without a key none is sent."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def __call__(
        self,
        method: str,
        path: str,
        *,
        key: str | None = ADMIN,
        headers: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> httpx.Response:
        sent: dict[str, Any] = dict(headers or {})
        if key:
            sent["Authorization"] = f"Bearer {key}"
        return await self.client.request(method, path, headers=sent, **rest)

    async def vote(self, vote: dict[str, Any], **rest: Any) -> httpx.Response:
        return await self("POST", "/v1/feedback", json=vote, **rest)

    async def status(self, feedback_id: str) -> str:
        return str((await self("GET", f"/v1/feedback/{feedback_id}")).json()["status"])


@pytest.fixture
async def api(pool: AsyncPool, database_url: str) -> AsyncIterator[Api]:
    """One turn of two replies in `default`, and one in the project `other`."""
    store = Store(pool)
    await store.record_turn(a_turn(TURN, replies=("It is Paris.", "Paris!")))
    await store.record_turn(a_turn("chatcmpl-other", project="other"))
    async with serve_votes(database_url) as url, httpx.AsyncClient(base_url=url) as client:
        yield Api(client)


async def count(pool: AsyncPool, table: str) -> int:
    async with pool.connection() as connection:
        return len(await (await connection.execute(f"table {table}".encode())).fetchall())


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return response.status_code, error["code"]


@pytest.mark.parametrize(
    "vote",
    [
        {"type": "thumb", "value": "up", "reasons": ["concise"], "comment": "nice 🙂"},
        {"type": "thumb", "choice": 1, "value": "down"},
        {"type": "ranking", "ranking": [[1], [0]], "reasons": ["concise"]},
        {"type": "ranking", "ranking": [[0, 1]]},
        {"type": "ranking", "ranking": [[0], [1]], "acceptable": False},
        {"type": "edit", "text": "Paris, on the Seine."},
        {"type": "signal", "signal": "regenerated"},
    ],
)
async def test_a_vote_is_acknowledged_when_it_is_stored(
    api: Api, pool: AsyncPool, vote: dict[str, Any]
) -> None:
    response = await api.vote({"completion_id": TURN, **vote})

    assert response.status_code == 201
    recorded = response.json()
    assert recorded == {"id": recorded["id"], "completion_id": TURN, "status": "recorded"}
    known = (await api("GET", f"/v1/feedback/{recorded['id']}")).json()
    assert known.pop("created_at").endswith("Z")
    needed = 40 if vote["type"] == "signal" else 39  # a signal is no vote
    assert known == {
        "id": recorded["id"],
        "completion_id": TURN,
        "choice": None if vote["type"] == "ranking" else vote.get("choice", 0),
        "type": vote["type"],
        "status": "recorded",
        "superseded_by": None,
        "learned": None,
        "life": {"stage": "recorded", "votes_needed": needed, "progress": None, "live_at": None},
    }
    assert await count(pool, "outbox") == 1


EDIT = {"completion_id": TURN, "type": "edit"}
RANKING = {"completion_id": TURN, "type": "ranking"}
WRONG_VOTES: list[tuple[dict[str, Any], int, str]] = [
    ({"type": "thumb"}, 400, "missing_required_parameter"),
    ({**THUMB, "stars": 5}, 400, "unknown_parameter"),
    ({**THUMB, "value": 1}, 400, "invalid_value"),
    ({**THUMB, "choice": 2}, 400, "invalid_choice"),
    ({**THUMB, "completion_id": "x" * 500}, 400, "invalid_value"),
    ({**RANKING, "ranking": [[0]]}, 400, "invalid_ranking"),
    ({**RANKING, "ranking": [[0], [0, 1]]}, 400, "invalid_ranking"),
    ({**RANKING, "ranking": [[0], [1]], "shown": [0]}, 400, "invalid_order"),
    ({**RANKING, "ranking": [[0], [1]], "shown": [0, 0]}, 400, "invalid_order"),
    ({**EDIT, "text": ""}, 400, "empty_edit"),
    ({**EDIT, "text": "It is Paris."}, 400, "unchanged_edit"),
    ({**EDIT, "text": "la " * 400}, 400, "context_length_exceeded"),
    ({**EDIT, "text": "la", "choice": 5}, 400, "invalid_choice"),
    ({**THUMB, "completion_id": "chatcmpl-unknown"}, 404, "completion_not_found"),
    ({**THUMB, "completion_id": "chatcmpl-other"}, 404, "completion_not_found"),
    ({**THUMB, "completion_id": "chatcmpl-nostore-1"}, 409, "not_stored"),
]


async def test_a_wrong_vote_is_refused_and_changes_nothing(api: Api, pool: AsyncPool) -> None:
    answers = [code(await api.vote(vote)) for vote, _, _ in WRONG_VOTES]

    assert answers == [(status, code) for _, status, code in WRONG_VOTES]
    assert await count(pool, "feedback") == await count(pool, "outbox") == 0


async def test_a_reply_that_another_replica_may_hold_back_is_not_called_unknown(
    api: Api, pool: AsyncPool
) -> None:
    """Its turn may wait for Postgres on the disk of the replica that answered; a vote would be lost."""
    answers = [
        await api.vote({**THUMB, "completion_id": id})
        for id in (new_id(), "chatcmpl-t0196f2b0c0000000000000000000")
    ]
    assert [code(answer) for answer in answers] == [
        (503, "not_recorded_yet"),
        (404, "completion_not_found"),
    ]
    assert answers[0].headers["retry-after"] == "2"
    assert await count(pool, "feedback") == 0


async def test_a_body_that_is_not_a_vote_is_400(api: Api, pool: AsyncPool) -> None:
    bodies = [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"",
        b"[" * 100_000,
        json.dumps({**THUMB, "comment": "a\0b"}).encode(),
        json.dumps({**THUMB, "comment": "\ud800"}).encode(),
        json.dumps({**THUMB, "completion_id": "chatcmpl-\0"}).encode(),
        json.dumps({**EDIT, "text": "\udfff"}).encode(),
        b'{"completion_id": "chatcmpl-1", "type": "thumb", "value": "up", "choice": NaN}',
        b'{"completion_id": "chatcmpl-1", "type": "thumb", "value": "up", "choice": 1' + b"0" * 5_000 + b"}",
    ]

    assert {code(await api("POST", "/v1/feedback", content=body))[0] for body in bodies} == {400}
    assert await count(pool, "feedback") == await count(pool, "outbox") == 0


async def test_who_may_vote(api: Api) -> None:
    token = {"feedback_token": TOKEN}
    wrong = {"feedback_token": SIGNER.feedback_token("chatcmpl-other")}
    answers = {
        "admin": await api.vote(THUMB, key=ADMIN),
        "secret": await api.vote(THUMB, key=SECRET),
        "secret for a user": await api.vote({**THUMB, "user": "ben"}, key=SECRET),
        "public with token": await api.vote({**THUMB, **token}, key=PUBLIC),
        "nobody with token": await api.vote({**THUMB, **token}, key=None),
        "public without": await api.vote(THUMB, key=PUBLIC),
        "public with another's": await api.vote({**THUMB, **wrong}, key=PUBLIC),
        "public for a user": await api.vote({**THUMB, **token, "user": "ben"}, key=PUBLIC),
        "nobody for a user": await api.vote({**THUMB, **token, "user": "ben"}, key=None),
        "nobody with another's": await api.vote({**THUMB, **wrong}, key=None),
        "nobody without": await api.vote(THUMB, key=None),
        "stranger": await api.vote({**THUMB, **token}, key=STRANGER),
        "wrong key": await api.vote({**THUMB, **token}, key="sk-hearken-wrong"),
    }
    assert {who: answer.status_code for who, answer in answers.items()} == {
        "admin": 201,
        "secret": 201,
        "secret for a user": 201,
        "public with token": 201,
        "nobody with token": 201,
        "public without": 403,
        "public with another's": 403,
        "public for a user": 403,
        "nobody for a user": 403,
        "nobody with another's": 403,
        "nobody without": 401,
        "stranger": 404,
        "wrong key": 401,
    }


async def test_the_rater_is_the_turns_user_unless_a_secret_key_names_another(
    api: Api, pool: AsyncPool
) -> None:
    await api.vote({**THUMB, "feedback_token": TOKEN}, key=None)
    await api.vote({**THUMB, "user": "ben"}, key=SECRET)

    async with pool.connection() as connection:
        cursor = await connection.execute("select rater from feedback order by created_at")
        raters = [row["rater"] for row in await cursor.fetchall()]
    assert raters == ["u_ada", SIGNER.rater_id("default", "ben", "secret")]
    assert "ben" not in raters[1]


async def test_a_second_vote_supersedes_and_may_be_retracted(api: Api) -> None:
    first, second = [(await api.vote({**THUMB, "value": value})).json()["id"] for value in ("up", "down")]
    assert [await api.status(first), await api.status(second)] == ["superseded", "recorded"]
    assert (await api("GET", f"/v1/feedback/{first}")).json()["superseded_by"] == second

    assert code(await api("DELETE", f"/v1/feedback/{first}")) == (409, "superseded")
    for _ in range(2):
        response = await api("DELETE", f"/v1/feedback/{second}")
        assert (response.status_code, response.json()["status"]) == (200, "retracted")

    assert [await api.status(first), await api.status(second)] == ["retracted", "retracted"]


async def test_only_its_author_or_the_project_may_read_or_retract_a_vote(api: Api) -> None:
    mine = f"/v1/feedback/{(await api.vote(THUMB)).json()['id']}"
    bens = f"/v1/feedback/{(await api.vote({**THUMB, 'user': 'ben'})).json()['id']}"
    by_header = {"headers": {"X-Feedback-Token": TOKEN}}

    for method in ("GET", "DELETE"):
        assert (await api(method, mine, key=None)).status_code == 401
        assert code(await api(method, mine, key=PUBLIC)) == (403, "invalid_feedback_token")
        by_query = {"params": {"feedback_token": TOKEN}}  # an address ends in logs
        assert code(await api(method, mine, key=PUBLIC, **by_query)) == (403, "invalid_feedback_token")
        wrong = {"headers": {"X-Feedback-Token": "\xe9".encode("latin-1")}}
        assert code(await api(method, mine, key=PUBLIC, **wrong))[0] == 403
        assert code(await api(method, bens, key=PUBLIC, **by_header)) == (404, "feedback_not_found")
        assert code(await api(method, mine, key=STRANGER, **by_header)) == (404, "feedback_not_found")
        assert code(await api(method, "/v1/feedback/fb_unknown")) == (404, "feedback_not_found")
        assert code(await api(method, "/v1/feedback/" + "x" * 500))[0] == 400
        assert code(await api(method, "/v1/feedback/a%00b"))[0] == 400
    assert (await api("GET", mine, key=None, **by_header)).status_code == 200
    assert (await api("GET", mine, key=PUBLIC, **by_header)).status_code == 200
    assert (await api("DELETE", mine, key=None, **by_header)).status_code == 200
    assert (await api("DELETE", bens, key=SECRET)).status_code == 200


async def test_an_idempotency_key_makes_a_retry_safe(api: Api, pool: AsyncPool) -> None:
    retry = {"Idempotency-Key": "k"}
    first = await api.vote(THUMB, headers=retry)
    same = await api.vote({"choice": 0, **THUMB}, headers=retry)  # says nothing else
    other = await api.vote({**THUMB, "value": "down"}, headers=retry)
    theirs = await api.vote({**THUMB, "value": "down"}, headers=retry, key=SECRET)

    assert (same.status_code, same.json()) == (201, first.json())
    assert code(other) == (409, "idempotency_key_reused")
    assert theirs.status_code == 201
    assert await count(pool, "outbox") == 2


async def test_concurrent_retries_are_one_vote(api: Api, pool: AsyncPool) -> None:
    answers = await asyncio.gather(*(api.vote(THUMB, headers={"Idempotency-Key": "k"}) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert await count(pool, "outbox") == 1


@pytest.mark.parametrize("key", [None, PUBLIC])
async def test_a_browsers_idempotency_key_belongs_to_the_completion(api: Api, key: str | None) -> None:
    """It cannot use up those of the server that requested the reply, nor those of another browser."""
    vote, retry = {**THUMB, "feedback_token": TOKEN}, {"Idempotency-Key": "k"}
    first = await api.vote(vote, headers=retry, key=key)

    assert (await api.vote(vote, headers=retry, key=key)).json() == first.json()
    assert code(await api.vote({**vote, "value": "down"}, headers=retry, key=key)) == (
        409,
        "idempotency_key_reused",
    )
    assert (await api.vote({**THUMB, "value": "down"}, headers=retry, key=ADMIN)).status_code == 201


async def test_two_browsers_batches_with_one_idempotency_key_are_two(api: Api) -> None:
    vote = {**THUMB, "feedback_token": TOKEN}
    answers = [
        await api(
            "POST",
            "/v1/feedback/batch",
            key=PUBLIC,
            headers={"Idempotency-Key": "1"},
            json={"feedback": items},
        )
        for items in ([vote], [vote, {**vote, "value": "down"}], [vote])
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    one, _, again = (answer.json()["feedback"] for answer in answers)
    assert one == again


async def test_a_wrong_idempotency_key_is_refused(api: Api) -> None:
    for key in (b"", b"x" * 256, b"caf\xe9", b"tab\there"):
        answer = await api.vote(THUMB, headers={"Idempotency-Key": key})
        assert code(answer) == (400, "invalid_idempotency_key")
    assert (await api.vote(THUMB, headers={"Idempotency-Key": b"x" * 255})).status_code == 201


async def test_a_batch_answers_each_item(api: Api, pool: AsyncPool) -> None:
    items = [
        THUMB,
        {**THUMB, "choice": 9},
        {**THUMB, "completion_id": "chatcmpl-unknown"},
        "nonsense",
        {"completion_id": TURN, "type": "ranking", "ranking": [[0, 1]]},
        {**THUMB, "value": "down"},
    ]

    response = await api("POST", "/v1/feedback/batch", json={"feedback": items})

    assert response.status_code == 200
    answers = response.json()["feedback"]
    assert [answer.get("status") or answer["error"]["code"] for answer in answers] == [
        "recorded", "invalid_choice", "completion_not_found", "invalid_value", "recorded", "recorded",
    ]  # fmt: skip
    assert await api.status(answers[0]["id"]) == "superseded"
    assert (await api("GET", f"/v1/feedback/{answers[0]['id']}")).json()["superseded_by"] == answers[5]["id"]
    assert await count(pool, "outbox") == 3


async def test_a_batch_has_1000_votes_at_most(api: Api) -> None:
    full = await api("POST", "/v1/feedback/batch", json={"feedback": [THUMB, *[{}] * 999]})
    too_many = await api("POST", "/v1/feedback/batch", json={"feedback": [THUMB, *[{}] * 1_000]})

    assert [answer.get("status") for answer in full.json()["feedback"]] == ["recorded"] + [None] * 999
    assert code(too_many) == (400, "invalid_value")


async def test_a_body_that_is_not_a_batch_is_refused(api: Api) -> None:
    for body in ({}, [], {"feedback": {}}, {"feedback": [], "more": 1}):
        assert code(await api("POST", "/v1/feedback/batch", json=body))[0] == 400
    assert code(await api("POST", "/v1/feedback/batch", json={"feedback": []}, key=None))[0] == 401


async def test_a_repeated_batch_returns_what_was_recorded_and_tries_the_rest(
    api: Api, pool: AsyncPool
) -> None:
    items = [THUMB, {**THUMB, "completion_id": "chatcmpl-2"}]
    retry = {"Idempotency-Key": "k"}
    first = (await api("POST", "/v1/feedback/batch", json={"feedback": items}, headers=retry)).json()[
        "feedback"
    ]
    await Store(pool).record_turn(a_turn("chatcmpl-2"))

    again = (await api("POST", "/v1/feedback/batch", json={"feedback": items}, headers=retry)).json()[
        "feedback"
    ]
    changed = await api("POST", "/v1/feedback/batch", json={"feedback": items[:1]}, headers=retry)
    single = await api.vote(THUMB, headers=retry)

    assert first[1]["error"]["code"] == "completion_not_found"
    assert again[0] == first[0]
    assert again[1]["status"] == "recorded"
    assert code(changed) == code(single) == (409, "idempotency_key_reused")
    assert await count(pool, "outbox") == 2


async def test_votes_are_counted(api: Api, pool: AsyncPool) -> None:
    await api.vote(THUMB, headers={"Idempotency-Key": "k"})
    await api.vote(THUMB, headers={"Idempotency-Key": "k"})
    await api("POST", "/v1/feedback/batch", json={"feedback": [{**THUMB, "choice": 7}, THUMB]})

    page = (await api("GET", "/metrics")).text
    assert 'hearken_feedback_total{type="thumb"} 2.0' in page
    assert 'hearken_requests_refused_total{code="invalid_choice"} 1.0' in page
    assert "hearken_vote_seconds_count 3.0" in page  # each that was acknowledged, a repeated one too
    assert "hearken_votes_failed_total 0.0" in page


async def test_a_vote_that_could_not_be_made_durable_is_counted(api: Api, pool: AsyncPool) -> None:
    async with pool.connection() as connection:
        await connection.execute("alter table feedback add check (false) not valid")
    assert (await api.vote(THUMB)).status_code == 500

    page = (await api("GET", "/metrics")).text
    assert "hearken_vote_seconds_count 0.0" in page
    assert "hearken_votes_failed_total 1.0" in page
