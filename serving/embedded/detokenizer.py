"""Incremental detokenization turns tokens into text one at a time: whole characters only, and no stop
string."""

import functools
import re
from typing import Any

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Detokenizer:
    """The text of one reply. Characters and stop strings may span several tokens, so text that may be the
    beginning of either is held back."""

    def __init__(self, tokenizer: Any, stops: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._ids: list[int] = []
        self._start = 0  # decoding starts here, as some tokenizers decode the first token differently
        self._decoded = 0  # tokens before this one are already text
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Returns the text that is certain with this token; often empty. Sets `stopped` at a stop string."""
        self._ids.append(token)
        new = self._decode_new()
        if not new or new.endswith(_INCOMPLETE):
            return ""
        self._start, self._decoded = self._decoded, len(self._ids)
        return self._release(new)

    def flush(self) -> str:
        """Returns the text held back at the end of the reply, without an incomplete character."""
        text = self._release(self._decode_new().rstrip(_INCOMPLETE))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _decode_new(self) -> str:
        decode = functools.partial(self._tokenizer.decode, skip_special_tokens=True)
        known: str = decode(self._ids[self._start : self._decoded])
        whole: str = decode(self._ids[self._start :])
        return whole[len(known) :]

    def _release(self, new: str) -> str:
        self._held += new
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        kept = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        out = self._held[: len(self._held) - kept]
        self._held = self._held[len(out) :]
        return out


def _overlap(text: str, stop: str) -> int:
    """Returns how many characters at the end of `text` may be the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)


class Vocabulary:
    """The vocabulary as the API shows it: `piece(id)` returns a token's string and its exact bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._byte_level = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)
        self.piece = functools.cache(self._piece)

    def _piece(self, token: int) -> tuple[str, list[int]]:
        name: str = self._tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._special:
            return name, list(name.encode())
        if self._byte_level and all(character in _BYTE_OF for character in name):
            raw = bytes(_BYTE_OF[character] for character in name)
        elif byte := _BYTE.fullmatch(name):
            raw = bytes.fromhex(byte[1])
        else:
            raw = name.replace("▁", " ").encode()
        return raw.decode(errors="replace"), list(raw)


def _byte_alphabet() -> dict[str, int]:
    """Returns the inverse of GPT-2's byte table: printable bytes are themselves, the others start at
    U+0100."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
