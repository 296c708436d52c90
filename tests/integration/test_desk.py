"""The feedback desk finds votes by what they say, shows them with their fate, and exports what it shows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from feedback.store import Store
from schemas.database import AsyncPool
from schemas.feedback import parse_vote
from schemas.turns import Turn
from tests.voting import ADMIN, PUBLIC, SECRET, STRANGER, a_turn, serve_votes


async def vote(store: Store, turn: Turn, said: dict[str, Any], rater: str | None = None) -> str:
    """Stores the turn, and a vote on it; returns the vote's id."""
    await store.record_turn(turn)
    votable = await store.votable_turn(turn.id)
    assert votable is not None
    recorded = await store.submit(
        votable, parse_vote({"completion_id": turn.id, **said}), rater or turn.rater
    )
    return recorded.id


@pytest.fixture
async def votes(async_pool: AsyncPool) -> dict[str, str]:
    """Yields votes of two people in one project, and one of another project."""
    store, found = Store(async_pool), {}
    paris = a_turn("chatcmpl-0001", rater="u_" + "a" * 32)
    object.__setattr__(paris, "metadata", {"conversation_id": "conv-of-chatcmpl-0001", "team": "web"})
    found["up"] = await vote(
        store, paris, {"type": "thumb", "value": "up", "reasons": ["concise"], "comment": "Lovely précis"}
    )
    down = a_turn("chatcmpl-0002", rater="u_" + "b" * 32, replies=("No idea at all.",))
    found["down"] = await vote(store, down, {"type": "thumb", "value": "down", "reasons": ["wrong"]})
    two = a_turn("chatcmpl-0003", rater="u_" + "b" * 32, replies=("Rome.", "Paris, in France."))
    found["ranking"] = await vote(store, two, {"type": "ranking", "ranking": [[1, 0]], "acceptable": False})
    edit = a_turn("chatcmpl-0004", rater="u_" + "a" * 32)
    found["edit"] = await vote(store, edit, {"type": "edit", "text": "It is Lutetia."})
    other = a_turn("chatcmpl-0005", project="other")
    found["other"] = await vote(store, other, {"type": "thumb", "value": "up", "reasons": ["concise"]})
    return found


@pytest.fixture
async def client(database_url: str, votes: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve_votes(database_url) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {ADMIN}"}) as client,
    ):
        yield client


async def test_each_filter_selects_the_same_votes_in_the_desk_and_in_the_export(
    client: httpx.AsyncClient, votes: dict[str, str]
) -> None:
    names = {id: name for name, id in votes.items()}
    for query, expected in [
        ("", {"up", "down", "ranking", "edit"}),
        ("type=thumb", {"up", "down"}),
        ("value=down", {"down"}),
        ("value=none", {"ranking"}),
        ("reason=concise", {"up"}),
        ("tag=team=web", {"up"}),
        ("tag=team=app", set()),
        ("policy=p0", {"up", "down", "ranking", "edit"}),
        ("policy=p1", set()),
        (f"user={'u_' + 'b' * 32}", {"down", "ranking"}),
        ("text=PRÉCIS", {"up"}),
        ("text=lutetia", {"edit"}),
        ("text=lute", {"edit"}),
        ("text=l", set()),
        ('text="capital of fra" -ide -rom', {"up", "edit"}),
        ("text=cap%27s|:*\\", set()),
        ("text=capital -idea -rome", {"up", "edit"}),
        ("since=2020-01-01T00:00:00Z&until=2020-01-02T00:00:00Z", set()),
        (f"type=thumb&user={'u_' + 'a' * 32}&reason=concise&text=paris", {"up"}),
    ]:
        listed = await client.get(f"/v1/console/votes?{query}")
        assert listed.status_code == 200, listed.text
        assert {names[each["id"]] for each in listed.json()["data"]} == expected, query
        assert listed.json()["count"] == len(expected)
        exported = await client.get(f"/v1/feedback/export?{query}")
        assert {
            names[httpx.Response(200, text=line).json()["id"]] for line in exported.text.splitlines()
        } == (expected)


async def test_pages_follow_each_other_and_superseded_votes_are_shown_on_request(
    client: httpx.AsyncClient, votes: dict[str, str], async_pool: AsyncPool
) -> None:
    again = await Store(async_pool).votable_turn("chatcmpl-0001")
    assert again is not None
    said = {"completion_id": "chatcmpl-0001", "type": "thumb", "value": "down"}
    await Store(async_pool).submit(again, parse_vote(said), "u_" + "a" * 32)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await client.get(f"/v1/console/votes?limit=2&all=true{cursor}")).json()
        seen += [each["id"] for each in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == len(set(seen)) == 5
    active = (await client.get("/v1/console/votes")).json()["data"]
    assert votes["up"] in seen
    assert votes["up"] not in {each["id"] for each in active}


async def test_a_vote_is_shown_with_its_conversation_and_fate(
    client: httpx.AsyncClient, votes: dict[str, str], async_pool: AsyncPool
) -> None:
    async with async_pool.connection() as connection:
        await connection.execute(
            "insert into policies (project, id, base_digest, directory, digest, manifest, state, live_at)"
            " values ('default', 'p1-aaaaaa', '', '', '', '{}', 'live', now())"
        )
        await connection.execute(
            "insert into training_examples (event_id, project, feedback_id, turn_id, type, value, rater,"
            " conversation_id, created_at, first_policy)"
            " select event_id, project, id, turn_id, type, value, rater, 'c', now(), 'p1-aaaaaa'"
            " from feedback where id = %s",
            [votes["up"]],
        )
    shown = (await client.get(f"/v1/console/votes/{votes['up']}")).json()
    assert shown["vote"]["prompt"] == "What is the capital of France?"
    assert shown["vote"]["replies"] == [{"choice": 0, "policy": "p0", "text": "It is Paris."}]
    assert shown["vote"]["metadata"] == {"team": "web"}
    assert (shown["vote"]["learned_by"], shown["vote"]["learned_state"]) == ("p1-aaaaaa", "live")
    assert shown["vote"]["live_at"] is not None
    assert not shown["vote"]["held_out"]
    async with async_pool.connection() as connection:
        await connection.execute(
            "with round as (insert into rounds (project, parent, outcome) values ('default', 'p0', 'running')"
            " returning id) update training_examples set held_out_in = (select id from round)"
        )
    assert (await client.get(f"/v1/console/votes/{votes['up']}")).json()["vote"]["held_out"]
    [turn] = shown["conversation"]
    assert [each["id"] for each in turn["votes"]] == [votes["up"]]
    turns = (await client.get("/v1/console/conversations?tag=team=web&policy=p0")).json()["data"]
    assert [each["id"] for each in turns] == ["chatcmpl-0001"]
    assert len((await client.get("/v1/console/conversations?limit=3")).json()["data"]) == 3


async def test_tags_that_change_are_found_anew(client: httpx.AsyncClient) -> None:
    changed = await client.post("/v1/chat/completions/chatcmpl-0002", json={"metadata": {"team": "app"}})
    assert changed.status_code == 200
    found = (await client.get("/v1/console/votes?tag=team=app")).json()["data"]
    assert [each["completion_id"] for each in found] == ["chatcmpl-0002"]


async def test_approval_counts_people_and_has_the_holdback_beside(client: httpx.AsyncClient) -> None:
    shown = (await client.get("/v1/console/approval?by=policy")).json()
    [group] = shown["groups"]
    assert (group["name"], group["people"], group["votes"], group["approval"]) == ("p0", 2, 2, 0.5)
    assert 0 < group["low"] < 0.5 < group["high"] < 1
    assert shown["holdback"]["people"] == 2
    by_tag = (await client.get("/v1/console/approval?by=tag:team")).json()["groups"]
    assert [(each["name"], each["approval"]) for each in by_tag] == [("web", 1.0)]
    reasons = (await client.get("/v1/console/approval?by=reason&value=down")).json()["groups"]
    assert [(each["name"], each["approval"]) for each in reasons] == [("wrong", 0.0)]
    assert (await client.get("/v1/console/approval?until=0001-01-01T00:00:00Z")).json()["groups"] == []


async def test_the_sessions_of_one_network_are_one_person_in_approval(
    client: httpx.AsyncClient, async_pool: AsyncPool
) -> None:
    for number in range(20):
        turn = replace(a_turn(f"chatcmpl-1{number:03}", rater=f"v_{number}"), origin="network")
        await vote(Store(async_pool), turn, {"type": "thumb", "value": "down"})
    shown = (await client.get("/v1/console/approval?by=policy")).json()
    for group in (shown["groups"][0], shown["holdback"]):
        assert (group["people"], group["votes"], group["approval"]) == (3, 22, 0.3333)
        assert sum(step["people"] for step in group["steps"]) <= 4  # the hour may have ended meanwhile


async def test_facets_and_saved_views(client: httpx.AsyncClient) -> None:
    facets = (await client.get("/v1/console/facets")).json()
    assert facets["tag"] == [{"name": "team=web", "votes": 1}]
    assert [each["name"] for each in facets["policy"]] == ["p0"]
    saved = await client.put("/v1/console/views/Bad ones", json={"query": "value=down"})
    assert saved.status_code == 200
    assert (await client.put("/v1/console/views/Bad ones", json={"query": "value=up"})).status_code == 200
    [view] = (await client.get("/v1/console/views")).json()["data"]
    assert (view["name"], view["query"]) == ("Bad ones", "value=up")
    assert (await client.delete("/v1/console/views/Bad ones")).status_code == 204
    assert (await client.delete("/v1/console/views/Bad ones")).json()["error"]["code"] == "view_not_found"


async def test_projects_do_not_see_each_other_and_only_admins_see_anything(
    client: httpx.AsyncClient, votes: dict[str, str]
) -> None:
    stranger = {"Authorization": f"Bearer {STRANGER}"}
    theirs = (await client.get("/v1/console/votes", headers=stranger)).json()["data"]
    assert [each["id"] for each in theirs] == [votes["other"]]
    for path in (
        f"/v1/console/votes/{votes['up']}",
        "/v1/console/conversations/conv-of-chatcmpl-0001",
    ):
        assert (await client.get(path, headers=stranger)).status_code == 404
    assert (await client.get("/v1/console/facets", headers=stranger)).json()["tag"] == []
    for key in (PUBLIC, SECRET):
        for path in ("votes", "conversations", "approval", "facets", "views", "queues", "settings", "events"):
            refused = await client.get(f"/v1/console/{path}", headers={"Authorization": f"Bearer {key}"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


async def test_a_wrong_filter_is_named(client: httpx.AsyncClient) -> None:
    for path, param in [
        ("votes?type=love", "type"),
        ("votes?since=yesterday", "since"),
        ("votes?limit=1000", "limit"),
        ("votes?tag=team", "tag[0]"),
        ("votes?cursor=zzzz", "cursor"),
        ("votes?colour=red", "colour"),
        ("approval?by=colour", "by"),
        ("conversations?text=paris", "text"),
    ]:
        refused = await client.get(f"/v1/console/{path}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


async def test_several_raters_answer_a_queue_and_their_agreement_is_told(
    client: httpx.AsyncClient, async_pool: AsyncPool
) -> None:
    new = {"name": "Thumbs", "raters": 2, "items": 10, "filter": {"type": "thumb"}}
    queue = (await client.post("/v1/console/queues", json=new)).json()
    assert queue["items"] == 2
    path = f"/v1/console/queues/{queue['id']}"
    for rater, said in (("Ann", ("up", "down")), ("Ben", ("up", "up"))):
        for value in said:
            item = (await client.get(f"{path}/next", params={"rater": rater})).json()["item"]
            assert "policy" not in item["replies"][0]
            answer = {"rater": rater, "completion_id": item["completion_id"], "value": value}
            assert (await client.post(f"{path}/answers", json=answer)).status_code == 201
        assert (await client.get(f"{path}/next", params={"rater": rater})).json() == {"item": None}
    assert (await client.get(f"{path}/next", params={"rater": "Cy"})).json() == {"item": None}
    shown = (await client.get(path)).json()
    assert shown["answers"] == {"Ann": 2, "Ben": 2}
    assert shown["complete"] == 2
    assert shown["agreement"]["share"] == 0.5
    assert shown["agreement"]["alpha"] == pytest.approx(0.0)
    elsewhere = {"rater": "Ann", "completion_id": "chatcmpl-0004", "value": "up"}
    assert (await client.post(f"{path}/answers", json=elsewhere)).status_code == 404
    compared = {"rater": "Ann", "completion_id": "chatcmpl-0001", "ranking": [[0]], "reasons": ["clear"]}
    voted = (await client.post(f"{path}/answers", json=compared)).json()["id"]
    async with async_pool.connection() as connection:
        cursor = await connection.execute("select value from feedback where id = %s", [voted])
        assert (await cursor.fetchone() or {})["value"]["reasons"] == ["clear"]
    both = {"rater": "Ann", "completion_id": "chatcmpl-0001"}
    assert (await client.post(f"{path}/answers", json=both)).json()["error"]["param"] == "value"
    empty = await client.post("/v1/console/queues", json={**new, "filter": {"policy": "p9"}})
    assert empty.json()["error"]["code"] == "empty_queue"
    strangers = await client.get(path, headers={"Authorization": f"Bearer {STRANGER}"})
    assert strangers.json()["error"]["code"] == "queue_not_found"
    assert (await client.delete(path)).status_code == 204
    async with async_pool.connection() as connection:
        left = await (await connection.execute("select count(*) as n from feedback")).fetchone()
    assert left is not None
    assert left["n"] == 10  # the answers stay


async def test_an_open_console_is_told_of_a_new_vote(
    client: httpx.AsyncClient, async_pool: AsyncPool
) -> None:
    async with asyncio.timeout(15), client.stream("GET", "/v1/console/events") as stream:
        told = (line async for line in stream.aiter_lines() if line)
        assert await anext(told) == 'data: {"changed": []}'
        await vote(Store(async_pool), a_turn("chatcmpl-0006"), {"type": "thumb", "value": "up"})
        assert await anext(told) == 'data: {"changed": ["votes"]}'
