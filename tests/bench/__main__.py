"""This command runs most benches, those of BENCHES, in turn: `python -m tests.bench`. About eleven hours on
two cores. The others run by their own names."""

import subprocess
import sys

BENCHES = (
    "start", "memory", "swaps", "votes", "gateway", "streams", "relay", "sockets", "engine", "first_token",
    "fleet", "projects", "stalled", "floods", "erasure", "faults", "outage", "policy_outages", "fuzz",
    "going_live", "learning", "live_learning",
)  # fmt: skip


def main() -> int:
    failed = []
    for bench in BENCHES:
        print(f"\n== {bench}", flush=True)
        if subprocess.run([sys.executable, "-m", f"tests.bench.{bench}"], check=False).returncode:
            failed.append(bench)
    print(f"\nTargets missed: {', '.join(failed)}" if failed else "\nAll targets reached.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
