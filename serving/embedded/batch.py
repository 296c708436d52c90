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
        self._lengths_B = torch.zeros(0, dtype=torch.long, device=model.device)
        self._last_B = self._lengths_B
        self.rows: list[Sequence] = []

    def join(self, sequences: list[Sequence]) -> list[tuple[Sequence, Token]]:
        """Read the prompts and sample each reply's first token. Equal prompts are read once."""
        self._compact()
        prompts = {tuple(sequence.prompt): None for sequence in sequences}
        index = {prompt: row for row, prompt in enumerate(prompts)}
        lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=self._model.device)
        width = max(len(prompt) for prompt in prompts)
        padded_PT = torch.tensor(
            [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=self._model.device
        )
        cache = Cache(layer_class_to_replicate=Layer)
        logits_PV = self._model.forward(self._slot, padded_PT, lengths_P, cache)
        places = [index[tuple(sequence.prompt)] for sequence in sequences]
        rows = torch.tensor(places, device=self._model.device)
        with torch.inference_mode():
            self._append(cache, rows, lengths_P[rows])
            tokens_B, events = _advance(sequences, logits_PV[rows])
        self.rows += sequences
        self._last_B = torch.cat([self._last_B, tokens_B])
        return events

    def step(self) -> list[tuple[Sequence, Token]]:
        """One more token for every reply that goes on."""
        self._compact()
        if not self.rows:
            return []
        self._lengths_B = self._lengths_B + 1
        logits_BV = self._model.forward(self._slot, self._last_B[:, None], self._lengths_B, self._cache)
        with torch.inference_mode():
            self._last_B, events = _advance(self.rows, logits_BV)
        return events

    def _compact(self) -> None:
        """Drop the rows that are done, and the columns that only they needed."""
        kept = [row for row, sequence in enumerate(self.rows) if not sequence.done]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[row] for row in kept]
        index = torch.tensor(kept, dtype=torch.long, device=self._model.device)
        self._lengths_B, self._last_B = self._lengths_B[index], self._last_B[index]
        length = int(self._lengths_B.max()) if kept else 0
        with torch.inference_mode():
            for layer in self._cache.layers:
                layer.arrange([layer.keys[index]], [layer.values[index]], length)

    def _append(self, other: Cache, rows: Tensor, lengths_B: Tensor) -> None:
        """Take over these rows of another cache."""
        length = max(self._cache.get_seq_length(), other.get_seq_length())
        if not self._cache.layers:
            self._cache.layers = [Layer() for _ in other.layers]
        for mine, theirs in zip(self._cache.layers, other.layers, strict=True):
            keys, values = [theirs.keys[rows]], [theirs.values[rows]]
            if self.rows:
                keys, values = [mine.keys, *keys], [mine.values, *values]
            mine.arrange(keys, values, length)
        self._lengths_B = torch.cat([self._lengths_B, lengths_B])


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
