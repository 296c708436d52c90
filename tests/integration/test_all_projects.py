"""One trainer runs the rounds of all projects over one base, each project's on its own votes."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from deploy.simulation.own_project import PROJECT, remove
from feedback.open_log import open_log
from schemas.database import Pool
from schemas.policies import BASE
from schemas.settings import Settings
from tests.training import add_key, send, small_settings, some_turns, thumbs_by_parity
from trainer import loop, projects
from trainer.leader_election import LeaderElection
from trainer.learner import Learner
from trainer.log_reader import LogReader
from trainer.loop import Trainer
from trainer.model.backbone import Backbone
from trainer.projects import Projects
from trainer.records import interruptions, record


@pytest.fixture
def own(database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool) -> Iterator[Trainer]:
    """The trainer of the installation's own project, which has published the base."""
    add_key(pool)
    settings = small_settings(database_url, tmp_path, tiny_base)
    trainer = Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    trainer.poll()
    yield trainer
    trainer.election.release()


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


def add_project(
    pool: Pool, backbone: Backbone, settings: Settings, project: str, votes: int, *, served: bool = True
) -> None:
    """Adds a project, answered by the base if it is served, on whose replies people vote."""
    with pool.connection() as connection:
        connection.execute("insert into projects (id) values (%s)", [project])
        connection.execute(
            "insert into keys (id, project, kind, hash) values (%s, %s, 'admin', %s)",
            [f"{project}-admin", project, project],
        )
        if served:
            connection.execute(
                "insert into policies (project, id, base_digest, directory, digest, manifest, state)"
                " select %s, id, base_digest, directory, digest, manifest, 'live' from policies"
                " where project = 'default' and id = %s",
                [project, BASE],
            )
            connection.execute(
                "insert into routes (project, live, previous) values (%s, 'p0', 'p0')", [project]
            )
    turns = [
        replace(turn, project=project, id=f"{turn.id}-{project}", key_id=f"{project}-admin")
        for turn in some_turns(backbone, votes, seed=sum(project.encode()))
    ]
    send(settings.database_url or "", turns, thumbs_by_parity(turns))


def rounds(pool: Pool) -> dict[str, list[str]]:
    """Returns the outcomes of each project's rounds."""
    with pool.connection() as connection:
        rows = connection.execute("select project, outcome from rounds order by id").fetchall()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["project"], []).append(row["outcome"])
    return found


def test_each_project_learns_from_its_own_votes(own: Trainer, pool: Pool, backbone: Backbone) -> None:
    for project, votes in (("bakery", 20), ("shop", 22), ("silent", 0)):
        add_project(pool, backbone, own.settings, project, votes)
    with pool.connection() as connection:
        connection.execute(
            "update projects set learning = %s where id = 'bakery'",
            [Jsonb({"groups": "least_satisfied", "max_fall": 0.25, "tainted_policy": "replace"})],
        )
    trained = Projects(own)
    for _ in range(3):
        trained.poll()
    assert set(rounds(pool)) == {"bakery", "shop"}
    with pool.connection() as connection:
        policies = connection.execute(
            "select project, directory, (manifest ->> 'examples')::int as examples,"
            " manifest #>> '{configuration,reward,groups}' as groups,"
            " manifest #> '{configuration,criteria,max_fall}' as max_fall"
            " from policies where id <> 'p0'"
        ).fetchall()
    assert {row["project"]: (row["groups"], row["max_fall"]) for row in policies} == {
        "bakery": ("least_satisfied", 0.25),
        "shop": ("mean", 0.02),
    }
    learned = {row["project"]: row["examples"] for row in policies}
    assert 0 < learned["bakery"] <= 20
    assert 0 < learned["shop"] <= 22
    assert all(f"/policies/{row['project']}/" in row["directory"] for row in policies)


def test_a_project_with_a_trainer_of_its_own_is_left_to_it(
    own: Trainer, pool: Pool, backbone: Backbone
) -> None:
    add_project(pool, backbone, own.settings, "bakery", 20)
    its_own = own.of_project("bakery")
    dedicated = Trainer(its_own.settings, pool, own.reader, its_own.learner)  # with a connection of its own
    assert dedicated.lead()
    trained = Projects(own)
    trained.poll()
    assert rounds(pool) == {}
    dedicated.election.release()
    trained.poll()
    assert list(rounds(pool)) == ["bakery"]


def test_trainers_share_the_projects(own: Trainer, pool: Pool, backbone: Backbone) -> None:
    """A second trainer trains what the first is not at, and finishes what it left when it died."""
    for project in ("bakery", "shop"):
        add_project(pool, backbone, own.settings, project, 20)
    own.reader.read()
    second = Trainer(own.settings, pool, LogReader(pool, open_log(own.settings, pool)), own.learner)
    first, pool_of_second = own.of_project("bakery"), Projects(second)
    assert first.lead()
    record.begin(pool, "bakery", BASE)
    pool_of_second.poll()
    assert not second.leading
    assert rounds(pool) == {"bakery": ["running"], "shop": ["published"]}
    assert first.election.is_leader

    own.election.release()  # it dies in the middle of a round
    pool_of_second.poll()
    assert rounds(pool) == {"bakery": ["failed", "published"], "shop": ["published"]}
    second.election.release()


def test_trainers_do_not_hurry_each_other(own: Trainer, pool: Pool, backbone: Backbone) -> None:
    """The time from one round to the next is a project's, whichever trainer ran it."""
    add_project(pool, backbone, own.settings, "bakery", 20)
    own.reader.read()
    second = own.of_project("bakery")
    second.last_round -= 1000
    first = own.of_project("bakery")
    first.visit()
    turns = [
        replace(turn, project="bakery", id=f"{turn.id}-late", key_id="bakery-admin")
        for turn in some_turns(backbone, 1, seed=7)
    ]
    send(own.settings.database_url or "", turns, thumbs_by_parity(turns))
    own.reader.read()
    assert not second.due()
    second.last_round -= 1000
    assert second.due()
    for trainer in (first, second):
        trainer.trackers.close()


def test_a_project_of_another_base_is_left_alone(own: Trainer, pool: Pool, backbone: Backbone) -> None:
    for project in ("bakery", "shop"):
        add_project(pool, backbone, own.settings, project, 20)
    with pool.connection() as connection:
        connection.execute("update policies set base_digest = 'another' where project = 'bakery'")
    trained = Projects(own)
    for _ in range(2):
        trained.poll()
    assert list(rounds(pool)) == ["shop"]


INSTANTS = (
    "interruptions.close", "publish.ensure_base", "parent_policy.live_policy", "record.begin",
    "suspects.hold_suspects", "publish.register",
)  # fmt: skip


@pytest.mark.parametrize("instant", INSTANTS)
def test_a_project_that_is_removed_during_a_visit_stops_nobody(
    own: Trainer, pool: Pool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, instant: str
) -> None:
    """Its trainer goes with its lock, and the other projects are trained."""
    for project in (PROJECT, "tearoom"):
        add_project(pool, backbone, own.settings, project, 20)
    module, function = instant.split(".")
    real = getattr(getattr(loop, module), function)
    removed: list[bool] = []

    def and_removed(*given: Any, **named: Any) -> Any:
        if not removed:  # the first visit is that of this project
            removed.append(True)
            remove(own.settings)
        return real(*given, **named)

    trained = Projects(own)
    own.poll()
    monkeypatch.setattr(getattr(loop, module), function, and_removed)
    for _ in range(2):
        for project in trained._next():
            trained._visit(project)
        trained._forget_removed()
    assert removed
    assert rounds(pool) == {"tearoom": ["published"]}
    assert list(trained._trainers) == ["tearoom"]
    another = LeaderElection(own.settings.database_url or "", PROJECT)
    assert another.try_acquire()
    another.release()


def test_a_project_made_again_under_its_name_is_another_one(
    own: Trainer, pool: Pool, backbone: Backbone
) -> None:
    trained = Projects(own)
    add_project(pool, backbone, own.settings, PROJECT, 20)
    with pool.connection() as connection:
        connection.execute("update policies set base_digest = 'another' where project = %s", [PROJECT])
    trained.poll()  # it is refused
    remove(own.settings)
    add_project(pool, backbone, own.settings, PROJECT, 20)
    trained.poll()
    assert list(rounds(pool)) == [PROJECT]


def test_all_projects_are_looked_at_in_turn(
    own: Trainer, pool: Pool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projects, "VISITS", 1)
    for project in ("bakery", "shop"):
        add_project(pool, backbone, own.settings, project, 20)
    trained = Projects(own)
    trained.poll()
    assert list(rounds(pool)) == ["bakery"]
    trained.poll()
    assert list(rounds(pool)) == ["bakery", "shop"]


def test_a_project_that_always_kills_its_trainer_stops_no_other(
    own: Trainer, pool: Pool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for project in ("bakery", "shop"):
        add_project(pool, backbone, own.settings, project, 20)
    train = Trainer._train

    def out_of_memory(trainer: Trainer, *given: Any) -> Any:
        if trainer.project == "bakery":
            raise Killed
        return train(trainer, *given)

    def start() -> list[str]:
        """Starts a trainer; returns the outcomes of the bakery's rounds when it has died or has no work."""
        trained = Projects(own)
        with suppress(Killed):
            for _ in range(2):
                trained.poll()
        own.election.release()
        return rounds(pool)["bakery"]

    def last() -> dict[str, Any]:
        with pool.connection() as connection:
            row = connection.execute(
                "select id, reason, record -> 'interruptions' as count from rounds where project = 'bakery'"
                " order by id desc limit 1"
            ).fetchone()
        assert row is not None
        return row

    monkeypatch.setattr(Trainer, "_train", out_of_memory)
    assert start() == ["running"]
    assert start() == ["failed", "running"]
    assert rounds(pool)["shop"] == ["published"], "it came before the second attempt"
    assert start() == ["failed", "failed", "running"]
    for _ in range(2):
        assert start() == ["failed"] * 3
    assert last()["count"] == 3
    assert "3 in a row" in last()["reason"]
    assert last()["reason"].endswith("the next one begins in 1 min")
    assert interruptions.pause_left(pool, "bakery") > 0
    with pool.connection() as connection:
        connection.execute("update rounds set ended_at = now() - interval '61 seconds'")
    assert start() == ["failed", "failed", "failed", "running"]
    assert start() == ["failed"] * 4
    with pool.connection() as connection:
        connection.execute("update rounds set ended_at = now() - interval '61 seconds'")
    assert start() == ["failed"] * 4, "twice as long"

    monkeypatch.setattr(Trainer, "_train", train)
    with pool.connection() as connection:
        connection.execute("update rounds set ended_at = now() - interval '121 seconds'")
    assert start() == [*["failed"] * 4, "published"]
    assert last()["count"] is None


def test_the_pause_doubles_up_to_a_limit() -> None:
    assert [interruptions.pause(count) for count in (0, 2, 3, 4, 5)] == [0, 0, 60, 120, 240]
    assert interruptions.pause(11) == interruptions.pause(5_000) == 256 * 60


def test_a_store_of_policies_that_is_away_stops_no_other_project(
    own: Trainer, pool: Pool, backbone: Backbone, bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new project the base cannot be published; it is when the store is back."""
    add_project(pool, backbone, own.settings, "bakery", 20, served=False)
    add_project(pool, backbone, own.settings, "shop", 20)
    own.settings.policy_store = "s3://bucket/policies"
    monkeypatch.setattr(loop, "AGAIN_SECONDS", 0.0)
    trained = Projects(own)
    with monkeypatch.context() as away:
        away.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        trained.poll()
    assert list(rounds(pool)) == ["shop"]
    another = LeaderElection(own.settings.database_url or "", "bakery")
    assert another.try_acquire()
    another.release()
    trained.poll()
    assert rounds(pool)["bakery"] == ["published"]


def test_a_trainer_of_one_project_trains_no_other(own: Trainer, pool: Pool, backbone: Backbone) -> None:
    add_project(pool, backbone, own.settings, "bakery", 20)
    own.settings.trainer.all_projects = False
    Projects(own).poll()
    assert rounds(pool) == {}
