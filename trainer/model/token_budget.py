"""A TokenBudget bounds batches by their tokens, padding included, so that they fit into memory.

Batches are bounded by rows, too: a batch of short rows is no faster for being larger.
"""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from trainer.model.batch import padded_width

MAX_TOKENS = 2**17
"""Largest budget. It leaves 16 rows of 8,192 tokens, or 128 of 1,024, in one batch."""

UNLIMITED = 2**62
"""A budget that bounds nothing, as rounds of earlier releases had."""


class TokenBudget(BaseModel):
    """Tokens of the largest batch of one process, rows × padded width: `training` with gradients, which holds
    for scoring too, and `sampling` with the KV cache. `row` is the longest row, prompt and reply together,
    which may be longer than `training`. A batch of more tokens than `kept` does not keep its activations for
    the backward pass, but computes them again, unless `rl.gradient_checkpointing` is set. Different budgets
    give different batches, and these different last bits, so a round's inputs name its budget."""

    model_config = ConfigDict(frozen=True)

    training: int = UNLIMITED
    sampling: int = UNLIMITED
    row: int = UNLIMITED
    kept: int = UNLIMITED

    def longest_prompt(self, reply_tokens: int, setting: int | None = None) -> int:
        """Returns the most tokens of a prompt that is practised on with replies of `reply_tokens` tokens;
        `setting` (`trainer.max_prompt_tokens`) may lower it."""
        longest = self.row - reply_tokens
        return longest if setting is None else min(longest, setting)

    def within(self, other: "TokenBudget") -> "TokenBudget":
        """Returns the budget that keeps within another one, too, such as that of a smaller machine."""
        return TokenBudget(**{name: min(tokens, getattr(other, name)) for name, tokens in self})


def split(lengths: Sequence[tuple[int, int]], tokens: int, rows: int, processes: int = 1) -> Iterator[slice]:
    """Splits rows, given by the lengths of their prompts and replies, into consecutive batches. The share of
    each process has at most `rows` rows and, padded, at most `tokens` tokens, or is a single row."""
    start = longest_prompt = longest_reply = 0
    for index, (prompt, reply) in enumerate(lengths):
        longest_prompt, longest_reply = max(longest_prompt, prompt), max(longest_reply, reply)
        share = -(-(index + 1 - start) // processes)
        full = share > rows or share * padded_width(longest_prompt, longest_reply) > tokens
        if full and index > start:
            yield slice(start, index)
            start, longest_prompt, longest_reply = index, prompt, reply
    if lengths:
        yield slice(start, len(lengths))
