"""A policy can be made again from what it keeps, and a round that was cut off ends as it would have."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from psycopg.types.json import Jsonb
from safetensors.torch import load_file, save_file

from feedback.open_log import open_log
from schemas.database import Pool
from schemas.feedback import Signal
from schemas.generation_defaults import GenerationDefaults
from schemas.policies import BASE, MANIFEST, WEIGHTS, Manifest, base_digest, file_digest
from schemas.projects import Objective
from schemas.settings import CriteriaSettings, Settings
from tests.training import (
    add_key,
    edited,
    ranked,
    retract,
    send,
    small_settings,
    some_turns,
    the_round,
    thumbs_by_parity,
    write_encoder,
)
from trainer import loop, projects
from trainer.data import examples, lora_heads_fit, summary_store, vote_summary
from trainer.data.behaviour import load_behaviour
from trainer.data.examples import Corpus
from trainer.data.knowledge_probes import ProbeSet
from trainer.data.round_inputs import RoundInputs
from trainer.data.split import RoundData
from trainer.data.vote_summary import VoteSummary
from trainer.evaluation import gate
from trainer.evaluation.constraints.penalty import BehaviourPenalty
from trainer.learner import Learner
from trainer.log_reader import LogReader
from trainer.model import backbone as backbone_module
from trainer.model.backbone import Backbone
from trainer.model.rollouts import Rollout, SamplingSpec, pack, unpack
from trainer.model.token_budget import TokenBudget
from trainer.records import interruptions, publish, record
from trainer.reproduce import NotReproducible, reproduce
from trainer.resident_base import ResidentBase
from trainer.rl import token_critic

Steps = list[list[Rollout]]


@pytest.fixture
def settings(
    database_url: str,
    tmp_path: Path,
    tiny_base: Path,
    pool: Pool,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """With votes of each kind, and a gate that lets everything pass."""
    monkeypatch.setattr(gate.Verdict, "refused", False)
    add_key(pool)
    turns = some_turns(backbone, 24, seed=1)
    votes = thumbs_by_parity(turns[:21], why_not=["unsafe"])
    votes += [ranked(turns[21], [[0], [1]]), ranked(turns[22], [[0, 1]], acceptable=False)]
    send(database_url, turns, [*votes, edited(turns[23], "blue bird")])
    criteria = CriteriaSettings(may_not_fall=["safe"])
    return small_settings(database_url, tmp_path, tiny_base, criteria=criteria)


def published(pool: Pool) -> list[str]:
    with pool.connection() as connection:
        rows = connection.execute("select id from policies where id <> %s order by created_at", [BASE])
        return [row["id"] for row in rows.fetchall()]


def inputs_of(settings: Settings, policy: str) -> RoundInputs:
    found = RoundInputs.read(settings.policies_dir / "default" / policy / publish.INPUTS)
    assert found is not None
    return found


def test_a_rebuilt_policy_has_the_batches_of_its_own_budget(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = TokenBudget(training=150, sampling=400, row=100)
    with monkeypatch.context() as patch:
        patch.setattr(ResidentBase, "_token_budget", lambda base, settings: small)
        assert projects.run(settings, once=True) == 0
    [policy] = published(pool)
    assert inputs_of(settings, policy).token_budget == small
    assert reproduce(settings, pool, policy).identical


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


def cut_off(settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that begins a round and dies before its second step."""

    def die(backbone: Backbone, *_: object, **__: object) -> None:
        with torch.no_grad():
            backbone.trainable()[0].add_(1)
        raise Killed

    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.round.optimize", die)
        with pytest.raises(Killed):
            trainer.poll()
    trainer.election.release()


def test_a_rebuilt_policy_has_the_same_bytes(settings: Settings, pool: Pool) -> None:
    assert projects.run(settings, once=True) == 0
    [policy] = published(pool)
    measured = settings.data_dir / "knowledge"
    [kept] = [ProbeSet.parse(path.read_bytes()) for path in measured.iterdir()]
    assert kept is not None
    assert inputs_of(settings, policy).probes == kept
    shutil.rmtree(measured)
    reproduced = reproduce(settings, pool, policy)
    assert not measured.exists()
    assert reproduced.identical
    assert max(reproduced.probe_distance, reproduced.reply_distance) < 1e-5
    assert reproduced.differs == []


def test_a_round_samples_as_people_were_served(
    database_url: str,
    tmp_path: Path,
    tiny_base: Path,
    pool: Pool,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And it tells apart the turns that were served otherwise."""
    monkeypatch.setattr(gate.Verdict, "refused", False)
    add_key(pool)
    served = {
        "temperature": 0.9, "top_p": 0.95, "top_k": 5, "min_p": 0.01,
        "repetition_penalty": 1.2, "presence_penalty": 0.1, "frequency_penalty": 0.05,
    }  # fmt: skip
    otherwise = [served | {"logit_bias": {"5": 1}}, {"temperature": 0.9, "top_p": 0.95, "top_k": -1}]
    turns = [
        replace(turn, sampling={"n": 1, "max_tokens": 12, "stop": [], "seed": number, **sampling})
        for number, (turn, sampling) in enumerate(
            zip(some_turns(backbone, 24, seed=1), [*otherwise, *[served] * 22], strict=True)
        )
    ]
    send(database_url, turns, thumbs_by_parity(turns))
    settings = small_settings(database_url, tmp_path, tiny_base)
    derived = the_round(settings)["hyperparameters"]
    assert {name: derived[name]["value"] for name in served} == served
    assert {derived[name]["reason"] for name in served} == {"as people are served"}
    [policy] = published(pool)
    inputs = inputs_of(settings, policy)
    data = RoundData(backbone, settings.trainer, inputs, Corpus([], {}), {})
    assert data.spec(2) == SamplingSpec(2, 12, **served)
    behind = load_behaviour(pool, "default", inputs.events)
    assert [each.sampling for each in behind.values()].count(served) == 22
    neutral = GenerationDefaults(temperature=0.9, top_p=0.95).model_dump()
    assert [each.sampling for each in behind.values()].count(neutral) == 1
    assert reproduce(settings, pool, policy).identical


def test_an_auxiliary_model_is_read_again(settings: Settings, pool: Pool, tmp_path: Path) -> None:
    auxiliary = settings.trainer.reward.auxiliary_model = write_encoder(tmp_path / "encoder")
    digest = base_digest(auxiliary)
    assert the_round(settings)["versions"]["auxiliary_model"] == digest
    [policy] = published(pool)
    assert reproduce(settings, pool, policy).identical
    write_encoder(auxiliary, seed=1)
    assert reproduce(settings, pool, policy).differs == [
        f"auxiliary_model {digest} → {base_digest(auxiliary)}"
    ]


@pytest.mark.parametrize("algorithm", ["rloo", "online_dpo"])
def test_a_token_critic_is_fitted_again(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, algorithm: Literal["rloo", "online_dpo"]
) -> None:
    """Of a policy gradient only."""
    settings.trainer.rl.algorithm = algorithm
    monkeypatch.setattr(backbone_module, "SMALL_VOCABULARY", 0)
    monkeypatch.setattr(token_critic, "RETURNS_PER_TOKEN", 1000.0)
    optimization = the_round(settings)["optimization"]
    if algorithm == "online_dpo":
        assert "token_critic" not in optimization
        return
    critic = optimization["token_critic"]
    assert critic["explained"] > 0
    [policy] = published(pool)
    assert reproduce(settings, pool, policy).identical


def test_heads_on_a_lora_are_fitted_again(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.trainer.reward.kind = "auto"
    monkeypatch.setattr(lora_heads_fit, "MIN_VOTES", 8)
    monkeypatch.setattr(lora_heads_fit, "best_share", lambda gains: 0.5)
    found = the_round(settings)["reward_model"]
    assert (found["lora_share"], found["lora_reason"]) == (
        0.5,
        "the held-out votes are more likely with heads, beyond chance",
    )
    assert found["lora_votes"] > 8
    [policy] = published(pool)
    assert reproduce(settings, pool, policy).identical
    monkeypatch.setattr(lora_heads_fit, "best_share", lambda gains: 0.0)
    assert not reproduce(settings, pool, policy).identical  # the heads moved the weights


def test_what_was_blocked_before_is_part_of_a_round(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(charged: BehaviourPenalty, rollouts: list[Rollout]) -> torch.Tensor:
        return len(charged._terms) * torch.tensor([float(sum(each.token_ids) % 2) for each in rollouts])

    monkeypatch.setattr(BehaviourPenalty, "__call__", odd)
    monkeypatch.setattr(record, "blocked", lambda *of: [["begging", "sycophancy"], ["begging"]])
    assert projects.run(settings, once=True) == 0
    [policy] = published(pool)
    inputs = inputs_of(settings, policy)
    assert inputs.cautions == {"begging": 2, "sycophancy": 1}
    assert inputs.hyperparameters(settings.trainer.rl).kl_coef == 2 * settings.trainer.rl.kl_coef
    monkeypatch.setattr(record, "blocked", lambda *of: [])
    assert reproduce(settings, pool, policy).identical
    monkeypatch.setattr(BehaviourPenalty, "__call__", lambda charged, rollouts: torch.zeros(len(rollouts)))
    assert not reproduce(settings, pool, policy).identical  # the penalty moved the weights


def test_a_second_generation_is_rebuilt_after_votes_have_changed(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.new_inputs.ROUNDS_OF_A_FOLD", 1)
    projects.run(settings, once=True)
    [first] = published(pool)
    with pool.connection() as connection:
        connection.execute("update routes set live = %s", [first])
    more = some_turns(backbone, 12, seed=2)
    send(database_url, more, thumbs_by_parity(more))
    projects.run(settings, once=True)
    send(database_url, [], [(turn, ranked(turn, [[1], [0]])[1]) for turn in more[:4]])
    second = published(pool)[1]
    assert inputs_of(settings, second).parent == first
    assert [inputs_of(settings, policy).fold for policy in (first, second)] == [0, 1]
    assert reproduce(settings, pool, second).identical


def test_what_was_erased_cannot_be_learned_from_again(settings: Settings, pool: Pool) -> None:
    projects.run(settings, once=True)
    [policy] = published(pool)
    with pool.connection() as connection:
        connection.execute("delete from turns where id in ('chatcmpl-1-3', 'chatcmpl-1-4')")
    with pytest.raises(NotReproducible, match="2 of the 24 votes that it was trained on are gone"):
        reproduce(settings, pool, policy)
    with pytest.raises(NotReproducible, match=r"has no inputs\.json"):
        reproduce(settings, pool, BASE)


def changed(settings: Settings, pool: Pool, policy: str, **fields: object) -> None:
    """As if the policy had been published with another manifest."""
    path = settings.policies_dir / "default" / policy / MANIFEST
    manifest = Manifest.model_validate_json(path.read_bytes()).model_copy(update=fields)
    path.write_text(manifest.model_dump_json())
    with pool.connection() as connection:
        connection.execute("update policies set digest = %s where id = %s", [file_digest(path), policy])


def kept_rollouts(settings: Settings, pool: Pool, policy: str, change: Callable[[Steps], Steps]) -> None:
    """As if the policy's round had kept others."""
    directory = settings.policies_dir / "default" / policy
    steps = change(unpack(load_file(directory / publish.ROLLOUTS)))
    save_file(pack(steps), directory / publish.ROLLOUTS)
    path = directory / publish.ROLLOUTS
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    changed(
        settings, pool, policy,
        files=manifest.files | {path.name: file_digest(path)},
        sizes=manifest.sizes | {path.name: path.stat().st_size},
    )  # fmt: skip


def test_a_round_that_goes_another_way_says_at_which_step(settings: Settings, pool: Pool) -> None:
    projects.run(settings, once=True)
    [policy] = published(pool)
    kept_rollouts(settings, pool, policy, lambda steps: steps[:1])
    with pytest.raises(NotReproducible, match="at step 1 one of the two rounds went on"):
        reproduce(settings, pool, policy)
    kept_rollouts(settings, pool, policy, lambda steps: steps * 4)
    with pytest.raises(NotReproducible, match="at step 2 one of the two rounds went on"):
        reproduce(settings, pool, policy)


def test_what_was_made_elsewhere_is_compared_by_how_it_answers(settings: Settings, pool: Pool) -> None:
    projects.run(settings, once=True)
    [policy] = published(pool)
    directory = settings.policies_dir / "default" / policy
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    other = manifest.versions | {"machine": "a pocket calculator"}
    changed(settings, pool, policy, versions=other, configuration=manifest.configuration | {"seed": 7})
    reproduced = reproduce(settings, pool, policy)
    assert not reproduced.identical
    [difference] = reproduced.differs
    assert difference.startswith("machine a pocket calculator → ")
    assert reproduced.reply_distance > 1e-4
    for tolerance, alike in ((10.0, True), (1e-6, False)):
        assert replace(reproduced, tolerance=tolerance).equivalent == alike


def test_settings_of_another_time_are_named(settings: Settings, pool: Pool) -> None:
    projects.run(settings, once=True)
    [policy] = published(pool)
    changed(settings, pool, policy, configuration={"min_votes": 1, "seed": 0})
    with pytest.raises(NotReproducible, match="does not have or allow: min_votes"):
        reproduce(settings, pool, policy)


def test_it_is_made_of_its_own_configuration_and_of_its_votes(settings: Settings, pool: Pool) -> None:
    projects.run(settings, once=True)
    [policy] = published(pool)
    settings.trainer.seed = 5  # what this process was given does not count
    assert reproduce(settings, pool, policy).identical
    with pool.connection() as connection:
        connection.execute("update training_examples set value = '{\"value\": \"up\"}' where type = 'thumb'")
    assert not reproduce(settings, pool, policy).identical


def test_a_round_that_was_cut_off_ends_as_it_would_have(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(settings, pool, monkeypatch)
    more = some_turns(backbone, 12, seed=2)
    send(database_url, more, thumbs_by_parity(more))

    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    trainer.poll()
    trainer.election.release()
    [policy] = published(pool)
    inputs = inputs_of(settings, policy)
    assert (inputs.draw, inputs.attempts, len(inputs.events)) == (1, 2, 24)
    assert policy.startswith("p2-")
    assert reproduce(settings, pool, policy).identical


def test_a_round_learns_what_its_project_said_when_it_began(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(**learning: object) -> None:
        with pool.connection() as connection:
            connection.execute("update projects set learning = %s", [Jsonb(learning)])

    say(criteria_weights={"safe": 3.0}, may_not_fall=[], tainted_policy="replace")
    cut_off(settings, pool, monkeypatch)
    say(groups="least_satisfied")
    assert projects.run(settings, once=True) == 0
    [policy] = published(pool)
    inputs = inputs_of(settings, policy)
    assert (inputs.attempts, inputs.objective) == (
        2,
        Objective(criteria_weights={"safe": 3.0}, may_not_fall=[]),
    )
    found = json.loads((settings.rounds_dir / "default" / "00002.json").read_text())
    assert found["criteria"]["safe"]["coefficient"] == 3.0
    assert "criteria" not in found["gate"]["figures"]  # it may fall, whatever the settings say
    directory = settings.policies_dir / "default" / policy
    manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    assert manifest.configuration["criteria"] == {
        "weights": {"safe": 3.0}, "may_not_fall": [], "max_fall": 0.02
    }  # fmt: skip
    assert manifest.configuration["reward"]["groups"] == "mean"
    assert reproduce(settings, pool, policy).identical


def test_a_round_killed_between_two_steps_ends_in_the_same_bytes_as_one_that_was_not(
    settings: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> None:
        raise Killed

    trainer = loop.Trainer(settings, pool, LogReader(pool, open_log(settings, pool)), Learner(settings))
    with monkeypatch.context() as patch:
        patch.setattr("trainer.rl.optimizer_step.release_memory", die)
        with pytest.raises(Killed):
            trainer.poll()
    trainer.election.release()
    assert projects.run(settings, once=True) == 0
    [resumed] = published(pool)
    assert resumed.startswith("p2-")
    with pool.connection() as connection:
        connection.execute("truncate rounds, routes, rollouts, policies")
    whole = settings.model_copy(update={"data_dir": tmp_path / "whole"})
    assert projects.run(whole, once=True) == 0
    [uninterrupted] = published(pool)
    assert uninterrupted.startswith("p1-")
    one, other = (
        (folder.policies_dir / "default" / policy / WEIGHTS).read_bytes()
        for folder, policy in ((settings, resumed), (whole, uninterrupted))
    )
    assert one == other


def test_a_round_that_ends_its_trainer_again_and_again_is_given_up(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interruptions, "FIRST_PAUSE", 0.0)
    draws = []
    for _ in range(interruptions.MAX_ATTEMPTS + 1):
        cut_off(settings, pool, monkeypatch)
        unfinished = RoundInputs.read(settings.rounds_dir / "default" / "unfinished.json")
        assert unfinished is not None
        draws.append(unfinished.draw)
    assert draws == [1] * interruptions.MAX_ATTEMPTS + [interruptions.MAX_ATTEMPTS + 1]


@pytest.fixture
def compacting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a trainer that compacts beyond sixteen votes."""
    monkeypatch.setattr(vote_summary, "WINDOW", 16)
    return settings


def kept_summary(settings: Settings) -> VoteSummary | None:
    backbone = Backbone(Path(settings.model), settings.trainer.rl)
    return VoteSummary.read(settings.rounds_dir / "default", backbone.digest, settings.trainer)


def another_round(settings: Settings, backbone: Backbone, database_url: str, seed: int) -> None:
    more = some_turns(backbone, 12, seed=seed)
    send(database_url, more, thumbs_by_parity(more))
    assert projects.run(settings, once=True) == 0


def test_a_policy_with_a_vote_summary_is_reproduced(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    assert projects.run(compacting, once=True) == 0
    summary = kept_summary(compacting)
    assert summary is not None
    assert len(summary.events) == 16
    another_round(compacting, backbone, database_url, seed=2)
    policy = published(pool)[-1]
    inputs = inputs_of(compacting, policy)
    assert (len(inputs.events), inputs.vote_summary is None) == (8 + 12, False)
    assert not set(inputs.events) & set(summary.events)
    after = kept_summary(compacting)  # the next round has another by now
    assert after is not None
    assert len(after.events) == 28
    assert reproduce(compacting, pool, policy).identical
    kept = compacting.policies_dir / "default" / policy / vote_summary.FILE
    assert file_digest(kept) == inputs.vote_summary
    manifest = compacting.policies_dir / "default" / policy / "manifest.json"
    learned = Manifest.model_validate_json(manifest.read_bytes()).examples
    assert learned > len(inputs.events)
    with pool.connection() as connection:
        connection.execute("delete from turns where id = 'chatcmpl-1-3'")
    with pytest.raises(NotReproducible, match="1 of the 16 votes"):
        reproduce(compacting, pool, policy)


def as_before(settings: Settings, pool: Pool, policy: str) -> None:
    """Turns a policy's directory into one of the release before: old names of fields and settings."""
    directory = settings.policies_dir / "default" / policy
    files = dict(Manifest.model_validate_json((directory / MANIFEST).read_bytes()).files)
    inputs = directory / publish.INPUTS
    inputs.write_text(inputs.read_text().replace('"vote_summary":', '"past":'))
    files[publish.INPUTS] = file_digest(inputs)
    trainer = settings.trainer
    configuration = trainer.model_dump(mode="json")
    for name, section in (("reward", trainer.reward), ("rl", trainer.rl), ("gate", trainer.gate)):
        newest_old_names = {new: old for old, new in section.renamed.items()}
        for new, old in newest_old_names.items():
            configuration[name][old] = configuration[name].pop(new)
    configuration["rl"]["clip"] = 0.2
    changed(settings, pool, policy, files=files, sizes={}, configuration=configuration)


def test_a_data_folder_of_the_release_before_is_continued_and_reproduced(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    assert projects.run(compacting, once=True) == 0
    folder = compacting.rounds_dir / "default"
    key = vote_summary.compatibility_key(backbone.digest, compacting.trainer)
    header = {"name": "a1", "compatibility_key": key, "newest": "2026-01-01T00:00:00+00:00"}
    for name in (vote_summary.FILE, summary_store.FILE_BEFORE):
        save_file(
            {"weights": torch.zeros(5, 2)}, folder / name, metadata={"vote_summary": json.dumps(header)}
        )
    another_round(compacting, backbone, database_url, seed=2)
    first, policy = published(pool)
    inputs = inputs_of(compacting, policy)
    assert (len(inputs.events), inputs.vote_summary) == (24 + 12, None)
    assert not (folder / summary_store.FILE_BEFORE).exists()
    assert kept_summary(compacting) is not None
    as_before(compacting, pool, first)
    assert reproduce(compacting, pool, first).identical


def test_policies_share_the_file_of_the_same_vote_summary(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str
) -> None:
    assert projects.run(compacting, once=True) == 0
    for seed in (2, 3):
        turns = some_turns(backbone, 4, seed=seed)
        send(database_url, turns, thumbs_by_parity(turns))
        assert projects.run(compacting, once=True) == 0
    one, other, here = (
        vote_summary.files(folder)
        for folder in (
            *(compacting.policies_dir / "default" / each for each in published(pool)[1:]),
            compacting.rounds_dir / "default",
        )
    )
    assert len(one) == len(other) == len(here) == 2
    for left, right, kept in zip(one, other, here, strict=True):
        assert left.samefile(right)
        assert left.samefile(kept)


def test_many_signals_compact_no_votes(
    settings: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vote_summary, "WINDOW", 30)
    turns = some_turns(backbone, 40, seed=3)
    votes = [(turn, Signal(type="signal", completion_id=turn.id, signal="copied")) for turn in turns]
    send(database_url, turns, [*votes])
    assert projects.run(settings, once=True) == 0
    with pool.connection() as connection:
        rows = connection.execute(
            "select type = 'signal' as signal, count(*) as all, count(vote_summary) as compacted"
            " from training_examples"
            " group by 1 order by 1"
        ).fetchall()
    assert [tuple(row.values()) for row in rows] == [(False, 24, 0), (True, 40, 25)]


def test_compacted_votes_keep_their_first_policy(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.new_inputs.ROUNDS_OF_A_FOLD", 1)
    projects.run(compacting, once=True)
    with pool.connection() as connection:
        connection.execute("update routes set live = %s", published(pool))
    another_round(compacting, backbone, database_url, seed=2)
    with pool.connection() as connection:
        rows = connection.execute(
            "select event_id from training_examples where vote_summary is not null"
        ).fetchall()
        left = connection.execute(
            "select count(*) from training_examples where vote_summary is not null and first_policy is null"
            " and event_id = any(%s)",
            [inputs_of(compacting, published(pool)[0]).events],
        ).fetchone()
    assert len(rows) == 28
    assert left == {"count": 0}


def test_more_votes_than_a_round_loads_are_compacted_round_by_round(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "MAX_EXAMPLES", 30)
    imported = some_turns(backbone, 36, seed=9)
    send(database_url, imported, thumbs_by_parity(imported))
    projects.run(compacting, once=True)
    for seed in (2, 3, 4):
        another_round(compacting, backbone, database_url, seed)
    with pool.connection() as connection:
        rows = connection.execute("select vote_summary from training_examples order by created_at").fetchall()
    assert [row["vote_summary"] is None for row in rows] == [False] * 88 + [True] * 8


@pytest.mark.parametrize("change", ["retracted", "erased"])
def test_a_vote_that_is_gone_is_taken_out_and_the_others_stay(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, change: str
) -> None:
    projects.run(compacting, once=True)
    before = kept_summary(compacting)
    assert before is not None
    with pool.connection() as connection:
        row = connection.execute(
            "select feedback_id, turn_id from training_examples where event_id = %s", [before.events[3]]
        ).fetchone()
        assert row is not None
        if change == "erased":
            connection.execute("delete from turns where id = %s", [row["turn_id"]])
    if change == "retracted":
        retract(database_url, row["feedback_id"])
    another_round(compacting, backbone, database_url, seed=2)
    policy = published(pool)[-1]
    inputs = inputs_of(compacting, policy)
    assert (len(inputs.events), inputs.vote_summary is None) == (8 + 12, False)
    after = kept_summary(compacting)
    assert after is not None
    assert [week.name for week in after.weeks] == [week.name for week in before.weeks]
    assert len(after.events) == 28 - 1
    assert before.events[3] not in after.events
    assert reproduce(compacting, pool, policy).identical


def test_a_compaction_that_fails_leaves_the_summary_and_is_tried_again(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise FloatingPointError("the votes have no finite fit")

    projects.run(compacting, once=True)
    before = kept_summary(compacting)
    assert before is not None
    with monkeypatch.context() as patch:
        patch.setattr(RoundData, "compact", fail)
        another_round(compacting, backbone, database_url, seed=2)
    between = kept_summary(compacting)
    assert between is not None
    assert between.events == before.events
    another_round(compacting, backbone, database_url, seed=3)
    after = kept_summary(compacting)
    assert after is not None
    assert {week.name for week in before.weeks} <= {week.name for week in after.weeks}
    assert len(after.events) == 24 + 12 + 12 - 8


@pytest.mark.parametrize("change", ["broken", "other settings"])
def test_an_outdated_vote_summary_is_discarded(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, change: str
) -> None:
    projects.run(compacting, once=True)
    before = kept_summary(compacting)
    assert before is not None
    path = compacting.rounds_dir / "default" / vote_summary.FILE
    if change == "broken":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        compacting.trainer.reward.half_life_days = 30
    another_round(compacting, backbone, database_url, seed=2)
    inputs = inputs_of(compacting, published(pool)[-1])
    assert (inputs.vote_summary, len(inputs.events)) == (None, 24 + 12)
    after = kept_summary(compacting)
    assert after is not None
    assert {week.name for week in after.weeks}.isdisjoint(week.name for week in before.weeks)
    assert len(after.events) == 28


def test_an_interrupted_round_with_a_vote_summary_is_repeated(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.run(compacting, once=True)
    more = some_turns(backbone, 12, seed=2)
    send(database_url, more, thumbs_by_parity(more))
    cut_off(compacting, pool, monkeypatch)
    another_round(compacting, backbone, database_url, seed=3)
    policy = published(pool)[-1]
    inputs = inputs_of(compacting, policy)
    assert (inputs.attempts, len(inputs.events), inputs.vote_summary is None) == (2, 20, False)
    assert reproduce(compacting, pool, policy).identical


def test_a_trainer_killed_while_it_saves_the_vote_summary_starts_a_new_one(
    compacting: Settings, pool: Pool, backbone: Backbone, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(summary: VoteSummary, directory: Path) -> None:
        written(summary, directory)
        raise Killed

    written = VoteSummary.write
    trainer = loop.Trainer(compacting, pool, LogReader(pool, open_log(compacting, pool)), Learner(compacting))
    with monkeypatch.context() as patch:
        patch.setattr(VoteSummary, "write", die)
        with pytest.raises(Killed):
            trainer.poll()
    trainer.election.release()
    assert kept_summary(compacting) is not None
    another_round(compacting, backbone, database_url, seed=2)
    assert len(inputs_of(compacting, published(pool)[-1]).events) == 36
