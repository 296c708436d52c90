"""The base with its LoRA adapter: tokens, sampling, devices and process groups."""
