"""Every commit of the loop may be the last thing that a process does, and whether it was made or not: nothing
that was acknowledged is lost or counted twice, and the service goes on."""

from pathlib import Path

import pytest

from tests.broker import Broker
from tests.faults import SETTINGS, Crowd, Points, policies_after
from tests.installation import Installation

COMMITS = (
    "feedback.turns.Turns._transaction",
    "feedback.store.Store._row",
    "feedback.relay.Relay._mark",
    "trainer.ingest._take",
    "trainer.record.begin",
    "trainer.publish.announce",
    "trainer.record.finish",
    "serving.rollout.promote",
)


@pytest.mark.timeout(900)
def test_a_process_may_die_before_and_after_every_commit(tmp_path: Path) -> None:
    broker = Broker()
    broker.start()
    points = Points(tmp_path / "crashes")
    kafka = {"HEARKEN_KAFKA__SERVERS": f'["{broker.address}"]'}
    try:
        with Installation(tmp_path / "data", **SETTINGS, **kafka, **points.environment) as installation:
            with Crowd(installation) as crowd:
                for person in crowd.people:
                    person.pause = 1.0
                for commit in COMMITS:
                    for side in ("before", "after"):
                        print("crash", side, commit)
                        points.crash(f"{commit} {side}")
                        installation.wait_until_ready()
            assert crowd.problems == []
            assert len(crowd.told) > 40
            assert policies_after(installation, tmp_path / "data")
    finally:
        broker.kill()
