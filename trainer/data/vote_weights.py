"""Weights of votes bound what one person, and one network, can teach, relative to what all others contribute.

A vote's weight halves with each half-life of its age. A newcomer's votes count `newcomer_weight`, relative to
those of others, which grows to 1 with the days on which they vote and with each reply of which somebody from
elsewhere thinks as they do.

Then nobody has more than twice an equal share of the total. The number of people is Kish's effective number
of the others, (Σw)²/Σw² (Kish 1965), and oneself: a hundred people with a vote each make no stranger of one
who votes as much as ten others do. A person beside whom at most two others vote has no bound, and nobody is
cut while all together have fewer than FEW votes: a project that has just begun learns from whoever is there.
The same bound holds for all that comes from one network. The total weight of judges is capped relative to
people's.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from schemas.settings import RewardSettings

if TYPE_CHECKING:
    from trainer.data.examples import Example, Key

FEW = 40.0
"""Weight of all votes together, below which nobody is cut."""

GROWN = 8
"""Further days with votes, and replies of which others think alike, after which nobody is a newcomer."""

Owner = TypeVar("Owner", bound=Hashable)

_ROUNDS = 50  # of the fixed point, which is reached in a few


class HistoryWeights(NamedTuple):
    """The total weights of people's and of judges' votes in the vote summary, and of each person's."""

    people: float = 0.0
    judges: float = 0.0
    raters: Mapping[str, float] = {}


NO_HISTORY = HistoryWeights()


def age_weight(age: timedelta, reward: RewardSettings) -> float:
    """Returns the weight of a vote that is so much older than the newest: exponential decay."""
    weight: float = 0.5 ** (age / timedelta(days=reward.half_life_days))
    return weight


def people_weights(
    examples: Sequence["Example"], newest: datetime, reward: RewardSettings, history: Mapping[str, float]
) -> dict[str, float]:
    """Returns the weights of all votes by their event, those of judges without a bound. The votes in the vote
    summary, of which `history` has the weights by rater, take part in the bounds of people."""
    ages = [age_weight(newest - example.created_at, reward) for example in examples]
    found = {example.event_id: weight for example, weight in zip(examples, ages, strict=True)}
    people = [example for example in examples if not example.by_judge]
    grown = newcomer_factors(people, reward.newcomer_weight)
    grown |= dict.fromkeys(history.keys() & grown.keys(), 1.0)
    largest = max(grown.values(), default=1.0) or 1.0
    for example in people:
        found[example.event_id] *= grown[example.rater] / largest
    for signals in (False, True):
        kind = [example for example in people if (example.type == "signal") == signals]
        before = {} if signals else history
        for owners_of_kind in ([each.rater for each in kind], [each.owner for each in kind]):
            owners = [*owners_of_kind, *before]
            weights = bounded([*(found[each.event_id] for each in kind), *before.values()], owners)
            found |= {each.event_id: weight for each, weight in zip(kind, weights, strict=False)}
    return found


def bounded(weights: Sequence[float], owners: Sequence[Owner]) -> list[float]:
    """Returns the weights scaled for each owner such that none has more than their share of the total."""
    totals: dict[Owner, float] = {}
    for owner, weight in zip(owners, weights, strict=True):
        totals[owner] = totals.get(owner, 0.0) + weight
    kept = bounded_totals(totals, FEW)
    factor = {owner: kept[owner] / total if total > 0 else 1.0 for owner, total in totals.items()}
    return [weight * factor[owner] for owner, weight in zip(owners, weights, strict=True)]


def newcomer_factors(examples: Iterable["Example"], least: float) -> dict[str, float]:
    """Returns the factor on the weights of each rater, from `least` for a newcomer to 1."""
    days: dict[str, set[date]] = {}
    thumbs: dict[Key, dict[str, tuple[bool, str]]] = {}
    for example in examples:
        days.setdefault(example.rater, set()).add(example.created_at.date())
        if example.type == "thumb":
            on = thumbs.setdefault(example.reply_keys[0], {})
            on[example.rater] = example.value["value"] == "up", example.owner
    alike = Counter[str]()
    for on in thumbs.values():
        places: dict[bool, set[str]] = {True: set(), False: set()}
        for up, origin in on.values():
            places[up].add(origin)
        for rater, (up, origin) in on.items():
            alike[rater] += bool(places[up] - {origin}) - bool(places[not up] - {origin})
    grown = {rater: min(1.0, max(0, len(of) - 1 + alike[rater]) / GROWN) for rater, of in days.items()}
    return {rater: least + (1 - least) * share for rater, share in grown.items()}


def bounded_totals(totals: Mapping[Owner, float], few: float) -> dict[Owner, float]:
    """Returns what each owner has at most of a total of which nobody is cut below `few`."""
    kept = dict(totals)
    for _ in range(_ROUNDS):
        total, squares = sum(kept.values()), sum(weight**2 for weight in kept.values())
        now = {
            owner: min(weight, _bound(total - weight, squares - weight**2)) for owner, weight in kept.items()
        }
        if now == kept:
            break
        kept = now
    level = _level(totals, kept, few)
    return {owner: min(total, max(kept[owner], level)) for owner, total in totals.items()}


def _bound(others: float, squares: float) -> float:
    """Returns the most that one may have beside others of this total weight and sum of squares."""
    people = others**2 / squares if squares > 0 else 0.0
    return inf if people <= 2 else 2 * others / (people - 2)


def _level(totals: Mapping[Owner, float], kept: Mapping[Owner, float], few: float) -> float:
    """Returns the weight to which all may rise so that together they have `few`; 0 where they have it."""
    missing = min(few, sum(totals.values())) - sum(kept.values())
    low, high = 0.0, max(totals.values(), default=0.0)
    if missing <= 0:
        return 0.0
    for _ in range(_ROUNDS):
        level = (low + high) / 2
        risen = sum(min(total, max(kept[owner], level)) - kept[owner] for owner, total in totals.items())
        low, high = (level, high) if risen < missing else (low, level)
    return high
