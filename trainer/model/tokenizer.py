"""ChatTokenizer applies a base model's tokenizer and chat template; it does not need the weights."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from schemas.special_tokens import read_special_tokens

Messages = list[dict[str, Any]]


class ChatTokenizer:
    """The tokenizer of a model: `context_length` is its longest sequence in tokens, `eos_ids` the tokens that
    end a reply, with the tokenizer's own first, `pad_id` the token of padding, `think_ids` the tokens that
    open and close a thought (None where the tokenizer has no such tokens), `temperature` and `top_p` the
    model's own defaults of generation."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)
        self._special_tokens = read_special_tokens(directory)
        self.pad_id = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        added = self.tokenizer.added_tokens_encoder
        self.think_ids: tuple[int, int] | None = (
            (added["<think>"], added["</think>"]) if {"<think>", "</think>"} <= added.keys() else None
        )
        config = AutoConfig.from_pretrained(directory)
        self.context_length = int(getattr(config.get_text_config(), "max_position_embeddings", 2048))
        try:
            generation = GenerationConfig.from_pretrained(directory)
        except OSError:  # there is no generation_config.json
            generation = GenerationConfig(eos_token_id=config.get_text_config().eos_token_id)
        self.temperature = 1.0 if generation.temperature is None else float(generation.temperature)
        self.top_p = 1.0 if generation.top_p is None else float(generation.top_p)
        configured = generation.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        candidates = [self.tokenizer.eos_token_id, *configured]
        self.eos_ids = list(dict.fromkeys(token for token in candidates if token is not None))

    @cached_property
    def most_bytes(self) -> int:
        """Returns a bound on the bytes of text that the context holds, from the longest token."""
        return self.context_length * max(len(token.encode()) for token in self.tokenizer.get_vocab())

    def render(self, messages: Messages) -> list[int]:
        """Returns the token ids of a conversation with the generation prompt behind it. As in serving, no
        text of the messages becomes a special token."""
        escaped = [self._special_tokens.escape_message(message) for message in messages]
        encoded = self.tokenizer.apply_chat_template(escaped, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def encode_reply(self, text: str, *, keep_markers: bool = False) -> list[int]:
        """Returns the token ids of a written reply, end token included. No text of it becomes a special
        token, nor, unless `keep_markers`, a marker such as that of a thought."""
        escaped = self._special_tokens.escape(text, keep_markers=keep_markers)
        return [*self.tokenizer.encode(escaped, add_special_tokens=False), self.eos_ids[0]]

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
