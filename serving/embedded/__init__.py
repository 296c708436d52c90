"""The embedded engine serves one frozen base and several LoRA adapters with continuous batching, over the
part of vLLM's HTTP API that Hearken uses.

`python -m serving.embedded --model DIR --port P` is a process of its own. Its files, in the order in which a
request meets them: `server` (HTTP), `protocol` (request bodies), `prompt` (messages to token ids), `grammar`
(what a reply must follow), `scheduler` (the one thread that generates), `batch` (prefill and decoding of one
policy's replies), `kv_cache`, `model` (the base), `attention`, `lora` (the adapters), `sampling` (logits to
tokens), `sequence` (one reply), `detokenizer` (tokens to text), `tools` (text to tool calls), `responses`
(tokens to JSON).

It leaves out what vLLM has: paged attention and prefix caching (each turn's prompt is prefilled again),
adapters mixed in one forward pass (each policy steps in turn), quantised weights, images, thoughts, other
forms of tool calls, and models with a state other than keys and values.
"""
