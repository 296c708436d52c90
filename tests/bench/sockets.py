"""What an idle websocket costs: `python -m tests.bench.sockets`.

`SOCKETS` sockets authenticate at one `hearken serve` and stay idle; the process is weighed (PSS) before and
after. Promised: 1,000 sockets, at most 64 KiB each. Under a minute. Linux only.
"""

import asyncio
import json
import sys

import psutil
from websockets.asyncio.client import ClientConnection, connect

from tests.bench.service import hearken_up
from tests.installation import ADMIN_KEY, Installation
from tests.unlimited import UNLIMITED_ENVIRONMENT

SOCKETS = 1_000


async def open_sockets(service: Installation, count: int) -> list[ClientConnection]:
    sockets = []
    for _ in range(count):
        socket = await connect(
            service.url.replace("http", "ws") + "/v1/live", compression=None, ping_interval=None
        )
        await socket.send(json.dumps({"type": "auth", "key": ADMIN_KEY}))
        assert json.loads(await socket.recv())["type"] == "ready"
        sockets.append(socket)
    return sockets


async def measure(service: Installation) -> tuple[int, int]:
    """Bytes before and with the sockets."""
    process = service.find("serving")
    assert process is not None
    for socket in await open_sockets(service, 50):  # what the first ones bring with them is not theirs
        await socket.close()
    before = _bytes(process)
    sockets = await open_sockets(service, SOCKETS)
    await asyncio.sleep(2)
    after = _bytes(process)
    for socket in sockets:
        await socket.close()
    return before, after


def _bytes(process: psutil.Process) -> int:
    return int(process.memory_full_info().pss)


def main() -> int:
    with hearken_up(HEARKEN_SERVING__WEBSOCKETS_PER_ADDRESS="2000", **UNLIMITED_ENVIRONMENT) as service:
        before, after = asyncio.run(measure(service))
    each = (after - before) / SOCKETS / 1024
    print(f"{SOCKETS} idle sockets: {each:.1f} KiB each ({before / 2**20:.0f} to {after / 2**20:.0f} MiB)")
    print(json.dumps({"sockets": SOCKETS, "kib_each": each}))
    return 0 if each <= 64 else 1


if __name__ == "__main__":
    sys.exit(main())
