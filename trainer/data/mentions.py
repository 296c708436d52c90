"""A mention is what a vote says about a criterion: that the reply meets it, or that it does not.

Mentions come from the reasons of thumbs and rankings, which are slugs, and from comments: as the judge read
them where there is one (`feedback.comment_judge`), else by plain rules (`comment_rules`). A reason that
nobody knows becomes a criterion of the project's own where many people give it, and is ignored and counted
where few do. A round keeps its mentions, which are names and no text, in its inputs: a judge that answers
later changes no round.

A ranking compares. "Friendly" says that the best replies are friendlier than the others, which may be
friendly, too: its mentions are of that difference, and none says that another reply misses the criterion. A
reason such as "wrong" does not tell of which reply it is true, and of equally good replies no reason tells
any apart: they are ignored and counted. Where none was good, reasons are those of a thumb down on each.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import DictRow

from schemas.criteria import CRITERIA, REASONS
from schemas.database import Pool
from schemas.feedback import JUDGE
from trainer.data.comment_rules import MAX_CHARACTERS, criteria_of

MIN_OWN_PEOPLE, MIN_OWN_VOTES = 5, 20
"""People, and votes, that must give a reason before it becomes a criterion of the project's own."""

MAX_OWN = 5
"""Most criteria of a project's own: those that most people name."""

SHOWN = 10
"""Ignored reasons that the round's record names."""

_SLUG = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Mentions:
    """The mentions of a round's votes, by event and criterion: whether the reply meets it, or the best of a
    ranking meet it more than the others. `ignored` counts what could not be used, by why."""

    by_event: dict[str, dict[str, bool]] = field(default_factory=dict)
    ignored: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """What a vote says beside its value: `liked` by a thumb (None for an edit, and where all are equally
    good), `reasons` as they were stored, the comment, and the criteria that a judge found in it, or why it
    found none. One that `compares` prefers some replies to others, or finds them equally good."""

    event_id: str
    rater: str
    liked: bool | None
    reasons: Any
    comment: str = ""
    judged: Mapping[str, Any] | None = None
    judge_failed: str | None = None
    compares: bool = False


def load(pool: Pool, project: str, events: Sequence[str]) -> Mentions:
    """Loads the mentions of people's votes among these events. A comment on a ranking does not say which
    reply it is about, so it is counted only."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select e.event_id, e.rater, e.type, e.value, left(f.comment, %s) as comment,"
            " c.criteria as judged, c.reason as judge_failed"
            " from training_examples e join feedback f on f.id = e.feedback_id"
            " left join comment_criteria c on c.feedback_id = f.id"
            " where e.project = %s and e.event_id = any(%s) and e.type <> 'signal'"
            " and not starts_with(e.rater, %s)"
            " and (f.comment <> '' or coalesce(e.value -> 'reasons', '[]') <> '[]')"
            " order by e.created_at, e.event_id",
            [MAX_CHARACTERS, project, list(events), JUDGE],
        ).fetchall()
    found = read(map(_said, rows))
    if rankings := sum(row["type"] == "ranking" and bool(row["comment"]) for row in rows):
        found.ignored["comments on rankings"] = rankings
    return found


def _said(row: DictRow) -> Said:
    value, comment, compares = row["value"], row["comment"] or "", False
    liked: bool | None = None
    if row["type"] == "thumb":
        liked = value["value"] == "up"
    elif row["type"] == "ranking":
        comment, compares = "", value["acceptable"]
        liked = None if compares and len(value["ranking"]) == 1 else compares
    return Said(
        row["event_id"], row["rater"], liked, value.get("reasons"), comment, row["judged"],
        row["judge_failed"], compares,
    )  # fmt: skip


def read(votes: Iterable[Said]) -> Mentions:
    """Returns the mentions in what votes say."""
    said = list(votes)
    people: dict[str, list[str]] = defaultdict(list)  # who gave an unknown reason, once for each vote
    for vote in said:
        for slug in _slugs(vote.reasons):
            if slug not in REASONS:
                people[slug].append(vote.rater)
    own = _own_criteria(people)
    found: dict[str, dict[str, bool]] = {}
    counts: Counter[str] = Counter()
    for vote in said:
        mentioned = _of_vote(vote, own, counts)
        if mentioned:
            found[vote.event_id] = mentioned
    ignored: dict[str, Any] = dict(+counts)
    unknown = Counter({slug: len(raters) for slug, raters in people.items() if slug not in own})
    if unknown:
        ignored["unknown reasons"] = unknown.total()
        most = sorted(unknown.items(), key=lambda each: (-each[1], each[0]))[:SHOWN]
        ignored["the most frequent"] = dict(most)
    return Mentions(found, ignored)


def _of_vote(vote: Said, own: set[str], counts: Counter[str]) -> dict[str, bool]:
    """Returns the mentions of one vote. Of reasons that contradict each other none counts; a comment adds to
    the reasons what they do not name."""
    ways: dict[str, set[bool]] = {}
    for slug in _slugs(vote.reasons):
        criterion, good = REASONS.get(slug, (slug, None))
        if slug not in REASONS and slug not in own:
            continue
        if vote.compares and (vote.liked is None or good is False):
            counts["reasons that do not tell replies apart"] += 1
            continue
        ways.setdefault(criterion, set()).add(bool(vote.liked) if good is None else good)
    counts["contradictory reasons"] += sum(len(each) > 1 for each in ways.values())
    found = {criterion: each.pop() for criterion, each in ways.items() if len(each) == 1}
    if vote.comment.strip():
        from_comment = _of_comment(vote, counts)
        found = {criterion: good for criterion, good in from_comment.items() if criterion not in ways} | found
        if not from_comment:
            counts["comments not understood"] += 1
    return found


def _of_comment(vote: Said, counts: Counter[str]) -> dict[str, bool]:
    if vote.judge_failed is not None:
        counts["answers of the judge that were ignored"] += 1
    if vote.judged is not None:
        said = vote.judged.items()
        return {name: good for name, good in said if name in CRITERIA and isinstance(good, bool)}
    return criteria_of(vote.comment)


def _own_criteria(people: Mapping[str, Sequence[str]]) -> set[str]:
    frequent = [
        (len(set(raters)), slug)
        for slug, raters in people.items()
        if len(raters) >= MIN_OWN_VOTES and len(set(raters)) >= MIN_OWN_PEOPLE
    ]
    return {slug for _, slug in sorted(frequent, key=lambda each: (-each[0], each[1]))[:MAX_OWN]}


def _slugs(reasons: Any) -> list[str]:
    """Returns the reasons of a vote as slugs, each once; what is none is left out."""
    if not isinstance(reasons, list):
        return []
    slugs = (str(each).casefold().replace("_", "-") for each in reasons)
    return [slug for slug in dict.fromkeys(slugs) if _SLUG.fullmatch(slug)]
