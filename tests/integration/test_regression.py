"""The live regression test sends the next round back to the parent of a policy that people like less."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.database import Pool
from schemas.feedback import Thumb, Vote
from schemas.policies import BASE
from schemas.settings import Settings
from schemas.turns import Turn
from tests.training import add_key, send, small_settings, some_turns, thumbs_by_parity
from trainer import projects
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation import gate, regression
from trainer.evaluation.regression import MIN_PEOPLE, live_regression_test, mean_change
from trainer.learner import Learner
from trainer.model.backbone import Backbone
from trainer.parent_policy import PolicyDirectory, choose_parent


@pytest.fixture
def settings(
    database_url: str,
    tmp_path: Path,
    tiny_base: Path,
    pool: Pool,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """Returns the settings of a project whose live policy was trained once, on thumbs half of them up."""
    monkeypatch.setattr(gate.Verdict, "refused", False)
    add_key(pool)
    turns = from_twelve_people(some_turns(backbone, 24, seed=1))
    send(database_url, turns, thumbs_by_parity(turns))
    settings = small_settings(database_url, tmp_path, tiny_base)
    assert projects.run(settings, once=True) == 0
    with pool.connection() as connection:
        connection.execute("update policies set state = 'live', live_at = now() where id <> %s", [BASE])
        connection.execute("update routes set live = (select id from policies where id <> %s)", [BASE])
    return settings


def from_twelve_people(turns: list[Turn]) -> list[Turn]:
    """Assigns the turns to twelve people in rotation."""
    return [replace(turn, rater=f"u_{number % 12}") for number, turn in enumerate(turns)]


def live(pool: Pool) -> str:
    with pool.connection() as connection:
        row = connection.execute("select live from routes").fetchone()
    assert row is not None
    return str(row["live"])


def vote(database_url: str, backbone: Backbone, policy: str, seed: int, up: set[int]) -> None:
    """Sends 24 thumbs of twelve people on replies of `policy`; those numbered in `up` are up."""
    turns = [
        replace(turn, replies=[replace(reply, policy=policy) for reply in turn.replies])
        for turn in from_twelve_people(some_turns(backbone, 24, seed=seed))
    ]
    votes: list[tuple[Turn, Vote]] = [
        (turn, Thumb(type="thumb", completion_id=turn.id, value="up" if number in up else "down"))
        for number, turn in enumerate(turns)
    ]
    send(database_url, turns, votes)


def parents(pool: Pool) -> list[str]:
    with pool.connection() as connection:
        return [row["parent"] for row in connection.execute("select parent from rounds order by id")]


def test_a_round_starts_from_the_parent_of_a_regressed_policy(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = live(pool)
    vote(database_url, backbone, policy, 2, up=set())
    assert projects.run(settings, once=True) == 0
    found = live_regression_test(pool, "default", policy)
    assert found is not None
    assert found.regressed
    assert found.people == 12
    assert parents(pool) == [BASE, BASE]
    with pool.connection() as connection:
        rows = connection.execute("select record ? 'restart' as found from rounds").fetchall()
        assert not any(row["found"] for row in rows), "there is nothing to catch up"
        connection.execute(
            "update rounds set record = record || '{\"restart\": true}' where policy = %s", [policy]
        )
    after = choose_parent(pool, settings, PolicyDirectory(policy, settings.policies_dir), None)
    assert (after.policy.id, after.restart) == (BASE, True), "as the policy of a restart"
    monkeypatch.setattr(regression, "MAX_VOTES", 24)
    assert live_regression_test(pool, "default", policy) is None, "the newest 24 are all on the policy"


def test_the_sessions_of_one_network_send_nothing_back(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    policy = live(pool)
    with pool.connection() as connection:
        connection.execute("update turns set origin = 'network' where rater <> 'u_0'")
    vote(database_url, backbone, policy, 2, up=set())
    with pool.connection() as connection:
        connection.execute("update turns set origin = 'network' where rater <> 'u_0'")
    assert projects.run(settings, once=True) == 0
    assert live_regression_test(pool, "default", policy) is None  # two people voted on both
    assert parents(pool) == [BASE, policy]


def test_a_candidate_from_the_parent_is_compared_with_the_live_policy(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    policy = live(pool)
    vote(database_url, backbone, policy, 2, up=set())
    assert projects.run(settings, once=True) == 0
    assert parents(pool) == [BASE, BASE]
    with pool.connection() as connection:
        rows = connection.execute(
            "select p.id, p.directory, r.record from policies p, rounds r order by r.id"
        ).fetchall()
    served = next(Path(row["directory"]) for row in rows if row["id"] == policy)
    recorded = rows[-1]["record"]["samples"]
    learner = Learner(settings)
    learner.backbone.load_adapter(served)
    inputs = RoundInputs(draw=2, parent=BASE, votes=0, events=[], turns=[], positions={})
    said = learner.knowledge.samples(inputs.generator(settings.trainer.seed, "samples"))
    assert [each["before"] for each in recorded] == [text for _, text in said]


def test_a_second_regression_from_the_same_parent_has_no_effect(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    vote(database_url, backbone, live(pool), 2, up=set())
    assert projects.run(settings, once=True) == 0
    with pool.connection() as connection:
        connection.execute(
            "update policies set state = 'live', live_at = now()"
            " where created_at = (select max(created_at) from policies)"
        )
        connection.execute(
            "update routes set live = (select id from policies order by created_at desc limit 1)"
        )
    second = live(pool)
    vote(database_url, backbone, second, 3, up=set())
    assert projects.run(settings, once=True) == 0
    found = live_regression_test(pool, "default", second)
    assert found is not None
    assert found.parent == BASE
    assert found.change < -2 * found.error
    assert not found.regressed
    assert parents(pool) == [BASE, BASE, second]


def test_an_earlier_child_that_was_never_live_does_not_count(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    policy = live(pool)
    with pool.connection() as connection:
        connection.execute(
            "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state,"
            " created_at) select project, 'p9-unseen', parent, base_digest, directory, digest, manifest,"
            " 'rejected', created_at - interval '1 minute' from policies where id = %s",
            [policy],
        )
    vote(database_url, backbone, policy, 2, up=set())
    assert projects.run(settings, once=True) == 0
    found = live_regression_test(pool, "default", policy)
    assert found is not None
    assert found.regressed


def test_a_policy_that_people_like_as_much_has_not_regressed(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    policy = live(pool)
    vote(database_url, backbone, policy, 2, up=set(range(0, 24, 2)) | set(range(1, 12)))
    assert projects.run(settings, once=True) == 0
    found = live_regression_test(pool, "default", policy)
    assert found is not None
    assert not found.regressed
    assert parents(pool) == [BASE, policy]


def test_there_is_no_result_for_the_base_nor_from_too_few_raters(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    assert live_regression_test(pool, "default", BASE) is None
    assert live_regression_test(pool, "default", live(pool)) is None


def test_few_policies_are_taken_for_regressed_by_chance_in_ten_rounds() -> None:
    """People vote once on each policy, and like both half of the time; five more come before each round."""
    rng, alarms, policies = random.Random(0), 0, 1_000
    for _ in range(policies):
        changes = [float(rng.randint(0, 1) - rng.randint(0, 1)) for _ in range(50)]
        looks = (mean_change(changes[:people]) for people in range(5, 51, 5))
        alarms += any(change < -2 * error for change, error in looks)
    assert 0.05 < alarms / policies < 0.09


def test_a_few_raters_who_agree_are_not_significant() -> None:
    change, error = mean_change([-0.5] * MIN_PEOPLE)
    assert change > -2 * error
    change, error = mean_change([-0.5] * 20)
    assert change < -2 * error
