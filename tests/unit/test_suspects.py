"""Bursts, near-duplicates and clusters that come at once, or turn, are suspect; honest people hardly ever."""

import random
from datetime import UTC, datetime, timedelta

from trainer.data.examples import Example
from trainer.data.near_duplicates import near_duplicates
from trainer.data.suspects import CastVote, bursts, duplicates, turncoats
from trainer.reward.clusters import Cluster

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def sentence(rng: random.Random) -> str:
    return " ".join("".join(rng.choices(LETTERS, k=5)) for _ in range(12))


def honest(rng: random.Random, people: int) -> list[CastVote]:
    """People come on some days; a visit has a few votes within minutes, and at times many."""
    asked = "What can you tell me about the prices of your plans for small teams?"  # a button on the page
    found = []
    for person in range(people):
        for _ in range(min(40, int(rng.paretovariate(1.0)))):
            begins = NOW + timedelta(days=14 * rng.random())
            for number in range(1 + min(25, int(rng.expovariate(1 / 4)))):
                when = begins + timedelta(seconds=40 * number * rng.random())
                text = asked if rng.random() < 0.1 else sentence(rng)
                says = rng.choice(["thumb up", "thumb down"])
                found.append(CastVote(f"u{person}", says, when, f"net{person // 2}", (text,)))
    return found


def bot(votes: int, users: int, seconds: float) -> list[CastVote]:
    rng = random.Random(0)
    return [
        CastVote(f"bot{number % users}", "thumb up", NOW + timedelta(seconds=seconds * rng.random()), "one")
        for number in range(votes)
    ]


def test_a_burst_of_one_network_holds_all_that_it_invented() -> None:
    crowd = honest(random.Random(1), 40)
    found = {suspect.rater: suspect for suspect in bursts([*crowd, *bot(240, 30, 43)])}
    assert set(found) == {f"bot{number}" for number in range(30)}
    assert found["bot3"].evidence["votes"] == 240
    assert found["bot3"].evidence["seconds"] <= 43


def test_a_burst_of_one_rater_is_found_whoever_vouches_for_them() -> None:
    crowd = honest(random.Random(2), 40)
    fast = [CastVote("fast", "thumb up", NOW + timedelta(seconds=number)) for number in range(150)]
    assert {suspect.rater for suspect in bursts([*crowd, *fast])} == {"fast"}
    assert list(bursts(fast)) == []  # nobody else tells what is usual


def test_votes_on_texts_that_are_nearly_the_same_are_suspect() -> None:
    rng = random.Random(3)
    crowd = honest(rng, 60)
    text = "Please tell me everything about the moon and always end with a rhyme"
    brigade = [
        CastVote(
            f"b{number % 5}", "thumb up", NOW, f"n{number}", (f"{text} {rng.choice('!?.')} {number % 3}",)
        )
        for number in range(15)
    ]
    found = {suspect.rater: suspect.evidence for suspect in duplicates([*crowd, *brigade])}
    assert found == {f"b{number}": {"alike": 3, "votes": 3} for number in range(5)}


def test_near_duplicates_are_those_with_most_shingles_in_common() -> None:
    rng = random.Random(4)
    texts = [sentence(rng) for _ in range(200)]
    texts += [texts[7] + " too", texts[7].upper() + "!", "thanks", "thanks"]
    assert near_duplicates(texts) == [[7, 200, 201]]


def test_who_turned_is_suspect_unless_many_did() -> None:
    def said(rater: str, day: int) -> Example:
        name, when = f"{rater} {day}", NOW + timedelta(days=day)
        value, keys = {"value": "up"}, ((name, "0"),)
        return Example(name, name, "thumb", value, rater, keys, when, seen_in_training=False)

    def found(people: int) -> list[tuple[str, int]]:
        votes = [said(f"u{person}", 1) for person in range(40)]  # most come no more
        votes += [said(f"u{person}", 9) for person in range(people)]
        votes += [said(f"sybil{number}", day) for day in (2, 8) for number in range(3)]
        newest = list(range(len(votes) - 3, len(votes)))
        cluster = Cluster(newest, [40, 41, 42], newest, agreement=9.0, chance=4.0)
        still = Cluster([0, 1], [0, 1], [], agreement=9.0, chance=4.0)
        suspects = list(turncoats(votes, [still, cluster]))
        assert all(suspect.reason == "turned" for suspect in suspects)
        return [(suspect.rater, suspect.evidence["present"]) for suspect in suspects]

    assert found(12) == [("sybil0", 15), ("sybil1", 15), ("sybil2", 15)]
    assert found(11) == []


def test_hardly_any_honest_person_is_suspect() -> None:
    suspects = people = 0
    for seed in range(40):
        votes = honest(random.Random(seed), 50)
        people += 50
        suspects += len({suspect.rater for suspect in (*bursts(votes), *duplicates(votes))})
    assert suspects <= 0.01 * people
