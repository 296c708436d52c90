"""The behaviour behind a vote: which policy gave the reply, drawn how, and how likely the reply was."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.database import Pool
from schemas.turns import IMPORTED


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a reply came about: its policy, the `propensity` with which the router chose that policy for a
    person, the temperature, and the reply's log-probability as the engine recorded it, at temperature 1 (nats
    in total; None where some token has none). `asked` is the probability with which the person would have
    been asked to compare two replies instead (`serving.pairs`)."""

    policy: str
    propensity: float
    temperature: float
    logprob: float | None
    asked: float = 0.0


def load_behaviour(pool: Pool, project: str, events: Sequence[str]) -> dict[str, Behaviour]:
    """Returns the behaviour by event of the votes on single replies that Hearken gave; not of the best of
    several, nor of replies that a person was asked to compare, which were chosen."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select e.event_id, r.policy, r.propensity,"
            " coalesce((t.sampling ->> 'temperature')::float8, 1) as temperature,"
            " coalesce((t.request -> 'pair' ->> 'propensity')::float8, 0) as asked,"
            " case when cardinality(r.logprobs) = cardinality(r.token_ids)"
            " then (select sum(logprob) from unnest(r.logprobs) as logprob)::float8 end as logprob"
            " from training_examples e join turns t on t.id = e.turn_id"
            " join replies r on r.turn_id = e.turn_id and r.choice = e.choice"
            " where e.project = %s and e.event_id = any(%s) and not starts_with(t.id, %s)"
            " and r.propensity > 0 and not t.request ?| array['best_of', 'question']"
            " and coalesce(t.request -> 'pair' -> 'asked', 'false') = 'false'",
            [project, list(events), IMPORTED],
        ).fetchall()
    return {
        row["event_id"]: Behaviour(
            row["policy"], row["propensity"], row["temperature"], row["logprob"], row["asked"]
        )
        for row in rows
    }
