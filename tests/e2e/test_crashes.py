"""A process may die before or after any commit: nothing acknowledged is lost or repeated, and the service
continues."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, LiteralString

import httpx
import psycopg
import pytest

from schemas.settings import KafkaSettings
from tests.broker import Broker
from tests.crowd import Crowd
from tests.failpoints import TIMEOUT, Failpoints
from tests.faults import QUICK_ROUNDS, SETTINGS, policies_after
from tests.installation import Installation, wait

SIDES = ("before", "after")
OF_ROUNDS = (
    "trainer.data.ingest._apply_batch",
    "trainer.records.record.begin",
    "trainer.records.publish.register",
    "trainer.records.record.finish",
)
"""Commits of a training round; the others do not wait for one."""
OF_REQUESTS = (
    "feedback.turns.Turns._transaction",
    "feedback.store.Store._row",
    "feedback.relay.Relay._mark",
)
ROLLED_BACK: LiteralString = "select id from policies where state = 'rolled_back' limit 1"
RETIRED: LiteralString = (
    "select id from policies where state = 'retired' and id <> 'p0' order by created_at limit 1"
)
REJECTED: LiteralString = "select true from policies where id = %s and state = 'rejected'"
RESTS: LiteralString = """
    select not exists (select from rounds where outcome = 'running')
        and not exists (select from policies where state = 'published')
"""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_process_may_die_at_every_commit(tmp_path: Path, tiny_base: Path, whole: bool) -> None:
    """It dies before and after each, or, if not `whole`, before one and after the next."""
    broker = Broker()
    broker.start()
    failpoints = Failpoints(tmp_path / "crashes")
    settings = {
        **SETTINGS,
        **QUICK_ROUNDS,
        "HEARKEN_MODEL": str(tiny_base),
        "HEARKEN_KAFKA__SERVERS": f'["{broker.address}"]',
    }
    installation = Installation(tmp_path / "data", **settings, **failpoints.environment)

    def die(*commits: str, cause: Callable[[], object] = lambda: None) -> None:
        for commit, alternate in zip(commits, cycle(SIDES), strict=False):
            for side in SIDES if whole else (alternate,):
                print("crash", side, commit)
                failpoints.crash(f"{commit} {side}", cause)
                installation.wait_until_ready()

    def restart_broker() -> None:
        broker.kill()
        broker.start()

    try:
        for side in SIDES if whole else ("after",):
            failpoints.crash(f"trainer.records.publish.ensure_base {side}", installation.start)
            installation.stop()
        with installation:
            installation.pass_every_candidate()
            crowd = Crowd(installation, kafka=KafkaSettings(servers=[broker.address]))
            for person in crowd.people:
                person.pause = 1.0
            with crowd:
                with ThreadPoolExecutor(2) as threads:
                    waiting = [threads.submit(die, *OF_ROUNDS)]
                    waiting.append(threads.submit(die, "serving.rollout.promote"))
                    die(*OF_REQUESTS)
                    die("feedback.relay.Relay._begin_generation", cause=restart_broker)
                    die("feedback.retention._alone", cause=lambda: installation.kill("serving"))
                    for each in waiting:
                        each.result()
                operate(installation, failpoints, SIDES if whole else ("after",))
            assert crowd.problems == []
            assert crowd.acknowledged > 40
            assert policies_after(installation, tmp_path / "data")
    finally:
        broker.kill()


def operate(installation: Installation, failpoints: Failpoints, sides: Sequence[str]) -> None:
    """An operator's command, and the rejection of a policy, happens or does not happen as a whole, even if
    its process dies on these sides of its commit."""
    with psycopg.connect(installation.database_url(), autocommit=True) as connection:

        def one(query: LiteralString, *values: str) -> Any:
            row = connection.execute(query, values).fetchone()
            return row and row[0]

        def state(policy: str) -> Any:
            return one("select state from policies where id = %s", policy)

        def ask(path: str, body: dict[str, Any]) -> None:
            with installation.client() as client, suppress(httpx.TransportError):
                client.post(path, json=body)

        def die(
            commit: str, policy: str, before: str, after: str, insist: Callable[[], object] = lambda: None,
            cause: Callable[[], object] = lambda: None,
        ) -> None:  # fmt: skip
            for side in sides:
                expected = before if side == "before" else after
                print("crash", side, commit)
                failpoints.crash(f"{commit} {side}", cause, insist)
                assert state(policy) == expected, (commit, side)
                installation.wait_until_ready()

        wait(lambda: one(RETIRED), "two policies have been live", TIMEOUT)
        assert installation.run("pause").returncode == 0  # else another policy may go live before a rollback
        policy = one(RETIRED)
        canary = {"policy": policy, "share": 0.5}
        begin = partial(ask, "/v1/rollouts", canary)
        die("serving.swap.Swap.start_canary", policy, "retired", "canary", insist=begin)
        rollout = one("select id from rollouts where state = 'running'")
        end = partial(ask, f"/v1/rollouts/{rollout}/rollback", {"reason": "a test"})
        die("serving.auth.acting", policy, "canary", "retired", insist=end)
        wait(lambda: one(RESTS), "training is paused and all its policies are live", TIMEOUT)
        live = one("select live from routes")
        die(
            "serving.rollout.rollback", live, "live", "rolled_back",
            cause=partial(installation.run, "rollback"),
        )  # fmt: skip
        for side in sides:
            print("crash", side, "serving.rollout.reject")
            parent, child = one(ROLLED_BACK), f"p9000-{side[:3]}000"
            failpoints.crash(
                f"serving.rollout.reject {side}", partial(installation.publish_again, parent, child)
            )
            wait(partial(one, REJECTED, child), "the child of a rolled back policy is rejected")
            installation.wait_until_ready()
        assert installation.run("resume").returncode == 0
