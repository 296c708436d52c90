"""Rollouts are replies sampled from the current policy with their log-probabilities; `sample` generates them.

All samples of the trainer come from here: a step's, the base's, those of the gate and of the knowledge
questions. The backbone's sampling engine generates them (`vllm_rollouts`); without one, this process does. It
runs one prefill for each prompt and repeats its KV cache for the k replies, then decodes one token a step
for all rows, and finished rows leave the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache

from schemas.errors import HearkenError
from trainer.model.backbone import Backbone
from trainer.model.decoding import kv_cache
from trainer.model.distributed import ProcessGroup
from trainer.model.token_budget import split
from trainer.model.token_sampling import penalise, sample_tokens, truncate


@dataclass(frozen=True, slots=True)
class Rollout:
    """A reply to prompt number `prompt`. `logprobs` are the sampler's, one a token, nats; `ended` tells
    whether its last token is an end token."""

    prompt: int
    token_ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """The number of replies to each prompt, their greatest length in tokens, and the parameters of serving
    (`GenerationDefaults`). Log-probabilities of samples are the policy's own at the temperature: before
    penalties, and before min-p, top-k and top-p take tokens out. `greedy` takes the most likely token, after
    penalties, instead. `shared_prefix` is the number of tokens, fewer than those of any prompt, with which
    all prompts begin; they run once for all. `logprobs` is False where nobody reads the log-probabilities,
    which an engine may then leave out."""

    samples_per_prompt: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    greedy: bool = False
    shared_prefix: int = 0
    logprobs: bool = True

    @property
    def penalised(self) -> bool:
        """Whether penalties change the logits."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty)

    @property
    def truncated(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


MAX_ROWS = 128
"""Most replies sampled in one batch, or all those of one prompt."""

Sampler = Callable[[Sequence[list[int]]], list[Rollout]]
"""Returns the replies to a step's prompts; it is called once a step, in the order of the steps."""


class SamplingEngine(Protocol):
    """A sampling engine generates the replies of a backbone's current adapter outside of this process."""

    def sample(
        self,
        backbone: Backbone,
        prompts: Sequence[Sequence[int]],
        spec: SamplingSpec,
        generator: torch.Generator,
    ) -> list[Rollout]:
        """Returns the replies to each prompt, in the order of the prompts. Raises EngineError."""
        ...


class Diverged(HearkenError):
    """A reproduced round took another number of steps than the original, from `step` on. Reproduce it on the
    kind of machine that trained it."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"at step {step} one of the two rounds went on and the other ended: a metric of the guard was so"
            " near its limit that another machine's arithmetic decides"
        )
        self.step = step


def adapter_sampler(backbone: Backbone, spec: SamplingSpec, generator: torch.Generator) -> Sampler:
    """Returns a sampler of the backbone's current adapter."""

    def sampler(prompts: Sequence[list[int]]) -> list[Rollout]:
        return sample(backbone, prompts, spec, generator)

    return sampler


def replay(steps: Sequence[list[Rollout]]) -> Sampler:
    """Returns a sampler that replays a round's rollouts. It raises Diverged when that round took fewer
    steps."""
    remaining = iter(steps)

    def sampler(_prompts: Sequence[list[int]]) -> list[Rollout]:
        try:
            return next(remaining)
        except StopIteration:
            raise Diverged(len(steps)) from None

    return sampler


def pack(steps: Sequence[list[Rollout]]) -> dict[str, Tensor]:
    """Returns a round's rollouts as tensors: one row for each reply, with all tokens concatenated."""
    rows = [(number, rollout) for number, rollouts in enumerate(steps) for rollout in rollouts]
    return {
        "step": torch.tensor([number for number, _ in rows], dtype=torch.int32),
        "prompt": torch.tensor([rollout.prompt for _, rollout in rows], dtype=torch.int32),
        "ended": torch.tensor([rollout.ended for _, rollout in rows], dtype=torch.uint8),
        "length": torch.tensor([len(rollout.token_ids) for _, rollout in rows], dtype=torch.int32),
        "token_ids": torch.tensor([t for _, rollout in rows for t in rollout.token_ids], dtype=torch.int32),
        "logprobs": torch.tensor([p for _, rollout in rows for p in rollout.logprobs], dtype=torch.float32),
    }


def unpack(tensors: dict[str, Tensor]) -> list[list[Rollout]]:
    """Returns packed rollouts by step: the inverse of `pack`."""
    lengths = tensors["length"].tolist()
    pieces = zip(
        tensors["step"].tolist(),
        tensors["prompt"].tolist(),
        tensors["ended"].tolist(),
        torch.split(tensors["token_ids"], lengths),
        torch.split(tensors["logprobs"], lengths),
        strict=True,
    )
    steps: list[list[Rollout]] = []
    for step, prompt, ended, token_ids, logprobs in pieces:
        if step == len(steps):
            steps.append([])
        steps[step].append(Rollout(prompt, token_ids.tolist(), logprobs.tolist(), bool(ended)))
    return steps


def all_gather_rollouts(group: ProcessGroup, rollouts: list[Rollout]) -> list[Rollout]:
    """Returns the rollouts of all processes."""
    if group.size == 1:
        return rollouts
    packed = {name: group.all_gather(tensor) for name, tensor in pack([rollouts]).items()}
    return [rollout for step in unpack(packed) for rollout in step]


def pad_rows(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Returns rows of different lengths right-padded with zeros, (B, T), and their mask."""
    values_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    return values_BT, mask_BT


def entropy(rollouts: Sequence[Rollout]) -> float:
    """Returns the entropy of the policy in nats per token, estimated from its samples' log-probabilities."""
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return -sum(sum(rollout.logprobs) for rollout in rollouts) / tokens


@torch.no_grad()
def sample(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    spec: SamplingSpec,
    generator: torch.Generator,
    max_rows: int = MAX_ROWS,
) -> list[Rollout]:
    """Samples replies to each prompt, in the order of the prompts. The backbone's sampling engine generates
    them; without one, this process does, in batches of at most `max_rows` rows that keep within its token
    budget, all replies to a prompt in one batch.
    Prompts of similar length share a batch; they must leave room for a reply (`Backbone.truncate_prompt`).
    `generator` is on the CPU. Several processes shard each batch and draw the random numbers that one process
    would draw for all rows, so the replies are the same."""
    if backbone.engine is not None:
        return backbone.engine.sample(backbone, prompts, spec, generator)
    if backbone.device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(backbone.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    lengths = [(len(prompts[index]), spec.max_tokens) for index in order]
    copies = spec.samples_per_prompt
    rollouts: list[Rollout] = []
    for part in split(lengths, backbone.token_budget.sampling // copies, max(1, max_rows // copies)):
        indices = order[part]
        shard, own = backbone.group.shard_rows(len(indices))
        indices = indices[shard][:own]
        with backbone.decoding():
            rollouts += _sample_batch(backbone, prompts, indices, spec, generator)
    by_prompt: dict[int, list[Rollout]] = {}
    for rollout in all_gather_rollouts(backbone.group, rollouts):
        by_prompt.setdefault(rollout.prompt, []).append(rollout)
    return [rollout for index in range(len(prompts)) for rollout in by_prompt[index]]


def _sample_batch(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    indices: list[int],
    spec: SamplingSpec,
    generator: torch.Generator,
) -> list[Rollout]:
    """Samples replies to `prompts` at `indices` in one batch, which loses its finished rows at each step."""
    copies = spec.samples_per_prompt
    asked = [prompts[index] for index in indices]
    logits_BV, prompt_BP, mask_BT, position_B, cache = _prefill(backbone, asked, spec)
    reply_BR = prompt_BP[:, :0]
    eos = torch.tensor(backbone.eos_ids, device=backbone.device)
    alive = list(range(len(indices) * copies))
    token_ids: list[list[int]] = [[] for _ in alive]
    logprobs: list[list[float]] = [[] for _ in alive]
    ended = [False] * len(alive)
    first, total = backbone.group.row_offset(len(alive))
    for step in range(spec.max_tokens):
        logp_BV = (logits_BV / spec.temperature).log_softmax(1)
        scores_BV = logp_BV
        if spec.penalised:
            penalties = spec.repetition_penalty, spec.presence_penalty, spec.frequency_penalty
            penalised_BV = penalise(logits_BV, prompt_BP, reply_BR, *penalties)
            scores_BV = (penalised_BV / spec.temperature).log_softmax(1)
        if spec.greedy:
            token_B = scores_BV.argmax(1)
        else:
            kept_BV = truncate(scores_BV, spec.top_k, spec.min_p, spec.top_p)
            token_B = sample_tokens(kept_BV, first, total, generator)
        chosen_B = logp_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
        eos_B: Tensor = torch.isin(token_B, eos)
        for row, token, logprob, is_eos in zip(
            alive, token_B.tolist(), chosen_B.tolist(), eos_B.tolist(), strict=True
        ):
            token_ids[row].append(token)
            logprobs[row].append(logprob)
            ended[row] = is_eos
        reply_BR = torch.cat([reply_BR, token_B.unsqueeze(1)], 1)
        unfinished = (~eos_B).nonzero().squeeze(1)
        first, total = backbone.group.row_offset(len(unfinished))
        if step + 1 == spec.max_tokens or total == 0:
            break
        if len(unfinished) < len(alive):
            alive = [alive[index] for index in unfinished.tolist()]
            cache.batch_select_indices(unfinished)
            mask_BT, position_B, token_B = mask_BT[unfinished], position_B[unfinished], token_B[unfinished]
            prompt_BP, reply_BR = prompt_BP[unfinished], reply_BR[unfinished]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], 1)
        position_B = position_B + 1
        logits_BV = backbone.next_logits_BV(token_B.unsqueeze(1), mask_BT, position_B.unsqueeze(1), cache)
    return [
        Rollout(indices[row // copies], token_ids[row], logprobs[row], ended[row])
        for row in range(len(ended))
    ]


def _prefill(
    backbone: Backbone, prompts: Sequence[Sequence[int]], spec: SamplingSpec
) -> tuple[Tensor, Tensor, Tensor, Tensor, Cache]:
    """Runs each prompt once and repeats the result for its rows: the logits (B, V) of the first reply token,
    the prompt's tokens (B, T), of which the last one stands for padding, the mask (B, T), the position (B,)
    of the last token, and the KV cache. Padding is between the shared prefix and the rest."""
    width, pad, device = max(map(len, prompts), default=1), backbone.pad_id, backbone.device
    shared, copies = spec.shared_prefix, spec.samples_per_prompt
    tokens = [[*row[:shared], *[pad] * (width - len(row)), *row[shared:]] for row in prompts]
    mask = [[1] * shared + [0] * (width - len(row)) + [1] * (len(row) - shared) for row in prompts]
    tokens_PT = torch.tensor(tokens, dtype=torch.long, device=device).view(len(prompts), width)
    mask_PT = torch.tensor(mask, dtype=torch.long, device=device).view(len(prompts), width)
    positions_PT = (mask_PT.cumsum(1) - 1).clamp_min(0)
    cache = kv_cache(backbone.model.config)
    if shared:
        first_1S = tokens_PT[:1, :shared], mask_PT[:1, :shared], positions_PT[:1, :shared]
        backbone.next_logits_BV(*first_1S, cache)
        cache.batch_repeat_interleave(len(prompts))
    logits_PV = backbone.next_logits_BV(tokens_PT[:, shared:], mask_PT, positions_PT[:, shared:], cache)
    cache.batch_repeat_interleave(copies)
    return (
        logits_PV.repeat_interleave(copies, 0),
        tokens_PT.where(mask_PT > 0, tokens_PT[:, -1:]).repeat_interleave(copies, 0),
        mask_PT.repeat_interleave(copies, 0),
        positions_PT[:, -1].repeat_interleave(copies, 0),
        cache,
    )
