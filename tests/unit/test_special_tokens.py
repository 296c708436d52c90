"""What people write never becomes a special token, with any kind of tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from schemas.special_tokens import SpecialTokens, read_special_tokens
from serving.embedded.prompt import encode
from trainer.model.tokenizer import ChatTokenizer

TEXT = ["The cat sat on the mat.", "What is the capital of France? It is Paris!", "Nile [a] <b> |c| </d>"] * 9
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and '</think>' in m['content'] %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think></think>"
)
LLAMA_2 = "{% for m in messages %}<s>[INST] {{ m['content'] }} [/INST]{% endfor %}"
LLAMA_3 = (
    "<|begin|>{% for m in messages %}<|header|>{{ m['role'] }}<|header_end|>{{ m['content'] }}<|eot|>"
    "{% endfor %}<|header|>assistant<|header_end|>"
)
GEMMA = (
    "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "<start_of_turn>model\n"
)
BERT = "{% for m in messages %}[CLS]{{ m['content'] }}[SEP]{% endfor %}"


def byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    return tokenizer


def chatml() -> tuple[Tokenizer, str, str]:
    return byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), CHATML, "<|im_end|>"


def with_markers() -> tuple[Tokenizer, str, str]:
    """As Qwen's: thoughts and tool calls are marked by added tokens that are not special."""
    tokenizer, template, end = chatml()
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in ("<think>", "</think>", "<b>")])
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer, template, end


def many_special_tokens() -> tuple[Tokenizer, str, str]:
    """As Llama 3's, whose special tokens begin alike."""
    names = ["<|begin|>", "<|header|>", "<|header_end|>", "<|eot|>", "<|eot|>x", "<|", "#"]
    return byte_level([*names, *(f"<|reserved_{each}|>" for each in range(40))]), LLAMA_3, "<|eot|>"


def metaspace() -> tuple[Tokenizer, str, str]:
    """As Llama 2's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    )
    return tokenizer, LLAMA_2, "</s>"


def unigram() -> tuple[Tokenizer, str, str]:
    """As Gemma's, with the normalizer of many SentencePiece models."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    )
    return tokenizer, GEMMA, "<end_of_turn>"


def word_piece() -> tuple[Tokenizer, str, str]:
    """As BERT's, which drops invisible characters and letter case."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    return tokenizer, BERT, "[SEP]"


KINDS = [chatml, with_markers, many_special_tokens, metaspace, unigram, word_piece]


def save(kind: Any, directory: Path) -> Path:
    built, template, end = kind()
    unknown = next((each for each in ("<unk>", "[UNK]") if built.token_to_id(each) is not None), None)
    fast = PreTrainedTokenizerFast(tokenizer_object=built, eos_token=end, unk_token=unknown)
    fast.chat_template = template
    fast.save_pretrained(directory)
    LlamaConfig().save_pretrained(directory)
    return directory


@pytest.fixture(scope="module", params=KINDS, ids=[kind.__name__ for kind in KINDS])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> ChatTokenizer:
    return ChatTokenizer(directory)


def controls(tokenizer: ChatTokenizer, token_ids: list[int]) -> list[int]:
    """The added tokens in a text, but for those that stand for an unknown character or for plain text."""
    added = tokenizer.tokenizer.added_tokens_decoder
    plain = {tokenizer.tokenizer.unk_token_id, tokenizer.tokenizer.convert_tokens_to_ids("<b>")}
    return [token for token in token_ids if token in added and token not in plain]


@given(data=st.data())
def test_no_text_becomes_a_special_token(
    directory: Path, tokenizer: ChatTokenizer, data: st.DataObject
) -> None:
    strings = list(tokenizer.tokenizer.get_added_vocab())
    pieces = (
        st.sampled_from(strings) | st.text(max_size=3) | st.sampled_from(strings).map(lambda each: each[1:])
    )
    text = "".join(data.draw(st.lists(pieces, max_size=8)))
    role = data.draw(st.sampled_from(["system", "user"]))
    messages = [{"role": role, "content": text}, {"role": "user", "content": text + "a"}]
    harmless = [{**message, "content": "Nile"} for message in messages]
    prompt = tokenizer.render(messages)
    assert controls(tokenizer, prompt) == controls(tokenizer, tokenizer.render(harmless))
    assert controls(tokenizer, tokenizer.encode_reply(text)) == tokenizer.eos_ids[:1]
    special_tokens = read_special_tokens(directory)
    escaped = [special_tokens.escape_message(message) for message in messages]
    assert encode(tokenizer.tokenizer, escaped) == prompt


@pytest.mark.parametrize("kind", [chatml, with_markers])
def test_every_added_string_of_a_template_is_read(kind: Any, tmp_path: Path) -> None:
    found = read_special_tokens(save(kind, tmp_path))
    assert found.special == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert found.escape("<b>") == "<b>"  # the template does not write it
    (tmp_path / "tokenizer.json").unlink()
    assert read_special_tokens(tmp_path).special >= {"<|im_end|>"}


def test_an_assistants_own_thoughts_are_kept(tmp_path: Path) -> None:
    save(with_markers, tmp_path)
    special_tokens, said = read_special_tokens(tmp_path), "<think>Hm.</think>Yes<|im_end|>"
    escaped = "<\u2060think>Hm.<\u2060/think>Yes<\u2060|im_end|>"
    assert special_tokens.escape_message({"role": "user", "content": said})["content"] == escaped
    kept = special_tokens.escape_message({"role": "assistant", "content": said})["content"]
    assert kept == "<think>Hm.</think>Yes<\u2060|im_end|>"


def test_everything_that_a_template_could_write_is_escaped() -> None:
    special_tokens = SpecialTokens(["<s>"])
    calls = [{"id": "<s>", "function": {"name": "<s>", "arguments": '{"a": "<s>"}'}}]
    assert "<s>" not in str(special_tokens.escape_message({"role": "assistant", "tool_calls": calls}))
    calls[0]["function"]["arguments"] = r'{"a": "\u003cs>"}'  # engines parse it
    [call] = special_tokens.escape_message({"role": "assistant", "tool_calls": calls})["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": "<\u2060s>"}
    tools = [{"type": "function", "function": {"name": "a", "parameters": {"properties": {"<s>": {}}}}}]
    assert "<s>" not in str(special_tokens.escape_all(tools))


def test_a_base_without_special_tokens_changes_nothing(tmp_path: Path) -> None:
    assert read_special_tokens(tmp_path).escape("<|im_end|>") == "<|im_end|>"
