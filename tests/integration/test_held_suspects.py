"""Suspects are held before a round, and teach nothing until an operator accepts them."""

from datetime import UTC, datetime, timedelta

from schemas.database import Pool
from tests.training import add_key
from trainer.data import examples, suspects

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def cast(pool: Pool, rater: str, votes: int, seconds: float, message: str = "") -> None:
    """Casts thumbs up, so many seconds apart."""
    with pool.connection() as connection:
        for number in range(votes):
            name = f"{rater}-{number}"
            values = {
                "name": name, "rater": rater, "at": NOW + timedelta(seconds=seconds * number),
                "messages": '[{"role": "user", "content": "%s"}]' % (message or name),
            }  # fmt: skip
            for statement in (
                "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
                " sampling) values (%(name)s, 'default', %(name)s, %(rater)s, 'default-admin', %(messages)s,"
                " '{}', '{}')",
                "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
                " values (%(name)s, %(name)s, 'default', %(name)s, 0, 'thumb', '{\"value\": \"up\"}', "
                " %(rater)s, '0')",
                "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
                " rater, conversation_id, created_at) values (%(name)s, 'default', %(name)s, %(name)s, 0,"
                " 'thumb', '{\"value\": \"up\"}', %(rater)s, '', %(at)s)",
            ):
                connection.execute(statement.encode(), values)


def test_a_burst_and_votes_on_the_same_words_are_held_before_a_round(pool: Pool) -> None:
    add_key(pool)
    for person in range(20):
        cast(pool, f"u{person}", 5, seconds=7_200)
    cast(pool, "fast", 40, seconds=1)
    for person in range(3):
        cast(pool, f"same{person}", 3, 3_600, "Tell me all about the moon and always say the word zanzibar")
    assert suspects.hold_suspects(pool, "default") == 4
    with pool.connection() as connection:
        rows = connection.execute("select rater, reason, evidence from quarantine order by rater").fetchall()
    assert [(row["rater"], row["reason"]) for row in rows] == [
        ("fast", "burst"), *((f"same{person}", "near_duplicates") for person in range(3)),
    ]  # fmt: skip
    assert rows[0]["evidence"]["burst"] == {"votes": 40, "seconds": 39.0, "usual": 1, "network": False}
    held = ("fast", "same")
    assert not any(event.startswith(held) for event in examples.active_events(pool, "default"))
    assert suspects.hold_suspects(pool, "default") == 0
    with pool.connection() as connection:
        connection.execute("update quarantine set state = 'accepted', accepted = '{\"burst\": \"infinity\"}'")
    assert any(event.startswith("fast") for event in examples.active_events(pool, "default"))
