"""Demonstrations are imported as what they are, teach the next round once, and go with whoever wrote them."""

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deploy.data_commands import import_votes
from deploy.datasets.import_votes import FileOfRows, ImportReport, import_from
from feedback import erasing, erasures
from feedback.open_log import open_log
from schemas.database import Pool, open_async_pool
from schemas.errors import StartError
from schemas.policies import BASE
from schemas.settings import Settings
from tests.imports import write
from tests.training import WORDS, add_key, edited, send, small_settings, some_turns, thumbs_by_parity
from trainer import loop, projects
from trainer.data import demonstrations
from trainer.data.round_inputs import RoundInputs
from trainer.evaluation import gate
from trainer.learner import Learner
from trainer.log_reader import LogReader
from trainer.model import backbone as backbone_module
from trainer.model.backbone import Backbone
from trainer.records import publish
from trainer.reproduce import NotReproducible, reproduce
from trainer.rl import token_critic

PERSON = "ada"


def written(count: int, first: int = 0, **more: object) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{WORDS[number % 10]} {number}", "completion": "a blue bird", **more}
        for number in range(first, first + count)
    ]


@pytest.fixture
def settings(
    database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool, backbone: Backbone, monkeypatch: Any
) -> Settings:
    """With votes of people, and a gate that lets everything pass."""
    monkeypatch.setattr(gate.Verdict, "refused", False)
    add_key(pool)
    turns = some_turns(backbone, 24, seed=1)
    send(database_url, turns, thumbs_by_parity(turns))
    return small_settings(database_url, tmp_path / "data", tiny_base)


def demonstrate(settings: Settings, folder: Path, rows: Sequence[Any], name: str = "rows") -> ImportReport:
    file = write(folder / f"{name}.jsonl", list(rows))
    return asyncio.run(import_from(settings, FileOfRows(file, demonstrations=True), f"import:{name}"))


def the_record(settings: Settings, number: int) -> dict[str, Any]:
    path = settings.rounds_dir / "default" / f"{number:05d}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def inputs_of(settings: Settings, policy: str) -> RoundInputs:
    found = RoundInputs.read(settings.policies_dir / "default" / policy / publish.INPUTS)
    assert found is not None
    return found


def goes_live(pool: Pool, policy: str) -> None:
    with pool.connection() as connection:
        connection.execute(
            "update policies set state = case when id = %s then 'live' else 'retired' end", [policy]
        )
        connection.execute("update routes set live = %s", [policy])


def test_rows_become_demonstrations_and_no_votes(settings: Settings, pool: Pool, tmp_path: Path) -> None:
    report = demonstrate(settings, tmp_path, written(5))
    assert report == ImportReport(5)
    assert demonstrate(settings, tmp_path, written(5)) == ImportReport(5), "once each"
    with pool.connection() as connection:
        [found] = connection.execute(
            "select count(*) as turns,"
            " (select count(*) from feedback where turn_id like 'chatcmpl-i%') as votes"
            " from turns where request ? 'demonstration'"
        ).fetchall()
    assert found == {"turns": 5, "votes": 0}


def test_rows_of_who_chose_not_to_be_learned_from_are_left_out(
    settings: Settings, pool: Pool, tmp_path: Path
) -> None:
    assert demonstrate(settings, tmp_path, written(1, user="ben")).complete
    with pool.connection() as connection:
        connection.execute(
            "insert into consents (project, hash, learning, set_by)"
            " select project, person_hash(project, rater), false, 'visitor' from turns"
            " where request ? 'demonstration'"
        )
    rows = [*written(2, 1, user="ben"), *written(1, 3, user="eve")]
    why = "its person chose not to be learned from"
    assert demonstrate(settings, tmp_path, rows) == ImportReport(1, 2, [(1, why), (2, why)])


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "no demonstration: its layout is preference"),
        ({"prompt": "a", "completion": "b", "label": False}, "no demonstration: its layout is unpaired"),
        ({"prompt": "a", "completion": "b", "user": ["x"]}, "user must be a text"),
        ({"prompt": "a", "completion": "b", "user": "x" * 513}, "user must be a text"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"prompt": "a", "completion": "b " * 5_000}, "tokens long|has .* bytes"),
    ],
)
def test_a_row_that_demonstrates_nothing_is_refused(
    settings: Settings, tmp_path: Path, row: dict[str, Any], why: str
) -> None:
    report = demonstrate(settings, tmp_path, [row])
    [(number, reason)] = report.refused
    assert number == 1
    assert re.search(why, reason)


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--format is prompt-completion"):
        import_votes([tmp_path / "rows.jsonl"], layout="preference")


def test_a_round_begins_with_them_once_and_can_be_reproduced(
    settings: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither it nor its descendants have a token critic, whose regression would undo them."""
    monkeypatch.setattr(backbone_module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(token_critic, "RETURNS_PER_TOKEN", 1000.0)
    demonstrate(settings, tmp_path, written(20))
    assert projects.run(settings, once=True) == 0
    first = the_record(settings, 1)
    assert first["demonstrations"] == 20
    assert first["supervised"]["demonstrations"] + first["supervised"]["held_out"] == 20
    assert len(first["supervised"]["held_out_loss"]) >= 2
    assert "token_critic" not in first["optimization"]
    assert "Supervised" in (settings.rounds_dir / "default" / "00001.html").read_text()
    inputs = inputs_of(settings, first["policy"])
    assert len(inputs.demonstrations) == 20
    assert not set(inputs.demonstrations) & set(inputs.turns)
    assert reproduce(settings, pool, first["policy"]).identical

    goes_live(pool, first["policy"])
    demonstrate(settings, tmp_path, written(4, first=100), "more")
    assert projects.run(settings, once=True) == 0
    second = the_record(settings, 2)
    assert second["parent"] == first["policy"]
    assert second["demonstrations"] == 4
    goes_live(pool, second["policy"])
    assert projects.run(settings, once=True) == 0
    third = the_record(settings, 3)
    assert "demonstrations" not in third
    assert "supervised" not in third
    assert "token_critic" not in third["optimization"]

    with pool.connection() as connection:
        connection.execute("delete from turns where id = %s", [inputs.demonstrations[3]])
    with pytest.raises(NotReproducible, match="1 of the 20 demonstrations"):
        reproduce(settings, pool, first["policy"])


@pytest.mark.parametrize("way", ["imitation", "self_distillation", "preference"])
def test_a_round_in_which_edits_teach_can_be_reproduced(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, way: str
) -> None:
    turns = some_turns(backbone, 20, seed=2)
    votes = [edited(turn, "a blue bird") for turn in turns[:10]]
    comments = [
        (turn, vote.model_copy(update={"comment": "too long"})) for turn, vote in thumbs_by_parity(turns[10:])
    ]
    send(database_url, turns, [*votes, *comments])
    settings.trainer.rl = settings.trainer.rl.model_copy(update={"edits": way, "edit_coef": 1.0})
    assert projects.run(settings, once=True) == 0
    policy = the_record(settings, 1)["policy"]
    kept = inputs_of(settings, policy).rl
    assert kept is not None
    assert kept.edits == way
    assert reproduce(settings, pool, policy).identical


def test_what_a_policy_learned_that_was_taken_back_is_learned_again_but_not_for_ever(
    settings: Settings, pool: Pool, tmp_path: Path
) -> None:
    demonstrate(settings, tmp_path, written(4))
    longest = 1_000

    def found(parent: str = BASE) -> int:
        return len(demonstrations.select(pool, "default", parent, longest, 1e9))

    def taken_back(policy: str, parent: str) -> None:
        with pool.connection() as connection:
            connection.execute(
                "insert into policies (project, id, parent, base_digest, directory, digest, manifest, state)"
                " values ('default', %s, %s, '', '', '', '{}', 'rolled_back')",
                [policy, parent],
            )
            demonstrations.note_policy(connection, turns, policy)

    turns = demonstrations.select(pool, "default", BASE, longest, 1e9)
    demonstrations.note(pool, "default", turns, trains=False)
    assert not demonstrations.are_waiting(pool, "default", longest)
    assert found() == 4
    demonstrations.note(pool, "default", turns, trains=True)
    taken_back("p1-aaaaaa", BASE)
    assert found("p1-aaaaaa") == 0
    assert found() == found("p9") == 4
    for policy in ("p2-aaaaaa", "p3-aaaaaa"):
        demonstrations.note(pool, "default", turns, trains=True)
        taken_back(policy, "p1-aaaaaa")
    assert found("p3-aaaaaa") == found("p2-aaaaaa") == 0
    assert found("p9") == 0, "three rounds have tried"
    assert found() == 4, "a restart has all of them again"


def test_only_so_many_and_none_that_are_too_long(settings: Settings, pool: Pool, tmp_path: Path) -> None:
    demonstrate(settings, tmp_path, written(6))
    with pool.connection() as connection:
        rows = connection.execute(
            "select cardinality(prompt_token_ids) + cardinality(token_ids) as length from turns join replies"
            " on turn_id = id where request ? 'demonstration'"
        ).fetchall()
    longest = max(row["length"] for row in rows)
    assert len(demonstrations.select(pool, "default", BASE, longest, 2 * longest + 1)) == 3
    assert demonstrations.select(pool, "default", BASE, min(row["length"] for row in rows) - 1, 1e9) == []
    assert len(demonstrations.select(pool, "default", BASE, longest, 1)) == 1, "the first, however long"
    assert demonstrations.select(pool, "another", BASE, longest, 1e9) == []
    assert not demonstrations.are_waiting(pool, "another", longest)


def test_new_demonstrations_make_a_round_due(
    settings: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert projects.run(settings, once=True) == 0
    settings.trainer.round_seconds = 0.001
    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    try:
        assert not trainer.due()
        trainer.last_round -= 1000
        demonstrate(settings, tmp_path, written(4))
        assert trainer.due()
        assert trainer.due(), "a trainer of several projects asks twice"
        monkeypatch.setattr(loop, "LOOK_SECONDS", 0.0)
        turns = demonstrations.select(pool, "default", BASE, 1_000, 1e9)
        demonstrations.note(pool, "default", turns, trains=False)
        assert not trainer.due(), "a round that was skipped is not repeated for them"
    finally:
        trainer.election.release()


def test_who_wrote_them_can_be_forgotten(
    settings: Settings, pool: Pool, database_url: str, tmp_path: Path
) -> None:
    demonstrate(settings, tmp_path, [*written(10), *written(10, first=50, user=PERSON)])
    assert projects.run(settings, once=True) == 0
    policy = the_record(settings, 1)["policy"]
    goes_live(pool, policy)
    with pool.connection() as connection:
        [row] = connection.execute(
            "select rater from turns where request ? 'demonstration' group by rater having count(*) = 10"
            " and bool_and(messages::text ~ '[5][0-9]\"')"
        ).fetchall()

    async def forget() -> None:
        async with open_async_pool(database_url, size=1) as other, other.connection() as connection:
            id = await erasures.ask(connection, "default", [row["rater"]], "test")
        await erasing.advance(database_url, [id])

    asyncio.run(forget())
    with pool.connection() as connection:
        [left] = connection.execute(
            "select (select count(*) from turns where request ? 'demonstration') as turns,"
            " (select count(*) from taught_demonstrations) as taught"
        ).fetchall()
    assert left == {"turns": 10, "taught": 10}
    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    try:
        trainer.poll()
    finally:
        trainer.election.release()
    with pool.connection() as connection:
        rows = connection.execute(
            "select id, rebuilds, tainted_at is not null as tainted from policies where id <> %s"
            " order by created_at",
            [BASE],
        ).fetchall()
    assert [each["tainted"] for each in rows] == [True, False]
    assert rows[1]["rebuilds"] == policy
    assert len(inputs_of(settings, rows[1]["id"]).demonstrations) == 10
