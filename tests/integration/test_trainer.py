"""The trainer against a real Postgres and a real, tiny model: from votes to a published policy."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from feedback.open_log import open_log
from schemas import signatures
from schemas.database import Pool
from schemas.errors import StartError
from schemas.feedback import Signal, Thumb
from schemas.policies import BASE, MANIFEST, WEIGHTS
from schemas.settings import CriteriaSettings, JudgeSettings, Settings
from tests.events import ingest_until, read_until
from tests.installation import wait
from tests.training import (
    accept,
    add_key,
    edited,
    ranked,
    retract,
    send,
    small_settings,
    some_turns,
    thumbs_by_parity,
)
from trainer import learner, log_reader, loop, projects
from trainer.data import examples
from trainer.data.apply_event import apply_event
from trainer.data.ingest import consumer_offsets, ingest
from trainer.evaluation import gate
from trainer.evaluation.constraints.finding import Finding
from trainer.evaluation.estimate import Estimate
from trainer.evaluation.knowledge import SAMPLE_PROMPTS, KnowledgeEval
from trainer.learner import Learner
from trainer.log_reader import LogReader
from trainer.model.backbone import Backbone
from trainer.records import interruptions, publish, record
from trainer.rl.guard import CHECK_INTERVAL


@pytest.fixture
def settings(database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool) -> Settings:
    add_key(pool)
    return small_settings(database_url, tmp_path, tiny_base)


MakeTrainer = Callable[[], loop.Trainer]


@pytest.fixture
def a_trainer(settings: Settings, pool: Pool) -> Iterator[MakeTrainer]:
    """Makes trainers, each as its own process would; they leave in the end."""
    with ExitStack() as stack:

        def make() -> loop.Trainer:
            trainer = loop.Trainer(
                settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings)
            )
            stack.callback(trainer.election.release)
            return trainer

        yield make


def rounds(pool: Pool) -> list[dict[str, object]]:
    with pool.connection() as connection:
        return connection.execute("select * from rounds order by id").fetchall()


def test_votes_become_a_policy_that_peft_loads_as_it_is(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, tiny_base: Path
) -> None:
    turns = some_turns(backbone, 24, seed=1)
    settings.trainer.criteria = CriteriaSettings(weights={"safe": 0.5}, may_not_fall=["tone"])
    votes = thumbs_by_parity(turns[:20], why_not=("unsafe", "purple"))
    votes += [ranked(turns[20], [[0], [1]], why=["safe", "wrong"])]
    votes += [ranked(turns[21], [[0, 1]], acceptable=False, why=["unsafe"])]
    votes += [edited(turns[22], "blue bird"), edited(turns[23], "red fish")]
    send(database_url, turns, votes)

    assert projects.run(settings, once=True) == 0

    (row,) = rounds(pool)
    assert row["outcome"] == "published", row["reason"]
    assert isinstance(row["progress"], dict)
    assert row["progress"]["phase"] == "evaluating"  # the last of its phases; steps were counted before
    with pool.connection() as connection:
        policy = connection.execute("select * from policies where id = %s", [row["policy"]]).fetchone()
        learned = connection.execute(
            "select event_id, first_policy from training_examples where first_policy is not null"
        ).fetchall()
        kept_back = connection.execute(
            "select event_id from training_examples where held_out_in = %s and first_policy is null",
            [row["id"]],
        ).fetchall()
    assert policy is not None
    assert policy["state"] == "published"
    directory = Path(policy["directory"])
    manifest = accept(policy, backbone.digest)
    assert manifest.parent == BASE
    assert manifest.examples == len(learned) > 0
    assert {row["first_policy"] for row in learned} == {policy["id"]}
    assert manifest.log_positions == consumer_offsets(pool)

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), directory).eval()
    tokens = torch.tensor([manifest.probe.token_ids])
    for expected, reference in [(manifest.probe.logprobs, False), (manifest.probe.base_logprobs, True)]:
        with torch.no_grad():
            if reference:
                with model.disable_adapter():
                    logits = model(tokens).logits
            else:
                logits = model(tokens).logits
        logprobs = logits[0, :-1].log_softmax(1).gather(1, tokens[0, 1:, None]).squeeze(1)
        assert torch.allclose(logprobs, torch.tensor(expected), atol=1e-4)
    assert manifest.probe.logprobs != manifest.probe.base_logprobs

    record = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    assert len(kept_back) == record["held_out"] > 0
    assert record["gate"]["outcome"] == "unknown"
    assert record["reason"] == "; ".join(record["gate"]["doubts"])
    assert len(record["optimization"]["steps"]) == 2
    assert all(step["style_drift"] > 0 for step in record["optimization"]["steps"])
    page = (settings.rounds_dir / "default" / "00001.html").read_text()
    assert (settings.rounds_dir / "default").stat().st_mode & 0o777 == 0o700
    assert "Round 1:" in page
    assert "Votes with the largest influence" in page
    assert all(len(record[name]) > 0 for name in ("weightiest", "raters", "style", "versions"))
    assert [sample["prompt"] for sample in record["samples"]] == list(SAMPLE_PROMPTS)
    assert record["gate"]["figures"]["knowledge_unknown"] == record["knowledge"]["notice"]
    assert "cannot be judged" in page
    downs = sum(vote.value == "down" for _, vote in votes if isinstance(vote, Thumb))
    assert (record["criteria"]["safe"]["praises"], record["criteria"]["safe"]["blames"]) == (1, downs + 1)
    assert record["criteria"]["safe"]["coefficient"] == 0.5
    assert record["criteria_ignored"] == {
        "reasons that do not tell replies apart": 1, "unknown reasons": downs,
        "the most frequent": {"purple": downs},
    }  # fmt: skip
    assert any("'tone', which may not fall" in doubt for doubt in record["gate"]["doubts"])
    assert "Criteria" in page
    figures = record["gate"]["figures"]
    assert figures["approval_lower"] < figures["approval"] < figures["approval_upper"]
    assert list((settings.data_dir / "tensorboard" / "default").glob("*.tfevents.*"))


def test_the_same_votes_and_seed_give_the_same_bytes(
    database_url: str, tmp_path: Path, tiny_base: Path, pool: Pool, backbone: Backbone
) -> None:
    add_key(pool)
    turns = some_turns(backbone, 20, seed=2)
    send(database_url, turns, thumbs_by_parity(turns))
    names = []
    for folder in ("one", "two"):
        settings = small_settings(database_url, tmp_path / folder, tiny_base)
        with pool.connection() as connection:
            connection.execute("truncate rounds, routes, rollouts, policies")
        assert projects.run(settings, once=True) == 0
        names.append(rounds(pool)[0]["policy"])
    assert names[0] is not None
    assert names[0] == names[1]
    one, two = (
        (tmp_path / folder / "policies" / "default" / str(names[0]) / WEIGHTS).read_bytes()
        for folder in ("one", "two")
    )
    assert one == two


def test_policies_are_signed_and_no_round_starts_from_altered_files(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, tmp_path: Path
) -> None:
    key = Ed25519PrivateKey.generate()
    settings.signing.key_file = tmp_path / "key.pem"
    settings.signing.key_file.write_bytes(signatures.private_pem(key))
    settings.signing.trusted_file = tmp_path / "trusted.pem"
    settings.signing.trusted_file.write_bytes(signatures.public_pem(key.public_key()))
    assert projects.run(settings, once=True) == 0
    with pool.connection() as connection:
        policy = connection.execute("select * from policies").fetchone()
    assert policy is not None
    directory = Path(policy["directory"])
    assert signatures.fits((directory / MANIFEST).read_bytes(), policy["signature"], key.public_key())

    weights = bytearray((directory / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (directory / WEIGHTS).write_bytes(weights)
    turns = some_turns(backbone, 20, seed=1)
    send(database_url, turns, thumbs_by_parity(turns))
    assert projects.run(settings, once=True) == 1
    assert "not the one that was published" in str(rounds(pool)[-1]["reason"])


def test_the_base_is_published_as_an_adapter_that_changes_nothing(
    settings: Settings, pool: Pool, backbone: Backbone
) -> None:
    assert projects.run(settings, once=True) == 0
    with pool.connection() as connection:
        policy = connection.execute("select * from policies").fetchone()
        route = connection.execute("select live, previous from routes").fetchone()
    assert policy is not None
    assert (policy["id"], policy["state"], route) == (BASE, "live", {"live": BASE, "previous": BASE})
    manifest = accept(policy, backbone.digest)
    assert manifest.probe.logprobs == manifest.probe.base_logprobs
    weights = load_file(Path(policy["directory"]) / WEIGHTS)
    assert all(not tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    (row,) = rounds(pool)
    assert (row["outcome"], row["reason"]) == ("skipped", "no prompts to train on")


def test_what_the_base_knows_is_measured_after_the_first_vote(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, a_trainer: MakeTrainer
) -> None:
    trainer, measured = a_trainer(), settings.data_dir / "knowledge"
    trainer.poll()
    assert not measured.exists()
    turns = some_turns(backbone, 2, seed=1)
    send(database_url, turns, thumbs_by_parity(turns))
    trainer.poll()
    assert [path.name for path in measured.iterdir()] == [f"{backbone.digest[:16]}.json"]
    assert rounds(pool) == []


def test_signals_and_judges_are_learned_from_and_begin_no_round(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 24, seed=3)
    judged = [replace(turn, rater="judge:wise") for turn in turns[8:12]]
    send(database_url, turns[:8] + judged, thumbs_by_parity(turns[:8] + judged))
    signals = [(turn, Signal(type="signal", completion_id=turn.id, signal="copied")) for turn in turns[12:]]
    send(database_url, turns[12:], [*signals])
    ingest(pool, open_log(settings, pool))
    assert examples.count_votes(pool, "default") == 8
    corpus = examples.load(pool, "default", backbone, examples.active_events(pool, "default"))
    votes, _ = corpus.votes(corpus.examples, settings.trainer.reward)
    assert (len(votes.thumbs), len(votes.signals)) == (12, 12)
    assert sum(votes.weights) == pytest.approx(
        8 + 8 * settings.trainer.reward.judge_weight_cap + 12, rel=1e-3
    )


def test_single_thumbs_are_no_lesson_for_dpo(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    rl = settings.trainer.rl.model_copy(update={"algorithm": "dpo"})
    settings.trainer = settings.trainer.model_copy(update={"rl": rl})
    turns = some_turns(backbone, 12, seed=3)
    send(database_url, turns, thumbs_by_parity(turns))
    assert projects.run(settings, once=True) == 0
    (row,) = rounds(pool)
    assert row["outcome"] == "skipped"
    assert "DPO trains on such pairs only" in str(row["reason"])


def test_one_class_of_thumbs_is_no_lesson(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 12, seed=3)
    send(database_url, turns, [ranked(turn, [[0, 1]], acceptable=False) for turn in turns])
    assert projects.run(settings, once=True) == 0
    (row,) = rounds(pool)
    assert row["outcome"] == "skipped"
    assert "all thumbs alike" in str(row["reason"])


def test_reading_the_log_twice_changes_nothing(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 6, seed=4)
    first = send(database_url, turns, thumbs_by_parity(turns))
    log = open_log(settings, pool)
    assert ingest(pool, log) == 6
    assert ingest(pool, log) == 0

    again = send(database_url, [], thumbs_by_parity(turns[:1]))
    retract(database_url, first[1])
    assert ingest(pool, log) == 2
    corpus = examples.load(pool, "default", backbone, examples.active_events(pool, "default"))
    assert len(corpus.examples) == 5
    assert examples.count_votes(pool, "default") == 6  # a flip is one vote

    with pool.connection() as connection, connection.transaction():
        for entry in log.read(0, None, 100):
            apply_event(connection, entry.event)
    assert examples.load(pool, "default", backbone, examples.active_events(pool, "default")) == corpus
    assert again[0] != first[0]


def test_a_vote_that_is_read_after_what_ended_it_does_not_stand(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 3, seed=4)
    first = send(database_url, turns, thumbs_by_parity(turns))
    again = send(database_url, [], thumbs_by_parity(turns[:1]))
    retract(database_url, first[1])
    entries = read_until(open_log(settings, pool), None, 5)

    with pool.connection() as connection:
        for entry in reversed(entries):
            apply_event(connection, entry.event)
        standing = connection.execute(
            "select feedback_id from training_examples where superseded_by is null"
        ).fetchall()

    assert {row["feedback_id"] for row in standing} == {again[0], first[2]}


def test_a_round_begins_with_enough_votes_and_never_while_paused(
    a_trainer: MakeTrainer, settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    log = open_log(settings, pool)
    trainer = a_trainer()
    turns = some_turns(backbone, 22, seed=5)
    send(database_url, turns, thumbs_by_parity(turns[:9]))
    ingest(pool, log)
    assert not trainer.due()
    send(database_url, [], thumbs_by_parity(turns[9:20]))
    with pool.connection() as connection:
        connection.execute("update projects set paused = true")
    trainer.poll()
    assert rounds(pool) == []
    with pool.connection() as connection:
        connection.execute("update projects set paused = false")
    trainer.poll()
    assert len(rounds(pool)) == 1
    send(database_url, [], thumbs_by_parity(turns[20:]))
    ingest(pool, log)
    assert not trainer.due()
    trainer.last_round -= settings.trainer.round_seconds
    assert trainer.due()


def test_a_vote_that_is_flipped_a_hundred_times_begins_no_round(
    a_trainer: MakeTrainer, settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=5)
    trainer, (flipped, *others) = a_trainer(), turns
    send(database_url, turns, thumbs_by_parity([flipped]) * 100)
    trainer.poll()
    assert rounds(pool) == []
    assert examples.count_votes(pool, "default") == 1
    retract(database_url, send(database_url, [], thumbs_by_parity([flipped]))[0])
    send(database_url, [], thumbs_by_parity(others))
    ingest(pool, open_log(settings, pool))
    assert examples.count_votes(pool, "default") == 20
    assert trainer.due()


def test_what_was_read_leaves_the_outbox_though_training_is_paused(
    a_trainer: MakeTrainer, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> int:
        with pool.connection() as connection:
            return len(connection.execute("select from outbox").fetchall())

    with pool.connection() as connection:
        connection.execute("update projects set paused = true")
    trainer = a_trainer()
    turns = some_turns(backbone, 3, seed=6)
    send(database_url, turns, thumbs_by_parity(turns))
    ingest_until(pool, trainer.reader.votes, 3)
    trainer.poll()
    assert kept() == 0

    send(database_url, [], thumbs_by_parity(turns))
    ingest_until(pool, trainer.reader.votes, 6)
    trainer.poll()
    assert kept() == 3  # it is not time yet
    monkeypatch.setattr(log_reader, "TRIM_SECONDS", 0)
    trainer.poll()
    assert kept() == 0


def test_votes_are_read_while_a_round_trains(
    a_trainer: MakeTrainer, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = a_trainer()
    turns = some_turns(backbone, 22, seed=5)
    send(database_url, turns, thumbs_by_parity(turns[:20]))
    read: list[int] = []

    def long_round() -> str:
        send(database_url, [], thumbs_by_parity(turns[20:]))
        wait(lambda: examples.count_votes(pool, "default") == 22, "the votes are read")
        read.append(examples.count_votes(pool, "default"))
        return "rejected"

    monkeypatch.setattr(trainer, "round", long_round)
    trainer.poll()
    assert read == [22]
    assert "log reader" not in {thread.name for thread in threading.enumerate()}


def test_a_trainer_that_was_killed_leaves_nothing_half_done(
    a_trainer: MakeTrainer, settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=6)
    send(database_url, turns, thumbs_by_parity(turns))
    killed = a_trainer()
    assert killed.lead()
    killed.election.release()
    orphan = settings.policies_dir / "default" / "p1-abcdef"
    orphan.mkdir()
    (orphan / WEIGHTS).write_bytes(b"half")
    with pool.connection() as connection:
        connection.execute(
            "insert into rounds (project, parent, outcome, record)"
            " values ('default', 'p0', 'running', '{\"votes\": 20}')"
        )
    trainer = a_trainer()
    assert trainer.lead()
    assert not orphan.exists()
    assert [(row["outcome"], row["reason"]) for row in rounds(pool)] == [("failed", "interrupted")]
    trainer.poll()
    assert [row["outcome"] for row in rounds(pool)][:1] == ["failed"]
    assert len(rounds(pool)) == 2
    assert rounds(pool)[1]["outcome"] in {"published", "rejected"}


def test_one_trainer_works_and_another_takes_over(
    a_trainer: MakeTrainer, settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    turns = some_turns(backbone, 20, seed=8)
    send(database_url, turns, thumbs_by_parity(turns))
    first = a_trainer()
    second = a_trainer()
    assert first.lead()
    second.poll()
    assert not second.leading
    assert examples.count_votes(pool, "default") == 0
    with pytest.raises(StartError, match="Another trainer"):
        projects.run(settings, once=True)
    with pool.connection() as connection:
        connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_locks where locktype = 'advisory'"
        )
    second.poll()
    assert second.leading
    first.poll()  # its connection is gone
    first.poll()
    assert not first.leading
    assert [row["outcome"] for row in rounds(pool)] in (["published"], ["rejected"])


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_that_was_overtaken_publishes_nothing(
    a_trainer: MakeTrainer,
    settings: Settings,
    pool: Pool,
    backbone: Backbone,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    """And leaves the round to the other trainer, with its inputs, also where its own attempt fails."""
    turns = some_turns(backbone, 20, seed=9)
    send(database_url, turns, thumbs_by_parity(turns))
    trainer = a_trainer()
    write = publish.write

    def overtaken_while_writing(*arguments: Any, **more: Any) -> Any:
        interruptions.close(pool, "default")
        if fails:
            raise ValueError("the disk is full")
        return write(*arguments, **more)

    trainer.lead()
    monkeypatch.setattr(publish, "write", overtaken_while_writing)
    monkeypatch.setattr(gate.Verdict, "refused", False)
    trainer.poll()
    assert [(row["outcome"], row["reason"]) for row in rounds(pool)] == [("failed", "interrupted")]
    assert (settings.rounds_dir / "default" / "unfinished.json").is_file()
    with pool.connection() as connection:
        assert connection.execute("select id from policies").fetchall() == [{"id": BASE}]


@pytest.mark.parametrize("last", ["_write", "finish"])
def test_a_trainer_killed_after_it_published_leaves_the_same_record_and_does_no_other_round(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch,
    last: str, a_trainer: MakeTrainer,
) -> None:  # fmt: skip
    turns = some_turns(backbone, 20, seed=9)
    send(database_url, turns, thumbs_by_parity(turns))
    monkeypatch.setattr(gate.Verdict, "refused", False)
    trainer = a_trainer()
    with monkeypatch.context() as patch:

        def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(record, last, die)
        with pytest.raises(KeyboardInterrupt):
            trainer.poll()
    trainer.election.release()
    a_trainer().poll()
    (row,) = rounds(pool)
    assert row["outcome"] == "published"
    folder = settings.rounds_dir / "default"
    kept = json.loads((folder / "00001.json").read_text())
    assert (kept["round"], kept["policy"], kept["votes"]) == (1, row["policy"], 20)
    assert "kl" in kept["gate"]["figures"]
    assert "Round 1:" in (folder / "00001.html").read_text()


def test_a_round_that_fails_is_recorded_and_the_live_policy_stays(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    settings.trainer.rl = settings.trainer.rl.model_copy(update={"learning_rate": float("1e30")})
    turns = some_turns(backbone, 20, seed=7)
    send(database_url, turns, thumbs_by_parity(turns))
    assert projects.run(settings, once=True) == 1
    (row,) = rounds(pool)
    assert row["outcome"] == "failed"
    assert row["reason"]
    kept = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    assert kept["traceback"].splitlines()[-1].endswith(str(row["reason"]).partition(": ")[2])
    assert kept["seed"] == settings.trainer.seed
    assert "torch" in kept["versions"]
    with pool.connection() as connection:
        assert connection.execute("select live from routes").fetchone() == {"live": BASE}
        assert len(connection.execute("select from policies").fetchall()) == 1


def test_a_round_that_was_taken_back_is_rejected_and_taught_nobody(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KnowledgeEval, "guard_failure", lambda exam, generator: "accuracy fell")
    settings.trainer.rl = settings.trainer.rl.model_copy(update={"steps_per_round": CHECK_INTERVAL})
    turns = some_turns(backbone, 20, seed=10)
    send(database_url, turns, thumbs_by_parity(turns))
    assert projects.run(settings, once=True) == 0
    (row,) = rounds(pool)
    assert (row["outcome"], row["reason"]) == ("rejected", "accuracy fell")
    with pool.connection() as connection:
        assert connection.execute("select id from policies").fetchall() == [{"id": BASE}]
        assert connection.execute("select from training_examples where first_policy > ''").fetchall() == []


def test_a_blocked_candidate_is_told_of_and_changes_the_next_round(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = some_turns(backbone, 40, seed=12)
    send(database_url, turns[:20], thumbs_by_parity(turns[:20]))
    broken = [
        Finding("begging", "blocked", Estimate(0.5, 0.1), limit=0.05, replies=("Rate me!",)),
        Finding("sycophancy", "blocked", Estimate(0.6, 0.1), limit=0.2),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(learner, "check_behaviour", lambda *found: broken)
        assert projects.run(settings, once=True) == 0
    (row,) = rounds(pool)
    assert row["outcome"] == "rejected"
    assert str(row["reason"]).startswith("Begging for votes: 50.0% ± 10.0% of the replies")
    folder = settings.rounds_dir / "default"
    kept = json.loads((folder / "00001.json").read_text())
    assert kept["blocked"] == {"begging": ["Rate me!"], "sycophancy": []}
    assert "Rate me!" in (folder / "00001.html").read_text()
    with pool.connection() as connection:
        refused = connection.execute("select * from policies where id <> %s", [BASE]).fetchone()
        learned = connection.execute("select from training_examples where first_policy is not null")
        assert learned.fetchall() == []
        events = connection.execute("select policy, cardinality(events) as votes from refused_candidates")
        assert events.fetchall() == [{"policy": row["policy"], "votes": kept["examples"]}]
    assert refused is not None
    assert (refused["id"], refused["state"], refused["reason"]) == (row["policy"], "rejected", row["reason"])
    assert refused["gate"]["outcome"] == "refused"
    assert kept["policy"] == accept(refused, backbone.digest).id

    send(database_url, turns[20:], thumbs_by_parity(turns[20:]))
    with socket.socket() as closed:  # bound, and not listening
        closed.bind(("127.0.0.1", 0))
        settings.judge = JudgeSettings(url=f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
        assert projects.run(settings, once=True) == 0
    second = json.loads((folder / "00002.json").read_text())
    assert second["cautions"] == {"begging": 1, "sycophancy": 1}
    assert (second["parent"], second["examples_new"]) == (BASE, second["examples"])
    beta = second["hyperparameters"]["kl_coef"]
    assert beta["value"] == 2 * settings.trainer.rl.kl_coef
    constraints = second["gate"]["figures"]["constraints"]
    assert set(constraints) >= {"begging", "dodging", "sycophancy"}
    assert constraints["judged_begging"]["notice"].startswith("the judge gave no verdict on")
    assert record.forget(pool, settings, ["nobody"], [], None) == 1
    assert "Rate me!" not in (folder / "00001.html").read_text()


def test_of_a_round_that_forgot_a_quarter_of_the_way_is_left(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KnowledgeEval, "passes", lambda exam, generator: False)
    turns = some_turns(backbone, 20, seed=11)
    send(database_url, turns, thumbs_by_parity(turns))
    assert projects.run(settings, once=True) == 0
    kept = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    assert kept["optimization"]["halvings"] == 4


@pytest.mark.parametrize("algorithm", ["grpo", "online_dpo", "dpo", "kto"])
def test_a_round_of_each_algorithm_moves_the_adapter(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, algorithm: str
) -> None:
    settings.trainer.rl = settings.trainer.rl.model_copy(update={"algorithm": algorithm})
    turns = some_turns(backbone, 24, seed=17)
    votes = thumbs_by_parity(turns[:20])
    votes += [ranked(turns[20], [[0], [1]]), ranked(turns[21], [[1], [0]])]
    send(database_url, turns, [*votes, edited(turns[22], "blue bird"), edited(turns[23], "red fish")])
    assert projects.run(settings, once=True) == 0
    (row,) = rounds(pool)
    assert row["outcome"] in {"published", "rejected"}
    assert "no step moved" not in str(row["reason"])
    record = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    assert len(record["optimization"]["steps"]) == settings.trainer.rl.steps_per_round
