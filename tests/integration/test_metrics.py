"""What the relay and the trainer show to Prometheus."""

import socket

import httpx
import psycopg
import pytest

from feedback.backlog import backlog
from schemas import figures
from schemas.database import Pool
from tests.events import event, put
from tests.training import add_key
from trainer.progress import progress

AWAY = "postgresql://127.0.0.1:1/nothing"


def shown(*collectors: figures.Figures) -> dict[str, float]:
    """Each sample of a real scrape."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    figures.show("127.0.0.1", port, *collectors)
    lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_how_far_the_relay_is_behind(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in ("a", "b", "c"):
            put(connection, event(name))
        connection.execute(
            "update outbox set created_at = now() - interval '90 seconds' where event_id = 'ev_b'"
        )
        connection.execute("update outbox set partition = 2, \"offset\" = 41 where event_id = 'ev_a'")
    found = shown(backlog(database_url, "hearken.feedback.v1"))
    assert found["hearken_relay_unpublished"] == 2
    assert found["hearken_relay_oldest_seconds"] == pytest.approx(90, abs=10)
    assert found["hearken_relay_kept"] == 1
    assert found["hearken_relay_published_total"] == 42


def test_what_was_published_stays_counted_when_it_was_passed(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into generations (topic, generation, reason) values ('t', 1, 'new'), ('t', 2, '')"
        )
        connection.execute(
            "insert into positions (consumer, log, partition, position) values"
            " ('trainer', 'kafka', 0, '2:30'), ('other', 'kafka', 0, '2:12'), ('trainer', 'kafka', 1, '1:99')"
        )
    assert shown(backlog(database_url, "t"))["hearken_relay_published_total"] == 30


def test_nothing_to_relay(database_url: str) -> None:
    found = shown(backlog(database_url, "hearken.feedback.v1"))
    assert found["hearken_relay_unpublished"] == found["hearken_relay_oldest_seconds"] == 0


def test_how_learning_goes(database_url: str, pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute(
            "insert into rounds (project, parent, outcome, started_at, ended_at) values"
            " ('default', 'p0', 'rejected', now() - interval '2 minutes', now() - interval '1 minute'),"
            " ('default', 'p0', 'published', now() - interval '50 seconds', now() - interval '20 seconds'),"
            " ('default', 'p0', 'running', now(), null)"
        )
        connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state, live_at)"
            " values ('default', 'p1-aaaaaa', '', '', '', '{}', 'live', now())"
        )
        connection.execute(
            "insert into examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at, first_policy)"
            " select n, 'default', n, n, 'thumb', '{}', 'u', 'c', now() - n::integer * interval '10 seconds',"
            " case when n::integer < 4 then 'p1-aaaaaa' end from (values ('1'), ('3'), ('9')) as votes (n)"
        )
    found = shown(progress(database_url, "default"))
    assert found['hearken_rounds_total{outcome="published"}'] == 1
    assert found['hearken_rounds_total{outcome="rejected"}'] == 1
    assert found['hearken_rounds_total{outcome="failed"}'] == 0
    assert found["hearken_round_last_seconds"] == pytest.approx(30)
    assert found["hearken_freshness_seconds"] == pytest.approx(20, abs=1)
    assert found["hearken_votes_unlearned"] == 1


def test_what_of_the_log_could_not_be_learned(database_url: str, pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute("insert into dead_letters values ('kafka', 0, '1:4', 'odd', '[]')")
        connection.execute("insert into waiting values ('kafka', 1, 'hearken.feedback.v2')")
    found = shown(progress(database_url, "default"))
    assert found["hearken_log_unreadable"] == 1
    assert found["hearken_log_waiting"] == 1


def test_what_people_think_of_each_policy(database_url: str, pool: Pool) -> None:
    add_key(pool)
    with pool.connection() as connection:
        connection.execute(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling) select 't' || n, 'default', 'c', 'u', 'default-admin', '[]', '{1}', '{}'"
            " from generate_series(1, 5) as n"
        )
        connection.execute(
            "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
            " finish_reason) select 't' || n, 0, 'default',"
            " case when n < 4 then 'p0' else 'p1-aaaaaa' end, 1, '', '{1}', '{0}', 'stop'"
            " from generate_series(1, 5) as n"
        )
        connection.execute(
            "insert into examples (event_id, project, feedback_id, turn_id, choice, type, value, rater,"
            " conversation_id, created_at, ended_by) select n, 'default', n, 't' || n, 0, 'thumb',"
            " jsonb_build_object('value', case when n % 2 = 0 then 'up' else 'down' end), 'u', 'c', now(),"
            " case when n = 3 then 'e' end from generate_series(1, 5) as n"
        )
    found = shown(progress(database_url, "default"))
    assert found['hearken_thumbs{policy="p0",value="up"}'] == 1
    assert found['hearken_thumbs{policy="p0",value="down"}'] == 1
    assert found['hearken_thumbs{policy="p1-aaaaaa",value="up"}'] == 1
    assert found['hearken_thumbs{policy="p1-aaaaaa",value="down"}'] == 1


def test_a_database_that_is_away_shows_nothing_and_breaks_nothing() -> None:
    assert shown(backlog(AWAY, "t"), progress(AWAY, "default")) == {}
