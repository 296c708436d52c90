"""The small engine: one frozen base, several LoRA adapters, spoken to as if it were vLLM.

`python -m serving.embedded --model DIR --port P` is a process of its own. Files, in the order in which a
request meets them: `server` (HTTP), `protocol` (requests), `prompt` (messages to ids), `scheduler` (the one
thread that generates), `batch` (one policy's running replies), `cache`, `model` (base and adapters),
`sampling` (logits to tokens), `sequence` (one reply), `text` (tokens to text), `replies` (tokens to JSON).

What it leaves out, and vLLM has: paged memory and prefix caching (each turn's prompt is read again), mixing
adapters in one forward pass (each policy steps in turn), quantised weights, tools, images, JSON mode, models
that keep a state other than keys and values.

Measured on a Llama of the starter's size (3.3 M parameters) with a LoRA of rank 16 on every linear layer, one
torch thread. A step's own CPU time: 3.0 ms for 1 reply (330 tokens/s), 6.7 ms for 16 (2,400 tokens/s), 9.8 ms
for 32 (3,250 tokens/s). Over HTTP, on two cores that others kept busy: 16 streams 1,050 tokens/s, first token
after 16 ms when idle. Loading an adapter takes 30 to 90 ms, the process 440 MB. Changing the adapter costs
1.5 ms of each step (PEFT walks the model), so several policies at once share less: it happens only when the
policy changes. A reply that joins costs one pass over its prompt and one copy of its policy's cache.
"""
