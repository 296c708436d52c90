"""Processes, of which there are two of each that may be, are killed and paused at random moments under load:
no acknowledged vote is lost, counted twice or out of order, the service is soon back, and it goes on
learning."""

from pathlib import Path

import pytest

from schemas.settings import KafkaSettings
from tests import faults
from tests.broker import Broker
from tests.crowd import Crowd
from tests.installation import Installation
from tests.second_replica import SecondReplica

FAULTS = 50
SEED = 7
LONGEST = 30.0
"""Seconds to be back at p95, whatever the machine. What is promised is measured by tests.bench.faults."""


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_and_learning_goes_on(tmp_path: Path) -> None:
    broker = Broker()
    broker.start()
    kafka = {"HEARKEN_KAFKA__SERVERS": f'["{broker.address}"]'}
    try:
        with (
            Installation(tmp_path, **faults.SETTINGS, **kafka) as installation,
            SecondReplica(installation) as replica,
        ):
            crowd = Crowd(installation, replica.url, kafka=KafkaSettings(servers=[broker.address]))
            victims = faults.victims(installation, replica, broker)
            report = faults.run(crowd, victims, FAULTS, SEED, print)
            print(report.table(), report.told, sep="\n")
            assert report.problems == []
            assert report.told > 40
            for asked, needed in faults.NEEDED.items():
                print(asked, [report.back_if_let(0.95, asked, some) for some in (victims, needed)])
                assert report.back_if_let(0.95, asked, victims) <= LONGEST, report.faults
                assert report.back_if_let(0.95, asked, needed) <= LONGEST, report.faults
            assert faults.policies_after(installation, tmp_path)
    finally:
        broker.kill()
