"""How many votes one serving process makes durable: `python -m tests.bench.votes`.

A `hearken serve` and its Postgres on this machine, 32 connections that vote at once on turns of their own,
then a count of what is stored. Promised: 1,000 votes/s with a p99 of 50 ms. About a minute.
"""

import asyncio
import json
import sys
import time

import psycopg

from tests.bench.load import at, request, send
from tests.bench.service import hearken_serve
from tests.installation import ADMIN_KEY

VOTES = 10_000
CONNECTIONS = 32
WARM_UP = 500


def add_turns(url: str, count: int) -> list[str]:
    """Turns to vote on, as serving keeps them; returns their ids."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids,"
            " sampling) select 'chatcmpl-' || n, 'default', 'conv-' || n / 4, 'u_' || n / 4, 'default-admin',"
            " '[]', '{1}', '{}' from generate_series(1, %s) as n",
            [count],
        )
        connection.execute(
            "insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs,"
            " finish_reason) select id, 0, project, 'p0', 1, 'hi', '{1}', '{0}', 'stop' from turns"
        )
    return [f"chatcmpl-{number}" for number in range(1, count + 1)]


def main() -> int:
    with hearken_serve() as (url, port):
        turns = add_turns(url, VOTES + WARM_UP)
        requests = [
            request(
                "127.0.0.1", "/v1/feedback", ADMIN_KEY,
                {"completion_id": turn, "choice": 0, "type": "thumb", "value": "up"},
            )
            for turn in turns
        ]  # fmt: skip
        asyncio.run(send("127.0.0.1", port, requests[:WARM_UP], CONNECTIONS))
        began = time.perf_counter()
        answers = asyncio.run(send("127.0.0.1", port, requests[WARM_UP:], CONNECTIONS))
        seconds = time.perf_counter() - began
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "select (select count(*) from feedback), (select count(*) from outbox)"
            ).fetchone()
    accepted = sum(status == 201 for status, _ in answers)
    rate, waits = accepted / seconds, [wait for _, wait in answers]
    figures = {
        "votes_per_second": round(rate),
        "p50_ms": at(0.5, waits) * 1e3,
        "p99_ms": at(0.99, waits) * 1e3,
    }
    print(
        f"{rate:.0f} votes/s, p50 {figures['p50_ms']:.0f} ms, p99 {figures['p99_ms']:.0f} ms; "
        f"{accepted} of {VOTES} accepted, stored {row}"
    )
    print(json.dumps(figures))
    stored = row == (VOTES + WARM_UP, VOTES + WARM_UP)
    return 0 if stored and accepted == VOTES and rate >= 1_000 and figures["p99_ms"] <= 50 else 1


if __name__ == "__main__":
    sys.exit(main())
