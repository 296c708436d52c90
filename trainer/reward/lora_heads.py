"""Heads on a LoRA of the base: the second kind of reward model, under the same likelihood of the votes.

A reply is read by the base's upper layers with a LoRA of their own (`model.upper_layers`). After each token,
the mean of the last hidden states so far and the newest of them go to M linear heads, one for each member of
the ensemble: with its bootstrap weights on the votes and its parameters of the raters. The LoRA is shared;
the heads, and what they learn from, differ. Both are fitted by AdamW, afresh in each round, so they are a
function of the votes and the seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from trainer.model.upper_layers import UpperLayers
from trainer.reward.features import at_last
from trainer.reward.likelihood import MAX_RANKED, Likelihood, NuisanceParameters, Votes

LORA_HEADS = "lora_heads"
"""The feature group with the heads' logits of a thumb up, (N, M)."""

RANK = 8
"""Rank of the LoRA."""

EPOCHS = 3
"""How often each vote is learned from."""

STEP_REPLIES, WINDOW = 16, 8
"""Replies of a step, and the steps among whose votes those on replies of similar length share one."""

LEARNING_RATE, WIDTH = 2e-3, 256
"""Learning rate of the LoRA for hidden states of that width; it falls with the width."""

HEAD_LEARNING_RATE = 3e-2
"""Learning rate of the heads, whose inputs have a mean square norm of about 1 on the base's replies."""

BETAS = (0.9, 0.99)
"""Decay rates of AdamW's moments."""

INITIAL_STD = 0.5
"""Standard deviation of a head's first logits on the base's replies, about its bias."""

WARMUP = 0.1
"""Share of the steps in which the learning rates rise; then they fall to 0."""

MAX_NORM = 1.0
"""Norm to which the LoRA's gradient is clipped."""

MIN_STD = 1e-3
"""Least standard deviation of an input that is standardised."""

MAX_REPLY = 512
"""Tokens of a voted reply that are read, the first."""


@dataclass(frozen=True, slots=True)
class LoraHeads:
    """M heads. Their inputs, twice the model's width, are standardised by `mean_F` and `std_F`."""

    upper: UpperLayers
    mean_F: Tensor
    std_F: Tensor
    weights_FM: Tensor
    bias_M: Tensor

    def by_token(self, states_BRD: Tensor, mask_BR: Tensor) -> Tensor:
        """Returns the (B, R, M) logits of the replies as they are after each token, given the base's hidden
        states below the upper layers and the mask of the tokens that are judged."""
        inputs_BRF = (_pooled(self.upper, states_BRD, mask_BR) - self.mean_F) / self.std_F
        scaled_BRF = inputs_BRF / len(self.mean_F) ** 0.5
        logits_BRM: Tensor = scaled_BRF @ self.weights_FM + self.bias_M
        return logits_BRM

    def logits(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the (B, M) logits of whole replies, given the (R, D) hidden states of each."""
        states_BRD, mask_BR = _padded(rows, self.mean_F.device)
        return at_last(self.by_token(states_BRD, mask_BR), mask_BR).cpu()

    @torch.no_grad()
    def all_logits(self, rows: Sequence[Tensor]) -> Tensor:
        """Returns the (N, M) logits of any number of replies."""
        parts = range(0, len(rows), STEP_REPLIES)
        return torch.cat([self.logits(rows[start : start + STEP_REPLIES]) for start in parts])


@dataclass(frozen=True, slots=True)
class HeadVotes:
    """The votes that heads are fitted to, with the (R, D) hidden states of their replies by number. Of each
    member of the ensemble: the parameters of the raters, its bias, and its bootstrap weights on the votes
    (M, V), which are 0 for votes that are left out."""

    votes: Votes
    states: dict[int, Tensor]
    nuisance: Sequence[NuisanceParameters]
    bias_M: Tensor
    bootstrap_MV: Tensor


def longest_reply(tokens: int) -> int:
    """Returns the most tokens of a reply that are read, where a step has at most `tokens`."""
    return max(1, min(MAX_REPLY, tokens // MAX_RANKED))


def fit(
    upper: UpperLayers, data: HeadVotes, base: Sequence[Tensor], tokens: int, generator: torch.Generator
) -> LoraHeads:
    """Fits heads to votes, given the hidden states of the base's own replies. A step has at most `tokens`
    tokens."""
    heads = _unfitted(upper, base, data.bias_M, generator)
    replies_V = data.votes.replies()
    votes = data.bootstrap_MV.any(0).nonzero().flatten()
    steps = [step for _ in range(EPOCHS) for step in _steps(votes, replies_V, data.states, tokens, generator)]
    rates = LEARNING_RATE * min(1.0, WIDTH / base[0].shape[1]), HEAD_LEARNING_RATE
    groups = [{"params": upper.parameters}, {"params": [heads.weights_FM.requires_grad_()]}]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0)
    likelihood, replies = Likelihood(data.votes), 1 + max(map(max, replies_V))
    for number, step in enumerate(steps):
        share = min(1.0, (number + 1) / (WARMUP * len(steps))) * (1 - number / len(steps))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
        rows = sorted({row for vote in step for row in replies_V[vote]})
        logits_BM = heads.logits([data.states[row] for row in rows]).double()
        r_NM = logits_BM.new_zeros(replies, logits_BM.shape[1])
        r_NM = r_NM.index_put((torch.tensor(rows),), logits_BM)
        weights_MV = torch.zeros_like(data.bootstrap_MV)
        weights_MV[:, step] = data.bootstrap_MV[:, step] / len(step)
        loss = logits_BM.new_zeros(())
        for r_N, nuisance, weights_V in zip(r_NM.T, data.nuisance, weights_MV, strict=True):
            loss = loss - likelihood(r_N, nuisance, weights_V)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(upper.parameters, MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
    heads.weights_FM.requires_grad_(False)
    return heads


def _unfitted(
    upper: UpperLayers, base: Sequence[Tensor], bias_M: Tensor, generator: torch.Generator
) -> LoraHeads:
    """Returns heads with random weights, whose inputs are standardised on the base's replies."""
    pooled = []
    with torch.no_grad():
        for start in range(0, len(base), STEP_REPLIES):
            rows = base[start : start + STEP_REPLIES]
            states_BRD, mask_BR = _padded(rows, upper.device)
            pooled.append(at_last(_pooled(upper, states_BRD, mask_BR), mask_BR))
    inputs_NF = torch.cat(pooled)
    weights_FM = INITIAL_STD * torch.randn(inputs_NF.shape[1], len(bias_M), generator=generator)
    mean_F, std_F = inputs_NF.mean(0), inputs_NF.std(0).clamp_min(MIN_STD)
    return LoraHeads(upper, mean_F, std_F, weights_FM.to(upper.device), bias_M.to(upper.device))


def _steps(
    votes: Tensor, replies_V: Sequence[Sequence[int]], states: Mapping[int, Tensor], tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:  # fmt: skip
    """Returns the votes in random order, so many to a step as its replies allow."""

    def longest(vote: int) -> int:
        return max(len(states[row]) for row in replies_V[vote])

    shuffled = votes[torch.randperm(len(votes), generator=generator)].tolist()
    window = WINDOW * STEP_REPLIES
    near = [sorted(shuffled[at : at + window], key=longest) for at in range(0, len(shuffled), window)]
    steps: list[list[int]] = []
    rows = width = 0
    for vote in chain.from_iterable(near):
        rows, width = rows + len(replies_V[vote]), max(width, longest(vote))
        if not steps or rows > STEP_REPLIES or rows * width > tokens:
            rows, width = len(replies_V[vote]), longest(vote)
            steps.append([])
        steps[-1].append(vote)
    return [steps[number] for number in torch.randperm(len(steps), generator=generator).tolist()]


def _pooled(upper: UpperLayers, states_BRD: Tensor, mask_BR: Tensor) -> Tensor:
    """Returns the (B, R, F) mean of the last hidden states up to each token, and that of the token."""
    last_BRD = upper(states_BRD, mask_BR) * mask_BR.unsqueeze(2)
    count_BR1 = mask_BR.cumsum(1).clamp_min(1).unsqueeze(2)
    return torch.cat([last_BRD.cumsum(1) / count_BR1, last_BRD], 2)


def _padded(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the (B, R, D) states of replies, and the (B, R) mask of their tokens."""
    states_BRD = pad_sequence(list(rows), batch_first=True).float()
    length_B1 = torch.tensor([[len(states_RD)] for states_RD in rows])
    mask_BR = (torch.arange(states_BRD.shape[1]) < length_B1).float()
    return states_BRD.to(device), mask_BR.to(device)
