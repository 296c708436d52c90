"""Special tokens mark roles and ends, so text that people write must never become one (prompt injection).

A tokenizer finds the strings of its special tokens in any text, whoever wrote it, and a chat template renders
everything to one text before that. `escape` breaks those strings in people's text by an invisible character,
with any tokenizer and in any engine; those that the template itself writes stay whole.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from schemas.errors import StartError

WORD_JOINER = "\u2060"


class SpecialTokens:
    """The strings that must not come from people: `special` tokens, and `markers`, which are ordinary added
    tokens that the chat template writes, such as `<tool_call>` or `</think>`."""

    def __init__(self, special: Iterable[str], markers: Iterable[str] = ()) -> None:
        self.special = frozenset(filter(str.strip, special))
        self._special = _starts(self.special)
        self._all = _starts(self.special | {marker for marker in markers if len(marker.strip()) > 1})

    def escape(self, text: str, *, keep_markers: bool = False) -> str:
        """Returns the text with a word joiner after the first character of each such string. A string of one
        character is replaced (U+FFFD)."""
        return (self._special if keep_markers else self._all).sub(self._break, text)

    def escape_message(self, message: dict[str, Any]) -> dict[str, Any]:
        """Returns a message of a chat with all its text escaped. Markers in an assistant's content are kept,
        since templates read thoughts from them; thoughts and tool calls apart have none of their own."""
        keep = message.get("role") == "assistant"
        escaped = {
            name: value if name == "role" else self.escape_all(value, keep_markers=keep and name == "content")
            for name, value in message.items()
        }
        if isinstance(message.get("tool_calls"), list):
            for call, given in zip(escaped["tool_calls"], message["tool_calls"], strict=True):
                call["function"]["arguments"] = self._escape_json(given["function"]["arguments"])
        return escaped

    def _escape_json(self, text: str) -> str:
        """Returns JSON, which the engine will parse, without such strings: they may be written with escapes
        of their own. Text that is not JSON stays text."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.escape(text)
        escaped = self.escape_all(value)
        return text if escaped == value else json.dumps(escaped, ensure_ascii=False)

    def escape_all(self, value: Any, *, keep_markers: bool = False) -> Any:
        """Returns a JSON value, such as the descriptions of tools, with all text in it escaped."""
        if isinstance(value, str):
            return self.escape(value, keep_markers=keep_markers)
        escape = partial(self.escape_all, keep_markers=keep_markers)
        if isinstance(value, list):
            return [escape(item) for item in value]
        if isinstance(value, dict):
            return {escape(name): escape(item) for name, item in value.items()}
        return value

    def _break(self, match: re.Match[str]) -> str:
        return "\ufffd" if match[0] in self.special else match[0] + WORD_JOINER


def read_special_tokens(directory: Path) -> SpecialTokens:
    """Returns the special tokens of the tokenizer in `directory`, from whichever of its files name them.
    Raises StartError for a file that is not JSON."""
    special: set[str] = set()
    ordinary: set[str] = set()
    config = _read(directory / "tokenizer_config.json")
    for token in _added(_read(directory / "tokenizer.json"), config):
        (special if token.get("special") else ordinary).add(str(token["content"]))
    for names in (config, _read(directory / "special_tokens_map.json")):
        special |= {text for name, value in names.items() if "token" in name for text in _texts(name, value)}
    ordinary |= set(_read(directory / "added_tokens.json"))
    template = chat_template(directory)
    return SpecialTokens(special, {text for text in ordinary - special if text in template})


def chat_template(directory: Path) -> str:
    """Returns the source of the chat template in `directory`, of all where there are several."""
    return "".join(_templates(directory, _read(directory / "tokenizer_config.json")))


def _starts(strings: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern of the first character of each of the strings, whether or not they overlap. It is a
    trie, so the time does not grow with their number."""
    starts = (
        re.escape(first) + (f"(?={_trie(rests)})" if "" not in rests else "")
        for first, rests in _by_first(strings).items()
    )
    return re.compile("|".join(starts) or "(?!)", re.DOTALL)


def _trie(strings: set[str]) -> str:
    """Returns a pattern that matches where one of the strings begins."""
    if "" in strings:
        return ""
    return f"(?:{'|'.join(re.escape(first) + _trie(rests) for first, rests in _by_first(strings).items())})"


def _by_first(strings: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for text in sorted(strings):
        found.setdefault(text[0], set()).add(text[1:])
    return found


def _added(tokenizer: dict[str, Any], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from tokenizer.get("added_tokens") or ()
    yield from (config.get("added_tokens_decoder") or {}).values()


def _texts(name: str, value: Any) -> Iterator[str]:
    """Yields the tokens of a field such as `eos_token` or `additional_special_tokens`."""
    if isinstance(value, str) and name.endswith("_token"):
        yield value
    elif isinstance(value, dict) and name.endswith("_token"):
        yield str(value.get("content", ""))
    elif name.endswith("_special_tokens"):
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield str(item.get("content", "") if isinstance(item, dict) else item)


def _templates(directory: Path, config: dict[str, Any]) -> Iterator[str]:
    found = config.get("chat_template") or ""
    yield found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    for path in directory.glob("**/*.jinja"):
        yield path.read_text(encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StartError(f"{path} is not JSON: {error}. Repair it, or remove it.") from None
    return found if isinstance(found, dict) else {}
