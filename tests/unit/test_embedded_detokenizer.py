"""Tokens become text in whole characters, and stop strings never show."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from serving.embedded.detokenizer import Detokenizer, Vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, so that every character beyond ASCII is broken into several."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def pushed(tokenizer: PreTrainedTokenizerFast, text: str, stops: list[str]) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stops)
    pieces = []
    for token in tokenizer(text)["input_ids"]:
        pieces.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    return pieces, detokenizer


def test_an_emoji_appears_when_its_last_byte_has_come(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces, detokenizer = pushed(tokenizer, "a🙂b", [])
    assert pieces == ["a", "", "", "", "🙂", "b"]
    assert detokenizer.flush() == ""


def test_half_an_emoji_at_the_end_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    detokenizer = Detokenizer(tokenizer, [])
    ids = tokenizer("hi🙂")["input_ids"][:-1]
    assert "".join(detokenizer.push(token) for token in ids) + detokenizer.flush() == "hi"


def test_bytes_that_are_no_character_show_as_a_replacement(tokenizer: PreTrainedTokenizerFast) -> None:
    stray = tokenizer("🙂")["input_ids"][-1]
    detokenizer = Detokenizer(tokenizer, [])
    assert detokenizer.push(stray) == ""
    assert detokenizer.push(tokenizer("a")["input_ids"][0]) == "\ufffda"


def test_what_may_begin_a_stop_string_is_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces, detokenizer = pushed(tokenizer, "ab END", [" END."])
    assert pieces == ["a", "b", "", "", "", ""]
    assert detokenizer.flush() == " END"


def test_a_stop_string_ends_the_text_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces, detokenizer = pushed(tokenizer, "one two three", ["three", "two"])
    assert "".join(pieces) + detokenizer.flush() == "one "
    assert detokenizer.stopped


def test_a_false_start_of_a_stop_string_is_released(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces, detokenizer = pushed(tokenizer, "aab", ["ac"])
    assert pieces == ["", "a", "ab"]
    assert not detokenizer.stopped


def test_a_stop_string_of_several_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces, detokenizer = pushed(tokenizer, "ok🙂 more", ["🙂"])
    assert "".join(pieces) == "ok"
    assert detokenizer.stopped


def test_a_token_shows_its_exact_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = Vocabulary(tokenizer)
    first, *_ = tokenizer("🙂")["input_ids"]
    assert vocabulary.piece(first) == ("\ufffd", [0xF0])
    assert vocabulary.piece(tokenizer(" ")["input_ids"][0]) == (" ", [0x20])


def test_bytes_of_a_token_with_spaces_and_a_byte_fallback(tmp_path: Path) -> None:
    """The names are SentencePiece's."""
    backend = Tokenizer(models.BPE({"▁the": 0, "<0xF0>": 1, "<s>": 2}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>").save_pretrained(tmp_path)
    vocabulary = Vocabulary(AutoTokenizer.from_pretrained(tmp_path))
    assert vocabulary.piece(0) == (" the", list(b" the"))
    assert vocabulary.piece(1) == ("\ufffd", [0xF0])
    assert vocabulary.piece(2) == ("<s>", list(b"<s>"))
