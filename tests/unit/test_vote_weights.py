"""Nobody teaches more than their share, newcomers begin light, and few people all count."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.settings import RewardSettings
from trainer.data.examples import Corpus, Example
from trainer.data.vote_weights import FEW, bounded, bounded_totals, newcomer_factors

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def thumb(
    rater: str, number: int, *, day: float = 0, up: bool = True, reply: str = "", origin: str = ""
) -> Example:
    turn = reply or f"{rater} {number} {day}"
    value, when = {"value": "up" if up else "down"}, NOW + timedelta(days=day)
    return Example(
        f"e {rater} {number} {day}", turn, "thumb", value, rater, ((turn, "0"),), when,
        seen_in_training=False, origin=origin or None,
    )  # fmt: skip


def weight_by(corpus: Corpus, of: str, settings: RewardSettings | None = None) -> dict[str, float]:
    votes, _ = corpus.votes(corpus.examples, settings or RewardSettings())
    found: dict[str, float] = {}
    for example, weight in zip(corpus.examples, votes.weights, strict=True):
        name = str(getattr(example, of))
        found[name] = found.get(name, 0.0) + weight
    return found


def test_one_person_who_votes_a_lot_has_at_most_twice_an_equal_share() -> None:
    flood = [thumb("flood", number) for number in range(240)]
    honest = [thumb(f"u{person}", number) for person in range(20) for number in range(3)]
    found = weight_by(Corpus([*flood, *honest], {}), "rater")
    assert found["flood"] == pytest.approx(2 * 60 / 18)
    assert found["u7"] == pytest.approx(3)


def test_a_network_that_invents_people_counts_as_one_person() -> None:
    invented = [thumb(f"bot{number % 30}", number, origin="one") for number in range(240)]
    honest = [
        thumb(f"u{person}", number, origin=f"net{person}") for person in range(20) for number in range(3)
    ]
    found = weight_by(Corpus([*invented, *honest], {}), "origin")
    assert found["one"] == pytest.approx(2 * 60 / 18)


@pytest.mark.parametrize("votes", [[500], [500, 3], [300, 200, 1], [100, 40, 20, 10, 5]])
def test_few_honest_people_all_count(votes: list[int]) -> None:
    cast = [thumb(f"u{person}", number) for person, count in enumerate(votes) for number in range(count)]
    assert sum(weight_by(Corpus(cast, {}), "rater").values()) == pytest.approx(sum(votes))


def test_one_who_teaches_a_project_that_others_only_try_is_cut_to_what_a_round_needs() -> None:
    owner = [thumb("owner", number) for number in range(100)]
    visitors = [thumb(f"u{person}", 0) for person in range(20)]
    found = weight_by(Corpus([*owner, *visitors], {}), "rater")
    assert found["owner"] == pytest.approx(FEW - 20, rel=1e-3)
    assert sum(found.values()) == pytest.approx(FEW, rel=1e-3)


@given(st.dictionaries(st.integers(0, 40), st.floats(0.01, 1e4), min_size=1, max_size=30))
def test_the_bound_holds_for_all_and_takes_nothing_from_the_rest(totals: dict[int, float]) -> None:
    kept = bounded_totals(totals, FEW)
    assert all(0 <= kept[owner] <= total * (1 + 1e-9) for owner, total in totals.items())
    assert sum(kept.values()) >= min(FEW, sum(totals.values())) * (1 - 1e-6)
    if sum(kept.values()) > FEW * 1.001:
        for owner, weight in kept.items():
            others = [each for name, each in kept.items() if name != owner]
            people = sum(others) ** 2 / sum(each**2 for each in others) if others else 0.0
            assert people <= 2 or weight <= 2 * sum(others) / (people - 2) * (1 + 1e-6)


@given(st.integers(3, 60), st.integers(1, 50))
def test_equal_people_are_not_cut(people: int, each: int) -> None:
    weights = [1.0] * people * each
    assert bounded(weights, [number % people for number in range(people * each)]) == pytest.approx(weights)


def test_a_newcomer_grows_by_days_and_by_agreement() -> None:
    regular = [thumb("old", day, day=day) for day in range(9)]
    shared = [thumb("old", 20 + number, day=0, reply=f"r{number}") for number in range(4)]
    agrees = [thumb("friend", number, day=8, reply=f"r{number}") for number in range(4)]
    opposes = [thumb("foe", number, day=8, up=False, reply=f"r{number}") for number in range(4)]
    factors = newcomer_factors([*regular, *shared, *agrees, *opposes, thumb("new", 0, day=8)], 0.2)
    assert factors["new"] == factors["foe"] == pytest.approx(0.2)
    assert factors["old"] == pytest.approx(0.2 + 0.8 * 8 / 8)
    assert factors["friend"] == pytest.approx(0.2)  # whoever disagrees outweighs whoever agrees
    alone = newcomer_factors([*regular, *shared, *agrees], 0.2)
    assert alone["friend"] == pytest.approx(0.2 + 0.8 * 4 / 8)


def test_agreement_within_one_network_is_none() -> None:
    both = [thumb(rater, number, reply=f"r{number}", origin="one") for rater in "ab" for number in range(5)]
    assert newcomer_factors(both, 0.2) == pytest.approx({"a": 0.2, "b": 0.2})


def test_newcomers_begin_light_where_the_settings_say_so() -> None:
    votes = [thumb("old", day, day=day) for day in range(9)] + [thumb("new", 0, day=8)]
    light = RewardSettings(newcomer_weight=0.25, half_life_days=1e6)
    assert weight_by(Corpus(votes, {}), "rater", light) == pytest.approx({"old": 9, "new": 0.25}, rel=1e-3)
    assert weight_by(Corpus(votes[:1], {}), "rater", light) == pytest.approx({"old": 1})
