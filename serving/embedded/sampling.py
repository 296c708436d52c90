"""Sampling draws tokens from logits with temperature, top-p and penalties, as pure functions over a batch.

Shapes: B replies, V tokens of the vocabulary. A reply's draw depends only on its own logits and its own
uniform number, not on the rest of the batch, so a seed reproduces it up to the rounding of the forward pass.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_TEMPERATURE = 1e-5  # at lower temperatures the most likely token is taken, as in vLLM


@dataclass(frozen=True, slots=True)
class Sampling:
    """OpenAI's sampling parameters. Penalties count the tokens of the reply, not of the prompt."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


def sample(
    logits_BV: Tensor, settings: list[Sampling], counts: list[Counter[int]], draws: list[float]
) -> Tensor:
    """Returns one token for each reply, ids_B, by inverse transform sampling: `draws`, uniform in [0, 1), are
    inverted through the cumulative distribution over token ids."""
    scores_BV = _penalised(logits_BV, settings, counts)
    greedy_B = scores_BV.argmax(-1)
    if all(each.temperature < GREEDY_TEMPERATURE for each in settings):
        return greedy_B
    device = logits_BV.device
    temperatures_B1 = torch.tensor(
        [[max(each.temperature, GREEDY_TEMPERATURE)] for each in settings], device=device
    )
    probabilities_BV = (scores_BV / temperatures_B1).softmax(-1, dtype=torch.float64)
    truncated = [row for row, each in enumerate(settings) if each.top_p < 1]
    if truncated:
        top_p = [[settings[row].top_p] for row in truncated]
        masses_B1 = torch.tensor(top_p, device=device, dtype=torch.float64)
        probabilities_BV[truncated] = _nucleus(probabilities_BV[truncated], masses_B1)
    cumulative_BV = probabilities_BV.cumsum(-1)
    points_B1 = torch.tensor([[draw] for draw in draws], device=device, dtype=torch.float64)
    drawn_B = torch.searchsorted(cumulative_BV, points_B1 * cumulative_BV[:, -1:], right=True).squeeze(-1)
    drawn_B.clamp_(max=logits_BV.shape[-1] - 1)
    return torch.where(temperatures_B1.squeeze(-1) <= GREEDY_TEMPERATURE, greedy_B, drawn_B)


def _penalised(logits_BV: Tensor, settings: list[Sampling], counts: list[Counter[int]]) -> Tensor:
    """Returns logit − frequency · count − presence · [count > 0], which is OpenAI's formula."""
    rows = [
        row
        for row, each in enumerate(settings)
        if counts[row] and (each.presence_penalty or each.frequency_penalty)
    ]
    if not rows:
        return logits_BV
    scores_BV = logits_BV.clone()
    for row in rows:
        tokens = torch.tensor(list(counts[row]), device=logits_BV.device)
        times = torch.tensor(list(counts[row].values()), device=logits_BV.device, dtype=logits_BV.dtype)
        scores_BV[row, tokens] -= settings[row].frequency_penalty * times + settings[row].presence_penalty
    return scores_BV


def _nucleus(probabilities_BV: Tensor, masses_B1: Tensor) -> Tensor:
    """Returns the probabilities of the nucleus, the smallest set of most likely tokens whose mass reaches
    top_p (Holtzman et al. 2019), and zero outside it."""
    sorted_BV, order_BV = probabilities_BV.sort(stable=True, dim=-1, descending=True)
    sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= masses_B1] = 0
    return torch.zeros_like(probabilities_BV).scatter_(-1, order_BV, sorted_BV)
