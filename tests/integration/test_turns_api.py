"""A server with its own chat registers what was said, people vote on it, and the trainer reads it."""

import asyncio
from dataclasses import replace

from feedback.store import Store
from schemas.database import Pool, open_async_pool
from tests.service import ADMIN, PUBLIC, Service
from tests.training import add_key
from tests.voting import a_turn
from trainer.data import untokenized_turns
from trainer.model.backbone import Backbone

SAID = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "replies": ["It is Paris.", "Paris!"],
    "user": "ada",
    "metadata": {"conversation_id": "geography"},
}


def test_what_was_said_elsewhere_is_voted_on(service: Service) -> None:
    with service.client(ADMIN) as server, service.client(None) as page:
        answer = server.post("/v1/turns", json=SAID)
        assert answer.status_code == 201
        made = answer.json()
        assert made["conversation_id"] == "geography"
        vote = {"completion_id": made["completion_id"], "feedback_token": made["feedback_token"]}
        ranked = page.post("/v1/feedback", json={**vote, "type": "ranking", "ranking": [[1], [0]]})
        assert ranked.status_code == 201
        edited = page.post("/v1/feedback", json={**vote, "type": "edit", "choice": 1, "text": "Paris."})
        assert edited.status_code == 201
        [(rater, raters)] = service.rows(
            "select t.rater, array_agg(distinct f.rater) from turns t join feedback f on f.turn_id = t.id"
            " where t.id = %s group by t.rater",
            made["completion_id"],
        )
        assert raters == [rater]
        assert rater == service.services.signer.rater_id("default", "ada", "secret")


def test_what_is_no_turn_is_refused(service: Service) -> None:
    def code(key: str, **fields: object) -> tuple[int, str, str | None]:
        with service.client(key) as client:
            answer = client.post("/v1/turns", json={**SAID, **fields})
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    assert code(PUBLIC)[:2] == (403, "forbidden")
    assert code(ADMIN, messages=[]) == (400, "invalid_value", "messages")
    assert code(ADMIN, messages=[{"role": "pirate", "content": "Arr"}])[0] == 400
    assert code(ADMIN, replies=[]) == (400, "invalid_value", "replies")
    assert code(ADMIN, replies=["x"] * 9) == (400, "invalid_value", "replies")
    assert code(ADMIN, replies=[""])[0] == 400
    assert code(ADMIN, policy="p7") == (400, "unknown_parameter", "policy")
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    assert code(ADMIN, messages=[{"role": "user", "content": image}]) == (400, "invalid_value", "messages")


def test_the_trainer_adds_the_tokens_of_what_was_voted_on(
    pool: Pool, database_url: str, backbone: Backbone
) -> None:
    add_key(pool)
    blank = a_turn("chatcmpl-i1", replies=("It is Paris.",))
    turns = [
        replace(blank, prompt_token_ids=[], replies=[replace(blank.replies[0], token_ids=[], logprobs=[])]),
    ]
    turns.append(
        replace(turns[0], id="chatcmpl-i2", messages=[{"role": "user", "content": "long " * 90_000}])
    )
    turns.append(replace(turns[0], id="chatcmpl-i3"))  # nobody votes on it

    async def store() -> None:
        async with open_async_pool(database_url) as found:
            await asyncio.gather(*(Store(found).record_turn(turn) for turn in turns))

    asyncio.run(store())
    with pool.connection() as connection:
        connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
            " rater, conversation_id, created_at) select id, project, id, id, 0, 'thumb', '{}', rater, 'c',"
            " now() from turns where id <> 'chatcmpl-i3'"
        )
    assert untokenized_turns.tokenize(pool, "default", backbone) == 2
    assert untokenized_turns.tokenize(pool, "default", backbone) == 0
    with pool.connection() as connection:
        rows = connection.execute(
            "select prompt_token_ids, token_ids, request from turns join replies on turn_id = id order by id"
        ).fetchall()
    assert rows[0]["prompt_token_ids"] == backbone.render(turns[0].messages)
    assert rows[0]["token_ids"] == backbone.encode_reply("It is Paris.", keep_markers=True)
    assert rows[1]["prompt_token_ids"] == rows[2]["prompt_token_ids"] == []
    assert "untrainable" in rows[1]["request"]
