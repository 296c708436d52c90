"""The behaviour behind a vote: which policy gave the reply, drawn how, and how likely the reply was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.database import Pool
from schemas.generation_defaults import GenerationDefaults
from schemas.turns import IMPORTED

_OF_THE_REQUEST = ["n", "max_tokens", "stop", "seed"]
"""What a turn records beside what its tokens were drawn by."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a reply came about: its policy, the `propensity` with which the router chose that policy for a
    person, all that its tokens were drawn by (what `GenerationDefaults` has, and what else the request
    named), and the reply's log-probability as the engine recorded it, at temperature 1 (nats in total; None
    where some token has none). `asked` is the probability with which the person would have been asked to
    compare two replies instead (`serving.pairs`)."""

    policy: str
    propensity: float
    sampling: dict[str, Any]
    logprob: float | None
    asked: float = 0.0


def load_behaviour(pool: Pool, project: str, events: Sequence[str]) -> dict[str, Behaviour]:
    """Returns the behaviour by event of the votes on single replies that Hearken gave; not of the best of
    several, nor of replies that a person was asked to compare, which were chosen."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select e.event_id, r.policy, r.propensity,"
            " t.sampling - %s::text[] as sampling,"
            " coalesce((t.request -> 'pair' ->> 'propensity')::float8, 0) as asked,"
            " case when cardinality(r.logprobs) = cardinality(r.token_ids)"
            " then (select sum(logprob) from unnest(r.logprobs) as logprob)::float8 end as logprob"
            " from training_examples e join turns t on t.id = e.turn_id"
            " join replies r on r.turn_id = e.turn_id and r.choice = e.choice"
            " where e.project = %s and e.event_id = any(%s) and not starts_with(t.id, %s)"
            " and r.propensity > 0 and not t.request ?| array['best_of', 'question']"
            " and coalesce(t.request -> 'pair' -> 'asked', 'false') = 'false'",
            [_OF_THE_REQUEST, project, list(events), IMPORTED],
        ).fetchall()
    return {
        row["event_id"]: Behaviour(
            row["policy"], row["propensity"], _with_neutral(row["sampling"]), row["logprob"], row["asked"]
        )
        for row in rows
    }


def _with_neutral(recorded: dict[str, Any]) -> dict[str, Any]:
    """Returns recorded sampling parameters with those that an older release did not record, as neutral."""
    found = GenerationDefaults().model_dump() | recorded
    return found | {"top_k": max(found["top_k"], 0)}
