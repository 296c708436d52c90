"""Traffic is read from the newest turns that people sent, or from imported ones where they sent none."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import plan
from deploy.local.served import served
from schemas.database import Pool
from schemas.settings import Settings
from schemas.turns import IMPORTED
from tests.training import add_key, send, some_turns
from trainer.data.traffic import Traffic
from trainer.model.backbone import Backbone


def test_what_people_were_served_counts_before_what_was_imported(
    database_url: str, pool: Pool, backbone: Backbone
) -> None:
    add_key(pool)
    assert Traffic.read(pool, "default", 3) == Traffic(new_votes=3)
    turns = some_turns(backbone, 8, seed=5)
    imported = [replace(turn, id=f"{IMPORTED}{number}", sampling={}) for number, turn in enumerate(turns[:3])]
    send(database_url, imported, [])
    assert Traffic.read(pool, "default", 3).longest_reply is not None
    assert Traffic.read(pool, "default", 3).sampling == {}
    served = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}
    others = [{"temperature": 1.0, "top_p": top_p} for top_p in (0.8, 0.9, 1.0)]
    recorded = [served, *others, served]  # most have a temperature of 1.0, but no two of them the same top-p
    sent = [
        replace(turn, sampling={"n": 1, "seed": number, "stop": [], **sampling})
        for number, (turn, sampling) in enumerate(zip(turns[3:], recorded, strict=True))
    ]
    send(database_url, sent, [])
    found = Traffic.read(pool, "default", 3)
    lengths = [len(turn.prompt_token_ids) for turn in sent]
    assert found.prompt_length == sum(lengths) / len(lengths)
    assert (found.sampling, found.longest_reply, found.cut_off) == (served, 12, True)


def test_a_plan_derives_what_a_round_would_and_says_where_it_read_nothing(
    database_url: str,
    postgres_url: str,
    pool: Pool,
    tiny_base: Path,
    backbone: Backbone,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_key(pool)
    turns = [replace(turn, sampling={"temperature": 0.7}) for turn in some_turns(backbone, 4, seed=6)]
    send(database_url, turns, [])
    with pool.connection() as connection:
        connection.execute(
            "insert into rounds (project, parent, outcome, record)"
            """ values ('default', 'p0', 'published', '{"optimization": {"learning_rate": 0.004}}')"""
        )

    def here(url: str) -> Settings:
        return Settings(database_url=url, model=str(tiny_base))

    plan.show(here(database_url), 16, None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    derived = found["derived"]
    assert found["unread"] is None
    assert derived["temperature"]["value"] == 0.7
    assert derived["max_tokens"]["reason"] == "of a hundred replies served, one is longer than 12 tokens"
    assert derived["learning_rate"] == {
        "value": 0.004,
        "reason": "found by the trust region in the last round",
    }
    *first, away = served(here("postgresql://127.0.0.1:9/nothing"))
    assert first == [Traffic(), None]
    assert away is not None
    assert "before the first chat" in away
    assert "127.0.0.1" in away
    *first, empty = served(here(postgres_url))
    assert first == [Traffic(), None]
    assert empty is not None
    assert "relation " in empty
