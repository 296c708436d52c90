"""Where a round starts: from the newest candidate that people try, else from the live policy."""

from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from schemas.database import Pool
from schemas.settings import ServingSettings, Settings
from trainer.data.round_inputs import RoundInputs
from trainer.parent_policy import PolicyDirectory, choose_parent, live_policy

LIVE = PolicyDirectory("p1-aaaaaa", Path("/policies/p1-aaaaaa"))


def add(pool: Pool, policy: str, state: str, outcome: str = "unknown", **figures: Any) -> None:
    gate = {"outcome": outcome, "figures": figures}
    with pool.connection() as connection:
        connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, gate, state)"
            " values ('default', %s, '', %s, '', '{}', %s, %s)",
            [policy, f"/policies/{policy}", Jsonb(gate), state],
        )


@pytest.fixture(autouse=True)
def live(pool: Pool) -> None:
    """p1 is live; p0 was before it, and p9, older, was a canary."""
    add(pool, "p9-zzzzzz", "canary")
    add(pool, "p0", "retired", "passed")
    add(pool, LIVE.id, "live", "passed")
    with pool.connection() as connection:
        connection.execute(
            "insert into routes (project, live, previous) values ('default', %s, 'p0')", [LIVE.id]
        )


def chosen(
    pool: Pool,
    interrupted: str | None = None,
    promotion: str = "direct",
    restart_rounds: int | None = None,
    *,
    restart: bool = False,
) -> str:
    settings = Settings(serving=ServingSettings.model_validate({"promotion": promotion}))
    settings.trainer.restart_rounds = restart_rounds
    inputs = None
    if interrupted is not None:
        inputs = RoundInputs(
            draw=1, parent=interrupted, votes=0, events=[], turns=[], positions={}, restart=restart
        )
    found = choose_parent(pool, settings, LIVE, inputs)
    assert found.restart == (found.policy.id == "p0"), "people took back none of these"
    return found.policy.id


def test_without_a_candidate_a_round_starts_from_the_live_policy(pool: Pool) -> None:
    assert chosen(pool) == LIVE.id


def test_rounds_go_on_from_the_newest_candidate_that_waits_or_is_tried(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary", held_out_gain=0.4, held_out_error=0.1)
    assert chosen(pool) == "p2-bbbbbb"
    add(pool, "p3-cccccc", "published", held_out_gain=None)
    assert chosen(pool) == "p3-cccccc"
    assert chosen(pool, promotion="manual") == LIVE.id


def begin_rounds(pool: Pool, *parents: str) -> None:
    with pool.connection() as connection:
        for parent in parents:
            connection.execute(
                "insert into rounds (project, parent, outcome) values ('default', %s, 'rejected')", [parent]
            )


def test_every_few_rounds_one_starts_from_the_base(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary")
    begun = []
    for _ in range(7):
        begun.append(chosen(pool, restart_rounds=3))
        begin_rounds(pool, begun[-1])
    assert begun == ["p2-bbbbbb", "p2-bbbbbb", "p0"] * 2 + ["p2-bbbbbb"]
    assert chosen(pool, restart_rounds=1) == "p0"
    assert chosen(pool) == "p2-bbbbbb"


def test_an_interrupted_restart_starts_from_the_base_again(pool: Pool) -> None:
    assert chosen(pool, interrupted="p0", restart=True) == "p0"
    assert chosen(pool, interrupted="p0") == LIVE.id


def test_candidates_that_the_held_out_votes_speak_against_are_left_out(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary", held_out_gain=0.1, held_out_error=0.6)
    add(pool, "p3-cccccc", "published", held_out_gain=-0.7, held_out_error=0.6)
    assert chosen(pool) == "p2-bbbbbb"


def test_a_gain_below_zero_within_its_error_does_not_speak_against_a_candidate(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary", held_out_gain=-0.5, held_out_error=0.6)
    assert chosen(pool) == "p2-bbbbbb"


@pytest.mark.parametrize("state", ["retired", "rolled_back", "rejected"])
def test_candidates_that_ended_are_left_out(pool: Pool, state: str) -> None:
    add(pool, "p2-bbbbbb", state)
    assert chosen(pool) == LIVE.id


def test_candidates_whose_files_are_deleted_are_left_out(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary")
    add(pool, "p3-cccccc", "published")
    with pool.connection() as connection:
        connection.execute("update policies set pruned_at = now() where id = 'p3-cccccc'")
    assert chosen(pool) == "p2-bbbbbb"


def test_an_interrupted_round_starts_from_its_own_parent_while_that_is_a_choice(pool: Pool) -> None:
    add(pool, "p2-bbbbbb", "canary")
    add(pool, "p3-cccccc", "published")
    assert chosen(pool, interrupted="p2-bbbbbb") == "p2-bbbbbb"
    assert chosen(pool, interrupted=LIVE.id) == LIVE.id
    assert chosen(pool, interrupted="p0") == LIVE.id


def test_a_round_waits_for_what_passed_the_gate_and_not_for_what_people_try(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setattr("trainer.parent_policy.PROMOTION_WAIT", 0.2)
    add(pool, "p2-bbbbbb", "published")
    assert live_policy(pool, Settings()) == LIVE
    assert waited == []
    add(pool, "p3-cccccc", "published", "passed")
    assert live_policy(pool, Settings()) == LIVE
    assert waited
