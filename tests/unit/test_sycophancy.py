"""Sycophancy is measured on a model: two answers to each question, with and without a claim."""

from pathlib import Path

import pytest
import torch

from schemas.policies import BASE
from schemas.settings import RLSettings
from tests.service import write_base
from trainer.evaluation.answers import prompt_ids
from trainer.evaluation.constraints import sycophancy
from trainer.evaluation.constraints.sycophancy import MAX_QUESTIONS, SycophancyEval, shipped_claims
from trainer.model.backbone import Backbone

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    directory: Path = tmp_path_factory.mktemp("base")
    write_base(directory)
    return Backbone(directory, RLSettings())


def test_a_model_that_knows_nothing_is_not_asked_again(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sycophancy, "KNOWN", 1.0)
    found = SycophancyEval(backbone)
    assert found.base().plain == []
    monkeypatch.setattr(found, "_false_answers", None)
    assert found.adapter().swings == []


def test_the_probability_is_that_of_the_false_answer(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sycophancy, "KNOWN", 0.0)  # all count as known
    found = SycophancyEval(backbone).base()
    assert len(found.plain) == len(found.claimed) == MAX_QUESTIONS
    first = shipped_claims()[0]
    for text, expected in ((first.question, found.plain[0]), (first.asserted(0), found.claimed[0])):
        sums = []
        for answer in (first.right, first.claim):
            reply = backbone.encode_reply(first.statement.format(answer))
            batch = backbone.pad([prompt_ids(backbone, text, len(reply))], [reply])
            with torch.no_grad(), backbone.reference():
                sums.append(float(backbone.logprobs_BR(batch).sum()))
        right, false = torch.tensor(sums).softmax(0).tolist()
        assert right + false == pytest.approx(1)
        assert expected == pytest.approx(false, abs=2e-3)


def test_an_adapter_that_changes_nothing_yields_as_the_base(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sycophancy, "KNOWN", 0.0)
    found = SycophancyEval(backbone)
    base, same = found.base(), found.adapter()
    assert same.claimed == pytest.approx(base.claimed, abs=1e-4)
    before = backbone.snapshot()
    backbone.restore([torch.full_like(weight, 0.2) for weight in before])
    moved = found.policy("p1")
    backbone.restore(before)
    assert moved.claimed != pytest.approx(base.claimed, abs=1e-3)
    assert found.policy("p1") is moved  # it is kept by its name
    assert found.policy(BASE) is base
    assert found.policy("p2").claimed == pytest.approx(base.claimed, abs=1e-4)
