"""The cache scores a voted reply once, also over restarts, and gives what scoring gives."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from schemas.settings import RLSettings
from trainer.data import feature_cache
from trainer.data.examples import Corpus, Example, Key, Reply
from trainer.data.feature_cache import FeatureCache
from trainer.model.backbone import Backbone
from trainer.reward.scoring import score

torch.set_num_threads(1)


def corpus(*numbers: int) -> Corpus:
    replies: dict[Key, Reply] = {
        (f"t{number}", "0"): Reply([5, 6, 7 + number], [9 + number, 10]) for number in numbers
    }
    now = datetime(2026, 1, 1, tzinfo=UTC)
    thumbs = [
        Example(f"e{key[0]}", key[0], "thumb", {"value": "up"}, "u", (key,), now, False) for key in replies
    ]
    return Corpus(thumbs, replies)


@pytest.fixture
def backbone(tiny_base: Path) -> Backbone:
    return Backbone(tiny_base, RLSettings())


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of replies that were scored at a time."""
    counts: list[int] = []

    def counted(backbone: Backbone, prompts: list[list[int]], *rest: object, **more: object) -> object:
        counts.append(len(prompts))
        return score(backbone, prompts, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(feature_cache, "score", counted)
    return counts


def test_a_trainer_that_starts_again_scores_new_replies_only(
    backbone: Backbone, tmp_path: Path, scored: list[int]
) -> None:
    FeatureCache(backbone, tmp_path).update(corpus(1, 2, 3))
    cache = FeatureCache(backbone, tmp_path)
    cache.update(corpus(2, 3, 4))
    assert scored == [3, 1]
    keys: list[Key] = [("t4", "0"), ("t2", "0")]
    alone = FeatureCache(backbone)
    alone.update(corpus(2, 4))
    for name, expected in alone.features(keys).items():
        assert torch.equal(cache.features(keys)[name], expected)
    assert cache.base_logprob(keys[0]) == alone.base_logprob(keys[0]) < 0
    with pytest.raises(KeyError):
        cache.features([("t1", "0")])


def test_it_gives_what_scoring_gives(backbone: Backbone) -> None:
    cache = FeatureCache(backbone)
    cache.update(corpus(1))
    [reply] = corpus(1).replies.values()
    expected = score(backbone, [reply.prompt_ids], [reply.token_ids])
    assert cache.base_logprob(("t1", "0")) == pytest.approx(sum(expected.base_logprobs[0]))
    found = cache.features([("t1", "0")])
    assert found.keys() == expected.features.keys()
    for name, group in expected.features.items():
        assert torch.equal(found[name], group)


def test_many_new_replies_are_written_in_parts(
    backbone: Backbone, tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "CHUNK", 4)
    FeatureCache(backbone, tmp_path).update(corpus(*range(10)))
    assert scored == [4, 4, 2]
    FeatureCache(backbone, tmp_path).update(corpus(*range(10)))
    assert scored == [4, 4, 2]


def test_scores_by_another_base_are_not_used_and_deleted(
    backbone: Backbone, tmp_path: Path, scored: list[int]
) -> None:
    FeatureCache(backbone, tmp_path).update(corpus(1))
    [before] = tmp_path.iterdir()
    backbone.digest = "0" * 64
    FeatureCache(backbone, tmp_path).update(corpus(1))
    assert scored == [1, 1]
    assert not before.exists()
