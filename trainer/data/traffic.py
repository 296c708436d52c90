"""Traffic is what the newest turns tell of how people are served: lengths and sampling parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.database import Pool
from schemas.generation_defaults import GenerationDefaults
from schemas.turns import IMPORTED

NEWEST_TURNS = 1_024


@dataclass(frozen=True, slots=True)
class Traffic:
    """Facts of the newest turns: mean lengths of prompts and replies, and the length that one reply of a
    hundred exceeds (tokens; None without replies); whether replies were cut off there; and the most frequent
    combination of sampling parameters, by name (empty where none were recorded). `new_votes` came since the
    last round."""

    prompt_length: float | None = None
    reply_length: float | None = None
    longest_reply: int | None = None
    cut_off: bool = False
    sampling: Mapping[str, float] = field(default_factory=dict)
    new_votes: int = 0

    @classmethod
    def read(cls, pool: Pool, project: str, new_votes: int) -> "Traffic":
        """Reads the newest turns, imported ones only where there are no others."""
        sent = cls._read(pool, project, new_votes, imported=False)
        return sent if sent.prompt_length is not None else cls._read(pool, project, new_votes, imported=True)

    @classmethod
    def _read(cls, pool: Pool, project: str, new_votes: int, *, imported: bool) -> "Traffic":
        with pool.connection() as connection:
            found = connection.execute(
                "with newest as ("
                " select id, request, prompt_tokens_of(request, prompt_token_ids) as length,"
                " (select jsonb_object_agg(key, value) from jsonb_each(sampling) where key = any(%s))"
                " as sampling"
                " from turns where project = %s"
                " and starts_with(id, %s) = %s order by created_at desc, id limit %s),"
                " lengths as (select tokens_of(n.request, r.choice, r.token_ids) as length, r.finish_reason"
                " from replies r join newest n on n.id = r.turn_id)"
                " select (select avg(length) from newest)::float8 as prompt_length,"
                " avg(length)::float8 as reply_length,"
                " (percentile_cont(0.99) within group (order by length))::int as longest_reply,"
                " coalesce(bool_or(finish_reason = 'length' and length >= (select"
                "  percentile_cont(0.99) within group (order by length) from lengths)), false) as cut_off,"
                " coalesce((select mode() within group (order by sampling) from newest), '{}') as sampling"
                " from lengths",
                [list(GenerationDefaults.model_fields), project, IMPORTED, imported, NEWEST_TURNS],
            ).fetchone()
        assert found is not None  # noqa: S101  (an aggregate gives its row)
        return cls(**found, new_votes=new_votes)
