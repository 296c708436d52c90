"""Processes are killed and paused at random moments under load: no acknowledged vote is lost, counted twice
or out of order, the service is soon back, and it goes on learning."""

from pathlib import Path

import pytest

from tests import faults
from tests.broker import Broker
from tests.installation import Installation

FAULTS = 50
SEED = 7


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_and_learning_goes_on(tmp_path: Path) -> None:
    broker = Broker()
    broker.start()
    kafka = {"HEARKEN_KAFKA__SERVERS": f'["{broker.address}"]'}
    try:
        with Installation(tmp_path, **faults.SETTINGS, **kafka) as installation:
            victims = faults.victims(installation, broker)
            report = faults.run(installation, victims, FAULTS, SEED, print)
            print({share: round(report.back_at(share), 1) for share in (0.5, 0.9, 0.95, 1)}, len(report.told))
            assert report.problems == []
            assert len(report.told) > 40
            assert report.back_at(0.95) <= 10, report.faults
            assert faults.policies_after(installation, tmp_path)
    finally:
        broker.kill()
