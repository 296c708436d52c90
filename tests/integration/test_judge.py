"""The judge asks a real HTTP endpoint; its verdicts become votes, and other answers are skipped."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from aiohttp import web
from pydantic import SecretStr

from feedback import comment_judge
from feedback.comment_judge import CommentJudge, verdicts
from feedback.judge import Judge, verdict
from feedback.judge_client import NoVerdict
from feedback.records import Received
from feedback.store import Store
from schemas.database import AsyncPool
from schemas.feedback import Thumb
from schemas.settings import JudgeSettings
from schemas.turns import IMPORTED
from tests.locks import waiting
from tests.voting import a_turn


class Endpoint:
    """Answers good for "fine", bad for "awful", and otherwise with an error or without a verdict."""

    def __init__(self) -> None:
        self.asked: list[web.BaseRequest] = []
        self.bodies: list[dict[str, object]] = []
        self.over = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(request)
        self.bodies.append(body)
        lines = body["messages"][-1]["content"].splitlines()
        match lines[-2] if lines[0] == "The comment:" else lines[-1]:
            case "that was rude":
                said = '```json\n{"tone": "missed"}\n```'
            case "no idea":
                said = '{"tone": "missed", "obey": "met"}'
            case "fine":
                said = "Good."
            case "awful":
                said = "bad"
            case "strange":
                said = "It may be good, or bad."
            case "slow":
                await self.over.wait()
                said = "good"
            case "busy" if not self.over.is_set():
                return web.Response(status=429)
            case "broken":
                return web.Response(status=500)
            case "deep":
                return web.Response(text="[" * 100_000, content_type="application/json")
            case _:
                return web.Response(text="<html>", content_type="text/html")
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": said}}]})


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
async def judge(async_pool: AsyncPool, endpoint: Endpoint) -> AsyncIterator[Judge]:
    """A judge with a share of 1."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", endpoint.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    settings = JudgeSettings(
        url=f"http://127.0.0.1:{port}/v1", model="wise", key=SecretStr("sk-judge"), rubric="Be kind.",
        share=1.0, timeout=20,
    )  # fmt: skip
    async with httpx.AsyncClient() as client:
        yield Judge(settings, "default", async_pool, client)
    endpoint.over.set()
    await runner.cleanup()


async def votes(pool: AsyncPool) -> list[tuple[str, int, str, str]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "select turn_id, choice, value ->> 'value' as value, rater from feedback order by turn_id, choice"
        )
        return [tuple(row.values()) for row in await cursor.fetchall()]


async def test_verdicts_are_votes(judge: Judge, endpoint: Endpoint, async_pool: AsyncPool) -> None:
    await Store(async_pool).record_turn(a_turn("chatcmpl-1", replies=("fine", "awful")))
    assert await judge.judge_batch() == 2
    assert await judge.judge_batch() == 0
    assert await votes(async_pool) == [
        ("chatcmpl-1", 0, "up", "judge:wise"),
        ("chatcmpl-1", 1, "down", "judge:wise"),
    ]
    assert endpoint.asked[0].headers["Authorization"] == "Bearer sk-judge"
    body = endpoint.bodies[0]
    assert body["model"] == "wise"
    system, question = [message["content"] for message in body["messages"]]
    assert system.startswith("Be kind.")
    assert "What is the capital of France?" in question


@pytest.mark.parametrize("reply", ["strange", "slow", "broken", "page", "deep"])
async def test_nonsense_is_no_vote_and_is_not_asked_for_again(
    judge: Judge, async_pool: AsyncPool, reply: str
) -> None:
    store = Store(async_pool)
    if reply == "slow":
        judge._settings = judge._settings.model_copy(update={"timeout": 3.0})
    await store.record_turn(a_turn("chatcmpl-1", replies=(reply,)))
    await store.record_turn(a_turn("chatcmpl-2", replies=("fine",)))
    assert await judge.judge_batch() == 2
    assert await judge.judge_batch() == 0
    assert [vote[0] for vote in await votes(async_pool)] == ["chatcmpl-2"]


async def test_what_was_imported_is_not_sent_out(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    await Store(async_pool).record_turn(a_turn(f"{IMPORTED}1", replies=("fine",)))
    assert await judge.judge_batch() == 0
    assert endpoint.asked == []


async def test_a_reply_that_calls_tools_is_not_judged(judge: Judge, async_pool: AsyncPool) -> None:
    turn = a_turn("chatcmpl-1", replies=("", "fine"))
    call = {"id": "call-1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    replies = [replace(turn.replies[0], message=message), turn.replies[1]]
    await Store(async_pool).record_turn(replace(turn, replies=replies))
    assert await judge.judge_batch() == 1
    assert [choice for _, choice, _, _ in await votes(async_pool)] == [1]


async def test_only_its_share_of_new_turns_of_its_project_is_judged(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    store = Store(async_pool)
    for number in range(40):
        await store.record_turn(a_turn(f"chatcmpl-{number}", replies=("fine",)))
    await store.record_turn(a_turn("chatcmpl-other", replies=("fine",), project="other"))
    async with async_pool.connection() as connection:
        await connection.execute(
            "update turns set created_at = now() - interval '1 hour' where id = 'chatcmpl-3'"
        )
    judge._settings = judge._settings.model_copy(update={"share": 0.4})
    while await judge.judge_batch():
        pass
    judged = {vote[0] for vote in await votes(async_pool)}
    assert 6 < len(judged) < 26
    assert not judged & {"chatcmpl-3", "chatcmpl-other"}


async def test_comments_are_read_once_and_nonsense_is_kept_as_a_reason(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    store = Store(async_pool)
    for number, comment in enumerate(("that was rude", "no idea", "broken", "")):
        turn = a_turn(f"chatcmpl-{number}", replies=("fine",))
        await store.record_turn(turn)
        votable = await store.votable_turn(turn.id)
        assert votable is not None
        vote = Thumb(type="thumb", completion_id=turn.id, value="down", comment=comment)
        await store.submit(votable, vote, "u_1")
    comments = CommentJudge(judge._settings, "default", async_pool, judge._client)
    assert await comments.read_batch() == 3
    assert await comments.read_batch() == 0
    assert all("fine" not in str(body["messages"]) for body in endpoint.bodies)  # no reply was sent
    async with async_pool.connection() as connection:
        cursor = await connection.execute(
            "select f.comment, c.criteria, c.reason from comment_criteria c"
            " join feedback f on f.id = c.feedback_id order by f.turn_id"
        )
        rude, unclear, broken = await cursor.fetchall()
        assert rude == {"comment": "that was rude", "criteria": {"tone": False}, "reason": None}
        assert (unclear["criteria"], broken["criteria"]) == (None, None)
        assert "other names" in unclear["reason"]
        assert "500" in broken["reason"]
        await connection.execute("delete from turns where id = 'chatcmpl-0'")  # erased
        cursor = await connection.execute("select count(*) as left from comment_criteria")
        assert await cursor.fetchone() == {"left": 2}


async def test_what_was_found_in_a_comment_goes_with_a_retraction_and_never_comes_after_it(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    store = Store(async_pool)
    turn = a_turn("chatcmpl-1", replies=("fine",))
    await store.record_turn(turn)
    votable = await store.votable_turn(turn.id)
    assert votable is not None
    comments = CommentJudge(judge._settings, "default", async_pool, judge._client)
    for value in ("down", "up"):  # the second vote supersedes the first one
        vote = Thumb(type="thumb", completion_id=turn.id, value=value, comment="that was rude")
        voted = await store.submit(votable, vote, "u_1")
        [fresh] = await comments._fresh()
        assert await comments.read_batch() == 1
    found = await store.find(voted.id)
    assert found is not None
    await store.retract(found)
    await comments._read(fresh)  # the judge has thought for long
    async with async_pool.connection() as connection:
        cursor = await connection.execute("select count(*) as left from comment_criteria")
        assert await cursor.fetchone() == {"left": 0}


async def comment(pool: AsyncPool, text: str, ago: timedelta = timedelta()) -> None:
    """Stores a turn, and a thumb with a comment on it, `fb_` and its text."""
    store = Store(pool)
    turn = a_turn(f"chatcmpl-{text}", replies=("fine",))
    await store.record_turn(turn)
    votable = await store.votable_turn(turn.id)
    assert votable is not None
    vote = Thumb(type="thumb", completion_id=turn.id, value="down", comment=text)
    await store.submit(votable, vote, "u_1", received=Received(f"fb_{text}", datetime.now(UTC) - ago))


async def test_what_is_stored_while_the_retraction_waits_goes_with_it_too(
    async_pool: AsyncPool, database_url: str
) -> None:
    await comment(async_pool, "rude")
    found = await Store(async_pool).find("fb_rude")
    assert found is not None
    values = {"project": "default", "model": "wise", "id": found.id, "criteria": None, "reason": "nonsense"}
    with psycopg.connect(database_url, autocommit=True) as watcher:
        async with async_pool.connection() as judging:
            await judging.execute(comment_judge._STORE, values)
            retraction = asyncio.create_task(Store(async_pool).retract(found))
            await waiting(watcher, 1)
        await retraction
        assert watcher.execute("select count(*) from comment_criteria").fetchone() == (0,)


async def test_after_a_pause_comments_are_read_from_where_it_stopped(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    first = CommentJudge(judge._settings, "default", async_pool, judge._client)
    await comment(async_pool, "before-it-came", timedelta(days=5))
    assert await first.read_batch() == 0
    await comment(async_pool, "its-first")
    assert await first.read_batch() == 1
    async with async_pool.connection() as connection:
        await connection.execute(
            "update feedback set created_at = now() - interval '3 days' where id = 'fb_its-first'"
        )
    for text, days in (("second", 2), ("third", 1)):
        await comment(async_pool, text, timedelta(days=days))
    restarted = CommentJudge(judge._settings, "default", async_pool, judge._client)
    assert [each.comment for each in await restarted._fresh()] == ["second", "third"]
    assert await restarted.read_batch() == 2
    await comment(async_pool, "late", timedelta(days=1, seconds=300))
    assert await restarted.read_batch() == 1
    assert await restarted.read_batch() == 0
    asked = [str(body["messages"]) for body in endpoint.bodies]
    times = {text: sum(text in each for each in asked) for text in ("its-first", "second", "third", "late")}
    assert times == {"its-first": 1, "second": 1, "third": 1, "late": 1}
    assert not any("before-it-came" in each for each in asked)


async def test_after_a_pause_of_weeks_the_oldest_comments_are_left_to_the_rules(
    judge: Judge, async_pool: AsyncPool
) -> None:
    comments = CommentJudge(judge._settings, "default", async_pool, judge._client)
    await comment(async_pool, "its-first")
    assert await comments.read_batch() == 1
    async with async_pool.connection() as connection:
        await connection.execute("update feedback set created_at = now() - interval '30 days'")
    await comment(async_pool, "old", timedelta(days=8))
    await comment(async_pool, "new", timedelta(days=6))
    restarted = CommentJudge(judge._settings, "default", async_pool, judge._client)
    assert [each.comment for each in await restarted._fresh()] == ["new"]


async def test_a_comment_is_read_once_the_endpoint_is_there(judge: Judge, async_pool: AsyncPool) -> None:
    comments = CommentJudge(judge._settings, "default", async_pool, judge._client)
    await comment(async_pool, "fine")
    with socket.socket() as closed:  # bound, and not listening
        closed.bind(("127.0.0.1", 0))
        away = {"url": f"http://127.0.0.1:{closed.getsockname()[1]}/v1"}
        comments._settings = judge._settings.model_copy(update=away)
        assert await comments.read_batch() == 0
    comments._settings = judge._settings
    assert await comments.read_batch() == 1


async def test_a_comment_is_read_once_the_endpoint_has_time(
    judge: Judge, endpoint: Endpoint, async_pool: AsyncPool
) -> None:
    comments = CommentJudge(judge._settings, "default", async_pool, judge._client)
    await comment(async_pool, "busy")
    assert await comments.read_batch() == 0
    endpoint.over.set()
    assert await comments.read_batch() == 1


@pytest.mark.parametrize(
    "answer",
    ["", "bad", "[]", '"met"', '{"safe": true}', '{"safe": ["met"]}', "[" * 100_000, '{"fun": "met"}'],
)
def test_a_judge_of_comments_may_name_known_criteria_only(answer: str) -> None:
    with pytest.raises(NoVerdict):
        verdicts(answer)


def test_a_verdict_is_one_word_of_two() -> None:
    assert verdict("Good") is True
    assert verdict("**bad**.") is False
    for nonsense in ("", "goodness", "good and bad", "42"):
        with pytest.raises(NoVerdict):
            verdict(nonsense)
