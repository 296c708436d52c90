"""This bench measures how well and how fast the service learns hidden preferences.

    python -m tests.bench.live_learning

For each seed, a fresh service and simulated users with a preference drawn from all; 600 votes at one a
second, 10 minutes, all through the API. Targets on two cores without a GPU: at least 70% of the achievable
gain in true approval in every seed and 80% at the median, at most 3 points of knowledge lost, a vote live
within 90 s at the median, no failed request, and the last policy reproduced byte by byte. About 14 minutes a
seed.
"""

import argparse
import asyncio
import json
import statistics
import sys

import psycopg

from deploy.simulation.evaluation import judged_prompts, judged_questions, trainer_questions
from deploy.simulation.simulate import Report, SimulateOptions, simulate
from schemas.policies import BASE
from tests.bench.disjoint import assert_disjoint
from tests.bench.service import hearken_up
from tests.installation import ADMIN_KEY, Installation, wait


def learn(seed: int, votes: int, minutes: float) -> tuple[Report, bool]:
    """Runs one seed on a fresh service; returns its report, and whether its last policy reproduces byte by
    byte."""
    with hearken_up() as service:
        options = SimulateOptions(
            url=service.url, admin_key=ADMIN_KEY, seed=seed, votes=votes, minutes=minutes
        )
        report = asyncio.run(simulate(options))
        judged = (*judged_prompts(seed, votes), *judged_questions(seed, votes))
        assert_disjoint(
            sent=sent(service),
            judged=[each.prompt for each in judged],
            asked_by_the_gate=trainer_questions(),
        )
        wait(lambda: bool(learned(service)), "a policy that learned", 120)
        reproduced = service.run("reproduce", learned(service)[0], "--json")
        if not reproduced.stdout:
            raise RuntimeError(reproduced.stderr)
        return report, bool(json.loads(reproduced.stdout)["identical"])


def sent(service: Installation) -> list[str]:
    """Returns the prompts that the service has stored."""
    with psycopg.connect(service.database_url()) as connection:
        rows = connection.execute("select message_text(messages -> -1) from turns").fetchall()
    return [prompt for (prompt,) in rows]


def learned(service: Installation) -> list[str]:
    """Returns the policies that were live, without the base, newest first."""
    with service.client() as client:
        rows = client.get("/v1/policies").json()["data"]
    return [row["id"] for row in rows if row["id"] != BASE and row["state"] in ("live", "retired")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--votes", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    found = []
    for seed in arguments.seeds:
        print(f"\n— seed {seed}", flush=True)
        found.append(learn(seed, arguments.votes, arguments.minutes))
    reports, reproduced = [report for report, _ in found], [same for _, same in found]

    print(
        f"\n{'seed':>4} {'base':>6} {'final':>6} {'best':>6} {'gain':>5} "
        f"{'facts lost':>10} {'live':>7}  they like"
    )
    for report in reports:
        preference = ", ".join(axis if value else f"not {axis}" for axis, value in report.preference.items())
        seconds = report.vote_to_live.median
        print(
            f"{report.seed:>4} {report.base:>6.1%} {report.final:>6.1%} {report.attainable:>6.1%} "
            f"{report.share_of_achievable_gain:>5.0%} {loss(report) * 100:>8.1f} pt "
            f"{'never' if seconds is None else f'{seconds:.0f} s':>7}  {preference}"
        )
    gains = [report.share_of_achievable_gain for report in reports]
    lost = max(map(loss, reports))
    live = statistics.median(report.vote_to_live.median or float("inf") for report in reports)
    failed = sum(report.failed_requests for report in reports)
    figures = {
        "share_of_achievable_gain_least": min(gains),
        "share_of_achievable_gain_median": statistics.median(gains),
        "knowledge_lost_most": lost,
        "vote_to_live_median": live if live < float("inf") else None,
        "failed_requests": failed,
        "reproduced": [float(same) for same in reproduced],
    }
    print(json.dumps(figures))
    kept = (
        min(gains) >= 0.7 and statistics.median(gains) >= 0.8 and lost <= 0.03 and live <= 90 and not failed
    )
    return 0 if kept and all(reproduced) else 1


def loss(report: Report) -> float:
    return report.knowledge_before - report.knowledge_after


if __name__ == "__main__":
    sys.exit(main())
