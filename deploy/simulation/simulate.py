"""`hearken simulate`: people with a hidden taste chat and vote, and one watches the service learn it.

Through the public API only. Before the first vote the base is measured; then people come by; at the end the
policy that answers is measured on the same fresh prompts. The clock (`minutes`) covers the visits and the
wait for the last policy, not the measurements. The report goes to standard output, progress to standard
error.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel
from rich.console import Console
from rich.live import Live

from deploy.simulation.api_client import Api, RequestFailed
from deploy.simulation.evaluation import Measure
from deploy.simulation.people import crowd
from deploy.simulation.visits import PolicyRow, Visits

_LATENCIES = 200  # votes asked about at the end
_LAST_VOTES = 10  # of which half must be learned before the wait for the last policy ends


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What to simulate. `rate` is in votes a second, `minutes` the longest time that people keep coming.

    People chat and vote with `publishable_key` where there is one; measuring needs `admin_key`.
    """

    url: str
    admin_key: str
    publishable_key: str | None = None
    seed: int = 0
    users: int = 40
    votes: int = 600
    minutes: float = 10
    rate: float = 1
    json: bool = False


class VoteToLive(BaseModel):
    """Seconds from a vote to the moment that a policy which learned from it went live. Votes that no live
    policy has learned from count as later than all others; a quantile that falls among them is None."""

    asked: int
    learned: int
    median: float | None
    p90: float | None


class Report(BaseModel):
    """What came of it. Approvals and knowledge are shares between 0 and 1; `share_of_the_way` is how far
    true approval came from the base's towards the best attainable; `vote_ids` were all acknowledged."""

    seed: int
    taste: dict[str, bool]
    users: int
    votes: int
    votes_by_type: dict[str, int]
    seconds: float
    base: float
    attainable: float
    final: float
    final_policy: str
    share_of_the_way: float
    knowledge_before: float
    knowledge_after: float
    policies: list[PolicyRow]
    vote_to_live: VoteToLive
    failed_requests: int
    failures: dict[str, int]
    vote_ids: list[str]


async def simulate(options: SimulateOptions) -> Report:
    """Run it and print the report. Raises StartError when the service cannot be talked to at all."""
    people = crowd(options.seed, options.users)
    people_key = options.publishable_key or options.admin_key
    async with Api(options.url, options.admin_key) as operator, Api(options.url, people_key) as public:
        await operator.check()
        measure = Measure(operator, people[0].taste, seed=options.seed, votes=options.votes)
        visits = Visits(
            public,
            people,
            seed=options.seed,
            votes=options.votes,
            seconds=60 * options.minutes,
            rate=options.rate,
        )
        news = "measuring the base"
        console = Console(stderr=True)
        with Live(get_renderable=lambda: visits.table(news), console=console, refresh_per_second=2):
            start = await measure.start()
            news = f"the base: {start.approval:.0%} liked, {start.attainable:.0%} attainable"
            await visits.run(measure.fresh)
            news = "waiting for the last policy"
            await _wait_for_the_last_policy(operator, visits)
            visits.close()
            news = "measuring the policy that answers now"
            policy = await measure.live()
            final, knowledge = await measure.approval(policy), await measure.knowledge(policy)
            vote_to_live = await _vote_to_live(operator, visits.vote_ids)
            news = f"{policy}: {final:.0%} liked on fresh prompts"
        failures = operator.failures + public.failures
    room = start.attainable - start.approval
    report = Report(
        seed=options.seed,
        taste=dict(people[0].taste.wants),
        users=options.users,
        votes=len(visits.vote_ids),
        votes_by_type=dict(visits.types),
        seconds=visits.clock(),
        base=start.approval,
        attainable=start.attainable,
        final=final,
        final_policy=policy,
        share_of_the_way=(final - start.approval) / room if room > 0 else 0.0,
        knowledge_before=start.knowledge,
        knowledge_after=knowledge,
        policies=list(visits.rows.values()),
        vote_to_live=vote_to_live,
        failed_requests=failures.total(),
        failures=dict(failures),
        vote_ids=visits.vote_ids,
    )
    print(report.model_dump_json() if options.json else _summary(report))
    return report


async def _wait_for_the_last_policy(api: Api, visits: Visits) -> None:
    """Within the time, until half of the last votes have been learned from."""
    last = visits.vote_ids[-_LAST_VOTES:]
    while last and not visits.over():
        if (await _vote_to_live(api, last)).learned >= len(last) / 2:
            return
        await asyncio.sleep(2)


async def _vote_to_live(api: Api, votes: list[str]) -> VoteToLive:
    """Asks about votes spread evenly over all of them."""
    asked = votes[:: max(1, -(-len(votes) // _LATENCIES))]
    seconds: list[float] = []
    for vote in asked:
        try:
            known = await api.feedback(vote)
        except RequestFailed:
            continue
        if (known.get("learned") or {}).get("live_at"):
            live, voted = known["learned"]["live_at"], known["created_at"]
            seconds.append((datetime.fromisoformat(live) - datetime.fromisoformat(voted)).total_seconds())
    seconds.sort()

    def quantile(share: float) -> float | None:
        place = int(share * len(asked))
        return seconds[place] if place < len(seconds) else None

    return VoteToLive(asked=len(asked), learned=len(seconds), median=quantile(0.5), p90=quantile(0.9))


def _summary(report: Report) -> str:
    def in_seconds(value: float | None) -> str:
        return "not yet" if value is None else f"{value:.0f} s"

    lines = [
        f"true approval    {report.base:.1%} → {report.final:.1%} of {report.attainable:.1%} attainable: "
        f"{report.share_of_the_way:.0%} of the way",
        f"facts right      {report.knowledge_before:.1%} → {report.knowledge_after:.1%}",
        f"vote to live     {in_seconds(report.vote_to_live.median)} at the median, "
        f"{in_seconds(report.vote_to_live.p90)} at the 90th percentile",
        f"votes            {report.votes} in {report.seconds:.0f} s by {report.users} people",
        f"failed requests  {report.failed_requests}",
        *(f"  {count} x {what}" for what, count in report.failures.items()),
    ]
    return "\n".join(lines)
