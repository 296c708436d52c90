"""A check of a base model's files finds what would fail late, or give wrong replies, before anything starts.

Only headers and the tokenizer are read, without torch.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from schemas.errors import StartError

_INDEX = "model.safetensors.index.json"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
_LLAMA_EMBEDDINGS = "model.embed_tokens.weight"
"""The embeddings of architectures whose head is `lm_head`."""


def check_base(directory: Path) -> None:
    """Raises StartError if a weights file is missing or truncated, the tokenizer has tokens without an
    embedding, or the weights have no head."""
    shapes: dict[str, list[int]] = {}
    for path in _weight_files(directory):
        shapes |= _shapes(path)
    config = _read_json(directory / "config.json")
    config = config.get("text_config") or config
    rows = _embedding_rows(directory, config, shapes)
    if rows is not None:
        _check_vocabulary(directory, rows)
    tied = config.get("tie_word_embeddings")
    if (
        tied is False
        and _LLAMA_EMBEDDINGS in shapes
        and not any(name.startswith("lm_head.") for name in shapes)
    ):
        raise StartError(
            f"{directory} has no head: its weights lack lm_head.weight, and config.json says that it is not"
            " tied to the embeddings (tie_word_embeddings)."
        )


def _weight_files(directory: Path) -> list[Path]:
    """Returns all files of weights. Raises StartError if one that the index names is missing."""
    found = sorted(directory.glob("*.safetensors"))
    if (directory / _INDEX).is_file():
        named = set(_read_json(directory / _INDEX).get("weight_map", {}).values())
        missing = sorted(named - {path.name for path in found})
        if missing:
            raise StartError(f"{directory} is not complete: {missing[0]} is missing. Copy the model again.")
    return found


def _shapes(path: Path) -> dict[str, list[int]]:
    """Returns the shape of each tensor of a safetensors file, from its header. Raises StartError if the file
    has not the length that the header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise StartError(
                f"{path} is no safetensors file, or truncated ({size} bytes). Copy the model again."
            )
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            whole = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
            shapes = {name: list(entry["shape"]) for name, entry in tensors.items()}
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            raise StartError(f"{path} is no safetensors file: its header is damaged.") from None
    if size != whole:
        raise StartError(f"{path} is truncated: {size} of {whole} bytes. Copy the model again.")
    return shapes


def _embedding_rows(directory: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> int | None:
    """Returns the number of tokens that have an embedding, None if nothing says it. Raises StartError if
    weights and configuration differ in it."""
    configured = config.get("vocab_size")
    found = [shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS) and len(shape) == 2]
    if len(found) != 1 or not isinstance(configured, int):
        return configured if isinstance(configured, int) else None
    if found[0] != configured:
        raise StartError(
            f"{directory} does not fit together: its weights have embeddings for {found[0]} tokens, but"
            f" config.json says {configured} (vocab_size)."
        )
    return configured


def _check_vocabulary(directory: Path, rows: int) -> None:
    """Raises StartError if text can be encoded into a token id that has no embedding. A special token that
    the chat template never writes may have none: some models reserve such tokens for images."""
    token, highest = max(_tokens(directory), key=lambda pair: pair[1], default=("", 0))
    if highest >= rows:
        raise StartError(
            f"{directory} does not fit together: its tokenizer has the token {token!r} with the id {highest},"
            f" but there are embeddings for {rows} tokens only. Use the tokenizer of this model."
        )


def _tokens(directory: Path) -> Iterator[tuple[str, int]]:
    """Yields the tokens with their ids that text can be encoded into, if there is a tokenizer.json."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        return
    tokenizer = _read_json(path)
    template = _chat_template(directory)
    added = tokenizer.get("added_tokens") or []
    unused = {each["content"] for each in added if each.get("special") and each["content"] not in template}
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score, in the order of ids
        vocabulary = {token: place for place, (token, _) in enumerate(vocabulary)}
    yield from ((token, place) for token, place in vocabulary.items() if token not in unused)
    yield from ((each["content"], each["id"]) for each in added if each["content"] not in unused)


def _chat_template(directory: Path) -> str:
    """Returns the text of all chat templates."""
    files = [path.read_text(encoding="utf-8") for path in directory.glob("chat_template.*")]
    config = directory / "tokenizer_config.json"
    inline = _read_json(config).get("chat_template") if config.is_file() else None
    named = inline if isinstance(inline, list) else [{"template": inline or ""}]
    return "".join([*files, *(each["template"] for each in named)])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StartError(f"{path} cannot be read: {error}. Copy the model again.") from None
    return content if isinstance(content, dict) else {}
