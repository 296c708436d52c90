"""TokenCritic is a linear critic on the rows of the output matrix, whose best policy is known in closed form.

The gradient of a sampled return sums the noise of all tokens of a reply: its variance grows with their
number, and a large model leaves time for few replies. Much of what people like shows in the tokens alone, and
for that part no sampling of tokens is needed: a token with the row w is worth w·d. Where the reward model's
own weights of tokens explain enough of the reward, d is the regression of these on the rows, without noise
but theirs; elsewhere, that of the reward on the mean row of a reply's tokens. The policy that gains most
under a KL penalty gives each token exp(value/(β·length)) times the base's probability (Peters, Mülling and
Altün 2010), and that is the base with d·τ/(β·length) added to its last hidden states. The adapter learns this
shift by regression (`losses.state_shift`), for far less KL than along the gradient of the expected value,
which mostly moves what the hidden states vary most in.

It is biased, since a value does not know what follows the token, and when a reply ends is
left as it is. So it takes the place of sampled returns only where a step has few of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from trainer.model.rollouts import pad_rows
from trainer.reward.token_values import TokenValues

RETURNS_PER_TOKEN = 0.5
"""Samples of a step for each token of a reply from which sampled returns are used instead."""

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ridge coefficients that are tried, relative to the mean squared norm of a row."""

TOKEN_RIDGE = 0.01
"""Ridge coefficient of the regression of the tokens' values on their rows, relative to the mean variance."""

ENOUGH_EXPLAINED = 0.25
"""Share of the rewards' variance within prompts that the tokens' values explain, from which they are used.
While votes are few, what else the reward model says of replies is mostly noise of its own."""

MIN_STD = 1e-6


def has_few_samples(samples: int, mean_length: float) -> bool:
    """Whether the returns of so many samples a step would mostly be noise."""
    return samples < RETURNS_PER_TOKEN * mean_length


@dataclass(frozen=True, slots=True)
class TokenCritic:
    """The direction (D,) of hidden states with which the row of a token has its value, in units of the reward
    of a reply that has no other; of tokens that end a reply, it is that of the mean token. `variance` is that
    of the values of replies' tokens, and `explained` the share of the rewards' variance that it predicts on
    prompts left out, or that the reward model's weights of tokens (`values`) explain. Those fall with what
    a reply has gained; `mean_gain` is what a token of replies gains."""

    direction_D: Tensor
    variance: float
    explained: float
    values: TokenValues | None = None
    mean_gain: float = 0.0

    @property
    def by_weights(self) -> bool:
        """Whether the reward model's weights of tokens are used."""
        return self.values is not None

    def places(self, tokens_BT: Tensor, judged_BT: Tensor) -> Tensor:
        """Returns the (B, T) factor of the tokens' value in each place of replies, 0 where nothing is
        judged."""
        if self.values is None:
            return judged_BT
        return judged_BT * self.values.slope(tokens_BT, judged_BT, self.mean_gain)

    def as_json(self) -> dict[str, float | bool]:
        """Returns what the round's record says."""
        return {"explained": round(self.explained, 4), "by_weights": self.by_weights}


@torch.no_grad()
def fit_critic(
    output_VD: Tensor, eos_ids: Sequence[int], replies: Sequence[Sequence[int]],
    rewards_N: Tensor, prompt_N: Tensor, values: TokenValues,
) -> TokenCritic | None:  # fmt: skip
    """Fits a critic to the rewards of replies, less the means of their prompt; replies to prompts with one
    reply are compared with each other. `values` are those of the reward model. Returns None where nothing is
    explained."""
    lengths = torch.tensor([0, *map(len, replies)]).cumsum(0)[:-1]
    tokens = torch.tensor([token for reply in replies for token in reply])
    device = output_VD.device
    used_U, index_T, count_U = torch.unique(tokens.to(device), return_inverse=True, return_counts=True)
    output_UD = output_VD[used_U].float()  # means of a matrix in bfloat16 would be rounded to its eight bits
    mean_ND = embedding_bag(index_T, output_UD, lengths.to(device), mode="mean").double().cpu()
    _, number_N, count_P = torch.unique(prompt_N, return_inverse=True, return_counts=True)
    group_N = torch.where(count_P[number_N] == 1, -1, number_N)
    y_N = _centred(rewards_N.double().unsqueeze(1), group_N).squeeze(1)
    if not y_N.any():
        return None
    tokens_NT, mask_NT = pad_rows(replies)
    gain_N1 = values.gains(tokens_NT.long(), mask_NT).double().sum(1, keepdim=True)
    slope, explained = _line(_centred(gain_N1, group_N).squeeze(1), y_N)
    by_weights = explained >= ENOUGH_EXPLAINED
    if by_weights:
        value_U = values.first_V.to(device)[used_U]
        direction_D = _regression(output_UD, value_U, count_U.float())
        direction_D *= slope * len(tokens) / len(replies)
    else:
        found = _ridge_regression(_centred(mean_ND, group_N), mean_ND.std(0), y_N, number_N)
        if found is None:
            return None
        direction_D, explained = found
    # A shift must not change how often replies end: the rows of their ends differ from the mean row.
    length_N = torch.tensor(list(map(len, replies)), dtype=torch.double)
    ends_ED = output_VD[list(eos_ids)].double().cpu() - length_N @ mean_ND / length_N.sum()
    direction_D -= torch.linalg.pinv(ends_ED) @ (ends_ED @ direction_D)
    direction_D = direction_D.float().to(device)
    variance = float((output_UD @ direction_D)[index_T].var())
    if not by_weights:
        return TokenCritic(direction_D, variance, explained)
    mean_gain = float(gain_N1.sum()) / len(tokens)
    return TokenCritic(direction_D, variance, explained, values.to(device), mean_gain)


def _line(x_N: Tensor, y_N: Tensor) -> tuple[float, float]:
    """Returns the slope of a line through the origin, at least 0, and the share of y's variance that it
    explains."""
    slope = max(0.0, float(x_N @ y_N) / max(float(x_N @ x_N), MIN_STD**2))
    return slope, 1 - float((y_N - slope * x_N).square().sum() / y_N.square().sum())


def _regression(rows_UD: Tensor, values_U: Tensor, count_U: Tensor) -> Tensor:
    """Returns the (D,) ridge regression of the values of tokens on their rows, by how often each occurs."""
    share_U = count_U / count_U.sum()
    rows_UD = rows_UD - share_U @ rows_UD
    weighted_DU = rows_UD.T * share_U
    covariance_DD = (weighted_DU @ rows_UD).double().cpu()
    target_D = (weighted_DU @ (values_U - share_U @ values_U)).double().cpu()
    ridge = TOKEN_RIDGE * covariance_DD.diagonal().mean()
    found_D: Tensor = torch.linalg.solve(covariance_DD + ridge * torch.eye(len(target_D)), target_D)
    return found_D


def _ridge_regression(
    x_ND: Tensor, std_D: Tensor, y_N: Tensor, number_N: Tensor
) -> tuple[Tensor, float] | None:
    """Returns the (D,) ridge regression of rewards on mean rows, with the ridge by leave-one-prompt-out
    cross-validation, and the share of the variance that it predicts there; None where that is nothing."""
    std_D = std_D.clamp_min(MIN_STD)
    x_ND, total = x_ND / std_D, float(y_N.square().sum())
    kernel_NN = x_ND @ x_ND.T
    scale, eye_NN = kernel_NN.diagonal().mean(), torch.eye(len(x_ND), dtype=torch.double)
    found: tuple[float, Tensor] | None = None
    for ridge in RIDGES:
        inverse_NN = torch.linalg.inv(kernel_NN + ridge * scale * eye_NN)
        dual_N, error = inverse_NN @ y_N, 0.0
        for number in range(int(number_N.max()) + 1):
            rows = (number_N == number).nonzero().squeeze(1)
            left_out = torch.linalg.solve(inverse_NN[rows][:, rows], dual_N[rows])
            error += float(left_out.square().sum())
        explained = 1 - error / total
        if explained > 0 and (found is None or explained > found[0]):
            found = explained, dual_N
    return None if found is None else ((x_ND.T @ found[1]) / std_D, found[0])


def _centred(rows_ND: Tensor, group_N: Tensor) -> Tensor:
    """Returns the rows less the mean of their group."""
    _, number_N, count_G = torch.unique(group_N, return_inverse=True, return_counts=True)
    sum_GD = rows_ND.new_zeros(len(count_G), rows_ND.shape[1]).index_add_(0, number_N, rows_ND)
    mean_GD: Tensor = sum_GD / count_G.unsqueeze(1)
    return rows_ND - mean_GD[number_N]
