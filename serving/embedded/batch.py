"""One policy's running batch: replies join it after their prompt is read, and leave it when they end.

Shapes: B rows, P different prompts, T new tokens, V tokens of the vocabulary. Since rows are padded on the
left, the whole state of the padding is one length a row.
"""

import torch
from torch import Tensor
from transformers import Cache

from serving.embedded.cache import Layer
from serving.embedded.model import Model
from serving.embedded.sampling import sample
from serving.embedded.sequence import Sequence, Token


class Batch:
    """Replies of one policy, one row each, that step together."""

    def __init__(self, model: Model, slot: str) -> None:
        self._model = model
        self._slot = slot
        self._cache = Cache(layer_class_to_replicate=Layer)
        self._lengths_B = self._last_B = self._integers([])
        self.rows: list[Sequence] = []

    def join(self, sequences: list[Sequence]) -> list[tuple[Sequence, Token]]:
        """Read the prompts and sample each reply's first token. Equal prompts are read once."""
        prompts = list(dict.fromkeys(tuple(sequence.prompt) for sequence in sequences))
        width = max(len(prompt) for prompt in prompts)
        padded_PT = self._integers([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        cache = Cache(layer_class_to_replicate=Layer)
        lengths_P = self._integers([len(prompt) for prompt in prompts])
        logits_PV = self._model.forward(self._slot, padded_PT, lengths_P, cache)
        places = {prompt: place for place, prompt in enumerate(prompts)}
        new = self._integers([places[tuple(sequence.prompt)] for sequence in sequences])
        with torch.inference_mode():
            tokens_B, events = _advance(sequences, logits_PV[new])
            self._regroup(cache, new, lengths_P[new], tokens_B)
        self.rows += sequences
        return events

    def step(self) -> list[tuple[Sequence, Token]]:
        """One more token for every reply that goes on."""
        if any(sequence.done for sequence in self.rows):
            nothing = self._integers([])
            self._regroup(self._cache, nothing, nothing, nothing)
        if not self.rows:
            return []
        self._lengths_B = self._lengths_B + 1
        logits_BV = self._model.forward(self._slot, self._last_B[:, None], self._lengths_B, self._cache)
        with torch.inference_mode():
            self._last_B, events = _advance(self.rows, logits_BV)
        return events

    def _regroup(self, cache: Cache, new: Tensor, lengths_N: Tensor, last_N: Tensor) -> None:
        """Drop the rows that are done and the columns that only they needed, and take over the rows `new` of
        another cache, all in one copy."""
        going_on = [row for row, sequence in enumerate(self.rows) if not sequence.done]
        kept = self._integers(going_on)
        self.rows = [self.rows[row] for row in going_on]
        self._lengths_B = torch.cat([self._lengths_B[kept], lengths_N])
        self._last_B = torch.cat([self._last_B[kept], last_N])
        if not self._cache.layers:
            self._cache = cache
        length = int(self._lengths_B.max()) if len(self._lengths_B) else 0
        with torch.inference_mode():
            for mine, theirs in zip(self._cache.layers, cache.layers, strict=True):
                mine.arrange(
                    [mine.keys[kept], theirs.keys[new]], [mine.values[kept], theirs.values[new]], length
                )

    def _integers(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._model.device)


def _advance(sequences: list[Sequence], logits_BV: Tensor) -> tuple[Tensor, list[tuple[Sequence, Token]]]:
    """Sample one token for each sequence, and say what that means for it: ids_B and the events."""
    logprobs_BV = logits_BV.log_softmax(-1)
    tokens_B = sample(
        logits_BV,
        [sequence.sampling for sequence in sequences],
        [sequence.counts for sequence in sequences],
        [sequence.random.random() for sequence in sequences],
    )
    tokens = tokens_B.tolist()
    logprobs = logprobs_BV.gather(-1, tokens_B[:, None]).squeeze(-1).tolist()
    tops = _tops(logprobs_BV, [sequence.tops for sequence in sequences])
    rows = zip(sequences, tokens, logprobs, tops, strict=True)
    return tokens_B, [(sequence, sequence.take(*rest)) for sequence, *rest in rows]


def _tops(logprobs_BV: Tensor, counts: list[int]) -> list[list[tuple[int, float]]]:
    most = max(counts)
    if not most:
        return [[] for _ in counts]
    values, ids = logprobs_BV.topk(most, dim=-1)
    pairs = (list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True))
    return [row[:count] for row, count in zip(pairs, counts, strict=True)]
