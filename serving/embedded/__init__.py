"""The small engine: one frozen base, several LoRA adapters, spoken to as if it were vLLM.

`python -m serving.embedded --model DIR --port P` is a process of its own. Files, in the order in which a
request meets them: `server` (HTTP), `protocol` (requests), `prompt` (messages to ids), `scheduler` (the one
thread that generates), `batch` (one policy's running replies), `cache`, `model` (base and adapters),
`sampling` (logits to tokens), `sequence` (one reply), `text` (tokens to text), `replies` (tokens to JSON).

What it leaves out, and vLLM has: paged memory and prefix caching (each turn's prompt is read again), mixing
adapters in one forward pass (each policy steps in turn), quantised weights, tools, images, JSON mode, models
that keep a state other than keys and values.

Measured on the 3.6 M starter, one torch thread of a two-core machine:

FIGURES
"""
