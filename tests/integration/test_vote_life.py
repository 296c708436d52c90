"""What has become of a vote is told as it is, from the trainer's rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feedback.store import Store
from feedback.vote_life import Life, Pace, life
from schemas.database import AsyncPool
from schemas.feedback import parse_vote
from schemas.projects import Promotion
from tests.voting import a_turn

TURN = "chatcmpl-life"
SOON = Pace(min_votes=3, round_votes=10, round_seconds=45)


class Loop:
    """The trainer's and the swap's rows, written by hand; the whole loop has tests of its own."""

    def __init__(self, pool: AsyncPool) -> None:
        self._pool = pool
        self._store = Store(pool)

    async def vote(self, rater: str = "u_ada") -> str:
        votable = await self._store.votable_turn(TURN)
        assert votable is not None
        thumb = parse_vote({"completion_id": TURN, "type": "thumb", "value": "up"})
        vote = (await self._store.submit(votable, thumb, rater)).id
        await self.write(
            "insert into training_examples (event_id, project, feedback_id, turn_id, choice, type, value,"
            " rater, conversation_id, created_at) select event_id, project, id, turn_id, choice, type, value,"
            " rater, 'c', created_at from feedback where id = %s",
            vote,
        )
        return vote

    async def write(self, sql: str, *values: Any) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(sql.encode(), values)

    async def policy(self, name: str, state: str, minutes: float) -> None:
        """Trained so many minutes from now; live a minute later if it is or was."""
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        live_at = at + timedelta(minutes=1) if state in ("live", "retired", "rolled_back") else None
        await self.write(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state, created_at,"
            " live_at) values ('default', %s, '', '', '', '{}', %s, %s, %s)",
            name, state, at, live_at,
        )  # fmt: skip

    async def live(self, name: str, canary: str | None = None) -> None:
        await self.write(
            "insert into routes (project, live, previous, canary) values ('default', %s, %s, %s)"
            " on conflict (project) do update set live = excluded.live, canary = excluded.canary",
            name, name, canary,
        )  # fmt: skip

    async def stage(self, vote: str, pace: Pace = SOON, promotion: Promotion = "direct") -> tuple[str, Any]:
        """The stage, with the figure or whether there is a time that belongs to it."""
        now = await self._life(vote, pace, promotion)
        return now.stage, now.votes_needed or now.progress or now.live_at is not None

    async def live_at(self, vote: str) -> datetime | None:
        return (await self._life(vote)).live_at

    async def _life(self, vote: str, pace: Pace = SOON, promotion: Promotion = "direct") -> Life:
        found = await self._store.find(vote)
        assert found is not None
        return await life(self._pool, found, pace, promotion)


@pytest.fixture
async def loop(async_pool: AsyncPool) -> Loop:
    await Store(async_pool).record_turn(a_turn(TURN))
    return Loop(async_pool)


async def test_from_recorded_to_live_and_taken_back(loop: Loop) -> None:
    vote = await loop.vote()
    assert await loop.stage(vote) == ("recorded", 2)
    for _ in range(5):
        vote = await loop.vote()  # a vote that is changed is no new one
    assert await loop.stage(vote) == ("recorded", 2)
    await loop.vote("u_bob")
    await loop.vote("u_eve")
    assert await loop.stage(vote) == ("recorded", False)  # any new vote starts a round in a while
    assert await loop.stage(vote, SOON._replace(round_seconds=86_400)) == ("recorded", 7)

    await loop.write(
        "insert into rounds (project, parent, outcome, started_at, ended_at)"
        " values ('default', 'p0', 'rejected', now() - interval '1 hour', now() - interval '50 minutes')"
    )
    await loop.write("insert into rounds (project, parent, outcome) values ('default', 'p0', 'running')")
    await loop.write("update rounds set started_at = now() - interval '5 minutes' where outcome = 'running'")
    later = await loop.vote("u_late")
    await loop.write(
        "update training_examples set created_at = now() - interval '6 minutes' where rater <> 'u_late'"
    )
    assert await loop.stage(vote) == ("training", 0.5)
    assert await loop.stage(later) == ("recorded", False)
    await loop.write(
        "update training_examples set held_out_in = (select max(id) from rounds) where feedback_id = %s", vote
    )
    assert await loop.stage(vote) == ("held_out", False)

    await loop.policy("p1", "published", 0)
    await loop.write("update training_examples set first_policy = 'p1' where feedback_id = %s", vote)
    assert await loop.stage(vote) == ("learned", False)
    assert await loop.stage(vote, promotion="manual") == ("awaiting_operator", False)
    await loop.write("update policies set state = 'live', live_at = now() where id = 'p1'")
    await loop.live("p1")
    assert await loop.stage(vote) == ("live", True)

    await loop.policy("p0", "live", -60)
    await loop.live("p0")
    await loop.write("update policies set state = 'rolled_back' where id = 'p1'")
    assert await loop.stage(vote) == ("taken_back", False)
    await loop.policy("p2", "live", 5)
    await loop.live("p2")
    assert await loop.stage(vote) == ("live", True)


async def test_what_learned_from_it_is_tried_or_passed_over(loop: Loop) -> None:
    vote = await loop.vote()
    await loop.policy("p0", "live", 0)
    for minutes, (name, parent) in enumerate((("p1", "p0"), ("p2", "p1"), ("p3", "p0")), 1):
        await loop.policy(name, "published", minutes)
        await loop.write("update policies set parent = %s where id = %s", parent, name)
        await loop.write(
            "insert into rounds (project, parent, policy, outcome) values ('default', %s, %s, 'published')",
            parent, name,
        )  # fmt: skip
    await loop.write("update training_examples set first_policy = 'p1'")
    stages = {}
    for canary in ("p1", "p2", "p3"):
        await loop.live("p0", canary)
        for held_out_in in (None, "p2", "p3"):
            await loop.write(
                "update training_examples set held_out_in = (select id from rounds where policy = %s)",
                held_out_in,
            )
            stages[canary, held_out_in], _ = await loop.stage(vote)
    # A descendant's weights have it, whatever its own round held out.
    assert {where: stage for where, stage in stages.items() if stage != "tried"} == {("p3", "p3"): "learned"}

    await loop.live("p3")
    assert await loop.stage(vote) == ("learned", False)
    await loop.write("update training_examples set held_out_in = null")
    await loop.write("update policies set state = 'live', live_at = now() where id = 'p3'")
    assert await loop.stage(vote) == ("live", True)
    since = await loop.live_at(vote)
    await loop.policy("p4", "live", 10)
    await loop.live("p4")
    assert await loop.live_at(vote) == since
    await loop.write("update policies set state = 'rolled_back' where id = 'p3'")
    later = await loop.live_at(vote)
    assert since is not None
    assert later is not None
    assert later > since


async def test_a_vote_that_is_none_any_more(loop: Loop) -> None:
    vote = await loop.vote()
    newer = await loop.vote()
    assert await loop.stage(vote) == ("superseded", False)
    await loop.write("update feedback set retracted_at = now() where id = %s", newer)
    assert await loop.stage(newer) == ("retracted", False)
