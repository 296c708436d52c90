"""From a fresh clone to the first streamed reply: `python -m tests.bench.start`.

Clones the repository's last commit, runs `make up` as a newcomer would, installing included, and streams a
reply; then stops it and does so again. Promised, on two cores without a GPU: 6 minutes, and 15 s for the
second start. What pip keeps of earlier installs is not used (`--keep-pip-cache` uses it).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from openai import OpenAI

from deploy.local.ports import free_port
from tests.installation import ADMIN_KEY

ROOT = Path(__file__).resolve().parents[2]
_INSTALL_SECONDS = 900


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Raises RuntimeError when it ends instead, or installs for ever."""
    deadline = time.monotonic() + _INSTALL_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=2).is_success:
                return
        time.sleep(0.1)
    raise RuntimeError("`make up` did not get ready")


def first_token(clone: Path, keep_cache: bool) -> float:
    """Seconds from `make up` to the first piece of a streamed reply; stops it afterwards."""
    port = free_port()
    settings = {"HEARKEN_PORT": str(port), "HEARKEN_ADMIN_KEY": ADMIN_KEY}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEARKEN_")}
    environment |= settings | ({} if keep_cache else {"PIP_NO_CACHE_DIR": "1"})
    environment.pop("VIRTUAL_ENV", None)
    begun = time.monotonic()
    process = subprocess.Popen(["make", "up"], cwd=clone, env=environment, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=ADMIN_KEY, max_retries=0)
        chunks = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Hello!"}], stream=True
        )
        next(chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content)
        return time.monotonic() - begun
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep-pip-cache", action="store_true", help="install from what pip has kept")
    keep_cache = parser.parse_args().keep_pip_cache
    with TemporaryDirectory(prefix="hearken-clone-") as folder:
        clone = Path(folder) / "hearken"
        begun = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        cloned = time.monotonic() - begun
        first = cloned + first_token(clone, keep_cache)
        second = first_token(clone, keep_cache)
    print(f"fresh clone to first streamed reply {first:.1f} s, second start {second:.1f} s")
    print(json.dumps({"fresh_clone_seconds": first, "second_start_seconds": second}))
    return 0 if first <= 360 and second <= 15 else 1


if __name__ == "__main__":
    sys.exit(main())
