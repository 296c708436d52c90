"""Backbone is a frozen causal language model with one LoRA adapter (Hu et al. 2021): policy and reference.

The reference model is the same model with the adapter disabled, so there is no second copy of the weights.
Batches are left-padded: all replies end in the same columns, and logits are computed there only. Sampling is
in `rollouts`, and features of hidden states are in `trainer.reward.features`.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from schemas.errors import StartError
from schemas.policies import base_digest
from schemas.settings import RLSettings
from trainer.model.auxiliary import AuxiliaryModel
from trainer.model.batch import PaddedBatch
from trainer.model.decoding import fast_decoding, packed_product
from trainer.model.distributed import SINGLE_PROCESS, ProcessGroup, shard_base
from trainer.model.float32_pass import float32_modules
from trainer.model.hidden_states import HiddenStates
from trainer.model.lora_inputs import keep_inputs_once
from trainer.model.token_budget import TokenBudget
from trainer.model.token_logprobs import TokenLogprobs
from trainer.model.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from trainer.model.rollouts import SamplingEngine

MAX_LOGITS = 2**24
"""Logits computed at a time, where the vocabulary is large."""

SMALL_VOCABULARY = 8192
"""Tokens of the largest vocabulary whose logits are computed all at once."""

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Model settings that transform logits after the output matrix. Such models compute theirs all at once."""


@dataclass(frozen=True, slots=True)
class BaseScores:
    """Scores of a batch's replies by the base: the log-probability of each token (B, R), the most likely
    token at its place with its log-probability at temperature 1 (B, R), and hidden states (B, R, D) by
    layer."""

    logprobs_BR: Tensor
    top_ids_BR: Tensor
    top_logprobs_BR: Tensor
    hidden: list[Tensor]


EAGER_WIDTH = 512
"""Widest batch that a CPU trains on with eager attention, whose memory grows with the square of the width."""


class Backbone(ChatTokenizer):
    """A causal language model with a chat template, of any architecture whose linear layers PEFT supports.
    `token_budget` bounds the batches, and `engine` samples the replies, if there is one; a round sets its
    own. `auxiliary` reads replies beside the base, if there is one. `is_reference` tells whether the adapter
    is disabled, and `gradient_checkpointing` whether passes with gradients compute their activations again
    (None: those of batches above the budget's `kept`).
    Raises StartError if `rl.max_tokens` leaves no room for a prompt in its context."""

    _product = staticmethod(packed_product)

    def __init__(self, directory: Path, rl: RLSettings, group: ProcessGroup = SINGLE_PROCESS) -> None:
        super().__init__(directory)
        if rl.max_tokens is not None and rl.max_tokens >= self.context_length:
            raise StartError(
                f"trainer.rl.max_tokens = {rl.max_tokens} leaves no room for a prompt: {directory.name} has a"
                f" context of {self.context_length} tokens."
            )
        self.directory = directory
        self.group = group
        self.token_budget = TokenBudget()
        self.engine: SamplingEngine | None = None
        self.auxiliary: AuxiliaryModel | None = None
        self.is_reference = False
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        base = self._load_base(torch.bfloat16 if self.on_gpu else torch.float32)
        base.eval().requires_grad_(False)
        lora = LoraConfig(r=rl.rank, lora_alpha=rl.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the zero adapter is the same on every machine
            self.model: PeftModel = get_peft_model(base, lora)
        keep_inputs_once(self.model)
        self.model.eval()
        config = base.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        self.trunk = getattr(base, base.base_model_prefix)
        self._hidden = HiddenStates(self.trunk, int(config.num_hidden_layers))
        self.layers = self._hidden.layers
        changed = any(getattr(config, name, None) not in (None, 1, 1.0) for name in _LOGIT_TRANSFORMS)
        self._head = None if changed or self.vocab_size <= SMALL_VOCABULARY else base.get_output_embeddings()
        able = base.supports_gradient_checkpointing
        self.gradient_checkpointing = rl.gradient_checkpointing if able else False
        if self.gradient_checkpointing is not False:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.disable_input_require_grads()  # the adapter has gradients, not the embeddings
            _remove_dropout(base)
        self.parameter_count = sum(parameter.numel() for parameter in base.parameters())
        if group.sharded:  # before it moves to the GPU, which may not hold the whole base
            shard_base(base, self.trunk)
            self.model.to(self.device)
        self.bf16_autocast = not self.on_gpu and bool(torch.cpu.get_capabilities().get("avx512_bf16"))

    @property
    def on_gpu(self) -> bool:
        """Whether the base is in bfloat16 on a GPU, and not in float32 on a CPU."""
        return self.device.type == "cuda"

    @property
    def packs(self) -> bool:
        """Whether `decoding` makes a second copy of the base's matrices, in bfloat16."""
        return self.bf16_autocast and not self.group.sharded

    @property
    def chunks_logits(self) -> bool:
        """Whether the logits of training are computed in chunks of MAX_LOGITS, and not kept."""
        return self._head is not None

    def _load_base(self, dtype: torch.dtype) -> Any:
        base, loading = AutoModelForCausalLM.from_pretrained(
            self.directory, dtype=dtype, output_loading_info=True
        )
        if loading["missing_keys"]:
            raise StartError(
                f"{self.directory} is not complete: its weights lack {min(loading['missing_keys'])}."
            )
        return base if self.group.sharded else base.to(self.device)

    @functools.cached_property
    def digest(self) -> str:
        return base_digest(self.directory)

    @property
    def features_digest(self) -> str:
        """The digest of all that features of replies come from."""
        return self.digest if self.auxiliary is None else f"{self.digest} {self.auxiliary.digest}"

    def load_adapter(self, directory: Path) -> None:
        """Replaces the adapter by the one in `directory`, of any rank, ready for training."""
        self.model.delete_adapter("default")
        self.model.load_adapter(str(directory), adapter_name="default", is_trainable=True)
        self.model.set_adapter("default")
        keep_inputs_once(self.model)
        self.model.eval()

    def trainable(self) -> list[Tensor]:
        """Returns the adapter's parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def lora_parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the adapter's A matrices and its B matrices; B·A is added to a weight of the base."""
        named = [(name, each) for name, each in self.model.named_parameters() if each.requires_grad]
        return [each for name, each in named if "lora_A" in name], [
            each for name, each in named if "lora_B" in name
        ]

    def snapshot(self) -> list[Tensor]:
        """Returns a copy of the adapter's weights, for `restore`."""
        return [parameter.detach().clone() for parameter in self.trainable()]

    @torch.no_grad()
    def restore(self, snapshot: list[Tensor]) -> None:
        for parameter, saved in zip(self.trainable(), snapshot, strict=True):
            parameter.copy_(saved)

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Inside, the adapter is disabled: the model is the reference."""
        was, self.is_reference = self.is_reference, True
        try:
            with self.model.disable_adapter():
                yield
        finally:
            self.is_reference = was

    @contextlib.contextmanager
    def adapted(self, name: str) -> Iterator[None]:
        """Inside, the model has the adapter of that name instead of the policy's, also inside `reference`."""
        tuner = self.model.base_model
        if self.is_reference:
            tuner.enable_adapter_layers()
        self.model.set_adapter(name)
        try:
            yield
        finally:
            self.model.set_adapter("default")
            if self.is_reference:
                tuner.disable_adapter_layers()

    @contextlib.contextmanager
    def without_autocast(self) -> Iterator[None]:
        """Inside, a CPU computes in float32; outside, it uses bfloat16 autocast where the CPU supports it."""
        bf16, self.bf16_autocast = self.bf16_autocast, False
        try:
            yield
        finally:
            self.bf16_autocast = bf16

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """Inside, passes without gradients are in float32 on a GPU, too, which is slow there. Processes that
        share the weights keep them in bfloat16."""
        widened = contextlib.nullcontext() if self.group.sharded else float32_modules(self.model)
        with self.without_autocast(), widened:
            yield

    @contextlib.contextmanager
    def training_mode(self, rows: int, width: int) -> Iterator[None]:
        """Inside, the model is set up for a pass with gradients over `rows` rows of `width` columns. Gradient
        checkpointing works in train mode only. Without it, a CPU uses eager attention up to EAGER_WIDTH: its
        backward pass is faster there than fused attention's."""
        if not torch.is_grad_enabled():
            yield
        elif self.checkpoints(rows * width):
            self.model.train()
            try:
                yield
            finally:
                self.model.eval()
        elif not self.on_gpu and width <= EAGER_WIDTH:
            usual = self.model.config._attn_implementation
            self.model.set_attn_implementation("eager")
            try:
                yield
            finally:
                self.model.set_attn_implementation(usual)
        else:
            yield

    def checkpoints(self, tokens: int) -> bool:
        """Whether a pass with gradients over so many tokens, padding included, keeps only the inputs of each
        layer and computes the rest again in the backward pass (Chen et al. 2016)."""
        if self.gradient_checkpointing is None:
            return tokens > self.token_budget.kept
        return self.gradient_checkpointing

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        """Inside, the model decodes faster, and its passes have no gradient."""
        with fast_decoding(self.model, self._product if self.packs else None):
            yield

    def pad(self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> PaddedBatch:
        """Returns prompts and replies as a left-padded batch. It may be wider than the context, since padding
        has no positions. Raises ValueError for a row that is longer than the context."""
        for prompt, reply in zip(prompts, replies, strict=True):
            if len(prompt) + len(reply) > self.context_length:
                lengths = f"{len(prompt)} and {len(reply)}"
                raise ValueError(
                    f"prompt and reply of {lengths} tokens in a context of {self.context_length}"
                )
        return PaddedBatch.of(prompts, replies, self.pad_id, self.device)

    def truncate_prompt(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Returns the end of a prompt that leaves room for a reply of `max_tokens` tokens."""
        return list(prompt)[-(self.context_length - max_tokens) :]

    def fits(self, prompt: Sequence[int], reply: Sequence[int] = ()) -> bool:
        """Returns whether these tokens are in the base's vocabulary and fit into its context."""
        known = all(0 <= token < self.vocab_size for token in (*prompt, *reply))
        return known and bool(prompt) and len(prompt) + len(reply) <= self.context_length

    def logprobs_BR(self, batch: PaddedBatch, temperature: float = 1.0) -> Tensor:
        """Returns the log-probability (nats) of every reply token, 0 at padding. Each process has the
        gradient of its own shard of the rows."""
        return self.logprobs_with(batch, None, temperature)[0]

    def logprobs_with(
        self, batch: PaddedBatch, others_BR: Tensor | None, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Returns the log-probability of every reply token, as `logprobs_BR`, and of another token in its
        place at temperature 1 (of the same token, if `others_BR` is None)."""
        rows, own = self.group.shard_rows(len(batch.tokens_BT))
        shard = batch[rows]
        others_BR = shard.reply_tokens_BR if others_BR is None else others_BR[rows]
        most = -(-len(batch.tokens_BT) // self.group.size)  # the same in all processes
        columns_BRC, _ = self._forward(shard, others_BR, temperature, (), most)
        gathered_BRC = self.group.all_gather(columns_BRC[:own])
        return gathered_BRC[..., 0], gathered_BRC[..., 1]

    def logprobs_and_states(self, batch: PaddedBatch, others_BR: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the log-probabilities of other tokens in the places of the reply tokens at temperature 1,
        and the (B, R, D) hidden states off which they are read. For a single process, and where logits are
        computed in chunks."""
        rows, width = batch.tokens_BT.shape
        with (
            self.training_mode(rows, width),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16_autocast),
        ):
            states_BRD = self._reply_states(batch)
            columns_BR2 = self._read_states(states_BRD, batch.reply_tokens_BR, others_BR, 1.0)
        return columns_BR2[..., 1] * batch.reply_mask_BR, states_BRD.float()

    @torch.no_grad()
    def base_states(self, batch: PaddedBatch) -> Tensor:
        """Returns the (B, R, D) hidden states off which the base's logits are read at the reply tokens."""
        enabled = self.bf16_autocast
        with self.reference(), torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return self._reply_states(batch).float()

    def base_scores(self, batch: PaddedBatch, layers: Sequence[int], temperature: float = 1.0) -> BaseScores:
        """Returns the scores of a batch, computed by this process alone with the model as it is (inside
        `reference`: the base), and the hidden states at the reply tokens for each of `layers` (0 is the
        embedding)."""
        columns_BRC, hidden = self._forward(batch, None, temperature, layers, len(batch.tokens_BT))
        logprobs_BR, top_BR, top_logprobs_BR = columns_BRC.unbind(-1)
        return BaseScores(logprobs_BR, top_BR.long(), top_logprobs_BR, hidden)

    def _forward(
        self, batch: PaddedBatch, others_BR: Tensor | None, temperature: float, layers: Sequence[int],
        rows: int,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Returns what `_read_logits` reads at each reply token (B, R, C), and hidden states. No process has
        more than `rows` rows."""
        kept = batch.reply_length + 1
        tokens_BR = batch.reply_tokens_BR
        with (
            self.training_mode(rows, batch.tokens_BT.shape[1]),
            self._hidden.reading(layers, batch.reply_length) as hidden,
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16_autocast),
        ):
            if self._head is None:
                output = self.model(**_inputs(batch), logits_to_keep=kept)
                columns_BRC = _read_logits(output.logits[:, -kept:-1], tokens_BR, others_BR, temperature)
            else:
                columns_BRC = self._read_states(self._reply_states(batch), tokens_BR, others_BR, temperature)
        return columns_BRC * batch.reply_mask_BR.unsqueeze(-1), [hidden[layer] for layer in layers]

    def _reply_states(self, batch: PaddedBatch) -> Tensor:
        states_BTD: Tensor = self.trunk(**_inputs(batch)).last_hidden_state
        return states_BTD[:, -batch.reply_length - 1 : -1]

    def next_logits_BV(
        self, tokens_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor, cache: Cache
    ) -> Tensor:
        """Returns the logits of the next token and appends keys and values to `cache`. Without rows, one row
        of padding runs instead, since processes that share weights must take part in the same passes."""
        if len(tokens_BT) == 0:
            self.model(input_ids=torch.full((1, 1), self.pad_id, device=self.device), use_cache=False)
            return torch.empty(0, self.vocab_size, device=self.device)
        output = self.model(
            input_ids=tokens_BT, attention_mask=mask_BT, position_ids=positions_BT,
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV

    def _read_states(
        self, states_BRD: Tensor, tokens_BR: Tensor, others_BR: Tensor | None, temperature: float
    ) -> Tensor:
        """Reads the logits of hidden states in chunks of tokens: those of a large vocabulary would take most
        memory, and are not kept for the backward pass."""
        assert self._head is not None  # noqa: S101
        head = self._head

        def read(states_ND: Tensor, tokens_N: Tensor, others_N: Tensor | None) -> Tensor:
            if others_N is None or not torch.is_grad_enabled():
                return _read_logits(head(states_ND), tokens_N, others_N, temperature)
            found_N2: Tensor = TokenLogprobs.apply(  # type: ignore[no-untyped-call]
                states_ND, head.weight, head.bias, tokens_N, others_N, temperature
            )
            return found_N2

        size = max(1, MAX_LOGITS // self.vocab_size)
        chunks = zip(
            torch.split(states_BRD.flatten(0, 1), size), torch.split(tokens_BR.flatten(), size),
            itertools.repeat(None) if others_BR is None else torch.split(others_BR.flatten(), size),
            strict=False,
        )  # fmt: skip
        read_NC = torch.cat([read(*chunk) for chunk in chunks])
        return read_NC.view(*tokens_BR.shape, -1)


def _inputs(batch: PaddedBatch) -> dict[str, Any]:
    return {
        "input_ids": batch.tokens_BT,
        "attention_mask": batch.mask_BT,
        "position_ids": batch.positions_BT,
        "use_cache": False,
    }


def _remove_dropout(base: torch.nn.Module) -> None:
    """Sets all dropout to 0, since gradient checkpointing needs train mode."""
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _read_logits(logits: Tensor, tokens: Tensor, others: Tensor | None, temperature: float) -> Tensor:
    """Returns (…, 2) log-probabilities, of `tokens` at the temperature and of `others` at temperature 1, from
    logits (…, V). Without `others`, (…, 3): the most likely token and its log-probability follow."""
    logits = logits.float()
    normaliser = logits.logsumexp(-1)
    if temperature == 1:
        logprobs = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - normaliser
    else:
        scaled = logits / temperature
        logprobs = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)
    if others is not None:
        return torch.stack([logprobs, logits.gather(-1, others.unsqueeze(-1)).squeeze(-1) - normaliser], -1)
    largest, top = logits.max(-1)
    return torch.stack([logprobs, top.float(), largest - normaliser], -1)
