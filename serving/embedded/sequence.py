"""One reply in the making, and the tokens that come of it."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from serving.embedded.sampling import Sampling
from serving.embedded.text import Text


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

    def take(self, token: int, logprob: float, top: list[tuple[int, float]]) -> Token:
        """Append a sampled token, and say what that means for the reply."""
        self.generated += 1
        self.counts[token] += 1
        ended = token in self.ends
        text = "" if ended else self.text.push(token)
        reason = "stop" if ended or self.text.stopped else None
        if reason is None and self.generated >= self.limit:
            reason = "length"
        if reason and not self.text.stopped:
            text += self.text.rest()
            reason = "stop" if self.text.stopped else reason
        self.done = self.done or reason is not None
        return Token(self.choice, token, logprob, top, text, reason)
