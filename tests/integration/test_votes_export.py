"""The export has one line for each vote that was not retracted, with texts for admin keys."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from feedback.export import TABLE, everything, rows
from feedback.row_writer import write_rows
from feedback.store import Store
from schemas.database import AsyncPool, open_async_pool
from schemas.errors import StartError
from schemas.feedback import parse_vote
from serving.downloads import MAX_OF_PROJECT
from tests.voting import ADMIN, PUBLIC, SECRET, SIGNER, STRANGER, a_turn, add_keys, serve_votes

EXPORT = "/v1/feedback/export"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncPool]:
    async with open_async_pool(database_url) as pool:
        await add_keys(pool)
        yield pool


@pytest.fixture
async def store(pool: AsyncPool) -> Store:
    return Store(pool)


async def say(store: Store, turn: str, **fields: Any) -> str:
    votable = await store.votable_turn(turn)
    assert votable is not None
    return (await store.submit(votable, parse_vote({"completion_id": turn, **fields}), votable.rater)).id


async def export(database_url: str, key: str | None, **params: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with serve_votes(database_url) as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        return await client.get(EXPORT, params=params, timeout=60)


def parsed(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.content.splitlines()]


async def test_metadata_of_clients_does_not_change_the_shape_of_rows(store: Store, pool: AsyncPool) -> None:
    turn = replace(a_turn("chatcmpl-1"), metadata={"layout": "standard"})
    await store.record_turn(turn)
    await say(store, turn.id, type="thumb", value="up")
    async with pool.connection() as connection, connection.transaction():
        [row] = [row async for row in rows(connection, "default", "unpaired")]
    assert row["prompt"] == turn.messages
    assert row["completion"] == [{"role": "assistant", "content": "It is Paris."}]


async def test_every_type_has_its_line(store: Store, database_url: str) -> None:
    turn = a_turn("chatcmpl-1", replies=("It is Paris.", "Paris!"))
    await store.record_turn(replace(turn, replies=[turn.replies[0], replace(turn.replies[1], policy="p1")]))
    old = await say(store, turn.id, type="thumb", value="up")
    new = await say(store, turn.id, type="thumb", value="down", reasons=["terse"], comment="Too short")
    ranking = await say(store, turn.id, type="ranking", ranking=[[1], [0]], acceptable=False)
    edit = await say(store, turn.id, type="edit", choice=1, text="Paris, on the Seine – 🙂\u2028")
    signal = await say(store, turn.id, type="signal", signal="copied")

    lines = parsed(await export(database_url, ADMIN, format="jsonl"))

    assert [line["id"] for line in lines] == [old, new, ranking, edit, signal]
    about = [(line["choice"], line["type"], line["value"], line["policy"]) for line in lines]
    assert about == [
        (0, "thumb", "up", "p0"),
        (0, "thumb", "down", "p0"),
        (None, "ranking", [[1], [0]], None),
        (1, "edit", None, "p1"),
        (0, "signal", "copied", "p0"),
    ]
    thumb = lines[1]
    assert thumb.pop("event_id").startswith("ev_")
    assert thumb.pop("created_at").endswith("Z")
    assert thumb == {
        "id": new, "completion_id": turn.id, "choice": 0, "type": "thumb", "value": "down", "policy": "p0",
        "user": "u_ada", "superseded_by": None, "prompt": turn.messages, "reply": "It is Paris.",
        "replies": None, "text": None, "comment": "Too short", "message": None, "tools": None,
        "reasons": ["terse"],
    }  # fmt: skip
    assert lines[0]["superseded_by"] == new
    assert lines[2]["acceptable"] is False
    assert lines[2]["replies"] == [
        {"choice": 0, "policy": "p0", "text": "It is Paris."},
        {"choice": 1, "policy": "p1", "text": "Paris!"},
    ]
    assert (lines[3]["reply"], lines[3]["text"]) == ("Paris!", "Paris, on the Seine – 🙂\u2028")


async def test_a_ranking_of_one_policys_replies_names_it(store: Store, database_url: str) -> None:
    await store.record_turn(a_turn("chatcmpl-1", replies=("A", "B")))
    await say(store, "chatcmpl-1", type="ranking", ranking=[[0, 1]])

    assert parsed(await export(database_url, SECRET))[0]["policy"] == "p0"


async def test_retracted_votes_and_those_before_them_are_not_exported(
    store: Store, database_url: str
) -> None:
    await store.record_turn(a_turn("chatcmpl-1"))
    await say(store, "chatcmpl-1", type="thumb", value="up")
    new = await say(store, "chatcmpl-1", type="thumb", value="down")
    other = await say(store, "chatcmpl-1", type="signal", signal="copied")
    found = await store.find(new)
    assert found is not None
    await store.retract(found)

    lines = parsed(await export(database_url, ADMIN))

    assert [line["id"] for line in lines] == [other]


async def test_a_project_exports_its_own_votes(store: Store, database_url: str) -> None:
    await store.record_turn(a_turn("chatcmpl-1"))
    await store.record_turn(a_turn("chatcmpl-2", project="other"))
    mine = await say(store, "chatcmpl-1", type="thumb", value="up")
    theirs = await say(store, "chatcmpl-2", type="thumb", value="up")

    assert [line["id"] for line in parsed(await export(database_url, ADMIN))] == [mine]
    assert [line["id"] for line in parsed(await export(database_url, STRANGER))] == [theirs]


async def test_an_export_is_of_what_was_asked_for(store: Store, pool: AsyncPool, database_url: str) -> None:
    ada, bob = (SIGNER.rater_id("default", name, "secret") for name in ("ada", "bob"))
    page = SIGNER.rater_id("default", "ada", "publishable")
    for number, rater in enumerate((ada, bob, page)):
        turn = a_turn(f"chatcmpl-{number}", rater=rater)
        policy = "p1-aaaaaa" if number == 1 else "p0"
        await store.record_turn(replace(turn, replies=[replace(turn.replies[0], policy=policy)]))
    first, second, third = [
        await say(store, f"chatcmpl-{number}", type="thumb", value="up", reasons=["clear"] if number else [])
        for number in range(3)
    ]
    async with pool.connection() as connection:
        await connection.execute(
            "update feedback set created_at = created_at - interval '1 hour' where id = %s", [first]
        )
    whole = parsed(await export(database_url, ADMIN))
    asked: list[tuple[dict[str, str], list[str]]] = [
        ({"user": "ada"}, [first, third]),
        ({"user": bob}, [second]),
        ({"user": "nobody"}, []),
        ({"policy": "p1-aaaaaa"}, [second]),
        ({"reason": "clear"}, [second, third]),
        ({"since": whole[1]["created_at"]}, [second, third]),
        ({"after": first, "limit": "1"}, [second]),
        ({"after": second}, [third]),
        ({"reason": "clear", "user": "ada"}, [third]),
    ]
    async with serve_votes(database_url) as url, httpx.AsyncClient(base_url=url) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        for params, expected in asked:
            answer = await client.get(EXPORT, params=params)
            assert [line["id"] for line in parsed(answer)] == expected, params
        for wrong in (
            {"since": "yesterday"},
            {"limit": "0"},
            {"limit": "9" * 20},
            {"colour": "red"},
            {"user": "a\0"},
        ):
            assert (await client.get(EXPORT, params=wrong)).status_code == 400, wrong
        gone = await client.get(EXPORT, params={"after": "fb_gone"})
        assert (gone.status_code, gone.json()["error"]["param"]) == (404, "after")
        client.headers["Authorization"] = f"Bearer {STRANGER}"
        assert (await client.get(EXPORT, params={"after": first})).status_code == 404


async def test_rows_of_a_file_have_one_shape(store: Store, pool: AsyncPool) -> None:
    turns = [a_turn("chatcmpl-1"), a_turn("chatcmpl-2")]
    hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    await store.record_turn(turns[0])
    await store.record_turn(replace(turns[1], messages=[*hello, *turns[1].messages]))
    for turn in turns:
        await say(store, turn.id, type="thumb", value="up")
    async with pool.connection() as connection, connection.transaction():
        texts = [row async for row in rows(connection, "default", "unpaired", "text")]
        messages = [row async for row in rows(connection, "default", "unpaired", "messages")]
    prompt = turns[0].messages[0]["content"]
    assert texts == [{"prompt": prompt, "completion": "It is Paris.", "label": True}]
    assert [len(row["prompt"]) for row in messages] == [1, 3]


async def test_rows_leave_out_raters_in_quarantine(store: Store, pool: AsyncPool) -> None:
    for id, rater in (("chatcmpl-1", "u_ada"), ("chatcmpl-2", "u_eve")):
        await store.record_turn(a_turn(id, rater=rater, replies=(f"It is {rater}.",)))
        await say(store, id, type="thumb", value="up")
    async with pool.connection() as connection, connection.transaction():
        await connection.execute(
            "insert into quarantine (project, rater, reason) values ('default', 'u_eve', 'burst')"
        )
        found = [row async for row in rows(connection, "default", "unpaired", "text")]
        assert [row["completion"] for row in found] == ["It is u_ada."]
        whole = [vote["user"] async for vote in everything(connection, "default")]
        assert whole == ["u_ada", "u_eve"]


async def test_everything_fits_into_a_parquet_file(store: Store, pool: AsyncPool, tmp_path: Path) -> None:
    """The first rows lack what later ones have: texts, reasons, and rankings as JSON."""
    turn = a_turn("chatcmpl-1", replies=("It is Paris.", "Paris!"))
    await store.record_turn(turn)
    await say(store, turn.id, type="signal", signal="copied")
    await say(store, turn.id, type="thumb", value="down", reasons=["terse"], comment="Too short")
    await say(store, turn.id, type="ranking", ranking=[[1], [0]], acceptable=False, reasons=["dull"])
    await say(store, turn.id, type="edit", choice=1, text="Paris, on the Seine")
    file = tmp_path / "votes.parquet"
    async with pool.connection() as connection, connection.transaction():
        await write_rows(everything(connection, "default"), file, TABLE)
    found = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["type"] for row in found] == ["signal", "thumb", "ranking", "edit"]
    assert [row["value"] for row in found] == ["copied", "down", "[[1],[0]]", None]
    assert [row["reasons"] for row in found] == [None, ["terse"], ["dull"], None]
    assert json.loads(found[0]["prompt"]) == turn.messages
    assert found[3]["text"] == "Paris, on the Seine"


async def test_a_new_file_is_its_owners_alone_and_an_older_one_keeps_its_rights(
    store: Store, pool: AsyncPool, tmp_path: Path
) -> None:
    await store.record_turn(a_turn("chatcmpl-1"))
    await say(store, "chatcmpl-1", type="thumb", value="up")
    for name in ("votes.jsonl", "votes.parquet"):
        file = tmp_path / name
        for given, kept in ((0o600, 0o600), (0o640, 0o640)):
            if file.exists():
                file.chmod(given)
            async with pool.connection() as connection, connection.transaction():
                await write_rows(everything(connection, "default"), file, TABLE)
            assert file.stat().st_mode & 0o777 == kept


@pytest.mark.parametrize("name", ["missing/votes.jsonl", "missing/votes.parquet"])
async def test_what_cannot_be_written_is_said(pool: AsyncPool, tmp_path: Path, name: str) -> None:
    async with pool.connection() as connection, connection.transaction():
        with pytest.raises(StartError, match="cannot be written"):
            await write_rows(everything(connection, "default"), tmp_path / name)


async def test_more_votes_than_a_page_of_the_cursor_come_once_each(store: Store, database_url: str) -> None:
    await store.record_turn(a_turn("chatcmpl-1"))
    votes = [await say(store, "chatcmpl-1", type="thumb", value="up") for _ in range(510)]

    assert [line["id"] for line in parsed(await export(database_url, ADMIN))] == votes


async def test_refused_exports(pool: AsyncPool, database_url: str) -> None:
    answers = [
        await export(database_url, PUBLIC),
        await export(database_url, None),
        await export(database_url, ADMIN, format="xlsx"),
    ]

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (403, "forbidden"),
        (401, "invalid_api_key"),
        (400, "unsupported_format"),
    ]


@pytest.fixture
async def client(store: Store, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """An admin's client of a service whose exports of 24 lines are larger than a socket's buffers."""
    await store.record_turn(a_turn("chatcmpl-1", replies=("x" * 1_000_000,)))
    for _ in range(24):
        await say(store, "chatcmpl-1", type="thumb", value="up")
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with serve_votes(database_url) as url, httpx.AsyncClient(base_url=url, headers=headers) as client:
        yield client


async def unread(client: httpx.AsyncClient, until: AsyncExitStack) -> list[httpx.Response]:
    """Open as many exports as are allowed, without reading them."""
    streams = [client.stream("GET", EXPORT) for _ in range(MAX_OF_PROJECT)]
    responses = [await until.enter_async_context(stream) for stream in streams]
    assert [response.status_code for response in responses] == [200] * MAX_OF_PROJECT
    return responses


async def another(client: httpx.AsyncClient) -> httpx.Response:
    """Open one more, once the service has noticed that one ended."""
    for _ in range(100):
        answer = await client.get(EXPORT, timeout=60)
        if answer.status_code != 429:
            break
        await asyncio.sleep(0.05)
    return answer


async def test_clients_that_read_slowly_leave_connections_for_other_projects(
    client: httpx.AsyncClient,
) -> None:
    async with AsyncExitStack() as slow:
        await unread(client, slow)
        refused = await client.get(EXPORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        of_another = await client.get(EXPORT, headers={"Authorization": f"Bearer {STRANGER}"})
        assert of_another.status_code == 200
    assert len(parsed(await another(client))) == 24


async def test_a_client_that_reads_nothing_is_disconnected(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.downloads.READ_TIMEOUT", 0.3)
    async with AsyncExitStack() as slow:
        silent = await unread(client, slow)
        assert len(parsed(await another(client))) == 24
        for response in silent:
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
