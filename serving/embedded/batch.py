"""A batch decodes all running replies of one policy together; new replies join it by a prefill (continuous
batching: Yu et al. 2022, Orca).

Shapes: B rows, P different prompts, T new tokens, V tokens of the vocabulary. Rows are padded on the left, so
one length per row describes the padding.
"""

import torch
from torch import Tensor
from transformers import Cache

from serving.embedded.kv_cache import KVCacheLayer
from serving.embedded.model import Model
from serving.embedded.sampling import sample
from serving.embedded.sequence import Sequence, Token


class Batch:
    """The running replies of one policy, one row each."""

    def __init__(self, model: Model, slot: str) -> None:
        self._model = model
        self._slot = slot
        self._cache = Cache(layer_class_to_replicate=KVCacheLayer)
        self._lengths_B = self._last_B = self._integers([])
        self.rows: list[Sequence] = []

    def prefill(self, sequences: list[Sequence]) -> list[tuple[Sequence, Token]]:
        """Adds new replies: reads their prompts, equal ones once, and samples each reply's first token."""
        prompts = list(dict.fromkeys(tuple(sequence.prompt) for sequence in sequences))
        width = max(len(prompt) for prompt in prompts)
        padded_PT = self._integers([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        cache = Cache(layer_class_to_replicate=KVCacheLayer)
        lengths_P = self._integers([len(prompt) for prompt in prompts])
        logits_PV = self._model.forward(self._slot, padded_PT, lengths_P, cache)
        rows = {prompt: row for row, prompt in enumerate(prompts)}
        new = self._integers([rows[tuple(sequence.prompt)] for sequence in sequences])
        with torch.inference_mode():
            tokens_B, sampled = _sample_next(sequences, logits_PV[new])
            self._regroup(cache, new, lengths_P[new], tokens_B)
        self.rows += sequences
        return sampled

    def decode(self) -> list[tuple[Sequence, Token]]:
        """Samples one more token for every reply that has not ended."""
        if any(sequence.done for sequence in self.rows):
            nothing = self._integers([])
            self._regroup(self._cache, nothing, nothing, nothing)
        if not self.rows:
            return []
        self._lengths_B = self._lengths_B + 1
        logits_BV = self._model.forward(self._slot, self._last_B[:, None], self._lengths_B, self._cache)
        with torch.inference_mode():
            self._last_B, sampled = _sample_next(self.rows, logits_BV)
        return sampled

    def _regroup(self, cache: Cache, new: Tensor, lengths_N: Tensor, last_N: Tensor) -> None:
        """Drops the rows that are done and the columns that only they needed, and appends the rows `new` of
        another cache, in one copy."""
        kept_rows = [row for row, sequence in enumerate(self.rows) if not sequence.done]
        kept = self._integers(kept_rows)
        self.rows = [self.rows[row] for row in kept_rows]
        self._lengths_B = torch.cat([self._lengths_B[kept], lengths_N])
        self._last_B = torch.cat([self._last_B[kept], last_N])
        if not self._cache.layers:
            self._cache = cache
        length = int(self._lengths_B.max()) if len(self._lengths_B) else 0
        with torch.inference_mode():
            for own, other in zip(self._cache.layers, cache.layers, strict=True):
                own.set_rows([own.keys[kept], other.keys[new]], [own.values[kept], other.values[new]], length)

    def _integers(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._model.device)


def _sample_next(sequences: list[Sequence], logits_BV: Tensor) -> tuple[Tensor, list[tuple[Sequence, Token]]]:
    """Samples one token for each sequence and appends it; returns the ids, ids_B, and the tokens."""
    for row, sequence in enumerate(sequences):
        if sequence.grammar:
            logits_BV[row].masked_fill_(~sequence.grammar.allowed().to(logits_BV.device), -torch.inf)
    logprobs_BV = logits_BV.log_softmax(-1)
    tokens_B = sample(
        logits_BV,
        [sequence.sampling for sequence in sequences],
        [sequence.prompt for sequence in sequences],
        [sequence.counts for sequence in sequences],
        [sequence.random.random() for sequence in sequences],
    )
    tokens = tokens_B.tolist()
    logprobs = logprobs_BV.gather(-1, tokens_B[:, None]).squeeze(-1).tolist()
    tops = _top_logprobs(logprobs_BV, [sequence.top_logprobs for sequence in sequences])
    rows = zip(sequences, tokens, logprobs, tops, strict=True)
    return tokens_B, [(sequence, sequence.append(*rest)) for sequence, *rest in rows]


def _top_logprobs(logprobs_BV: Tensor, counts: list[int]) -> list[list[tuple[int, float]]]:
    most = max(counts)
    if not most:
        return [[] for _ in counts]
    values, ids = logprobs_BV.topk(most, dim=-1)
    pairs = (list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True))
    return [row[:count] for row, count in zip(pairs, counts, strict=True)]
