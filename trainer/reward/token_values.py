"""TokenValues are what each token adds to the reward of a reply, in the order in which it is written.

A token that the reply has already adds nothing by its occurrence, and once a reply is as good as the best of
the base's, more of the same adds little: the reward is a sigmoid. So the value of a token falls with what the
reply has gained so far.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenValues:
    """The change of r, in logits, by a token's first occurrence in a reply (`occurrence_V`) and by each
    (`rate_V`). From `room` above the base's mean r, the sigmoid of the reward, which is `steepness` times as
    steep as that of r, saturates."""

    occurrence_V: Tensor
    rate_V: Tensor
    room: float
    steepness: float

    @property
    def first_V(self) -> Tensor:
        """The values of tokens that a reply does not have yet."""
        return self.occurrence_V + self.rate_V

    def to(self, device: torch.device) -> "TokenValues":
        return TokenValues(self.occurrence_V.to(device), self.rate_V.to(device), self.room, self.steepness)

    def gains(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Returns the (B, T) gains by each token of replies, 0 outside of the mask."""
        occurrence_BT = self.occurrence_V[tokens_BT] * _is_first(tokens_BT, mask_BT)
        return (occurrence_BT + self.rate_V[tokens_BT]) * mask_BT

    def slope(self, tokens_BT: Tensor, mask_BT: Tensor, mean_gain: float) -> Tensor:
        """Returns the (B, T) slope of the reward's sigmoid where each token is written, at most 1: at the r
        that the reply comes to if each further token gains `mean_gain`, as the base's do."""
        gains_BT = self.gains(tokens_BT, mask_BT) - mean_gain * mask_BT
        excess_BT = (gains_BT.cumsum(1) - gains_BT - self.room).clamp_min(0)
        sigmoid_BT = (self.steepness * excess_BT).sigmoid()
        return 4 * sigmoid_BT * (1 - sigmoid_BT)


def _is_first(tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Returns the (B, T) mask of the tokens that no other of the mask precedes in their row."""
    row_B1 = torch.arange(len(tokens_BT), device=tokens_BT.device).unsqueeze(1)
    key_BT = torch.where(mask_BT > 0, row_B1 * (int(tokens_BT.max()) + 1) + tokens_BT, -1)
    keys_U, number_N = torch.unique(key_BT.flatten(), return_inverse=True)
    place_N = torch.arange(len(number_N), device=number_N.device)
    first_U = place_N.new_full((len(keys_U),), len(place_N)).scatter_reduce(0, number_N, place_N, "amin")
    return (first_U[number_N] == place_N).view_as(tokens_BT)
