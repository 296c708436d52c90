"""Relay and trainer export metrics to Prometheus."""

import time
from collections.abc import Iterable, Iterator
from typing import LiteralString

import psycopg
import pytest
from prometheus_client.core import GaugeMetricFamily, Metric
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from feedback.backlog import backlog
from schemas import database_metrics
from schemas.database import Pool
from schemas.database_metrics import DatabaseMetrics
from schemas.feedback import JUDGE
from tests.events import event, put
from tests.scrape import shown
from tests.training import add_key
from trainer.records.approval_metrics import MIN_PEOPLE, approval_metrics
from trainer.records.metrics import training_metrics

AWAY = "postgresql://127.0.0.1:1/nothing"


def test_how_far_the_relay_is_behind(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in ("a", "b", "c"):
            put(connection, event(name))
        connection.execute("update outbox set partition = 2, \"offset\" = 41 where event_id = 'ev_a'")
    found = shown(backlog(database_url, "hearken.feedback.v1"))
    assert found["hearken_relay_unpublished"] == 2
    assert found["hearken_relay_kept"] == 1
    assert found["hearken_relay_published_total"] == 42
    assert found["hearken_relay_generations"] == 0


def test_a_broker_that_is_new_has_lost_nothing_yet(database_url: str) -> None:
    begin = "insert into generations (topic, generation, reason) values ('t', %s, 'the topic is new')"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(begin, [1])
        assert shown(backlog(database_url, "t"))["hearken_relay_generations"] == 0
        connection.execute(begin, [2])
        assert shown(backlog(database_url, "t"))["hearken_relay_generations"] == 1


def test_what_was_published_stays_counted_when_it_was_passed(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "insert into generations (topic, generation, reason) values ('t', 1, 'new'), ('t', 2, '')"
        )
        connection.execute(
            "insert into consumer_offsets (consumer, log, partition, position) values"
            " ('trainer', 'kafka', 0, '2:30'), ('other', 'kafka', 0, '2:12'), ('trainer', 'kafka', 1, '1:99')"
        )
    assert shown(backlog(database_url, "t"))["hearken_relay_published_total"] == 30


def test_nothing_to_relay(database_url: str) -> None:
    found = shown(backlog(database_url, "hearken.feedback.v1"))
    assert found["hearken_relay_unpublished"] == found["hearken_relay_kept"] == 0


def test_rounds_and_votes_are_counted(database_url: str, pool: Pool) -> None:
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
            "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at, first_policy)"
            " select n, 'default', n, n, 'thumb', '{}', 'u', 'c', now() - n::integer * interval '10 seconds',"
            " case when n::integer < 4 then 'p1-aaaaaa' end from (values ('1'), ('3'), ('9')) as votes (n)"
        )
    found = shown(training_metrics(database_url, "default"))
    assert found['hearken_rounds_total{outcome="published",project="default"}'] == 1
    assert found['hearken_rounds_total{outcome="rejected",project="default"}'] == 1
    assert found['hearken_rounds_total{outcome="failed",project="default"}'] == 0
    assert found['hearken_round_last_seconds{project="default"}'] == pytest.approx(30)
    assert found['hearken_feedback_to_live_seconds{project="default"}'] == pytest.approx(20, abs=1)
    assert found['hearken_votes_unlearned{project="default"}'] == 1


def test_each_project_has_its_own_figures_and_their_number_is_bounded(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values ('a-shop'), ('zoo')")
        connection.execute(
            "insert into rounds (project, parent, outcome, started_at, ended_at) values"
            " ('zoo', 'p0', 'failed', now() - interval '2 minutes', now())"
        )
        connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at) select n, 'zoo', n, n, 'thumb', '{}', 'u', 'c', now()"
            " from generate_series(1, 3) as n"
        )
    found = shown(training_metrics(database_url, "default"))
    assert found['hearken_rounds_total{outcome="failed",project="zoo"}'] == 1
    assert found['hearken_rounds_total{outcome="failed",project="a-shop"}'] == 0, "its first one is a rise"
    assert found['hearken_round_last_seconds{project="zoo"}'] == pytest.approx(120)
    assert found['hearken_votes_unlearned{project="zoo"}'] == 3
    assert found['hearken_votes_unlearned{project="default"}'] == 0
    monkeypatch.setattr("trainer.records.metrics.MOST_PROJECTS", 1)
    monkeypatch.setattr("trainer.records.metrics.MOST_VOTES", 2)
    found = shown(training_metrics(database_url, "zoo"))
    assert found['hearken_votes_unlearned{project="zoo"}'] == 2
    assert not any("default" in name or "a-shop" in name for name in found)


def test_dead_letters_and_blocked_partitions_are_counted(database_url: str, pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute("insert into dead_letters values ('kafka', 0, '1:4', 'odd', '[]')")
        connection.execute("insert into blocked_partitions values ('kafka', 1, 'hearken.feedback.v2')")
    found = shown(training_metrics(database_url, "default"))
    assert found["hearken_dead_letters"] == 1
    assert found["hearken_blocked_partitions"] == 1


def test_thumbs_are_counted_by_policy(database_url: str, pool: Pool) -> None:
    add_key(pool)
    with pool.connection() as connection:
        connection.execute(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling) select 't' || n, 'default', 'c', 'u', 'default-admin', '[]', '{1}', '{}'"
            " from generate_series(0, 4) as n"
        )
        connection.execute(
            "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
            " finish_reason) select 't' || n, 0, 'default',"
            " case when n in (1, 2, 3) then 'p0' else 'p1-aaaaaa' end, 1, '', '{1}', '{0}', 'stop'"
            " from generate_series(0, 4) as n"
        )
        connection.execute(
            "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot,"
            " superseded_by, retracted_at) select n, n, 'default', 't' || n % 5, 0, 'thumb',"
            " jsonb_build_object('value', case when n % 2 = 0 then 'up' else 'down' end), n, '',"
            " case when n = 3 then '4' end, case when n = 0 then now() end from generate_series(0, 5) as n"
        )
    found = shown(approval_metrics(database_url, "default"))
    assert found['hearken_thumbs{policy="p0",project="default",value="up"}'] == 1
    assert found['hearken_thumbs{policy="p0",project="default",value="down"}'] == 1
    assert found['hearken_thumbs{policy="p1-aaaaaa",project="default",value="up"}'] == 1
    assert found['hearken_thumbs{policy="p1-aaaaaa",project="default",value="down"}'] == 1


def give_thumbs(pool: Pool, thumbs: Iterable[tuple[str, str, bool]]) -> None:
    """Inserts thumbs by (policy, rater, up), each on a turn of its own."""
    add_key(pool)
    with pool.connection() as connection:
        for number, (policy, rater, up) in enumerate(thumbs):
            turn = f"t{number}"
            connection.execute(
                "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
                " sampling) values (%s, 'default', 'c', %s, 'default-admin', '[]', '{1}', '{}')",
                [turn, rater],
            )
            connection.execute(
                "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids,"
                " logprobs, finish_reason) values (%s, 0, 'default', %s, 1, '', '{1}', '{0}', 'stop')",
                [turn, policy],
            )
            connection.execute(
                "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
                " values (%s, %s, 'default', %s, 0, 'thumb', %s, %s, '')",
                [turn, turn, turn, Jsonb({"value": "up" if up else "down"}), rater],
            )


def make_live(pool: Pool, policy: str, previous: str) -> None:
    with pool.connection() as connection:
        for each in {policy, previous}:
            connection.execute(
                "insert into policies (project, id, base_digest, directory, digest, manifest, state, live_at)"
                " values ('default', %s, '', '', '', '{}', 'retired', now())",
                [each],
            )
        connection.execute(
            "insert into routes (project, live, previous) values ('default', %s, %s)", [policy, previous]
        )


def test_approval_against_the_base_and_the_policy_before(database_url: str, pool: Pool) -> None:
    people = range(MIN_PEOPLE)
    give_thumbs(
        pool,
        [("p0", f"u_{each}", each % 2 == 0) for each in people]
        + [("p1-aaaaaa", f"u_{each}", each % 10 > 0) for each in people]
        + [("p2-bbbbbb", f"u_{each}", each % 10 == 0) for each in people],
    )
    make_live(pool, "p2-bbbbbb", "p1-aaaaaa")
    found = shown(approval_metrics(database_url, "default"))
    assert found['hearken_approval_z{against="base",project="default"}'] == pytest.approx(-2.75, abs=0.01)
    assert found['hearken_approval_z{against="previous",project="default"}'] == pytest.approx(-6.87, abs=0.01)


def test_the_unit_of_approval_is_the_person_and_judges_do_not_count(database_url: str, pool: Pool) -> None:
    few = range(MIN_PEOPLE - 1)
    give_thumbs(
        pool,
        [("p0", f"u_{each}", True) for each in few] * 2
        + [("p0", f"{JUDGE}strict", True)]
        + [("p1-aaaaaa", f"u_{each}", False) for each in range(MIN_PEOPLE)],
    )
    make_live(pool, "p1-aaaaaa", "p0")
    found = shown(approval_metrics(database_url, "default"))
    assert found['hearken_thumbs{policy="p0",project="default",value="up"}'] == 2 * len(few)
    assert not any("approval" in name for name in found)


def test_the_sessions_of_one_network_are_one_person_in_approval(database_url: str, pool: Pool) -> None:
    people = [f"u_{each}" for each in range(MIN_PEOPLE)]
    sessions = [("p1-aaaaaa", f"v_{each}", False) for each in range(60)]
    give_thumbs(pool, [(policy, each, True) for policy in ("p0", "p1-aaaaaa") for each in people] + sessions)
    with pool.connection() as connection:
        connection.execute("update feedback set origin = 'network' where starts_with(rater, 'v_')")
    make_live(pool, "p1-aaaaaa", "p0")
    found = shown(approval_metrics(database_url, "default"))
    assert found['hearken_thumbs{policy="p1-aaaaaa",project="default",value="down"}'] == 60
    assert found['hearken_approval_z{against="base",project="default"}'] == pytest.approx(-0.55, abs=0.01)


def test_dead_letters_of_every_log_are_counted(database_url: str, pool: Pool) -> None:
    with pool.connection() as connection:
        connection.execute(
            "insert into dead_letters (log, partition, position, reason, payload)"
            " values ('postgres', 0, '1:1', 'version', '{}'), ('kafka', 3, '1:8', 'version', '{}')"
        )
    assert shown(training_metrics(database_url, "default"))["hearken_dead_letters"] == 2


def test_old_names_are_kept_for_one_release(database_url: str, pool: Pool) -> None:
    people = [f"u_{each}" for each in range(MIN_PEOPLE)]
    give_thumbs(
        pool, [("p0", each, True) for each in people] + [("p1-aaaaaa", each, False) for each in people]
    )
    make_live(pool, "p1-aaaaaa", "p0")
    found = shown(training_metrics(database_url, "default"), approval_metrics(database_url, "default"))
    for new, old in (
        ("hearken_approval_z", "hearken_approval_lead"),
        ("hearken_dead_letters", "hearken_log_unreadable"),
        ("hearken_blocked_partitions", "hearken_log_waiting"),
    ):
        values = [
            {name.removeprefix(each): value for name, value in found.items() if name.startswith(each)}
            for each in (new, old)
        ]
        assert values[0] == values[1] != {}


def test_scrapes_within_some_seconds_share_an_answer(database_url: str, pool: Pool) -> None:
    def counted(row: DictRow) -> Iterator[Metric]:
        yield GaugeMetricFamily("counted", "", row["number"])

    query: LiteralString = "select count(*) as number from projects"
    shared = DatabaseMetrics(database_url, query, {}, counted, seconds=3600)
    each = DatabaseMetrics(database_url, query, {}, counted)
    assert shown(shared) == shown(each) == {"counted": 1}
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values ('shop')")
    assert (shown(shared), shown(each)) == ({"counted": 1}, {"counted": 2})


def test_a_database_that_is_too_slow_for_a_scrape_shows_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * database_metrics.SCRAPE_TIMEOUT < 10, "Prometheus gives up after ten seconds"
    monkeypatch.setattr(database_metrics, "SCRAPE_TIMEOUT", 0.2)
    late = Metric("late", "", "gauge")
    slow = DatabaseMetrics(database_url, "select pg_sleep(60)", {}, lambda row: iter([late]))
    begun = time.monotonic()
    assert list(slow.collect()) == []
    assert time.monotonic() - begun < 30


def test_a_database_that_is_away_shows_nothing_and_breaks_nothing() -> None:
    assert (
        shown(backlog(AWAY, "t"), training_metrics(AWAY, "default"), approval_metrics(AWAY, "default")) == {}
    )
