"""How long the console's views take: `python -m tests.bench.desk`.

A `hearken serve` and its Postgres on this machine, with 1,000,000 turns of ten weeks, 100,000 votes of 20,000
people, and a second project of a tenth of that. Each view is asked for as the console asks, over HTTP,
with filters that select much, little and nothing. Promised: 500 ms at p95 for each, and that no list reads a
whole table. About five minutes, most of which fill the database.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from feedback import desk
from feedback.vote_filter import Filter
from tests.bench.load import at
from tests.bench.service import hearken_serve
from tests.installation import ADMIN_KEY

TURNS, WEEKS = 1_000_000, 10
ASKED = 20
"""Times that each view is asked for."""

PROMISED = 0.5
"""Seconds at p95."""

_WEEK = """
create table if not exists turns_{0} partition of turns
    for values from (turn_bound('{1}')) to (turn_bound('{2}'));
create table if not exists replies_{0} partition of replies
    for values from (turn_bound('{1}')) to (turn_bound('{2}'));
"""
# The words of a text: common ones, and one of 5,000 that are rare.
_FILL = """
with numbers as (
    select n, now() - (%(turns)s - n) * interval '6 seconds' as moment,
        turn_bound(now() - (%(turns)s - n) * interval '6 seconds') || lpad(to_hex(n), 20, '0') as id,
        'u_' || lpad(to_hex(n %% 20000), 32, '0') as rater, 'p' || (n * 20 / %(turns)s) || '-abcdef' as policy
    from generate_series(%(first)s::bigint, %(last)s) as n
), new_turns as (
    insert into turns (id, project, conversation_id, rater, key_id, messages, prompt_token_ids, sampling,
        metadata, created_at)
    select id, %(project)s, 'conv-' || n / 3, rater, %(project)s || '-admin',
        jsonb_build_array(jsonb_build_object('role', 'user', 'content',
            'please tell me about subject' || n %% 5000 || ' and how it works today')),
        '{1}', '{"temperature": 1}', jsonb_build_object('conversation_id', 'conv-' || n / 3,
            'team', 'team' || n %% 5, 'customer', 'customer' || n %% 500), moment
    from numbers
)
insert into replies (turn_id, choice, project, policy, propensity, text, token_ids, logprobs, finish_reason)
select id, 0, %(project)s, case when n %% 50 = 0 then 'p0' else policy end, 0.9,
    repeat('It is a well known matter with many sides, of which the first is plain. ', 4) || n %% 977,
    '{1}', '{0}', 'stop' from numbers
"""
_VOTE = """
insert into feedback (id, event_id, project, turn_id, choice, type, value, comment, rater, slot, created_at)
select 'fb_' || id, 'ev_' || id, project, id, 0, 'thumb', jsonb_build_object(
        'value', case when random() < 0.6 then 'up' else 'down' end, 'reasons', jsonb_build_array(
            (array['concise', 'friendly', 'wrong', 'too-long'])[1 + floor(random() * 4)::int])
    ), case when random() < 0.05 then 'a remark of number' || floor(random() * 1000) end, rater, 'thumb:0',
    created_at
from turns where project = %(project)s and random() < 0.1
"""
_POLICIES = """
insert into policies (project, id, parent, base_digest, directory, digest, manifest, state, live_at)
select 'default', 'p' || n || case n when 0 then '' else '-abcdef' end,
    case n when 0 then null when 1 then 'p0' else 'p' || n - 1 || '-abcdef' end, '', '', '', '{}',
    case n when 19 then 'live' else 'retired' end, now()
from generate_series(0, 19) as n;
insert into routes (project, live, previous) values ('default', 'p19-abcdef', 'p18-abcdef');
"""

VIEWS = {
    "all": "",
    "thumbs down": "value=down",
    "a reason": "reason=wrong",
    "a policy": "policy=p3-abcdef",
    "a policy of long ago": "policy=p1-abcdef",
    "the holdback": "policy=p0",
    "a common tag": "tag=team=team3",
    "a rare tag": "tag=customer=customer77",
    "no such tag": "tag=customer=nobody",
    "a person": "user=u_" + f"{160:x}".rjust(32, "0"),
    "a common word": "text=please",
    "a rare word": "text=subject4000",
    "no such word": "text=xylophone",
    "three at once": "value=down&reason=wrong&tag=team=team3",
    "the beginning of a word": "text=subject40",
    "of a word that all have": "text=subj",
    "a week": "since={week}&until={day}",
    "a word in a week": "text=subject4000&since={week}&until={day}",
}


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for week in range(WEEKS + 2):
            row = connection.execute(
                "select date_trunc('week', now(), 'UTC') - %s * interval '168 hours',"
                " date_trunc('week', now(), 'UTC') - (%s - 1) * interval '168 hours'",
                [week, week],
            ).fetchone()
            assert row is not None
            connection.execute(_WEEK.format(f"{row[0]:%Y%m%d}", *row).encode())
        connection.execute("insert into projects (id) values ('other')")
        connection.execute(
            "insert into keys (id, project, kind, hash) values ('other-admin', 'other', 'admin', 'x')"
        )
        connection.execute(_POLICIES)
        for project, turns in (("default", TURNS), ("other", TURNS // 10)):
            for first in range(0, turns, 100_000):
                numbers = {"first": first + 1, "last": min(first + 100_000, turns), "turns": turns}
                connection.execute(_FILL, {"project": project, **numbers})
            connection.execute(_VOTE, {"project": project})
        connection.execute("vacuum analyze")
        row = connection.execute("select count(*) from feedback where project = 'default'").fetchone()
        assert row is not None
        print(f"{TURNS:,} turns, {row[0]:,} votes", flush=True)


class Explained:
    """A connection that keeps the plans of its statements."""

    def __init__(self, connection: AsyncConnection[DictRow]) -> None:
        self._connection = connection
        self.scans: set[str] = set()

    async def execute(self, query: str, values: Any = None, **options: Any) -> Any:
        cursor = await self._connection.execute(f"explain (format json) {query}".encode(), values, **options)
        [plan] = (await cursor.fetchone() or {"": []}).values()
        self.scans |= set(_scans(plan[0]["Plan"]))
        return await self._connection.execute(query.encode(), values, **options)


def _scans(node: dict[str, Any]) -> Iterator[str]:
    """Yields the indexes of votes that a plan uses, and the tables, small ones aside, that it reads whole."""
    if node["Node Type"] == "Seq Scan" and node["Plan Rows"] > 100:
        yield f"WHOLE {node['Relation Name']}"
    elif node.get("Index Name", "").startswith("feedback"):
        yield node["Index Name"]
    for child in node.get("Plans", []):
        yield from _scans(child)


async def plans(url: str, query: dict[str, Any]) -> set[str]:
    """Returns what the votes of a filter are read by. They are counted up to 10,000 only."""
    async with await AsyncConnection.connect(url, row_factory=dict_row) as connection:
        explained = Explained(connection)
        as_connection = cast(AsyncConnection[DictRow], explained)
        await desk.votes(as_connection, "default", Filter(**query, active=True, limit=51))
        return explained.scans


def as_filter(query: str) -> dict[str, Any]:
    """Returns the fields of the filter that a query asks for."""
    found: dict[str, Any] = dict(httpx.QueryParams(query))
    if "tag" in found:
        found["tags"] = [found.pop("tag")]
    if "user" in found:
        found["raters"] = [found.pop("user")]
    return {
        name: datetime.fromisoformat(value) if name in ("since", "until") else value
        for name, value in found.items()
    }


def measure(url: str, port: int) -> dict[str, dict[str, Any]]:
    now, found = datetime.now(UTC), {}
    times = {
        "week": (now - timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "day": (now - timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1/console", headers=headers, timeout=120) as client:

        def p95(path: str) -> float:
            seconds = []
            for _ in range(ASKED):
                began = time.perf_counter()
                client.get(path).raise_for_status()
                seconds.append(time.perf_counter() - began)
            return at(0.95, seconds)

        for name, pattern in VIEWS.items():
            query = pattern.format(**times)
            scans = asyncio.run(plans(url, as_filter(query)))
            found[name] = {
                "votes": p95(f"/votes?{query}"),
                "approval": p95(f"/approval?{query}"),
                "scans": scans,
            }
        for name in ("status", "facets", "rounds", "policies", "rollouts"):
            found[name] = {"view": p95(f"/{name}"), "scans": set()}
        for name in ("", "tag=customer=customer77", "policy=p3-abcdef", VIEWS["a person"]):
            found[f"conversations {name}"] = {"view": p95(f"/conversations?{name}"), "scans": set()}
    return found


def main() -> int:
    with hearken_serve() as (url, port):
        began = time.monotonic()
        fill(url)
        print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
        found = measure(url, port)
    worst, whole = 0.0, set()
    for name, figures in found.items():
        scans = figures.pop("scans")
        worst = max(worst, *figures.values())
        whole |= {scan for scan in scans if scan.startswith("WHOLE")}
        shown = "  ".join(f"{what} {1000 * seconds:5.0f} ms" for what, seconds in figures.items())
        print(f"{name:28} {shown}  {', '.join(sorted(scans))}")
    print(json.dumps({"p95_ms": round(1000 * worst), "whole_tables": sorted(whole)}))
    return 0 if worst <= PROMISED and not whole else 1


if __name__ == "__main__":
    sys.exit(main())
