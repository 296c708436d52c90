"""Suspects are raters who vote in a burst, or on texts that are nearly the same, as people rarely do.

They are held in quarantine (`feedback.quarantine`), with the figures, until an operator has looked at them;
meanwhile their votes teach nothing. A round looks for them among the newest votes before it begins.

A burst is more votes in ten minutes than anybody casts who reads what they vote on, and several times as many
as nearly all others of the project in their busiest ten minutes. It counts by rater and, where nobody vouches
for raters, by network. Near-duplicates are messages, comments or edits of several raters that are nearly the
same and voted on alike, if they are most of what these raters voted on, and if few people write so: what a
page suggests, many ask. After a round, raters of a cluster (`reward.clusters`) are suspects where they vote
at the same time, too, or where they turned: where they voted as others do before (`reward.change_points`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import structlog

from feedback import quarantine
from schemas.database import Pool
from schemas.feedback import JUDGE
from schemas.turns import IMPORTED
from trainer.data.examples import Example
from trainer.data.near_duplicates import MAX_CHARACTERS, near_duplicates
from trainer.reward.clusters import Cluster

MAX_VOTES = 5_000
"""Votes that are looked at, the newest."""

WINDOW = timedelta(minutes=10)
"""Time in which the votes of a burst come."""

MIN_BURST, MIN_NETWORK_BURST = 30, 100
"""Fewest votes of a burst by one rater, and by one network, in which several people may vote."""

TIMES_USUAL = 4
"""How many times as many votes a burst has as the 95th percentile of the others in their busiest window."""

MIN_OTHERS = 5
"""Other raters, or networks, without whom nothing is usual."""

MIN_ALIKE, MIN_RATERS, MAX_PEOPLE = 6, 3, 0.2
"""Fewest near-duplicates that are suspect, fewest raters who wrote them, and largest share of all raters."""

MOST_OF_CLUSTER, FEW_OTHERS = 0.8, 0.1
"""Share of a cluster's votes that come at one time, and of the others' that may come then."""

MOST_TURNED = 0.2
"""Largest share of the people who vote since then: where more turn, what they vote on has changed."""

_VOTES: LiteralString = """
select e.rater, e.type, e.value, e.created_at, t.origin, left(f.comment, {characters}) as comment,
    left(f.text, {characters}) as text, left(jsonb_path_query_first(t.messages,
        '$[last] ? (@.role == "user").content') #>> '{{}}', {characters}) as message
from training_examples e
join turns t on t.id = e.turn_id
join feedback f on f.id = e.feedback_id
where e.project = %s and e.superseded_by is null and e.type <> 'signal' and {teaches}
    and not starts_with(e.rater, %s) and not starts_with(e.turn_id, %s)
order by e.created_at desc limit %s
"""

log = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class CastVote:
    """A vote, when it was cast, and from where: the network, where nobody vouches for the rater. `texts` are
    the message, the comment and the edit, where there are some."""

    rater: str
    says: str
    created_at: datetime
    origin: str | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspect:
    """A rater, why they are suspect, and the figures."""

    rater: str
    reason: str
    evidence: dict[str, Any]


def hold_suspects(pool: Pool, project: str) -> int:
    """Looks for suspects among the newest votes of a project, and holds them; returns how many are new."""
    statement = _VOTES.format(teaches=quarantine.TEACHES, characters=MAX_CHARACTERS)
    with pool.connection() as connection:
        rows = connection.execute(statement, [project, JUDGE, IMPORTED, MAX_VOTES]).fetchall()
    votes = [
        CastVote(
            row["rater"], f"{row['type']} {row['value'].get('value') or row['value'].get('ranking')}",
            row["created_at"], row["origin"],
            tuple(text for text in (row["message"], row["comment"], row["text"]) if text),
        )
        for row in rows
    ]  # fmt: skip
    return hold(pool, project, [*bursts(votes), *duplicates(votes)])


def hold(pool: Pool, project: str, suspects: Sequence[Suspect]) -> int:
    """Holds the suspects; returns how many were not held before."""
    new = 0
    for suspect in suspects:
        with pool.connection() as connection, connection.transaction():
            new += quarantine.hold(connection, project, suspect.rater, suspect.reason, suspect.evidence)
    if new:
        log.warning(
            "raters held in quarantine", raters=new, reasons=dict(Counter(s.reason for s in suspects))
        )
    return new


def bursts(votes: Sequence[CastVote]) -> Iterator[Suspect]:
    """Yields the raters of bursts."""
    for least, by_network in ((MIN_BURST, False), (MIN_NETWORK_BURST, True)):
        owned: dict[str, list[CastVote]] = {}
        for vote in sorted(votes, key=lambda each: each.created_at):
            if not by_network or vote.origin is not None:
                owned.setdefault((vote.origin or "") if by_network else vote.rater, []).append(vote)
        busiest = {owner: _busiest(cast) for owner, cast in owned.items()}
        sizes = sorted(len(window) for window in busiest.values())
        for window in busiest.values():
            others = sizes.copy()
            others.remove(len(window))
            if len(others) < MIN_OTHERS:
                continue
            usual = others[int(0.95 * (len(others) - 1))]
            if len(window) >= max(least, TIMES_USUAL * usual + 1):
                seconds = (window[-1].created_at - window[0].created_at).total_seconds()
                evidence = {"votes": len(window), "seconds": round(seconds, 1), "usual": usual}
                for rater in sorted({vote.rater for vote in window}):
                    yield Suspect(rater, "burst", {**evidence, "network": by_network})


def duplicates(votes: Sequence[CastVote]) -> Iterator[Suspect]:
    """Yields the raters most of whose votes are on near-duplicates that they voted on alike."""
    written = [(number, text) for number, vote in enumerate(votes) for text in vote.texts]
    cast = Counter(vote.rater for vote in votes)
    alike: dict[str, set[int]] = {}
    for group in near_duplicates([text for _, text in written]):
        said: dict[str, set[int]] = {}
        for index in group:
            said.setdefault(votes[written[index][0]].says, set()).add(written[index][0])
        same = max(said.values(), key=len)
        raters = {votes[number].rater for number in same}
        if len(same) >= MIN_ALIKE and MIN_RATERS <= len(raters) <= MAX_PEOPLE * len(cast):
            for number in same:
                alike.setdefault(votes[number].rater, set()).add(number)
    for rater, numbers in sorted(alike.items()):
        if 2 * len(numbers) > cast[rater] and len(numbers) > 1:
            yield Suspect(rater, "near_duplicates", {"alike": len(numbers), "votes": cast[rater]})


def sudden_clusters(everything: Sequence[Example], clusters: Sequence[Cluster]) -> Iterator[Suspect]:
    """Yields the raters of the clusters that also vote at the same time: most of the cluster's votes come in
    a stretch of time in which few others' do."""
    for cluster in clusters:
        inside = set(cluster.votes)
        times = sorted(everything[vote].created_at for vote in cluster.votes)
        others = [each.created_at for vote, each in enumerate(everything) if vote not in inside]
        most = int(MOST_OF_CLUSTER * len(times)) + 1
        if not others or most > len(times):
            continue
        start = min(range(len(times) - most + 1), key=lambda at: times[at + most - 1] - times[at])
        begins, ends = times[start], times[start + most - 1]
        share = sum(begins <= when <= ends for when in others) / len(others)
        if share <= FEW_OTHERS:
            evidence = {**cluster.as_json(), "hours": round((ends - begins).total_seconds() / 3600, 2)}
            for rater in sorted({everything[vote].rater for vote in cluster.votes}):
                yield Suspect(rater, "votes_alike", {**evidence, "others_then": round(share, 3)})


def turncoats(everything: Sequence[Example], clusters: Sequence[Cluster]) -> Iterator[Suspect]:
    """Yields the raters of the clusters who turned, if nearly all others who vote since then did not."""
    for cluster in clusters:
        if not cluster.turned:
            continue
        turned = {everything[vote].rater for vote in cluster.turned}
        since = min(everything[vote].created_at for vote in cluster.turned)
        present = {each.rater for each in everything if each.by_person and each.created_at >= since}
        if len(turned) <= MOST_TURNED * len(present):
            evidence = {**cluster.as_json(), "turned": len(turned), "present": len(present)}
            for rater in sorted(turned):
                yield Suspect(rater, "turned", evidence)


def _busiest(cast: Sequence[CastVote]) -> Sequence[CastVote]:
    """Returns the votes of the busiest window, of votes in order."""
    best, start = (0, 0), 0
    for end in range(len(cast)):
        while cast[end].created_at - cast[start].created_at > WINDOW:
            start += 1
        best = max(best, (start, end + 1), key=lambda window: window[1] - window[0])
    return cast[best[0] : best[1]]
