"""With redaction nothing that is stored has the personal data, while the model is asked with it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from schemas.database import Pool, open_pool
from schemas.policies import BASE
from schemas.turns import REDACTED
from tests.conftest import new_database
from tests.service import ADMIN, PUBLIC, Service, run_service
from trainer.data import untokenized_turns
from trainer.model.backbone import Backbone

CANARY = "ada.lovelace.canary@example.org"
PHONE = "+49 151 23456789"
SAID = f"Write to {CANARY} please"


@pytest.fixture
def redacting(postgres_url: str, engine: str, tiny_base: Path, tmp_path: Path) -> Iterator[Service]:
    with (
        new_database(postgres_url) as url,
        run_service(url, tmp_path, tiny_base, engines=[engine]) as service,
    ):
        with service.client() as client:
            answer = client.patch("/v1/projects/default", json={"redaction": ["email", "phone"]})
            assert answer.status_code == 200, answer.text
        service.until(lambda: service.services.router.route("default").redaction == ["email", "phone"])
        yield service


@pytest.fixture
def stored(redacting: Service) -> Iterator[Pool]:
    with open_pool(redacting.settings.database_url or "", size=2) as pool:
        yield pool


def everything(service: Service) -> str:
    """Returns every row of every table as text."""
    with psycopg.connect(service.settings.database_url or "") as connection:
        tables = connection.execute(
            "select quote_ident(table_name) from information_schema.tables where table_schema = 'public'"
            " and table_type = 'BASE TABLE'"
        ).fetchall()
        rows = [connection.execute(f"select t::text from {name} t").fetchall() for (name,) in tables]  # type: ignore[arg-type]  # noqa: S608
    return "\n".join(row[0] for found in rows for row in found)


def vote(service: Service, key: str | None, retry: str | None = None, **fields: object) -> httpx.Response:
    headers = {} if retry is None else {"Idempotency-Key": retry}
    with service.client(key) as client:
        return client.post("/v1/feedback", json=fields, headers=headers)


def test_no_table_has_what_was_redacted(redacting: Service) -> None:
    plain = redacting.chat("Write to somebody please", store=False)
    reply = redacting.chat(SAID, metadata={"conversation_id": PHONE, "page": CANARY})
    assert reply["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]  # the model was asked with it
    ours = {"completion_id": reply["id"], "choice": 0, "type": "thumb", "value": "up"}
    edit = {"completion_id": reply["id"], "choice": 0, "type": "edit", "text": f"Mail {CANARY}"}
    answers = [
        vote(redacting, ADMIN, **ours, comment=f"I am {CANARY}"),
        vote(redacting, None, **ours, comment=CANARY, feedback_token=reply["hearken"]["feedback_token"]),
        vote(redacting, PUBLIC, **edit, feedback_token=reply["hearken"]["feedback_token"]),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    with redacting.client() as client:
        changed = client.post(f"/v1/chat/completions/{reply['id']}", json={"metadata": {"who": CANARY}})
        turn = client.post(
            "/v1/turns", json={"messages": [{"role": "user", "content": CANARY}], "replies": ["a"]}
        )
        kept = client.get(f"/v1/chat/completions/{reply['id']}").json()
    assert (changed.status_code, turn.status_code) == (200, 201)
    found = everything(redacting)
    assert CANARY not in found
    assert PHONE not in found
    assert "[email]" in found
    assert kept["usage"] == reply["usage"]
    assert kept["metadata"]["who"] == "[email]"


def test_a_retry_of_a_redacted_vote_is_the_same_vote(redacting: Service) -> None:
    reply = redacting.chat()
    ours = {"completion_id": reply["id"], "choice": 0, "type": "thumb", "value": "up", "comment": CANARY}
    ours["feedback_token"] = reply["hearken"]["feedback_token"]
    first, second = (vote(redacting, PUBLIC, "once", **ours) for _ in range(2))
    assert first.json() == second.json()


def test_turns_of_one_conversation_stay_together(redacting: Service) -> None:
    for _ in range(2):
        redacting.chat(metadata={"conversation_id": PHONE})
    assert len(redacting.rows("select distinct conversation_id from turns")) == 1


def test_the_trainer_reads_the_redacted_text(redacting: Service, stored: Pool, backbone: Backbone) -> None:
    reply = redacting.chat(SAID)
    with stored.connection() as connection:
        connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
            " rater, conversation_id, created_at) select id, project, id, id, 0, 'thumb', '{}', rater, 'c',"
            " now() from turns where id = %s",
            [reply["id"]],
        )
    assert untokenized_turns.tokenize(stored, "default", backbone) == 1
    with stored.connection() as connection:
        row = connection.execute(
            "select messages, prompt_token_ids, token_ids, logprobs, request from turns"
            " join replies on turn_id = id where id = %s",
            [reply["id"]],
        ).fetchone()
    assert row is not None
    assert row["messages"] == [{"role": "user", "content": "Write to [email] please"}]
    assert row["prompt_token_ids"] == backbone.render(row["messages"])
    assert row["token_ids"]
    assert row["logprobs"] == []
    assert row["request"][REDACTED]["prompt_tokens"] == reply["usage"]["prompt_tokens"]


def test_what_was_not_said_in_the_turn_is_stored_with_its_tokens(redacting: Service) -> None:
    redacting.chat("Hello there")
    assert redacting.rows("select cardinality(prompt_token_ids) > 0, request ? 'redacted' from turns") == [
        (True, False)
    ]


def test_a_project_may_redact_nothing_or_leave_it_to_the_settings(redacting: Service) -> None:
    def change(**fields: object) -> httpx.Response:
        with redacting.client() as client:
            return client.patch("/v1/projects/default", json=fields)

    assert change(redaction=["names"]).status_code == 400
    assert change(redaction=[]).json()["redaction"] == []
    redacting.until(lambda: redacting.services.router.route("default").redaction == [])
    redacting.chat(SAID)
    assert CANARY in everything(redacting)
    assert change(redaction=None).json()["redaction"] is None
    assert redacting.live() == BASE


@pytest.mark.parametrize("key", [ADMIN, None])
def test_what_waits_for_an_engine_is_redacted_too(
    redacting: Service, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """After a start, votes come before any engine serves a project's policy."""
    turn = redacting.chat()
    router = redacting.services.router
    token = {} if key else {"feedback_token": turn["hearken"]["feedback_token"]}
    fields = {"completion_id": turn["id"], "type": "thumb", "value": "up", "comment": SAID, **token}
    asyncio.run(prepared(redacting))
    monkeypatch.setattr(router, "find", lambda project: None)
    monkeypatch.setattr(router, "routes", list)
    assert vote(redacting, key, **fields).status_code == 201
    assert CANARY not in everything(redacting)


async def prepared(service: Service) -> None:
    """Lets serving read what is redacted, as at its start."""
    async with await psycopg.AsyncConnection.connect(
        service.settings.database_url or "", row_factory=dict_row
    ) as connection:
        await service.services.redaction.prepare(connection)
