"""`hearken simulate` measures how well the service learns a hidden preference of simulated users.

It uses only the public API. It evaluates the base before the first vote, lets users visit, and evaluates the
policy that is live in the end on the same held-out prompts. The time limit (`minutes`) covers the visits and
the wait for the last policy, not the evaluations. The report goes to standard output, progress to standard
error.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel
from rich.console import Console
from rich.live import Live

from deploy.simulation.api_client import ApiClient, RequestFailed
from deploy.simulation.attack_visits import HARDER, Attackers
from deploy.simulation.attackers import Attack, AttackName
from deploy.simulation.evaluation import BaseEvaluation, PolicyEvaluator
from deploy.simulation.people import Person, draw_people
from deploy.simulation.visits import PolicyRow, Visits
from schemas.policies import BASE

_LATENCY_SAMPLE = 200  # votes whose time to a live policy is looked up at the end
_LAST_VOTES = 10  # the wait for the last policy ends when half of these are learned
_POLL = 2  # seconds


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """Options of a simulation. `rate` is in votes a second; users come for at most `minutes`.

    Users chat and vote with `publishable_key`, or the admin key without one; the evaluation needs
    `admin_key`. With an `attack`, a share of the people attack (`attackers`), one at least; the vote bot is
    one, and needs the publishable key.
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
    attack: AttackName | None = None
    share: float = 0.05


class VoteToLive(BaseModel):
    """Seconds from a vote to the moment when a policy that learned from it went live. Votes without one count
    as later than all others; a quantile that falls among them is None."""

    asked: int
    learned: int
    median: float | None
    p90: float | None


class AttackFigures(BaseModel):
    """How many attackers cast how many votes, and the shares of the base's and the live policy's replies that
    are as they want them."""

    name: str
    wants: str
    attackers: int
    votes: int
    base: float
    final: float


class Report(BaseModel):
    """The result of a simulation. Approvals and knowledge are shares between 0 and 1.

    `share_of_achievable_gain` is (final - base) / (attainable - base) in true approval. All of `vote_ids`
    were acknowledged.
    """

    seed: int
    preference: dict[str, bool]
    users: int
    votes: int
    votes_by_type: dict[str, int]
    seconds: float
    base: float
    attainable: float
    final: float
    final_policy: str
    share_of_achievable_gain: float
    knowledge_before: float
    knowledge_after: float
    policies: list[PolicyRow]
    vote_to_live: VoteToLive
    failed_requests: int
    failures: dict[str, int]
    attack: AttackFigures | None
    vote_ids: list[str]


async def simulate(options: SimulateOptions) -> Report:
    """Runs a simulation and prints its report. Raises StartError if the service does not answer or refuses
    the key, RequestFailed if no policy answers in the end."""
    people = draw_people(options.seed, options.users)
    people_key = options.publishable_key or options.admin_key
    async with (
        ApiClient(options.url, options.admin_key) as admin,
        ApiClient(options.url, people_key) as users,
    ):
        await admin.check()
        report = await _run(options, people, admin, users)
    print(report.model_dump_json() if options.json else _summary(report))
    return report


async def _run(options: SimulateOptions, people: list[Person], admin: ApiClient, users: ApiClient) -> Report:
    """Evaluates the base, runs the visits, waits for the last policy and evaluates it."""
    evaluator = PolicyEvaluator(admin, people[0].preference, seed=options.seed, votes=options.votes)
    attack, attackers = _attackers(options, people, users)
    visits = Visits(
        users, people, seed=options.seed, votes=options.votes, seconds=60 * options.minutes,
        rate=options.rate, attackers=attackers,
    )  # fmt: skip
    status = "evaluating the base"
    console = Console(stderr=True, markup=False, emoji=False)
    with Live(get_renderable=lambda: visits.table(status), console=console, refresh_per_second=2):
        base = await evaluator.base()
        wanted = await evaluator.share(BASE, attack) if attack else 0.0
        status = f"the base: {base.approval:.0%} liked, {base.attainable:.0%} attainable"
        await visits.run(evaluator.held_out)
        status = "waiting for the last policy"
        await _wait_for_last_policy(admin, visits)
        visits.close()
        status = "evaluating the live policy"
        policy = await evaluator.live()
        final, knowledge = await evaluator.approval(policy), await evaluator.knowledge(policy)
        figures = None
        if attack is not None and attackers is not None:
            figures = AttackFigures(
                name=attack.name, wants=str(attack), attackers=len(attackers.names),
                votes=attackers.cast.total(), base=wanted, final=await evaluator.share(policy, attack),
            )  # fmt: skip
        vote_to_live = await _vote_to_live(admin, visits.vote_ids)
        status = f"{policy}: {final:.0%} liked on held-out prompts"
    failures = admin.failures + users.failures
    return Report(
        seed=options.seed,
        preference=dict(people[0].preference.wants),
        users=options.users,
        votes=len(visits.vote_ids),
        votes_by_type=dict(visits.types),
        seconds=visits.clock(),
        base=base.approval,
        attainable=base.attainable,
        final=final,
        final_policy=policy,
        share_of_achievable_gain=_share_of_achievable_gain(base, final),
        knowledge_before=base.knowledge,
        knowledge_after=knowledge,
        policies=list(visits.rows.values()),
        vote_to_live=vote_to_live,
        failed_requests=failures.total(),
        failures=dict(failures),
        attack=figures,
        vote_ids=visits.vote_ids,
    )


def _attackers(
    options: SimulateOptions, people: list[Person], api: ApiClient
) -> tuple[Attack | None, Attackers | None]:
    """Returns the attack and who attacks."""
    if options.attack is None:
        return None, None
    attack = Attack.draw(options.attack, people[0].preference, options.seed)
    count = 1 if options.attack == "bot" else max(1, round(options.share * len(people)))
    names = {person.name for person in people[:count]}
    return attack, Attackers(api, attack, names, HARDER * options.votes // len(people))


def _share_of_achievable_gain(base: BaseEvaluation, final: float) -> float:
    achievable = base.attainable - base.approval
    return (final - base.approval) / achievable if achievable > 0 else 0.0


async def _wait_for_last_policy(api: ApiClient, visits: Visits) -> None:
    """Waits until a live policy has learned half of the last votes, or the time is up."""
    last = visits.vote_ids[-_LAST_VOTES:]
    while last and not visits.over():
        if (await _vote_to_live(api, last)).learned >= len(last) / 2:
            return
        await asyncio.sleep(_POLL)


async def _vote_to_live(api: ApiClient, votes: list[str]) -> VoteToLive:
    """Returns the quantiles over a sample spread evenly over all votes."""
    asked = votes[:: max(1, -(-len(votes) // _LATENCY_SAMPLE))]
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
        index = int(share * len(asked))
        return seconds[index] if index < len(seconds) else None

    return VoteToLive(asked=len(asked), learned=len(seconds), median=quantile(0.5), p90=quantile(0.9))


def _summary(report: Report) -> str:
    def in_seconds(value: float | None) -> str:
        return "not yet" if value is None else f"{value:.0f} s"

    lines = [
        f"true approval    {report.base:.1%} → {report.final:.1%} of {report.attainable:.1%} attainable: "
        f"{report.share_of_achievable_gain:.0%} of the achievable gain",
        f"facts right      {report.knowledge_before:.1%} → {report.knowledge_after:.1%}",
        f"vote to live     {in_seconds(report.vote_to_live.median)} at the median, "
        f"{in_seconds(report.vote_to_live.p90)} at the 90th percentile",
        f"votes            {report.votes} in {report.seconds:.0f} s by {report.users} people",
        *(
            [
                f"attack           {found.attackers} cast {found.votes} votes for replies that are"
                f" {found.wants}: {found.base:.1%} → {found.final:.1%} of the replies are"
            ]
            if (found := report.attack)
            else []
        ),
        f"failed requests  {report.failed_requests}",
        *(f"  {count} x {message}" for message, count in report.failures.items()),
    ]
    return "\n".join(lines)
