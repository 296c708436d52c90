"""1,000 random sequences of rollout commands, each compared with a model after every command.

    python -m tests.bench.rollout_sequences [SEQUENCES]

It prints the commands played and the differences, of which there must be none.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from deploy.local.postgres import database
from schemas.database import migrate
from schemas.settings import Settings
from tests.rollout_model import play


async def compare(url: str, sequences: int) -> int:
    """Returns how many sequences differ from the model."""
    different = commands = 0
    async with await psycopg.AsyncConnection.connect(
        url, row_factory=dict_row, autocommit=True
    ) as connection:
        for seed in range(sequences):
            played = await play(connection, f"project-{seed}", seed)
            commands += len(played)
            if played[-1].startswith("DIFFERENT"):
                different += 1
                print("\n".join(played))
    print(f"{sequences} sequences, {commands} commands: {different} differences")
    return different


def main() -> int:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as folder:
        Path(folder).chmod(0o755)  # the embedded Postgres runs as another user where this one is root
        with database(Settings(data_dir=Path(folder))) as url:
            migrate(url)
            return 1 if asyncio.run(compare(url, sequences)) else 0


if __name__ == "__main__":
    sys.exit(main())
