"""TokenCritic is a linear critic on token embeddings, with which a step's gradient takes the expectation over
all next tokens exactly (expected policy gradients: Ciosek and Whiteson 2018).

The gradient of a sampled return sums the noise of all tokens of a reply: its variance grows with their
number, and a large model leaves time for few replies. Much of what people like shows in the tokens alone, and
for that part no sampling of tokens is needed: the reward is regressed on the mean embedding of a reply's
tokens, so each token has a value, and Σ_v π(v)·value(v) has a gradient without noise. It is biased, since a
value knows neither the order of tokens nor what follows them. So both gradients are mixed: sampled returns
count in full where a step has RETURNS_PER_TOKEN samples for each token of a reply, in proportion where it has
fewer. When a reply ends is left to sampled returns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

RETURNS_PER_TOKEN = 3.0
"""Samples of a step for each token of a reply from which sampled returns alone are used."""

LEAST_REPLAYED = 0.1
"""Least share of sampled returns in the gradient for which the base's samples are replayed."""

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge coefficients that are tried, relative to the mean squared norm of a row."""

MIN_STD = 1e-6


def sampled_share(samples: int, mean_length: float) -> float:
    """Returns the part of the gradient that sampled returns have, where a step has so many samples."""
    return min(1.0, samples / (RETURNS_PER_TOKEN * mean_length))


@dataclass(frozen=True, slots=True)
class TokenCritic:
    """The value of each token (V,), in units of the reward of a reply that has no other; 0 of those that end
    a reply. `explained` is the share of the rewards' variance that it predicts on prompts left out, `share`
    the part of the gradient that sampled returns have beside it."""

    values_V: Tensor
    explained: float
    share: float

    def as_json(self) -> dict[str, float]:
        """Returns what the round's record says."""
        return {"explained": round(self.explained, 4), "sampled_share": round(self.share, 4)}

    @property
    def is_most(self) -> bool:
        """Whether sampled returns have so small a share that the base's samples need not be replayed."""
        return self.share < LEAST_REPLAYED


@torch.no_grad()
def fit_values(
    embeddings_VD: Tensor, replies: Sequence[Sequence[int]], rewards_N: Tensor, prompt_N: Tensor
) -> tuple[Tensor, float] | None:
    """Fits a ridge regression of rewards on mean token embeddings, both less the means of their prompt;
    replies to prompts with one reply are compared with each other. Returns the value of each token, and the
    share of the variance explained under leave-one-prompt-out cross-validation, by which the ridge is
    chosen; None where nothing is explained."""
    lengths = torch.tensor([0, *map(len, replies)]).cumsum(0)[:-1]
    tokens = torch.tensor([token for reply in replies for token in reply])
    device = embeddings_VD.device
    mean_ND = embedding_bag(tokens.to(device), embeddings_VD, lengths.to(device), mode="mean").double().cpu()
    _, number_N, count_P = torch.unique(prompt_N, return_inverse=True, return_counts=True)
    alone_N = count_P[number_N] == 1
    group_N = torch.where(alone_N, -1, number_N)
    x_ND, y_N = _centred(mean_ND, group_N), _centred(rewards_N.double().unsqueeze(1), group_N).squeeze(1)
    std_D = mean_ND.std(0).clamp_min(MIN_STD)
    x_ND = x_ND / std_D
    total = float(y_N.square().sum())
    if total == 0:
        return None
    kernel_NN = x_ND @ x_ND.T
    scale, eye_NN = kernel_NN.diagonal().mean(), torch.eye(len(x_ND), dtype=torch.double)
    found: tuple[float, Tensor] | None = None
    for ridge in RIDGES:
        inverse_NN = torch.linalg.inv(kernel_NN + ridge * scale * eye_NN)
        dual_N, error = inverse_NN @ y_N, 0.0
        for number in range(len(count_P)):
            rows = (number_N == number).nonzero().squeeze(1)
            left_out = torch.linalg.solve(inverse_NN[rows][:, rows], dual_N[rows])
            error += float(left_out.square().sum())
        explained = 1 - error / total
        if explained > 0 and (found is None or explained > found[0]):
            found = explained, dual_N
    if found is None:
        return None
    weights_D = (x_ND.T @ found[1]) / std_D
    values_V = (embeddings_VD @ weights_D.to(embeddings_VD.dtype).to(device)).float()
    return values_V - float(values_V[tokens.to(device)].mean()), found[0]


def _centred(rows_ND: Tensor, group_N: Tensor) -> Tensor:
    """Returns the rows less the mean of their group."""
    _, number_N, count_G = torch.unique(group_N, return_inverse=True, return_counts=True)
    sum_GD = rows_ND.new_zeros(len(count_G), rows_ND.shape[1]).index_add_(0, number_N, rows_ND)
    mean_GD: Tensor = sum_GD / count_G.unsqueeze(1)
    return rows_ND - mean_GD[number_N]
