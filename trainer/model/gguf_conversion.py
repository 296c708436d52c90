"""The conversion of a Llama in a GGUF file writes it, dequantised, in transformers' layout.

    python -m trainer.model.gguf_conversion FILE DIRECTORY

It runs as a process of its own: the parent stays without torch. An expected error is the only line on
standard output, and the exit code is 1.
"""

import errno
import json
import sys
from pathlib import Path
from typing import Any

from schemas.errors import StartError

_CONFIG = (
    "attention_bias", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
    "intermediate_size", "max_position_embeddings", "mlp_bias", "model_type", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "pad_token_id", "rms_norm_eps", "rope_parameters",
    "tie_word_embeddings", "vocab_size",
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def convert(gguf: Path, directory: Path) -> None:
    """Writes `directory`: bfloat16 weights, configuration, tokenizer and chat template. Nothing in it names
    the machine or the versions of libraries, so the digest of the base is the same everywhere.

    Raises StartError for a file that transformers cannot read, or if the disk is full.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise StartError(f"The conversion of {gguf.name} needs Hearken's extra `local`: {error}.") from None
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype="bfloat16", output_loading_info=True,
            quantization_config=GgufConfig(dequantize=True),
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # the readers raise many types for a file that they do not understand
        raise StartError(f"{gguf.name} cannot be converted: {type(error).__name__}: {error}") from error
    if loading["missing_keys"]:
        raise StartError(f"{gguf.name} cannot be converted: it has no {min(loading['missing_keys'])}.")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        _write_model(model, directory)
        _write_tokenizer(tokenizer, directory)
    except Exception as error:
        if not _disk_full(error):
            raise
        raise StartError(
            f"The disk became full (or a limit on file sizes is too low) while {gguf.name} was converted."
            " Free some, or name a folder on another disk in XDG_CACHE_HOME."
        ) from error


def _write_model(model: Any, directory: Path) -> None:
    """Writes weights and configuration. A head that is tied to the embeddings is not written."""
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    chosen = {name: config[name] for name in _CONFIG}
    chosen |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    _write_json(directory / "config.json", chosen)


def _write_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Writes the tokenizer, and the chat template if there is one."""
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    special = {name: getattr(tokenizer, name) for name in _TOKENS}
    _write_json(
        directory / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        | {name: token for name, token in special.items() if token is not None},
    )
    if tokenizer.chat_template:
        (directory / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _disk_full(error: Exception) -> bool:
    """Whether the error says that the disk is full: safetensors raises an error of its own, with a text."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return any(f"(os error {code})" in str(error) for code in _FULL)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except StartError as error:
        print(error.message)
        sys.exit(1)
    except KeyboardInterrupt:
        print("The conversion was interrupted; the next start does it again.")
        sys.exit(1)
