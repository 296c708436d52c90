"""The base's generation defaults are read from its file; a request's own parameters come before them."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.chat import parse_chat
from schemas.errors import StartError
from schemas.generation_defaults import FILE, GenerationDefaults, read_generation_defaults

ASK = [{"role": "user", "content": "Hello"}]
SMOL = {"do_sample": True, "temperature": 0.2, "top_p": 0.9, "eos_token_id": 2, "max_new_tokens": 40}


def write(directory: Path, content: dict[str, Any]) -> Path:
    (directory / FILE).write_text(json.dumps(content))
    return directory


def test_what_the_file_names_is_the_default(tmp_path: Path) -> None:
    given = {**SMOL, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}
    assert read_generation_defaults(write(tmp_path, given)) == GenerationDefaults(
        temperature=0.2, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1
    )


@pytest.mark.parametrize("content", [{}, {"temperature": None, "top_k": None}, {"do_sample": False}])
def test_what_the_file_does_not_name_is_neutral(tmp_path: Path, content: dict[str, Any]) -> None:
    assert read_generation_defaults(write(tmp_path, content)) == GenerationDefaults()


def test_without_a_file_all_is_neutral(tmp_path: Path) -> None:
    defaults = read_generation_defaults(tmp_path)
    assert (defaults.temperature, defaults.top_p, defaults.top_k, defaults.repetition_penalty) == (1, 1, 0, 1)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"temperature": -1}', "temperature"),
        ('{"temperature": "hot"}', "temperature"),
        ('{"temperature": true}', "temperature"),
        ('{"temperature": NaN}', "temperature"),
        ('{"top_p": 0}', "top_p"),
        ('{"top_k": 1.5}', "top_k"),
        ('{"repetition_penalty": 0}', "repetition_penalty"),
        ('{"temp', "not JSON"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_file_that_is_not_valid_is_named(tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StartError, match=f"{FILE}.*{named}"):
        read_generation_defaults(tmp_path)


def test_a_request_comes_before_the_defaults(tmp_path: Path) -> None:
    defaults = read_generation_defaults(write(tmp_path, SMOL))
    none = parse_chat({"messages": ASK}).sampling(256, defaults)
    some = parse_chat({"messages": ASK, "temperature": 0, "top_p": None}).sampling(256, defaults)
    assert (none["temperature"], none["top_p"], none["max_tokens"]) == (0.2, 0.9, 256)
    assert (some["temperature"], some["top_p"]) == (0.0, 0.9)
