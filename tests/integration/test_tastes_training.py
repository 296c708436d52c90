"""A round whose raters differ publishes what serving needs: the taste model, and each rater's weights."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from schemas.database import Pool
from schemas.taste_model import METADATA, REWARD, TASTES, TasteHeader
from tests.training import accept, add_key, send, small_settings, some_turns, thumbs_by_parity
from trainer import projects
from trainer.data.examples import Example
from trainer.model.backbone import Backbone
from trainer.records import person_weights
from trainer.reward import ensemble
from trainer.reward.likelihood import Votes
from trainer.reward.tastes import PersonWeights


def planted(features: torch.Tensor, votes: Votes) -> torch.Tensor:
    """Weights of raters who differ in one direction: twenty votes are too few to find them."""
    return torch.linspace(-1, 1, votes.raters, dtype=torch.float64).unsqueeze(1)


@pytest.mark.parametrize("differ", [True, False])
def test_a_taste_model_is_published_where_people_differ(
    differ: bool,
    database_url: str,
    tmp_path: Path,
    tiny_base: Path,
    pool: Pool,
    backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if differ:
        monkeypatch.setattr(ensemble, "fit_weights", planted)
    add_key(pool)
    settings = small_settings(database_url, tmp_path, tiny_base)
    settings.trainer.reward = settings.trainer.reward.model_copy(update={"groups": "least_satisfied"})
    turns = some_turns(backbone, 20, seed=1)
    send(database_url, turns, thumbs_by_parity(turns))

    assert projects.run(settings, once=True) == 0

    with pool.connection() as connection:
        policy = connection.execute("select * from policies where parent is not null").fetchone()
        people = connection.execute("select * from person_tastes order by rater").fetchall()
    assert policy is not None
    directory = Path(policy["directory"])
    manifest = accept(policy, backbone.digest)
    record = json.loads((settings.rounds_dir / "default" / "00001.json").read_text())
    assert record["reward_model"]["tastes"] == (2 if differ else 1)
    name, other = (TASTES, REWARD) if differ else (REWARD, TASTES)
    assert name in manifest.files
    assert not (directory / other).exists()
    with safe_open(directory / name, framework="pt") as file:
        header = TasteHeader.model_validate_json(file.metadata()[METADATA])
    assert (header.directions, header.members) == (2 * differ, settings.trainer.reward.members)
    assert header.base_digest == backbone.digest
    if not differ:
        assert people == []
        return
    assert {row["policy"] for row in people} == {policy["id"]}
    assert 2 <= len(people) <= 5
    assert sum(row["votes"] for row in people) == record["examples"]
    assert all(len(row["weights"]) == 2 for row in people)


def test_no_weights_are_kept_of_who_has_no_vote(pool: Pool, database_url: str, backbone: Backbone) -> None:
    """As after an erasure that ended while a round trained."""
    add_key(pool)
    [turn] = some_turns(backbone, 1, seed=1)
    send(database_url, [turn], thumbs_by_parity([turn]))
    training = [
        Example(f"ev_{rater}", turn.id, "thumb", {"value": "up"}, rater, (), datetime.now(UTC), False)
        for rater in (turn.rater, "u_nobody")
    ]
    people = PersonWeights(torch.zeros(2, 1), torch.zeros(2, 1, 1), torch.ones(2))
    person_weights.save(pool, "default", "p1-aaaaaa", people, training)
    with pool.connection() as connection:
        kept = connection.execute("select rater from person_tastes").fetchall()
    assert kept == [{"rater": turn.rater}]
