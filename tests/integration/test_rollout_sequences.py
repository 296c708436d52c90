"""Any sequence of rollout commands leaves what a model says. `tests.bench.rollout_sequences` plays 1,000."""

import psycopg
from psycopg.rows import dict_row

from tests.rollout_model import play


async def test_any_commands_leave_what_the_rules_say(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(
        database_url, row_factory=dict_row, autocommit=True
    ) as connection:
        for seed in range(40):
            played = await play(connection, f"project-{seed}", seed)
            assert not played[-1].startswith("DIFFERENT"), "\n".join(played)
