"""Token sampling draws tokens from logits as serving does: after penalties, from the tokens that cuts leave.

The order is vLLM's, and the embedded engine's: repetition, frequency and presence penalty change the logits;
then, at the temperature, min-p, top-k and top-p leave the tokens that may be drawn.
Shapes: B replies, P tokens of a prompt, R of a reply so far, V of the vocabulary, K candidates.
"""

import math

import torch
from torch import Tensor

NUCLEUS_TOKENS = 256
"""Most likely tokens among which the nucleus is sought first, before the whole vocabulary is sorted."""


def penalise(
    logits_BV: Tensor,
    prompt_BP: Tensor,
    reply_BR: Tensor,
    repetition: float,
    presence: float,
    frequency: float,
) -> Tensor:
    """Returns the logits after the repetition penalty, which divides those above zero and multiplies those
    below of all tokens of the prompt and the reply (Keskar et al. 2019), and after OpenAI's penalties on
    tokens of the reply: − frequency · count − presence · [count > 0]."""
    seen_BT = torch.cat([prompt_BP, reply_BR], 1)
    own_BT = logits_BV.gather(1, seen_BT)
    penalised_BT = torch.where(own_BT > 0, own_BT / repetition, own_BT * repetition)
    scores_BV = logits_BV.scatter(1, seen_BT, penalised_BT)
    scores_BV.scatter_add_(1, reply_BR, torch.full_like(reply_BR, -frequency, dtype=scores_BV.dtype))
    return scores_BV.scatter(1, reply_BR, scores_BV.gather(1, reply_BR) - presence)


def truncate(logp_BV: Tensor, top_k: int, min_p: float, top_p: float) -> Tensor:
    """Returns the log-probabilities, up to a constant for each row, of the tokens that may be drawn, and −inf
    for all others. These are the tokens at least `min_p` times as likely as the likeliest, of them the
    `top_k` likeliest (0: all), and of these the nucleus by their share of what is left."""
    whole_BV = logp_BV
    if min_p > 0:
        floor_B1 = logp_BV.amax(1, keepdim=True) + math.log(min_p)
        logp_BV = logp_BV.masked_fill(logp_BV < floor_B1, -torch.inf)
    if 0 < top_k < logp_BV.shape[1]:
        values_BK, indices_BK = logp_BV.topk(top_k, dim=1)
        logp_BV = torch.full_like(logp_BV, -torch.inf).scatter_(1, indices_BK, values_BK)
    if top_p >= 1:
        return logp_BV
    return nucleus(logp_BV if logp_BV is whole_BV else logp_BV.log_softmax(1), top_p)


def nucleus(logp_BV: Tensor, top_p: float) -> Tensor:
    """Returns the log-probabilities of the nucleus, the smallest set of most likely tokens whose mass reaches
    `top_p` (Holtzman et al. 2019), and −inf outside it; they are not normalised again."""
    kept_BV = torch.full_like(logp_BV, -torch.inf)
    likeliest = min(NUCLEUS_TOKENS, logp_BV.shape[1])
    values_BK, indices_BK = logp_BV.topk(likeliest, dim=1)
    mass_BK = values_BK.exp().cumsum(1)
    kept_BV.scatter_(1, indices_BK, _within(values_BK, mass_BK, top_p))
    wide_B = mass_BK[:, -1] < top_p
    if likeliest < logp_BV.shape[1] and bool(wide_B.any()):
        values_WV, indices_WV = logp_BV[wide_B].sort(dim=1, descending=True, stable=True)
        kept_WV = _within(values_WV, values_WV.exp().cumsum(1), top_p)
        kept_BV[wide_B] = torch.full_like(kept_WV, -torch.inf).scatter_(1, indices_WV, kept_WV)
    return kept_BV


def _within(sorted_BK: Tensor, mass_BK: Tensor, top_p: float) -> Tensor:
    """Returns sorted log-probabilities, with −inf for tokens before which the mass had reached `top_p`."""
    return sorted_BK.masked_fill(mass_BK - sorted_BK.exp() >= top_p, -torch.inf)


def sample_tokens(logp_BV: Tensor, first: int, total: int, generator: torch.Generator) -> Tensor:
    """Returns a token (B,) of each row's distribution by inverse transform sampling: the first whose
    cumulative probability exceeds a uniform number. It draws `total` numbers, one for each row of all
    processes, and uses those from `first` on; `torch.multinomial` would draw one for each token of the
    vocabulary."""
    cumulative_BV = logp_BV.exp().cumsum(1)
    uniform_N1 = torch.rand(total, 1, generator=generator, device=logp_BV.device)
    target_B1 = uniform_N1[first : first + len(logp_BV)] * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True)
    return token_B1.squeeze(1).clamp_max(logp_BV.shape[1] - 1)
