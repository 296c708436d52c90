"""The frozen base with one LoRA adapter on it: what samples, what is trained, and what is compared with it.

The reference is the same model with the adapter switched off, so a second copy of the weights never
exists. Everything is left-padded: replies end in the same column, and logits are asked for there only.
Not here: sampling (`rollouts`), and what is made of hidden states (`features`).
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from schemas.errors import StartError
from schemas.policies import base_digest
from schemas.settings import RLSettings
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup, shard_base
from trainer.model.tokenizer import ChatTokenizer

MAX_LOGITS = 2**24
"""Kept at once, of a large vocabulary."""

SMALL_VOCABULARY = 8192
"""Whose logits are computed in one go."""

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of models that do more to their logits than one matrix does: theirs are computed in one go."""

MERGE_BELOW = 1_000_000_000
"""Parameters of a base whose matrices may be copied to sample faster."""


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """`tokens_BT` left-padded, `mask_BT` 1 where a token is; the last `reply_length` columns hold replies,
    of which `reply_mask_BR` says what belongs to each row's own (its end token included)."""

    tokens_BT: Tensor
    mask_BT: Tensor
    reply_mask_BR: Tensor

    @property
    def reply_length(self) -> int:
        return int(self.reply_mask_BR.shape[1])

    @property
    def reply_tokens_BR(self) -> Tensor:
        return self.tokens_BT[:, -self.reply_length :]

    @property
    def positions_BT(self) -> Tensor:
        return (self.mask_BT.cumsum(1) - 1).clamp_min(0)

    def __getitem__(self, rows: slice) -> "PaddedBatch":
        return PaddedBatch(self.tokens_BT[rows], self.mask_BT[rows], self.reply_mask_BR[rows])


class Backbone(ChatTokenizer):
    """A causal language model with a chat template, any whose linear layers PEFT knows. Raises StartError
    where the replies to be sampled are as long as its context."""

    def __init__(self, directory: Path, rl: RLSettings, group: ProcessGroup = SINGLE_PROCESS) -> None:
        super().__init__(directory)
        if rl.max_tokens >= self.context_length:
            raise StartError(
                f"trainer.rl.max_tokens = {rl.max_tokens} leaves no room for a prompt: {directory.name} has a"
                f" context of {self.context_length} tokens."
            )
        self.directory = directory
        self.group = group
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = self._load_base(torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        base.eval().requires_grad_(False)
        lora = LoraConfig(r=rl.rank, lora_alpha=rl.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the zero adapter is the same on every machine
            self.model: PeftModel = get_peft_model(base, lora)
        self.model.eval()
        config = base.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self._trunk = getattr(base, base.base_model_prefix)
        changed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_TRANSFORMS)
        self._head = None if changed or self.vocab_size <= SMALL_VOCABULARY else base.get_output_embeddings()
        self._gradient_checkpointing = rl.gradient_checkpointing
        if rl.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.enable_input_require_grads()
            for module in base.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        self.parameter_count = sum(parameter.numel() for parameter in base.parameters())
        if group.sharded:  # layer by layer on its way to the GPU, which may not hold it whole
            shard_base(base, self._trunk)
            self.model.to(self.device)
        self._bf16_autocast = self.device.type == "cpu" and bool(
            torch.cpu.get_capabilities().get("avx512_bf16")
        )

    def _load_base(self, dtype: torch.dtype) -> Any:
        base = AutoModelForCausalLM.from_pretrained(self.directory, dtype=dtype)
        return base if self.group.sharded else base.to(self.device)

    @functools.cached_property
    def digest(self) -> str:
        return base_digest(self.directory)

    def load_adapter(self, directory: Path) -> None:
        """Replace the adapter by the one in `directory`, of whatever rank, ready for training."""
        self.model.delete_adapter("default")
        self.model.load_adapter(str(directory), adapter_name="default", is_trainable=True)
        self.model.set_adapter("default")
        self.model.eval()

    def trainable(self) -> list[Tensor]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def lora_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """The same, as LoRA's A and its B, whose product is added to a weight of the base."""
        named = [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]
        return [each for name, each in named if "lora_A" in name], [
            each for name, each in named if "lora_B" in name
        ]

    def snapshot(self) -> list[Tensor]:
        """A copy of the adapter's weights, for `restore`."""
        return [parameter.detach().clone() for parameter in self.trainable()]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        for parameter, saved in zip(self.trainable(), snapshot, strict=True):
            parameter.copy_(saved)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the model is the base."""
        with self.model.disable_adapter():
            yield

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """Inside, a CPU computes in float32; outside, it multiplies in bfloat16 where that is faster."""
        bf16, self._bf16_autocast = self._bf16_autocast, False
        try:
            yield
        finally:
            self._bf16_autocast = bf16

    @contextlib.contextmanager
    def _training_mode(self) -> Iterator[None]:
        """What is different where gradients are wanted. Models compute activations again, if they are to,
        only in training. If not, attention is computed in its parts on a CPU: backwards, torch's fused kernel
        is slower there, by a fifth of a training step."""
        if not torch.is_grad_enabled():
            yield
        elif self._gradient_checkpointing:
            self.model.train()
            try:
                yield
            finally:
                self.model.eval()
        elif self.device.type == "cpu":
            usual = self.model.config._attn_implementation
            self.model.set_attn_implementation("eager")
            try:
                yield
            finally:
                self.model.set_attn_implementation(usual)
        else:
            yield

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Inside, the adapter is added into the base's own matrices, which makes sampling a small model much
        faster and takes a second copy of them; a large model, or one in parts, is left as it is. The base
        returns bit by bit."""
        if self.parameter_count > MERGE_BELOW or self.group.sharded:
            yield
            return
        layers = [module for module in self.model.modules() if isinstance(module, LoraLayer)]
        originals = [layer.get_base_layer().weight.data for layer in layers]
        with torch.no_grad():
            for layer, original in zip(layers, originals, strict=True):
                layer.get_base_layer().weight.data = original + layer.get_delta_weight("default").to(
                    original.dtype
                )
        try:
            with self.model.disable_adapter():
                yield
        finally:
            for layer, original in zip(layers, originals, strict=True):
                layer.get_base_layer().weight.data = original

    def pad(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> PaddedBatch:
        """Rows of prompt + reply, left-padded: together they may be wider than the context, of which padding
        takes no places. Raises ValueError for a row of its own that is longer."""
        for prompt, reply in zip(prompts, replies, strict=True):
            if len(prompt) + len(reply) > self.context_length:
                lengths = f"{len(prompt)} and {len(reply)}"
                raise ValueError(
                    f"prompt and reply of {lengths} tokens in a context of {self.context_length}"
                )
        longest_reply = _round_up(max(len(reply) for reply in replies))
        rows = [
            [*prompt, *reply, *[self.pad_id] * (longest_reply - len(reply))]
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        width = _round_up(max(len(row) for row in rows))
        tokens_BT = torch.tensor(
            [[self.pad_id] * (width - len(row)) + row for row in rows], device=self.device
        )
        mask_BT = torch.zeros_like(tokens_BT)
        reply_mask_BR = torch.zeros(len(rows), longest_reply, device=self.device)
        for index, (row, reply) in enumerate(zip(rows, replies, strict=True)):
            end = width - (longest_reply - len(reply))
            mask_BT[index, width - len(row) : end] = 1
            reply_mask_BR[index, : len(reply)] = 1
        return PaddedBatch(tokens_BT, mask_BT, reply_mask_BR)

    def truncate_prompt(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """What of a prompt leaves room for a reply of `max_tokens`: its end."""
        return list(prompt)[-(self.context_length - max_tokens) :]

    def fits(self, prompt: Sequence[int], reply: Sequence[int] = ()) -> bool:
        """Whether these are tokens of the base's vocabulary that fit into its context."""
        known = all(0 <= token < self.vocab_size for token in (*prompt, *reply))
        return known and bool(prompt) and len(prompt) + len(reply) <= self.context_length

    def logprobs_BR(self, batch: PaddedBatch) -> Tensor:
        """Log-probability in nats of every reply token at temperature 1, 0 where padded; with gradient, which
        each process has of its share."""
        rows, own = self.group.shard_rows(len(batch.tokens_BT))
        return self.group.all_gather(self.logprobs_and_hidden(batch[rows], ())[0][:own])

    def logprobs_and_hidden(self, batch: PaddedBatch, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The same by this process alone, and for each of `layers` (0 is the embedding) the hidden states at
        the reply's positions, (B, R, D)."""
        kept = batch.reply_length + 1
        inputs = {
            "input_ids": batch.tokens_BT,
            "attention_mask": batch.mask_BT,
            "position_ids": batch.positions_BT,
            "output_hidden_states": bool(layers),
            "use_cache": False,
        }
        with (
            self._training_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16_autocast),
        ):
            if self._head is None:
                output = self.model(**inputs, logits_to_keep=kept)
                logprobs_BR = _token_logprobs(output.logits[:, -kept:-1], batch.reply_tokens_BR)
            else:
                output = self._trunk(**inputs)
                logprobs_BR = self._chunked_logprobs(
                    output.last_hidden_state[:, -kept:-1], batch.reply_tokens_BR
                )
        hidden = [output.hidden_states[layer][:, 1 - kept :].float() for layer in layers]
        return logprobs_BR * batch.reply_mask_BR, hidden

    def next_logits_BV(
        self, tokens_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor, cache: Cache
    ) -> Tensor:
        """Of the token behind the last; keys and values go into `cache`. Without rows, one of padding goes
        through the model in their place, so that processes that share the weights go through together."""
        if len(tokens_BT) == 0:
            self.model(input_ids=torch.full((1, 1), self.pad_id, device=self.device), use_cache=False)
            return torch.empty(0, self.vocab_size, device=self.device)
        output = self.model(
            input_ids=tokens_BT, attention_mask=mask_BT, position_ids=positions_BT,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def _chunked_logprobs(self, states_BRD: Tensor, tokens_BR: Tensor) -> Tensor:
        """Log-probabilities of the tokens, some places at a time: logits over a large vocabulary are far
        larger than all else, so they are not kept, but computed again on the way back."""
        states_ND, tokens_N = states_BRD.flatten(0, 1), tokens_BR.flatten()
        most = max(1, MAX_LOGITS // self.vocab_size)
        parts = [
            checkpoint(self._state_logprobs, states_ND[start : start + most], tokens_N[start : start + most],
                       use_reentrant=False)
            for start in range(0, len(tokens_N), most)
        ]  # fmt: skip
        return torch.cat(parts).view(tokens_BR.shape)

    def _state_logprobs(self, states_ND: Tensor, tokens_N: Tensor) -> Tensor:
        assert self._head is not None  # noqa: S101
        return _token_logprobs(self._head(states_ND), tokens_N)


def _token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token by its logits (…, V)."""
    logits = logits.float()
    return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def _round_up(length: int) -> int:
    """To a multiple of eight: few different shapes, since a CPU's kernels are made and kept for each."""
    return -(-length // 8) * 8
