"""Serving exports metrics of the trainer, the relay and waiting promotions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from feedback.store import Store
from schemas import lock_ids
from schemas.database import AsyncPool, Pool
from schemas.feedback import JUDGE, Thumb
from schemas.settings import KafkaSettings, ServingSettings, Settings
from serving.loop_metrics import loop_metrics
from tests.events import event, put
from tests.scrape import shown
from tests.voting import a_turn
from trainer.leader_election import LeaderElection

BROKER = KafkaSettings(servers=["broker:9092"])


def scraped(database_url: str, **settings: Any) -> dict[str, float]:
    return shown(loop_metrics(Settings(database_url=database_url, **settings)))


def of(metric: str, project: str = "default") -> str:
    return f'{metric}{{project="{project}"}}'


def test_a_trainer_is_active_while_one_holds_the_lock(database_url: str) -> None:
    mine, standby, others = (LeaderElection(database_url, name) for name in ("default", "default", "another"))
    try:
        assert others.try_acquire()
        assert scraped(database_url)["hearken_trainer_active"] == 0
        assert mine.try_acquire()
        assert not standby.try_acquire()
        assert scraped(database_url)["hearken_trainer_active"] == 1
        mine.release()
        assert scraped(database_url)["hearken_trainer_active"] == 0
        assert standby.try_acquire()
        assert scraped(database_url)["hearken_trainer_active"] == 1
    finally:
        for each in (mine, standby, others):
            each.release()


def test_the_relay_is_missed_only_where_there_is_a_broker(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        put(connection, event("a"))
        connection.execute("update outbox set created_at = now() - interval '90 seconds'")
        assert not any("relay" in name for name in scraped(database_url))

        found = scraped(database_url, kafka=BROKER)
        assert found["hearken_relay_active"] == 0
        assert found["hearken_relay_lag_seconds"] == pytest.approx(90, abs=10)
        assert found["hearken_relay_oldest_seconds"] == found["hearken_relay_lag_seconds"]  # its old name

        connection.execute("select pg_advisory_lock(%s)", [lock_ids.RELAY])
        connection.execute('update outbox set partition = 0, "offset" = 0')
        found = scraped(database_url, kafka=BROKER)
        assert found["hearken_relay_active"] == 1
        assert found["hearken_relay_lag_seconds"] == 0


async def test_votes_wait_once_they_are_enough_for_a_round(database_url: str, async_pool: AsyncPool) -> None:
    trainer = Settings().trainer.model_copy(update={"min_votes": 3, "round_votes": 2})
    store = Store(async_pool)
    recorded = []
    for number, rater in enumerate(["u_a", "u_b", f"{JUDGE}strict", "u_c"]):
        await store.record_turn(a_turn(f"chatcmpl-{number}", rater=rater))
        votable = await store.votable_turn(f"chatcmpl-{number}")
        assert votable is not None
        vote = Thumb(completion_id=f"chatcmpl-{number}", type="thumb", value="up")
        recorded.append(await store.submit(votable, vote, rater))
    async with async_pool.connection() as connection:
        await connection.execute(
            "update feedback set created_at = now() - interval '10 minutes' where id = %s", [recorded[0].id]
        )

    def waiting() -> float:
        return scraped(database_url, trainer=trainer)[of("hearken_votes_waiting_seconds")]

    assert waiting() == pytest.approx(600, abs=20)
    async with async_pool.connection() as connection:
        held = "insert into quarantine (project, rater, reason) values ('default', 'u_a', 'burst')"
        await connection.execute(held)
    assert waiting() == 0
    metrics = scraped(database_url, trainer=trainer)
    assert (metrics[of("hearken_raters_held")], metrics[of("hearken_votes_held")]) == (1, 1)
    async with async_pool.connection() as connection:
        await connection.execute("update quarantine set state = 'accepted'")
    assert scraped(database_url, trainer=trainer)[of("hearken_raters_held")] == 0
    assert waiting() == pytest.approx(600, abs=20)
    found = await store.find(recorded[3].id)
    assert found is not None
    await store.retract(found)
    assert waiting() == 0

    last = "insert into rounds (project, parent, outcome, started_at) values ('default', 'p0', %s, %s)"
    again = Thumb(completion_id="chatcmpl-3", type="thumb", value="down")
    votable = await store.votable_turn("chatcmpl-3")
    assert votable is not None
    await store.submit(votable, again, "u_c")
    async with async_pool.connection() as connection:
        await connection.execute(last, ["rejected", datetime.now(UTC) - timedelta(minutes=5)])
        await connection.commit()
        assert waiting() == pytest.approx(600, abs=20)
        await connection.execute(last, ["published", datetime.now(UTC) - timedelta(minutes=5)])
    assert waiting() == 0


def test_a_published_policy_that_is_not_promoted_is_waiting(database_url: str, pool: Pool) -> None:
    assert scraped(database_url)[of("hearken_promotion_waiting_seconds")] == 0
    with pool.connection() as connection:
        connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state, created_at)"
            " values ('default', 'p1-aaaaaa', '', '', '', '{}', 'published', now() - interval '3 minutes')"
        )
    assert scraped(database_url)[of("hearken_promotion_waiting_seconds")] == pytest.approx(180, abs=10)
    with pool.connection() as connection:
        connection.execute("""update policies set gate = '{"outcome": "unknown"}'""")
    assert scraped(database_url)[of("hearken_promotion_waiting_seconds")] == 0
    manual = ServingSettings(promotion="manual")
    assert of("hearken_promotion_waiting_seconds") not in scraped(database_url, serving=manual)
    with pool.connection() as connection:
        connection.execute("update projects set promotion = 'canary'")  # the project's own choice
    assert of("hearken_promotion_waiting_seconds") not in scraped(database_url)


def test_a_database_that_is_away_shows_nothing_and_breaks_nothing() -> None:
    assert scraped("postgresql://127.0.0.1:1/nothing") == {}


def test_a_flood_of_one_project_is_told_of_it_and_projects_in_which_nothing_waits_are_left_out(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pool.connection() as connection:
        connection.execute("insert into projects (id, promotion) values ('shop', 'manual'), ('quiet', null)")
        connection.execute("insert into keys (id, project, kind, hash) values ('k', 'shop', 'admin', 'x')")
        connection.execute(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling) select 't' || n, 'shop', 'c', 'u', 'k', '[]', '{1}', '{}'"
            " from generate_series(1, 5) as n"
        )
        connection.execute(
            "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
            " select n, n, 'shop', 't' || n, 0, 'thumb', '{}', 'u', '' from generate_series(1, 5) as n"
        )
        connection.execute("insert into quarantine (project, rater, reason) values ('shop', 'u', 'burst')")
    found = scraped(database_url)
    assert (found[of("hearken_raters_held", "shop")], found[of("hearken_votes_held", "shop")]) == (1, 5)
    assert found[of("hearken_votes_held")] == 0
    assert of("hearken_promotion_waiting_seconds", "shop") not in found, "an operator promotes there"
    assert not any("quiet" in name for name in found)
    monkeypatch.setattr("serving.loop_metrics.MOST_COUNTED", 3)
    assert scraped(database_url)[of("hearken_votes_held", "shop")] == 3
    monkeypatch.setattr("serving.loop_metrics.MOST_PROJECTS", 1)
    assert {name for name in scraped(database_url) if "votes_held" in name} == {of("hearken_votes_held")}
