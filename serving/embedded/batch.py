"""One policy's running batch: replies join it after their prompt is read, and leave it when they end.

Rows are padded on the left, so all of them append to the same column and the whole state of the padding is
one length a row. Shapes: B rows, H heads, L columns of the cache, D dimensions of a head, T new tokens.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

from serving.embedded.model import Model
from serving.embedded.sampling import Sampling, sample
from serving.embedded.text import Text

_ROOM = 64  # columns allocated ahead, so that a step writes in place instead of copying the cache


@dataclass(slots=True, eq=False)
class Sequence:
    """One reply in the making. `tops` likeliest alternatives are reported with each token. Whoever asked may
    set `done` at any time, from any thread, and the reply leaves its batch before the next step."""

    choice: int
    prompt: list[int]
    limit: int
    sampling: Sampling
    tops: int
    ends: frozenset[int]
    text: Text
    random: Random
    counts: Counter[int] = field(default_factory=Counter)
    generated: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token. `logprob` and `top` (id, logprob) are nats of the model itself, before temperature,
    top_p and penalties: vLLM's default."""

    choice: int
    id: int
    logprob: float
    top: list[tuple[int, float]]
    text: str
    finish_reason: str | None


class Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values as views on tensors that have room to grow."""

    is_initialized: bool

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values, self.is_initialized = keys[:, :, :0], values[:, :, :0], True
            self._start = self._end = self._room = 0
        new = keys.shape[2]
        if self._end + new > self._room:
            self.arrange([self.keys], [self.values], self._end - self._start, room=new + _ROOM)
        self._key_buffer[:, :, self._end : self._end + new] = keys
        self._value_buffer[:, :, self._end : self._end + new] = values
        self._end += new
        return self._show()

    def arrange(self, keys: list[Tensor], values: list[Tensor], length: int, room: int = _ROOM) -> None:
        """Hold these rows instead, the last `length` columns of each."""
        self._key_buffer, self._value_buffer = _stacked(keys, length, room), _stacked(values, length, room)
        self._start, self._end, self._room = 0, length, length + room
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys = self._key_buffer[:, :, self._start : self._end]
        self.values = self._value_buffer[:, :, self._start : self._end]
        return self.keys, self.values


def _stacked(parts: list[Tensor], length: int, room: int) -> Tensor:
    """Rows of all parts below each other, aligned at column `length`; padding is zero, for a masked value
    still takes part in a product."""
    _, heads, _, size = parts[0].shape
    out = parts[0].new_zeros(sum(len(part) for part in parts), heads, length + room, size)
    row = 0
    for part in parts:
        part = part[:, :, max(part.shape[2] - length, 0) :]
        out[row : row + len(part), :, length - part.shape[2] : length] = part
        row += len(part)
    return out


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
            mine.is_initialized = True
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
    return tokens_B, [(row[0], _token(*row)) for row in rows]


def _tops(logprobs_BV: Tensor, counts: list[int]) -> list[list[tuple[int, float]]]:
    most = max(counts)
    if not most:
        return [[] for _ in counts]
    values, ids = logprobs_BV.topk(most, dim=-1)
    pairs = (list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True))
    return [row[:count] for row, count in zip(pairs, counts, strict=True)]


def _token(sequence: Sequence, token: int, logprob: float, top: list[tuple[int, float]]) -> Token:
    sequence.generated += 1
    sequence.counts[token] += 1
    ended = token in sequence.ends
    text = "" if ended else sequence.text.push(token)
    reason = "stop" if ended or sequence.text.stopped else None
    if reason is None and sequence.generated >= sequence.limit:
        reason = "length"
    if reason and not sequence.text.stopped:
        text += sequence.text.rest()
        reason = "stop" if sequence.text.stopped else reason
    sequence.done = sequence.done or reason is not None
    return Token(sequence.choice, token, logprob, top, text, reason)
