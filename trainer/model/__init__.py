"""This package runs the language model: backbone, tokenizer, process group, device and rollouts."""
