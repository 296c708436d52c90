"""The model is a frozen base with its tokenizer and LoRA adapters. Only one thread may use it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Cache

from schemas.errors import StartError
from serving.embedded.attention import use_grouped_decode
from serving.embedded.lora import Adapters

_ATTENTION = {"full_attention", "sliding_attention"}


class Model:
    """A causal language model, in bfloat16 on a GPU. On a CPU it is in float32, with the matrices of its
    layers in bfloat16 where they are stored so and the CPU multiplies that. `context` (tokens),
    `vocabulary` (the number of its logits), `width` and `layers` of its hidden states, and `eos_token_ids`
    come from its configuration. Raises StartError for a model that it cannot serve."""

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
        on_gpu = self.device.type == "cuda"
        pack = not on_gpu and config.dtype == torch.bfloat16 and _multiplies_bfloat16()
        dtype = torch.bfloat16 if on_gpu or pack else torch.float32
        base, loading = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
        if loading["missing_keys"]:
            raise StartError(f"{directory} is not complete: its weights lack {min(loading['missing_keys'])}.")
        base = base.to(self.device)
        self._base = base.eval().requires_grad_(False)
        self.context: int = config.max_position_embeddings
        self.vocabulary: int = config.vocab_size
        self.width: int = config.hidden_size
        self.layers: int = config.num_hidden_layers
        self.eos_token_ids = _eos_token_ids(
            self._base.generation_config.eos_token_id, self.tokenizer.eos_token_id
        )
        use_grouped_decode(base)
        self._adapters = Adapters(base, pack=pack)

    def load_adapter(self, slot: str, directory: Path) -> None:
        """Loads an adapter in PEFT's layout. Raises AdapterError, and then nothing has changed."""
        self._adapters.load(slot, directory)

    def unload_adapter(self, slot: str) -> None:
        self._adapters.unload(slot)

    def forward(self, slot: str, tokens_BT: Tensor, lengths_B: Tensor, cache: Cache) -> Tensor:
        """Returns the logits (float32) of each row's next token, logits_BV, after `tokens_BT`, which follow
        the columns of `cache`; the cache grows by T. Rows are padded on the left: only the last `lengths_B`
        columns belong to a row."""
        new = tokens_BT.shape[1]
        columns_L = torch.arange(cache.get_seq_length() + new, device=self.device)
        padding_B1 = (len(columns_L) - lengths_B)[:, None]
        self._adapters.use(slot)
        with torch.inference_mode():
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
        self._adapters.use(slot)
        with torch.inference_mode():
            tokens_1T = torch.tensor([tokens], device=self.device)
            logits_1TV: Tensor = self._base(input_ids=tokens_1T, use_cache=False).logits
            return logits_1TV[0, :-1].float().log_softmax(-1)

    def hidden_states(self, rows: list[list[int]], layers: list[int]) -> list[Tensor]:
        """Returns the base's hidden states at the tokens of each row, (B, T, D) for each of `layers` (0 is
        the embedding). Shorter rows are padded on the right, where nothing that comes before looks."""
        width = max(map(len, rows))
        tokens_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.device)
        lengths_B1 = torch.tensor([[len(row)] for row in rows], device=self.device)
        columns_T = torch.arange(width, device=self.device)
        self._adapters.use(None)
        with torch.inference_mode():
            output = self._base(
                input_ids=tokens_BT,
                attention_mask=columns_T < lengths_B1,
                position_ids=columns_T.expand(len(rows), -1),
                output_hidden_states=True,
                use_cache=False,
                logits_to_keep=1,
            )
        return [output.hidden_states[layer] for layer in layers]


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; others are slower than float32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def _eos_token_ids(*values: Any) -> frozenset[int]:
    """Returns the end tokens of several configurations, each of which has one, a list of them, or none."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    return frozenset(token for tokens in lists for token in tokens if token is not None)
