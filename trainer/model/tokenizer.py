"""ChatTokenizer applies a base model's tokenizer and chat template; it does not need the weights."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from schemas.generation_defaults import read_generation_defaults
from schemas.messages import parse_arguments
from schemas.special_tokens import read_special_tokens

Message = dict[str, Any]
Messages = list[Message]
Tools = list[dict[str, Any]] | None


class ChatTokenizer:
    """The tokenizer of a model: `context_length` is its longest sequence in tokens, `eos_ids` the tokens that
    end a reply, with the tokenizer's own first, `pad_id` the token of padding, `think_ids` the tokens that
    open and close a thought (None where the tokenizer has no such tokens), `generation_defaults` the model's
    own sampling parameters, with its `temperature` and `top_p`."""

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
        self.generation_defaults = read_generation_defaults(directory)
        self.temperature = self.generation_defaults.temperature
        self.top_p = self.generation_defaults.top_p
        configured = generation.eos_token_id
        configured = configured if isinstance(configured, list) else [configured]
        candidates = [self.tokenizer.eos_token_id, *configured]
        self.eos_ids = list(dict.fromkeys(token for token in candidates if token is not None))

    @cached_property
    def most_bytes(self) -> int:
        """Returns a bound on the bytes of text that the context holds, from the longest token."""
        return self.context_length * max(len(token.encode()) for token in self.tokenizer.get_vocab())

    def render(self, messages: Messages, tools: Tools = None) -> list[int]:
        """Returns the token ids of a conversation with the generation prompt behind it. As in serving, no
        text of the messages becomes a special token. Raises TemplateError, also where there are tools and the
        template takes none."""
        text = self._text(messages, tools)
        if tools and text == self._text(messages, None):
            raise TemplateError("it takes no tools")
        return self._encode(text)

    def encode_message(self, messages: Messages, reply: Message, tools: Tools = None) -> list[int]:
        """Returns the token ids of a reply behind `messages` as the template writes it, with its thought and
        its tool calls, end token included; no text of it becomes a special token. Raises TemplateError, also
        where the template leaves something out."""
        prompt = self._text(messages, tools)
        whole = self._text([*messages, reply], tools, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise TemplateError("it writes another beginning where it writes a reply")
        written = whole.removeprefix(prompt)
        ends = {token: self.tokenizer.convert_ids_to_tokens(token) for token in self.eos_ids}
        places = {written.find(text): token for token, text in ends.items() if text in written}
        end, token = min(places.items(), default=(len(written), self.eos_ids[0]))
        written = written[:end]
        escaped = self._special_tokens.escape_message(reply)
        parts = [escaped.get("content"), escaped.get("reasoning_content")]
        parts += [call["function"]["name"] for call in escaped.get("tool_calls", ())]
        if any(part.strip() not in written for part in parts if part):
            raise TemplateError("it writes no tool calls, or no thoughts")
        return [*self._encode(written), token]

    def _text(self, messages: Messages, tools: Tools, *, add_generation_prompt: bool = True) -> str:
        """Returns what the template writes, with the text of people escaped."""
        shown = [parse_arguments(self._special_tokens.escape_message(message)) for message in messages]
        for message in shown:
            message["content"] = message.get("content") or ""
        escaped = self._special_tokens.escape_all(tools)
        found = self.tokenizer.apply_chat_template(
            shown, tools=escaped, add_generation_prompt=add_generation_prompt, tokenize=False
        )
        return str(found)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_reply(self, text: str, *, keep_markers: bool = False) -> list[int]:
        """Returns the token ids of a written reply, end token included. No text of it becomes a special
        token, nor, unless `keep_markers`, a marker such as that of a thought."""
        escaped = self._special_tokens.escape(text, keep_markers=keep_markers)
        return [*self._encode(escaped), self.eos_ids[0]]

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))
