"""Sampling draws tokens from logits with penalties, temperature, top-k, min-p and top-p, in vLLM's order, as
pure functions over a batch.

Shapes: B replies, R some of them, V tokens of the vocabulary, K candidates. A reply's draw depends only on
its own logits and its own uniform number, not on the rest of the batch, so a seed reproduces it up to the
rounding of the forward pass.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_TEMPERATURE = 1e-5  # at lower temperatures the most likely token is taken, as in vLLM
_FIRST_CANDIDATES = 64  # likeliest tokens sorted at first: all of a vocabulary take milliseconds a row
_ROUNDING = 1e-6  # of a sum of float32 probabilities: a mass this near to top_p has reached it
_MORE_CANDIDATES = 8  # factor by which there are more where those do not suffice


@dataclass(frozen=True, slots=True)
class Sampling:
    """The parameters of OpenAI and vLLM; each default is neutral. The repetition penalty counts tokens of the
    prompt and the reply, the other penalties those of the reply; `logit_bias` is added to the logits of
    tokens, (id, bias)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def truncated(self) -> bool:
        """Whether some tokens cannot be drawn."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

    @property
    def penalised(self) -> bool:
        return bool(
            self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty or self.logit_bias
        )


def sample(
    logits_BV: Tensor,
    settings: list[Sampling],
    prompts: list[list[int]],
    counts: list[Counter[int]],
    draws: list[float],
) -> Tensor:
    """Returns one token for each reply, ids_B, by inverse transform sampling: `draws`, uniform in [0, 1), are
    inverted through the cumulative distribution over token ids. `prompts` and `counts` are the tokens of each
    prompt, and how often each token is in the reply."""
    scores_BV = _penalised(logits_BV, settings, prompts, counts)
    tokens_B = torch.empty(len(settings), dtype=torch.long, device=logits_BV.device)
    kinds = [(each.greedy, each.truncated) for each in settings]
    for greedy, truncated in set(kinds):
        rows = [row for row, kind in enumerate(kinds) if kind == (greedy, truncated)]
        if greedy:
            tokens_B[rows] = scores_BV[rows].argmax(-1)
            continue
        of_rows = [settings[row] for row in rows]
        temperature_R1 = _column(scores_BV, [each.temperature for each in of_rows])
        scaled_RV = scores_BV[rows] / temperature_R1.to(scores_BV.dtype)
        points_R1 = _column(scaled_RV, [draws[row] for row in rows])
        if truncated:
            ids_RK, probabilities_RK = _candidates(scaled_RV, of_rows)
            tokens_B[rows] = ids_RK.gather(-1, _invert(probabilities_RK, points_R1)).squeeze(-1)
        else:
            probabilities_RV = scaled_RV.softmax(-1, dtype=torch.float64)
            tokens_B[rows] = _invert(probabilities_RV, points_R1).squeeze(-1)
    return tokens_B


def _invert(probabilities_RN: Tensor, points_R1: Tensor) -> Tensor:
    """Returns the place at which the cumulative probability first exceeds the point's share, (R, 1)."""
    cumulative_RN = probabilities_RN.cumsum(-1)
    places_R1 = torch.searchsorted(cumulative_RN, points_R1 * cumulative_RN[:, -1:], right=True)
    return places_R1.clamp_(max=probabilities_RN.shape[-1] - 1)


def _penalised(
    logits_BV: Tensor, settings: list[Sampling], prompts: list[list[int]], counts: list[Counter[int]]
) -> Tensor:
    """Returns the logits after the bias of single tokens, which is added, the repetition penalty, which
    divides those above zero and multiplies those below (Keskar et al. 2019), and OpenAI's penalties:
    − frequency · count − presence · [count > 0]."""
    rows = [row for row, each in enumerate(settings) if each.penalised]
    if not rows:
        return logits_BV
    scores_BV = logits_BV.clone()
    for row in rows:
        for token, bias in settings[row].logit_bias:
            if 0 <= token < scores_BV.shape[1]:
                scores_BV[row, token] += bias
        penalty = settings[row].repetition_penalty
        if penalty != 1:
            seen = torch.tensor(sorted({*prompts[row], *counts[row]}), device=logits_BV.device)
            scores = scores_BV[row, seen]
            scores_BV[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
        tokens = torch.tensor(list(counts[row]), device=logits_BV.device, dtype=torch.long)
        times = torch.tensor(list(counts[row].values()), device=logits_BV.device, dtype=logits_BV.dtype)
        scores_BV[row, tokens] -= settings[row].frequency_penalty * times + settings[row].presence_penalty
    return scores_BV


def _candidates(scaled_RV: Tensor, settings: list[Sampling]) -> tuple[Tensor, Tensor]:
    """Returns the token ids that may be drawn, in ascending order, with their probabilities (float64, not
    normalised): the `top_k` likeliest, of these the ones of at least `min_p` times the likeliest, and of
    these the nucleus, the fewest whose share of the mass reaches `top_p` (Holtzman et al. 2019).

    Only the likeliest tokens are sorted: more of them if a row's last may still be drawn.
    """
    vocabulary = scaled_RV.shape[-1]
    top_k_R1 = _column(scaled_RV, [each.top_k or vocabulary for each in settings])
    top_p_R1 = _column(scaled_RV, [each.top_p for each in settings])
    min_p_R1 = _column(scaled_RV, [each.min_p for each in settings])
    logp_RV = scaled_RV.log_softmax(-1)
    count = max(_FIRST_CANDIDATES, *(each.top_k + 1 for each in settings))
    while True:
        count = min(count, vocabulary)
        logp_RK, ids_RK = logp_RV.topk(count, dim=-1)
        p_RK = logp_RK.double().exp()
        ranks_K = torch.arange(count, device=scaled_RV.device)
        p_RK = p_RK.where((ranks_K < top_k_R1) & (p_RK >= min_p_R1 * p_RK[:, :1]), 0)
        uncut_R1 = p_RK[:, -1:] > 0  # then the tokens beyond the candidates belong to the mass
        mass_R1 = torch.where(uncut_R1, 1, p_RK.sum(-1, keepdim=True))
        nucleus_RK = p_RK.cumsum(-1) - p_RK < top_p_R1 * mass_R1 - _ROUNDING
        p_RK = p_RK.where(nucleus_RK | (ranks_K == 0), 0)
        unsettled_R1 = (p_RK[:, -1:] > 0) | (uncut_R1 & (min_p_R1 > 0))
        if count == vocabulary or not bool(unsettled_R1.any()):
            break
        count *= _MORE_CANDIDATES
    ids_RK, order_RK = ids_RK.sort(dim=-1)
    return ids_RK, p_RK.gather(-1, order_RK)


def _column(like: Tensor, values: list[float]) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=torch.float64)[:, None]
