"""From logits to tokens, as pure functions over a batch. Shapes: B replies, V tokens of the vocabulary.

A reply's draw depends on its own logits and its own uniform number only, never on who else is in the batch
or in which order, so a seed reproduces up to the rounding of the forward pass.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY = 1e-5  # temperatures below this take the likeliest token, as in vLLM


@dataclass(frozen=True, slots=True)
class Sampling:
    """OpenAI's fields. Penalties count the tokens of the reply, not of the prompt."""

    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


def sample(
    logits_BV: Tensor, settings: list[Sampling], counts: list[Counter[int]], draws: list[float]
) -> Tensor:
    """One token each, ids_B. `draws` are uniform in [0, 1): the point at which the cumulative distribution,
    in the order of token ids, is cut (inverse transform sampling)."""
    scores_BV = _penalised(logits_BV, settings, counts)
    greedy_B = scores_BV.argmax(-1)
    if all(each.temperature < GREEDY for each in settings):
        return greedy_B
    device = logits_BV.device
    temperatures_B1 = torch.tensor([[max(each.temperature, GREEDY)] for each in settings], device=device)
    probabilities_BV = (scores_BV / temperatures_B1).softmax(-1, dtype=torch.float64)
    narrow = [row for row, each in enumerate(settings) if each.top_p < 1]
    if narrow:
        masses = torch.tensor([[settings[row].top_p] for row in narrow], device=device, dtype=torch.float64)
        probabilities_BV[narrow] = _nucleus(probabilities_BV[narrow], masses)
    cumulative_BV = probabilities_BV.cumsum(-1)
    points_B1 = torch.tensor([[draw] for draw in draws], device=device, dtype=torch.float64)
    drawn_B = torch.searchsorted(cumulative_BV, points_B1 * cumulative_BV[:, -1:], right=True).squeeze(-1)
    drawn_B.clamp_(max=logits_BV.shape[-1] - 1)
    return torch.where(temperatures_B1.squeeze(-1) <= GREEDY, greedy_B, drawn_B)


def _penalised(logits_BV: Tensor, settings: list[Sampling], counts: list[Counter[int]]) -> Tensor:
    """score = logit − frequency · count − presence · [count > 0], OpenAI's formula."""
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
    """Zero outside the smallest set of likeliest tokens whose mass reaches top_p (Holtzman et al. 2019)."""
    sorted_BV, order_BV = probabilities_BV.sort(stable=True, dim=-1, descending=True)
    sorted_BV[sorted_BV.cumsum(-1) - sorted_BV >= masses_B1] = 0
    return torch.zeros_like(probabilities_BV).scatter_(-1, order_BV, sorted_BV)
