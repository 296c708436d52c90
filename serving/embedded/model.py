"""The model is a frozen base with its tokenizer and LoRA adapters (PEFT). Only one thread may use it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Cache

from schemas.errors import HearkenError, StartError
from schemas.policies import CONFIG, WEIGHTS

_ATTENTION = {"full_attention", "sliding_attention"}
_NO_ADAPTER = "none"  # a zero adapter on one layer, since PEFT needs one when none is loaded


class AdapterError(HearkenError):
    """A directory cannot be served as an adapter of this base. The engine answers 400 with the message."""


class Model:
    """A causal language model in float32 on the CPU, in bfloat16 on a GPU. `context` (tokens) and
    `eos_token_ids` come from its configuration. Raises StartError for a model that it cannot serve."""

    def __init__(self, directory: Path) -> None:
        config = AutoConfig.from_pretrained(directory).get_text_config(decoder=True)
        unknown = set(getattr(config, "layer_types", None) or []) - _ATTENTION
        if unknown:
            raise StartError(
                f"{directory} has layers of type {', '.join(sorted(unknown))}; the embedded engine supports "
                "attention over keys and values only. Serve this model with vLLM."
            )
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        if not self.tokenizer.chat_template:
            raise StartError(f"{directory} has no chat template, so it cannot chat. Use an instruct model.")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        base, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        if loading["missing_keys"]:
            raise StartError(f"{directory} is not complete: its weights lack {min(loading['missing_keys'])}.")
        base = base.to(self.device)
        self._base = base.eval().requires_grad_(False)
        self.context: int = config.max_position_embeddings
        self.eos_token_ids = _eos_token_ids(
            self._base.generation_config.eos_token_id, self.tokenizer.eos_token_id
        )
        layer = next(name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear))
        self._peft = PeftModel(base, LoraConfig(r=1, target_modules=[layer]), _NO_ADAPTER)
        self._active = _NO_ADAPTER

    def load_adapter(self, slot: str, directory: Path) -> None:
        """Loads an adapter in PEFT's layout under a name without dots. Raises AdapterError, and then nothing
        has changed."""
        try:
            config, weights = _read_adapter(directory, self.device)
        except Exception as error:
            raise AdapterError(f"{directory} cannot be read: {error}") from error
        try:
            self._peft.add_adapter(slot, config, autocast_adapter_dtype=False)
            result = set_peft_model_state_dict(self._peft, weights, adapter_name=slot)
            missing = [name for name in result.missing_keys if f".{slot}." in name]
            if missing or result.unexpected_keys:
                raise AdapterError(
                    f"its modules are not those of this base: {(missing + result.unexpected_keys)[0]}"
                )
        except Exception as error:
            self._peft.peft_config.setdefault(slot, config)  # PEFT drops it where the injection fails
            self.unload_adapter(slot)
            raise AdapterError(f"{directory} does not fit this base: {error}") from error

    def unload_adapter(self, slot: str) -> None:
        self._activate(_NO_ADAPTER)
        self._peft.delete_adapter(slot)

    def forward(self, slot: str, tokens_BT: Tensor, lengths_B: Tensor, cache: Cache) -> Tensor:
        """Returns the logits (float32) of each row's next token, logits_BV, after `tokens_BT`, which follow
        the columns of `cache`; the cache grows by T. Rows are padded on the left: only the last `lengths_B`
        columns belong to a row."""
        new = tokens_BT.shape[1]
        columns_L = torch.arange(cache.get_seq_length() + new, device=self.device)
        padding_B1 = (len(columns_L) - lengths_B)[:, None]
        with self._with_adapter(slot):
            logits_B1V: Tensor = self._base(
                input_ids=tokens_BT,
                attention_mask=columns_L >= padding_B1,
                position_ids=(columns_L[-new:] - padding_B1).clamp_(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits_B1V[:, -1].float()

    def logprobs(self, slot: str, tokens: list[int]) -> Tensor:
        """Returns the log-probabilities (nats) of every token of the vocabulary at each position after the
        first, (T − 1, V)."""
        with self._with_adapter(slot):
            tokens_1T = torch.tensor([tokens], device=self.device)
            logits_1TV: Tensor = self._base(input_ids=tokens_1T, use_cache=False).logits
            return logits_1TV[0, :-1].float().log_softmax(-1)

    @contextlib.contextmanager
    def _with_adapter(self, slot: str) -> Iterator[None]:
        self._activate(slot)
        with torch.inference_mode():
            yield

    def _activate(self, slot: str) -> None:
        if slot != self._active:
            self._peft.base_model.set_adapter(slot, inference_mode=True)
            self._active = slot


def _read_adapter(directory: Path, device: torch.device) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Returns configuration and weights, from safetensors only: nothing is ever unpickled."""
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise AdapterError(f"there is no {name}")
    config = PeftConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig) or config.init_lora_weights not in (True, False, "gaussian"):
        raise AdapterError("only LoRA adapters that leave the base weights alone can share a base")
    config.inference_mode = True
    return config, load_peft_weights(str(directory), device=str(device))


def _eos_token_ids(*values: Any) -> frozenset[int]:
    """Returns the end tokens of several configurations, each of which has one, a list of them, or none."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return frozenset(token for tokens in lists for token in tokens if token is not None)
