"""This module evaluates the starter model: how often its samples show each style, and its accuracy on facts.

It samples at temperature 1, as chat does, and not greedily.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.starter.styles import AXES, styles
from trainer.starter.world import Prompt, correct, prompts

MAX_NEW_TOKENS = 100


@dataclass(frozen=True)
class Metrics:
    """Statistics of sampled replies to random prompts; shares are between 0 and 1."""

    replies: int
    base_rates: dict[str, float]
    rarest_triple: tuple[float, str]
    """The share of the rarest combination of values on three axes, and its name."""
    knowledge: float
    """Share of factual prompts with a correct reply."""
    knowledge_by_style: dict[str, tuple[float, float]]
    """The same among replies without and with each style."""
    eos_rate: float
    """Share of replies with an end token."""
    mean_tokens: float
    """Mean length of a reply, its end token included, tokens."""
    tokens_per_second: float

    def table(self) -> str:
        """Returns a Markdown table."""
        lines = ["| axis | base rate | knowledge without | knowledge with |", "|---|---|---|---|"]
        for axis in AXES:
            without, having = self.knowledge_by_style[axis]
            lines.append(f"| {axis} | {self.base_rates[axis]:.2f} | {without:.3f} | {having:.3f} |")
        share, which = self.rarest_triple
        lines += [
            "",
            f"Over {self.replies} replies at temperature 1: knowledge {self.knowledge:.3f}; the rarest of "
            f"the 448 combinations of three axes ({which}) has a share of {share:.3f}; "
            f"{self.eos_rate:.3f} of the replies end by themselves; {self.mean_tokens:.1f} tokens a reply.",
        ]
        return "\n".join(lines)


def load(directory: Path) -> tuple[Any, Any]:
    """Returns the model, ready to sample, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(directory)


def sample(
    model: Any, tokenizer: Any, messages: Sequence[str], seed: int, batch: int = 250
) -> list[list[int]]:
    """Returns the token ids of one reply to each message at temperature 1, end token included."""
    import torch

    torch.manual_seed(seed)
    replies: list[list[int]] = []
    for start in range(0, len(messages), batch):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
            )
            for text in messages[start : start + batch]
        ]
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        with torch.inference_mode():
            out = model.generate(
                **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_NEW_TOKENS
            )
        end = tokenizer.eos_token_id
        for row in out[:, inputs["input_ids"].shape[1] :].tolist():
            replies.append(row[: row.index(end) + 1] if end in row else row)
    return replies


def measure(model: Any, tokenizer: Any, count: int, seed: int) -> Metrics:
    """Samples one reply to each of `count` random prompts and returns their statistics."""
    asked: list[Prompt] = prompts(count, seed)
    began = time.monotonic()
    sampled = sample(model, tokenizer, [prompt.prompt for prompt in asked], seed)
    seconds = time.monotonic() - began
    texts = tokenizer.batch_decode(sampled, skip_special_tokens=True)
    shown = [styles(text) for text in texts]
    triples = {  # 56 triples of axes, 8 combinations each
        " & ".join(("" if value else "not ") + axis for axis, value in zip(axes, values, strict=True)): _mean(
            [all(style[axis] == value for axis, value in zip(axes, values, strict=True)) for style in shown]
        )
        for axes in itertools.combinations(AXES, 3)
        for values in itertools.product((False, True), repeat=3)
    }
    rarest = min(triples, key=lambda name: triples[name])
    known = [(correct(p, t), s) for p, t, s in zip(asked, texts, shown, strict=True) if p.accept is not None]
    tokens = sum(map(len, sampled))
    return Metrics(
        replies=count,
        base_rates={axis: _mean([style[axis] for style in shown]) for axis in AXES},
        rarest_triple=(triples[rarest], rarest),
        knowledge=_mean([right for right, _ in known]),
        knowledge_by_style={
            axis: (_mean([r for r, s in known if not s[axis]]), _mean([r for r, s in known if s[axis]]))
            for axis in AXES
        },
        eos_rate=_mean([ids[-1] == tokenizer.eos_token_id for ids in sampled]),
        mean_tokens=tokens / count,
        tokens_per_second=tokens / seconds,
    )


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0
