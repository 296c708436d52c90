"""What `hearken up` with the starter holds in memory: `python -m tests.bench.memory`.

The proportional set size (each shared page counted once, split among its owners) of the whole process tree,
the embedded Postgres included, watched each second from the start until two training rounds have ended
under a crowd that chats and votes. Promised: at most 3 GiB. Linux only; about 4 minutes.
"""

import asyncio
import json
import sys
import threading
from collections import Counter
from contextlib import suppress

import psutil

from deploy.simulation.simulate import SimulateOptions, simulate
from tests.bench.service import hearken_up
from tests.installation import ADMIN_KEY, PROCESSES, Installation

_GIB = 2**30


def weigh(service: Installation) -> Counter[str]:
    """Bytes (PSS) by process, now, each with all that it started."""
    assert service.process is not None
    found: Counter[str] = Counter(supervisor=_size(psutil.Process(service.process.pid)))
    for name in PROCESSES:
        with suppress(psutil.NoSuchProcess):
            if process := service.find(name):
                found[name] = sum(map(_size, [process, *process.children(recursive=True)]))
    return found


def _size(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


def main() -> int:
    peaks: list[Counter[str]] = []
    done = threading.Event()
    with hearken_up() as service:

        def watch() -> None:
            while not done.wait(1):
                peaks.append(weigh(service))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            options = SimulateOptions(url=service.url, admin_key=ADMIN_KEY, votes=120, minutes=3)
            report = asyncio.run(simulate(options))
        finally:
            done.set()
            watcher.join()
    most = max(peaks, key=Counter.total)
    for title, size in most.most_common():
        print(f"{title:12} {size / _GIB:6.2f} GiB")
    print(f"{'in all':12} {most.total() / _GIB:6.2f} GiB at the most, of {len(peaks)} weighings")
    policies = [row.policy for row in report.policies]
    print(json.dumps({"peak_gib": most.total() / _GIB, "policies": policies, "by_process": dict(most)}))
    return 0 if most.total() <= 3 * _GIB and len(policies) > 1 else 1


if __name__ == "__main__":
    sys.exit(main())
