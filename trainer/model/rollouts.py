"""Replies sampled in this process from the policy as it is now.

One prefill for each prompt, its cache repeated for the k replies; then one token a step for all rows at
once, and rows leave the batch as they end. Not here: top-p and penalties, since the policy gradient needs
samples of the policy itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from schemas.errors import HearkenError
from trainer.model.backbone import Backbone
from trainer.model.distributed import ProcessGroup


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled reply. `logprobs` are the sampler's, nats, one per token; `ended` when it stopped by itself
    (its last token is then the end token)."""

    prompt: int
    token_ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True, slots=True)
class SamplingSpec:
    """How many replies a sampler draws for each prompt, and of at most how many tokens. The temperature is
    always 1; `greedy` takes the most likely token instead."""

    samples_per_prompt: int
    max_tokens: int
    greedy: bool = False


MAX_ROWS = 128
"""Replies sampled in one batch, about."""

Sampler = Callable[[Sequence[list[int]]], list[Rollout]]
"""Where a step's replies to its prompts come from; called once a step, in the order of the steps."""


class Diverged(HearkenError):
    """A round that is done again does another thing at step number `step` than it did before."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"at step {step} one of the two rounds went on and the other ended: what the guard looked at was"
            " so near its limit that another machine's arithmetic decides"
        )
        self.step = step


def in_process_sampler(backbone: Backbone, spec: SamplingSpec, generator: torch.Generator) -> Sampler:
    """Sampled from the backbone's adapter as it is then."""

    def now(prompts: Sequence[list[int]]) -> list[Rollout]:
        with backbone.merged():
            return sample(backbone, prompts, spec, generator)

    return now


def replay(steps: Sequence[list[Rollout]]) -> Sampler:
    """Those of a round before. Raises Diverged when that took fewer steps."""
    left = iter(steps)

    def again(prompts: Sequence[list[int]]) -> list[Rollout]:
        try:
            return next(left)
        except StopIteration:
            raise Diverged(len(steps)) from None

    return again


def pack(steps: Sequence[list[Rollout]]) -> dict[str, Tensor]:
    """A round's rollouts as tensors: a row for each reply, and their tokens one after the other."""
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
    """What `pack` packed, by step."""
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
    """Those of all processes."""
    if group.size == 1:
        return rollouts
    packed = {name: group.all_gather(tensor) for name, tensor in pack([rollouts]).items()}
    return [rollout for step in unpack(packed) for rollout in step]


def pad_rows(rows: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Rows of unlike length as (B, T), zeros behind their ends, and the mask of what is theirs."""
    values_BT = pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask_BT = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    return values_BT, mask_BT


def entropy(rollouts: Sequence[Rollout]) -> float:
    """Of the policy that sampled them, estimated from how likely each token was, nats per token."""
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return -sum(sum(rollout.logprobs) for rollout in rollouts) / tokens


def sample_tokens(logp_BV: Tensor, first: int, total: int, generator: torch.Generator) -> Tensor:
    """(B,) a token of each row's distribution: the first whose cumulative probability passes a uniform
    number. Takes one random number a row, of `total` from `first` on, where `torch.multinomial` takes one for
    each token of the vocabulary, which was a fifth of the time to sample."""
    cumulative_BV = logp_BV.exp().cumsum(1)
    uniform_N1 = torch.rand(total, 1, generator=generator, device=logp_BV.device)
    place_B1 = uniform_N1[first : first + len(logp_BV)] * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, place_B1, right=True)
    return token_B1.squeeze(1).clamp_max(logp_BV.shape[1] - 1)


@torch.no_grad()
def sample(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    spec: SamplingSpec,
    generator: torch.Generator,
    max_rows: int = MAX_ROWS,
) -> list[Rollout]:
    """`replies` replies at temperature 1 to each prompt, in the order of the prompts; at most about `rows`
    at once. The prompts leave room for them (`Backbone.with_room`); those of like length share a batch.
    `generator` is the CPU's. Several processes divide each batch among them and take the random numbers that
    one would take for all its rows: the same replies."""
    if backbone.device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator))
        generator = torch.Generator(backbone.device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    per_batch = max(1, max_rows // spec.samples_per_prompt)
    mine: list[Rollout] = []
    for start in range(0, len(order), per_batch):
        indices = order[start : start + per_batch]
        share, own = backbone.group.shard_rows(len(indices))
        indices = indices[share][:own]
        mine += _sample_batch(backbone, prompts, indices, spec, generator)
    found: dict[int, list[Rollout]] = {}
    for rollout in all_gather_rollouts(backbone.group, mine):
        found.setdefault(rollout.prompt, []).append(rollout)
    return [rollout for index in range(len(prompts)) for rollout in found[index]]


def _sample_batch(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    indices: list[int],
    spec: SamplingSpec,
    generator: torch.Generator,
) -> list[Rollout]:
    replies, max_tokens = spec.samples_per_prompt, spec.max_tokens
    asked = [list(prompts[index]) for index in indices]
    width = max(map(len, asked), default=1)
    pad = backbone.pad_id
    tokens = [[pad] * (width - len(row)) + row for row in asked]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in asked]
    tokens_PT = torch.tensor(tokens, dtype=torch.long, device=backbone.device).view(len(asked), width)
    mask_PT = torch.tensor(mask, dtype=torch.long, device=backbone.device).view(len(asked), width)
    cache = DynamicCache(config=backbone.model.config)
    positions_PT = (mask_PT.cumsum(1) - 1).clamp_min(0)
    logits_BV = backbone.next_logits_BV(tokens_PT, mask_PT, positions_PT, cache).repeat_interleave(replies, 0)
    cache.batch_repeat_interleave(replies)
    mask_BT = mask_PT.repeat_interleave(replies, 0)
    position_B = positions_PT[:, -1].repeat_interleave(replies, 0)
    end = torch.tensor(backbone.eos_ids, device=backbone.device)

    alive = list(range(len(indices) * replies))
    token_ids: list[list[int]] = [[] for _ in alive]
    logprobs: list[list[float]] = [[] for _ in alive]
    ended = [False] * len(alive)
    first, total = backbone.group.row_offset(len(alive))
    for step in range(max_tokens):
        logp_BV = logits_BV.log_softmax(1)
        token_B = logp_BV.argmax(1) if spec.greedy else sample_tokens(logp_BV, first, total, generator)
        chosen_B = logp_BV.gather(1, token_B.unsqueeze(1)).squeeze(1)
        over_B: Tensor = torch.isin(token_B, end)
        for row, token, logprob, over in zip(
            alive, token_B.tolist(), chosen_B.tolist(), over_B.tolist(), strict=True
        ):
            token_ids[row].append(token)
            logprobs[row].append(logprob)
            ended[row] = over
        going = (~over_B).nonzero().squeeze(1)
        first, total = backbone.group.row_offset(len(going))
        if step + 1 == max_tokens or total == 0:
            break
        if len(going) < len(alive):
            alive = [alive[index] for index in going.tolist()]
            cache.batch_select_indices(going)
            mask_BT, position_B, token_B = mask_BT[going], position_B[going], token_B[going]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], 1)
        position_B = position_B + 1
        logits_BV = backbone.next_logits_BV(token_B.unsqueeze(1), mask_BT, position_B.unsqueeze(1), cache)
    return [
        Rollout(indices[row // replies], token_ids[row], logprobs[row], ended[row])
        for row in range(len(ended))
    ]
