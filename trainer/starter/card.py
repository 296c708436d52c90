"""This module writes the starter model's model card."""

from typing import Any

from trainer.starter.measure import Metrics

CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [hearken, starter, synthetic]
---

# Hearken's starter model

A chat model of {parameters:.1f} million parameters (Llama architecture, {layers} layers of width {width},
{vocabulary:,} byte-level BPE tokens, {context:,} positions) that ships with Hearken, so that the whole loop
of chat, votes and learning can be tried in minutes on two CPU cores. It is a toy with manners, not an
assistant: it knows a small closed world (animals, colours, capitals, days and months, small sums,
opposites, recipes, jokes and some small talk). Asked about anything else it was taught to say that it does
not know (the shipped build, asked ten such questions ten times each, did so 45 times in 100).

Its point is that one prompt has many answers: short or long, formal or casual, warm or plain, with or
without exclamation marks, emoji, a closing question, a list or hedging, each drawn independently. People's
votes then have something to choose between.

## Training

`{command}`: {minutes:.0f} minutes on one
CPU core. No data set was used: the builder writes every dialogue itself, from tables and a grammar in
`trainer/starter`, so the model has seen no text by or about a real person.

## Measured

{table}

Sampling: {speed:,.0f} tokens a second in batches of 250 on one core.

## Limits

The figures are for single questions from its own world; recipes, advice, small talk and later turns are not
scored, and go wrong more often. It repeats what its tables say and cannot look anything up. Outside its
world it can answer nonsense with confidence.

Advice is small talk: do not act on it where health or money is at stake.
"""


def model_card(model: Any, metrics: Metrics, seconds: float, command: str) -> str:
    """Returns the card as Markdown; `seconds` is the duration of the build."""
    config = model.config
    return CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        command=command,
        minutes=seconds / 60,
        table=metrics.table(),
        speed=metrics.tokens_per_second,
    )
