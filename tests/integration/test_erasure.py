"""A person is erased: nothing of them is found anywhere, and what had learned from them is made again without
them, byte by byte."""

import asyncio
import json
import pkgutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from feedback import erasing, erasures, receipt
from feedback.open_log import open_log
from feedback.records import Received
from feedback.scheduled_export import export_if_due
from feedback.store import Store
from schemas.database import Pool, open_async_pool, open_pool
from schemas.errors import NotFound
from schemas.feedback import parse_vote
from schemas.policies import BASE, WEIGHTS, Manifest
from schemas.settings import ExportSettings, Settings
from schemas.turns import Turn, new_id
from serving import rollout
from tests.training import add_key, edited, ranked, send, small_settings, some_turns, thumbs_by_parity
from trainer import loop, projects
from trainer.data import vote_summary
from trainer.data.feature_table import digest_of
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation import gate
from trainer.learner import Learner
from trainer.log_reader import LogReader
from trainer.model.backbone import Backbone
from trainer.records import interruptions, publish

PERSON = "u_0123456789abcdef0123456789abcdef"
CANARY = "zanzibar"
PHONE = "conv-0171-5550100"
TRACES = (PERSON, CANARY, PHONE)


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


def of_person(turns: list[Turn]) -> list[Turn]:
    """Every third turn is the person's, with words that nobody else uses."""
    return [
        replace(
            turn,
            rater=PERSON,
            conversation_id=f"{PHONE}-{number}",
            messages=[{"role": "user", "content": f"{turn.messages[0]['content']} {CANARY}"}],
            metadata={"team": CANARY},
        )
        if number % 3 == 0
        else turn
        for number, turn in enumerate(turns)
    ]


@pytest.fixture
def settings(
    database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool, backbone: Backbone, monkeypatch: Any
) -> Settings:
    """With votes of each kind, a third of them the person's, and a gate that lets everything pass."""
    monkeypatch.setattr(gate.Verdict, "refused", False)
    add_key(pool)
    turns = of_person(some_turns(backbone, 24, seed=1))
    votes = thumbs_by_parity(turns[:20])
    votes += [ranked(turns[20], [[0], [1]]), ranked(turns[21], [[1], [0]]), edited(turns[22], "blue bird")]
    send(database_url, turns, [*votes, edited(turns[18], f"{CANARY} bird")])
    with pool.connection() as connection:  # a vote on what somebody else was answered
        connection.execute("update feedback set comment = %s where rater = %s", [CANARY, PERSON])
        connection.execute("update feedback set facets = null")
    return small_settings(database_url, tmp_path / "data", tiny_base)


def copied(database_url: str) -> str:
    """A copy of the database, which nobody may use meanwhile."""
    name, (base, _, query) = f"test_{uuid.uuid4().hex[:12]}", database_url.partition("?")
    server, _, original = base.rpartition("/")
    tail = f"?{query}" if query else ""
    with psycopg.connect(f"{server}/postgres{tail}", autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [original]
        )
        connection.execute(f'create database "{name}" template "{original}"'.encode())
    return f"{server}/{name}{tail}"


def rounds(settings: Settings, count: int) -> list[str]:
    """Runs rounds, each from the policy of the one before, which is live; returns the policies."""
    with open_pool(settings.database_url or "", size=2) as pool:
        for _ in range(count):
            assert projects.run(settings, once=True) == 0
            with pool.connection() as connection:
                connection.execute(
                    "update policies set state = 'retired' where state = 'live';"
                    "update policies set state = 'live', live_at = now() where state = 'published';"
                    "update routes set previous = live, version = version + 1,"
                    " live = (select id from policies where state = 'live')"
                )
        with pool.connection() as connection:
            found = connection.execute("select id from policies where id <> %s order by created_at", [BASE])
            return [row["id"] for row in found.fetchall()]


def weights(settings: Settings, policy: str) -> bytes:
    return (settings.policies_dir / "default" / policy / WEIGHTS).read_bytes()


def ask(url: str, *raters: str) -> str:
    async def run() -> str:
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            return await erasures.ask(connection, "default", raters or [PERSON], "test")

    return asyncio.run(run())


def advance(url: str, id: str) -> dict[str, Any]:
    """Does what serving does for an erasure, and returns it."""

    async def run() -> dict[str, Any]:
        await erasing.advance(url, [id])
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            return erasures.shown(await erasures.find(connection, "default", id))

    return asyncio.run(run())


def promote_asked(url: str) -> None:
    """Does what serving does for a policy that somebody asked for, once the engines have proved it."""

    async def run() -> None:
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            cursor = await connection.execute("select id from policies where asked_at is not null")
            for row in await cursor.fetchall():
                await rollout.promote(connection, "default", row["id"])

    asyncio.run(run())


def reject_asked(url: str, reason: str) -> str:
    """Does what serving does where no engine serves the policy that was asked for, and returns that."""

    async def run() -> str:
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            cursor = await connection.execute("select id from policies where asked_at is not null")
            [row] = await cursor.fetchall()
            await rollout.reject(connection, "default", row["id"], reason)
            return str(row["id"])

    return asyncio.run(run())


def work(settings: Settings, pool: Pool) -> bool:
    """What a new trainer does for erasures; returns whether it is through with them."""
    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    try:
        trainer.poll()
        assert trainer.leading
        return not trainer.erasures.waiting()
    finally:
        trainer.election.release()


def everything_stored(url: str) -> str:
    """Each row of each table, as text."""
    with psycopg.connect(url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
        found = [
            connection.execute(SQL("select t::text from {} t").format(Identifier(table))).fetchall()
            for (table,) in tables
        ]
    return "\n".join(row for rows in found for (row,) in rows)


def traces(url: str, folder: Path, words: tuple[str, ...] = TRACES) -> list[str]:
    """Where one of these words is found: in the database, or in a file of the folder."""
    stored = everything_stored(url)
    found = [f"{word} in the database" for word in words if word in stored]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{word} in {path.name}" for word in words if word.encode() in content]
    return found


def die_in(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object], *, call: int = 1) -> None:
    """Acts, and dies in the function of that name, when it is called for the first time, or a later one."""
    original, left = pkgutil.resolve_name(name), [call]

    def die(*arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0]:
            return original(*arguments, **more)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(name, die)
        with pytest.raises(Killed):
            act()


def test_nothing_is_left_and_the_policies_are_those_of_a_world_without_the_person(
    settings: Settings, pool: Pool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer and serving die at each step of it, and others go on."""
    pool.close()
    without = settings.model_copy(
        update={"database_url": copied(database_url), "data_dir": tmp_path / "without"}
    )
    with psycopg.connect(without.database_url or "") as connection:
        connection.execute("delete from feedback where rater = %s", [PERSON])
        connection.execute("delete from turns where rater = %s", [PERSON])
    learned = rounds(settings, 2)
    clean = rounds(without, 2)
    assert weights(settings, learned[1]) != weights(without, clean[1])
    with psycopg.connect(database_url) as connection:
        row = ["default", learned[1], PERSON]
        connection.execute("insert into rollout_failures (project, policy, rater) values (%s, %s, %s)", row)
        held = ["default", PERSON, "burst"]
        connection.execute("insert into quarantine (project, rater, reason) values (%s, %s, %s)", held)
        connection.execute(
            "insert into person_tastes (project, policy, rater, weights, votes) values (%s, %s, %s, '{}', 5)",
            row,
        )
    assert len(traces(database_url, settings.data_dir)) > 3

    id = ask(database_url)
    assert ask(database_url) == id
    monkeypatch.setattr(erasing, "BATCH", 3)
    die_in(monkeypatch, "feedback.erasing._Deletion._votes", lambda: advance(database_url, id))
    die_in(monkeypatch, "feedback.erasing.scheduled_export.rewrite", lambda: advance(database_url, id))
    assert advance(database_url, id)["waits_for"] == "records"
    with open_pool(database_url, size=2) as pool:
        for step, call in (
            ("trainer.erasure.Erasures._mark", 1),
            ("trainer.records.record._write", 1),
            ("trainer.records.publish.register", 1),
            ("trainer.rebuild.Rebuild.run", 2),
            ("trainer.erasure.refused", 1),
        ):
            die_in(monkeypatch, step, lambda: work(settings, pool), call=call)
        assert not work(settings, pool)
        promote_asked(database_url)
        die_in(monkeypatch, "trainer.records.prune._delete_files", lambda: work(settings, pool))
        assert work(settings, pool)
    found = advance(database_url, id)

    assert found["state"] == "done"
    signed = found["receipt"]
    [rows] = [step for step in signed["steps"] if step["step"] == "database"]
    assert (rows["turns"], rows["votes"], rows["examples"]) == (8, 9, 9)
    assert [each["policy"] for each in signed["tainted"]] == learned
    rebuilt = [each["policy"] for each in signed["rebuilt"]]
    assert [each["rebuilds"] for each in signed["rebuilt"]] == learned
    assert traces(database_url, settings.data_dir) == []
    assert not list((settings.policies_dir / "default" / learned[1]).glob("*.safetensors"))
    for made, other in zip(rebuilt, clean, strict=True):
        assert weights(settings, made) == weights(without, other)
    with psycopg.connect(database_url) as connection:
        route = connection.execute("select live, previous from routes").fetchone()
    assert route == (rebuilt[1], BASE)
    manifest = settings.policies_dir / "default" / rebuilt[1] / "manifest.json"
    assert Manifest.model_validate_json(manifest.read_bytes()).rebuilds == learned[1]
    check_receipt(database_url, signed)
    assert projects.run(settings, once=True) == 0  # and it goes on learning


def check_receipt(url: str, signed: dict[str, Any]) -> None:
    async def public_key() -> str:
        async with open_async_pool(url, size=1) as pool, pool.connection() as connection:
            return receipt.public_key(await receipt.signing_key(connection))

    key = asyncio.run(public_key())
    as_sent = json.loads(json.dumps(signed))
    receipt.verify(as_sent, key)
    for name, value in (("done_at", "2030-01-01T00:00:00Z"), ("tainted", []), ("signature", "00" * 64)):
        with pytest.raises(receipt.InvalidReceipt):
            receipt.verify({**as_sent, name: value}, key)
    with pytest.raises(receipt.InvalidReceipt, match="another key"):
        receipt.verify(as_sent, "00" * 32)


def reply_digests(pool: Pool, theirs: bool) -> set[bytes]:
    """The names that the features of the replies have on which the person or others voted."""
    with pool.connection() as connection:
        rows = connection.execute(
            "select t.prompt_token_ids, r.token_ids from training_examples e join turns t on t.id = e.turn_id"
            " join replies r on r.turn_id = t.id and r.choice = 0"
            " where e.vote_summary is null and (e.rater = %s) = %s",
            [PERSON, theirs],
        ).fetchall()
    return {digest_of(row["prompt_token_ids"], row["token_ids"]) for row in rows}


def rows_in(features: Path, digests: set[bytes]) -> set[bytes]:
    content = features.read_bytes()
    return {digest for digest in digests if digest in content}


def test_a_rebuild_that_always_ends_its_trainer_stops_no_erasure(
    settings: Settings, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest policy that did not learn from the person takes the place."""
    [learned] = rounds(settings, 1)
    id = ask(database_url)
    advance(database_url, id)
    for _ in range(interruptions.MAX_ATTEMPTS):
        die_in(monkeypatch, "trainer.records.publish.register", lambda: work(settings, pool))
    assert not work(settings, pool)
    promote_asked(database_url)
    assert work(settings, pool)
    found = advance(database_url, id)
    assert found["state"] == "done"
    assert [each["policy"] for each in found["receipt"]["tainted"]] == [learned]
    assert found["receipt"]["rebuilt"] == []
    with pool.connection() as connection:
        assert connection.execute("select live from routes").fetchone() == {"live": BASE}


def test_a_rebuilt_policy_that_serving_rejects_stops_no_erasure(
    settings: Settings, pool: Pool, database_url: str
) -> None:
    """The newest policy that did not learn from the person takes the place, and the receipt says why."""
    [learned] = rounds(settings, 1)
    id = ask(database_url)
    advance(database_url, id)
    assert not work(settings, pool)
    made = reject_asked(database_url, "probe")
    assert not work(settings, pool)
    promote_asked(database_url)
    assert work(settings, pool)
    signed = advance(database_url, id)["receipt"]
    steps = {step["step"]: step for step in signed["steps"]}
    assert steps["rebuild"]["refused"] == [f"{made} was rejected: probe"]
    assert (steps["rebuild"]["live"], steps["files"]["live"]) == (BASE, BASE)
    assert [each["rebuilds"] for each in signed["rebuilt"]] == [learned]
    with pool.connection() as connection:
        assert connection.execute("select live from routes").fetchone() == {"live": BASE}


def test_compacted_votes_are_taken_out_of_the_summaries(
    settings: Settings, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vote_summary, "WINDOW", 16)
    learned = rounds(settings, 2)
    kept = settings.policies_dir / "default" / learned[1]
    assert len(vote_summary.events_in(kept)) == 16
    with pool.connection() as connection:
        [theirs] = connection.execute(
            "select count(*) from training_examples where rater = %s and event_id = any(%s)",
            [PERSON, vote_summary.events_in(kept)],
        ).fetchall()
    assert theirs["count"] > 0
    [features] = (settings.rounds_dir / "default").glob("features-*.bin")
    own, others = (reply_digests(pool, theirs) for theirs in (True, False))
    assert {*own, *others} <= rows_in(features, {*own, *others})

    id = ask(database_url)
    advance(database_url, id)
    assert not work(settings, pool)
    promote_asked(database_url)
    assert work(settings, pool)

    found = advance(database_url, id)
    assert rows_in(features, own) == set()
    assert rows_in(features, others)
    rebuilt = [each["policy"] for each in found["receipt"]["rebuilt"]]
    assert len(rebuilt) == 2
    again = settings.policies_dir / "default" / rebuilt[1]
    assert len(vote_summary.events_in(again)) == 16 - theirs["count"]
    assert traces(database_url, settings.data_dir) == []
    assert not list(settings.data_dir.rglob("rebuild"))


def test_only_what_learned_from_the_person_is_tainted_and_others_are_kept(
    settings: Settings, pool: Pool, database_url: str, backbone: Backbone
) -> None:
    [first] = rounds(settings, 1)
    late = "u_" + "f" * 32
    turns = [replace(turn, rater=late) for turn in some_turns(backbone, 6, seed=5)]
    said = [(turn, vote.model_copy(update={"reasons": ["tone"]})) for turn, vote in thumbs_by_parity(turns)]
    send(database_url, turns, said)
    second = rounds(settings, 1)[1]

    id = ask(database_url, late)
    advance(database_url, id)
    assert not work(settings, pool)
    promote_asked(database_url)
    assert work(settings, pool)
    signed = advance(database_url, id)["receipt"]

    assert [each["policy"] for each in signed["tainted"]] == [second]
    [made] = signed["rebuilt"]
    with pool.connection() as connection:
        row = connection.execute("select live, previous from routes").fetchone()
        parents = connection.execute("select parent from policies where id = %s", [made["policy"]])
        assert parents.fetchone() == {"parent": first}
    assert row == {"live": made["policy"], "previous": first}
    kept = RoundInputs.read(settings.policies_dir / "default" / made["policy"] / publish.INPUTS)
    assert kept is not None
    assert kept.mentions == {}, "only the person gave reasons"
    assert (settings.policies_dir / "default" / first / publish.INPUTS).is_file()

    id = ask(
        database_url
    )  # somebody else, at once: the rebuild waits a while, and is one of a rebuilt policy
    advance(database_url, id)
    assert not work(settings, pool)
    with pool.connection() as connection:
        assert connection.execute("select 1 from policies where asked_at is not null").fetchall() == []
    settings.trainer.rebuild_seconds = 0
    assert not work(settings, pool)
    promote_asked(database_url)
    assert work(settings, pool)
    signed = advance(database_url, id)["receipt"]
    assert [each["policy"] for each in signed["tainted"]] == [first, second, made["policy"]]
    assert [each["rebuilds"] for each in signed["rebuilt"]] == [first, made["policy"]]


def test_a_round_that_trains_on_a_person_who_is_erased_meanwhile_publishes_nothing(
    settings: Settings, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Learner.train_candidate

    def erased_meanwhile(*arguments: Any, **more: Any) -> Any:
        trained = train(*arguments, **more)
        advance(database_url, ask(database_url))
        return trained

    monkeypatch.setattr(Learner, "train_candidate", erased_meanwhile)
    assert projects.run(settings, once=True) == 0

    with pool.connection() as connection:
        row = connection.execute("select outcome, reason from rounds").fetchone()
    assert row is not None
    assert (row["outcome"], "erased" in row["reason"]) == ("rejected", True)
    assert work(settings, pool)
    assert traces(database_url, settings.data_dir) == [
        f"{PERSON} in the database"
    ]  # until serving is through


def test_a_restored_database_forgets_again(
    settings: Settings, pool: Pool, database_url: str, tmp_path: Path
) -> None:
    projects.run(settings, once=True)
    with pool.connection() as connection:
        connection.execute("update policies set state = 'retired' where id <> 'p0'")
    pool.close()
    backup = copied(database_url)
    id = ask(database_url)
    advance(database_url, id)
    with open_pool(database_url, size=2) as used:
        work(settings, used)

    restored = settings.model_copy(update={"database_url": backup})
    assert PERSON in everything_stored(backup)
    with open_pool(backup, size=2) as used:
        work(restored, used)
        with used.connection() as connection:
            [again] = connection.execute("select id, asked_by from erasures").fetchall()
        assert again["asked_by"] == erasures.RESTORE
        advance(backup, again["id"])
        assert work(restored, used)
    assert advance(backup, again["id"])["state"] == "done"
    assert not [word for word in TRACES if word in everything_stored(backup)]


def test_exported_files_are_written_again_without_the_person(
    settings: Settings, pool: Pool, database_url: str, tmp_path: Path
) -> None:
    settings.export = ExportSettings(to=str(tmp_path / "exports"))
    with pool.connection() as connection:  # theirs alone
        connection.execute("update feedback set epoch = 1 where turn_id = 'chatcmpl-1-0'")
        connection.execute("update cluster set epoch = 2")
    asyncio.run(export_if_due(settings, lambda outcome: None))
    files = list((tmp_path / "exports" / "default").iterdir())
    before = [line for file in files for line in file.read_text().splitlines()]
    assert sum(PERSON in line for line in before) > 3

    done = advance(database_url, ask(database_url))

    assert done["state"] == "done"
    files = list((tmp_path / "exports" / "default").iterdir())
    kept = [line for file in files for line in file.read_text().splitlines()]
    assert kept == [line for line in before if PERSON not in line]
    assert traces(database_url, tmp_path / "exports") == []


async def test_a_clock_that_is_behind_leaves_nothing(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.now(zone) - timedelta(hours=1)

    monkeypatch.setattr(erasing, "datetime", Behind)
    async with open_async_pool(database_url, size=2) as pool:
        async with pool.connection() as connection:
            id = await erasures.ask(connection, "default", [PERSON], "test")
        await erasing.advance(database_url, [id])
        async with pool.connection() as connection:
            cursor = await connection.execute("select from turns where rater = %s", [PERSON])
            assert await cursor.fetchone() is None


async def test_who_only_voted_is_found_by_the_hash(settings: Settings, database_url: str) -> None:
    """As after a restore, which knows no pseudonyms, of votes that no trainer has read."""
    voter = "u_abcdef0123456789abcdef0123456789"
    hashes = [erasures.person_hash("default", voter)]
    async with open_async_pool(database_url, size=2) as pool:
        async with pool.connection() as connection:
            await connection.execute(
                "insert into feedback (id, event_id, project, turn_id, choice, type, value, rater, slot)"
                " select 'fb_voter', 'ev_voter', project, turn_id, choice, type, value, %s, slot"
                " from feedback where choice is not null limit 1",
                [voter],
            )
        values = erasures.beginning("default", hashes, erasures.RESTORE, datetime.now(UTC))
        async with pool.connection() as connection:
            await connection.execute(erasures.BEGIN, values)
        await erasing.advance(database_url, [values["id"]])
        async with pool.connection() as connection:
            cursor = await connection.execute("select from feedback where rater = %s", [voter])
            assert await cursor.fetchone() is None


async def test_what_was_asked_before_the_erasure_is_not_stored_after_it(
    settings: Settings, database_url: str, backbone: Backbone
) -> None:
    async with open_async_pool(database_url, size=2) as pool:

        async def ask_again() -> str:
            async with pool.connection() as connection:
                return await erasures.ask(connection, "default", [PERSON], "test")

        store = Store(pool)
        [turn] = some_turns(backbone, 1, seed=7)
        before = replace(turn, id=new_id(), rater=PERSON)
        async with pool.connection() as connection:
            await connection.execute(
                "insert into rounds (project, parent, outcome) values ('default', 'p0', 'failed')"
            )
        id = await ask_again()
        await erasing.advance(database_url, [id])  # it waits for a trainer now
        await store.record_turn(before)
        assert await ask_again() == id
        await store.record_turn(replace(turn, id=new_id(), rater="u_other"))
        after = replace(turn, id=new_id(), rater=PERSON)
        await store.record_turn(after)

        assert await store.votable_turn(before.id) is None
        assert await ask_again() != id  # there is something new to erase
        votable = await store.votable_turn(after.id)
        assert votable is not None  # who comes back is welcome
        await store.submit(
            votable, parse_vote({"completion_id": after.id, "type": "thumb", "value": "up"}), PERSON
        )
        moment = datetime.now(UTC)
        sent_before = Received("fb_before", moment - timedelta(minutes=1))
        with pytest.raises(NotFound, match="erased"):
            await store.submit(
                votable,
                parse_vote({"completion_id": after.id, "type": "thumb", "value": "down"}),
                PERSON,
                received=sent_before,
            )
        assert await store.find("fb_before") is None
        assert await store.is_erased("default", PERSON, moment - timedelta(minutes=1))
        assert not await store.is_erased("default", PERSON, moment)
        assert not await store.is_erased("other", PERSON, moment - timedelta(minutes=1))
