"""A sequence is one reply during its generation: its sampling state, its end, and its sampled tokens."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from serving.embedded.detokenizer import Detokenizer
from serving.embedded.grammar import Grammar
from serving.embedded.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Token:
    """One sampled token. `logprob` and `top_logprobs` (id, logprob) are the model's own in nats, before
    temperature, top_p and penalties, which is vLLM's default."""

    choice: int
    id: int
    logprob: float
    top_logprobs: list[tuple[int, float]]
    text: str
    finish_reason: str | None


@dataclass(slots=True, eq=False)
class Sequence:
    """One reply. `top_logprobs` is the number of alternatives reported with each token. Any thread may set
    `done` at any time; the reply then leaves its batch before the next step."""

    choice: int
    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    top_logprobs: int
    eos_token_ids: frozenset[int]
    detokenizer: Detokenizer
    random: Random
    grammar: Grammar | None = None
    counts: Counter[int] = field(default_factory=Counter)
    generated: int = 0
    done: bool = False

    def append(self, token: int, logprob: float, top_logprobs: list[tuple[int, float]]) -> Token:
        """Appends a sampled token; returns it with its text, and the finish reason if it ends the reply."""
        self.generated += 1
        self.counts[token] += 1
        if self.grammar:
            self.grammar.append(token)
        ended = token in self.eos_token_ids
        text = "" if ended else self.detokenizer.push(token)
        reason = "stop" if ended or self.detokenizer.stopped else None
        if reason is None and self.generated >= self.max_tokens:
            reason = "length"
        if reason and not self.detokenizer.stopped:
            text += self.detokenizer.flush()
            reason = "stop" if self.detokenizer.stopped else reason
        self.done = self.done or reason is not None
        return Token(self.choice, token, logprob, top_logprobs, text, reason)
