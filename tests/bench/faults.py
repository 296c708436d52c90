"""A thousand faults under load: `python -m tests.bench.faults [FAULTS] [SEED]`.

Each process of a `hearken up` with a broker is killed with -9 or paused, at random moments, while people chat
and vote; then what they were told is compared with what there is (`tests.faults`). Promised: nothing
acknowledged is lost, counted twice or out of order, the service answers again within 10 s at p95, and goes on
learning. About 45 minutes.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import faults
from tests.broker import Broker
from tests.installation import Installation

FAULTS = 1_000
SEED = 11


def main() -> int:
    wanted, seed = [int(word) for word in sys.argv[1:]] + [FAULTS, SEED][len(sys.argv) - 1 :]
    broker = Broker()
    broker.start()
    try:
        with TemporaryDirectory(prefix="hearken-bench-") as folder:
            data_dir = Path(folder).resolve()
            servers = json.dumps([broker.address])
            with Installation(data_dir, HEARKEN_KAFKA__SERVERS=servers, **faults.SETTINGS) as installation:
                report = faults.run(installation, broker, wanted, seed, print)
                policy = faults.policies_after(installation, data_dir)
    finally:
        broker.kill()
    print(dict(Counter(f"{what} {name}" for what, name, _ in report.faults)))
    back = {share: round(report.back_at(share), 1) for share in (0.5, 0.95, 1)}
    print(f"{len(report.told)} votes acknowledged; {report.problems or 'no problems'}; then {policy}")
    print(f"answers again after, seconds: {back}")
    print(json.dumps({"faults": len(report.faults), "votes": len(report.told), "back": back}))
    return 0 if not report.problems and back[0.95] <= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
