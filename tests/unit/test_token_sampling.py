"""Token sampling of the trainer: penalties and cuts by worked examples, and beside the embedded engine's."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from serving.embedded import sampling as embedded
from trainer.model import token_sampling
from trainer.model.token_sampling import nucleus, penalise, truncate

PROMPT, REPLY = [3, 3, 7, 1], [5, 7, 5]

DRAWS = [(number + 0.5) / 4_000 for number in range(4_000)]

LOGP_BV = torch.tensor([[0.1, 0.5, 0.05, 0.35], [0.97, 0.01, 0.01, 0.01]]).log()


def kept(logp_BV: Tensor) -> list[list[int]]:
    return [row_V.isfinite().nonzero().squeeze(1).tolist() for row_V in logp_BV]


def test_the_nucleus_is_the_smallest_set_of_likely_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (1, 3, 256):  # with few candidates, the whole vocabulary is sorted
        monkeypatch.setattr(token_sampling, "NUCLEUS_TOKENS", most)
        found_BV = nucleus(LOGP_BV, 0.8)
        assert kept(found_BV) == [[1, 3], [0]]
        torch.testing.assert_close(found_BV[found_BV.isfinite()], LOGP_BV[found_BV.isfinite()])


@pytest.mark.parametrize(
    ("top_k", "min_p", "top_p", "expected"),
    [
        (0, 0.0, 1.0, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (2, 0.0, 1.0, [[1, 3], None]),
        (9, 0.0, 1.0, [[0, 1, 2, 3], [0, 1, 2, 3]]),
        (0, 0.15, 1.0, [[0, 1, 3], [0]]),
        (0, 0.0, 0.55, [[1, 3], [0]]),
        (2, 0.0, 0.55, [[1], [0]]),  # of the two, token 1 has 0.59
        (0, 0.15, 0.51, [[1], [0]]),  # of the three, token 1 has 0.53
    ],
)
def test_what_may_be_drawn(top_k: int, min_p: float, top_p: float, expected: list[list[int] | None]) -> None:
    found = kept(truncate(LOGP_BV, top_k, min_p, top_p))
    assert found[0] == expected[0]
    assert expected[1] is None or found[1] == expected[1]  # of equal tokens, any may be left


def test_penalties_count_what_was_there() -> None:
    logits_1V = torch.tensor([[2.0, -2.0, 1.0, 1.0]])
    prompt_1P, reply_1R = torch.tensor([[1, 1]]), torch.tensor([[2, 0, 2]])
    found = penalise(logits_1V, prompt_1P, reply_1R, repetition=2.0, presence=0.5, frequency=0.25)
    assert found.tolist() == [[2 / 2 - 0.25 - 0.5, -2 * 2, 1 / 2 - 2 * 0.25 - 0.5, 1.0]]
    assert logits_1V.tolist() == [[2.0, -2.0, 1.0, 1.0]]
    nothing = torch.empty(1, 0, dtype=torch.long)
    assert penalise(logits_1V, nothing, nothing, 2.0, 0.5, 0.25).tolist() == logits_1V.tolist()


@pytest.mark.parametrize(
    "served",
    [
        embedded.Sampling(temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05),
        embedded.Sampling(temperature=1.5, min_p=0.05, presence_penalty=0.8, frequency_penalty=-0.4),
        embedded.Sampling(top_k=7, min_p=0.02, top_p=0.6, repetition_penalty=1.3),
        embedded.Sampling(top_p=0.95),
    ],
)
def test_tokens_are_drawn_as_by_the_embedded_engine(served: embedded.Sampling) -> None:
    """Evenly spaced draws land on each token in proportion to its probability."""
    logits_1V = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    penalties = served.repetition_penalty, served.presence_penalty, served.frequency_penalty
    scores_1V = penalise(logits_1V, torch.tensor([PROMPT]), torch.tensor([REPLY]), *penalties)
    logp_1V = (scores_1V / served.temperature).log_softmax(1)
    own_V = truncate(logp_1V, served.top_k, served.min_p, served.top_p).softmax(1)[0]
    count = len(DRAWS)
    drawn = embedded.sample(
        logits_1V.expand(count, -1), [served] * count, [PROMPT] * count, [Counter(REPLY)] * count, DRAWS
    )
    shares_V = torch.bincount(drawn, minlength=40) / count
    assert shares_V.tolist() == pytest.approx(own_V.tolist(), abs=1 / count)
    assert 1 < len(drawn.unique()) < 40
