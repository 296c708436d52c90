"""Schema-based fuzzing of the whole API: `python -m tests.bench.fuzz`.

Schemathesis, installed into a folder of its own, generates requests from /openapi.json, valid and invalid
ones, in all its phases but for a stream that never ends, for each kind of key, against a running
installation. Promised: no server error, and no answer that the description does not have. About ten
minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.bench.service import hearken_up
from tests.installation import ADMIN_KEY, PUBLIC_KEY
from tests.unlimited import UNLIMITED_ENVIRONMENT

SCHEMATHESIS = "schemathesis==4.32.5"
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "unsupported_method",
)  # fmt: skip
_IN_LOGS = ("Traceback (most recent call last)", "request_failed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="generated requests for each operation")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as folder, hearken_up(**UNLIMITED_ENVIRONMENT) as service:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin"
        subprocess.run([python / "python", "-m", "pip", "install", "--quiet", SCHEMATHESIS], check=True)
        service.run("pause")
        for name, key in (("admin", ADMIN_KEY), ("publishable", PUBLIC_KEY)):
            command = [
                python / "schemathesis", "run", f"{service.url}/openapi.json", "--checks", ",".join(CHECKS),
                "--header", f"Authorization: Bearer {key}", "--max-examples", str(arguments.examples),
                "--seed", str(arguments.seed), "--generation-database", "none", "--continue-on-failure",
                "--exclude-path", "/v1/console/events", "--warnings", "off", "--request-timeout", "60",
                "--no-color",
            ]  # fmt: skip
            if subprocess.run(command, check=False, cwd=folder).returncode:
                failed.append(name)
        found = (service.data_dir / "logs" / "serving.log").read_text(errors="replace")
    traces = {sign: found.count(sign) for sign in _IN_LOGS}
    print(json.dumps({"failed": failed, "in_logs": traces}))
    return 1 if failed or any(traces.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
