"""What the reward model sees of a reply: numbers read off the frozen base, never off the policy.

Five views, so that members of the ensemble can look at different things: the mean, the maximum and the last
of the hidden states over the reply, each on several layers, which tokens occur, and the length, as how far it
is beyond each of LENGTHS: whoever likes short replies likes all that are short enough. Hidden states wider
than `WIDTH` are projected by a fixed random matrix (Johnson–Lindenstrauss), and tokens of a large vocabulary
share places by their id, so that what is kept of a reply does not grow with the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.backbone import Backbone, Padded

LAYERS = 5
WIDTH = 256
PLACES = 2048
LENGTHS = tuple(2 ** (half / 2) for half in range(4, 25))
"""Of a reply, in tokens: 4 to 4,096, two to each doubling."""

STEP = 0.15
"""How soft the steps of the length are: from a quarter to three quarters within a third of its logarithm."""

MOST = 60_000.0  # of a hidden state, which half of a float can hold

Views = dict[str, Tensor]
"""By view: (N, D) in half precision, one row a reply."""


def chosen_layers(backbone: Backbone) -> list[int]:
    """At most LAYERS of the hidden states, evenly spread from the embedding to the last."""
    last = int(backbone.model.config.get_text_config().num_hidden_layers)
    count = min(LAYERS, last + 1)
    return [round(index * last / (count - 1)) for index in range(count)]


def of_batch(batch: Padded, hidden: Sequence[Tensor]) -> Views:
    """The views of each reply of a batch whose hidden states (one (B, R, D) a layer) are at hand."""
    mask_BR1 = batch.reply_mask_BR.unsqueeze(2)
    lengths_B = batch.reply_mask_BR.sum(1)
    mean, peak, last = [], [], []
    for states_BRD in hidden:
        states_BRD = _narrow(states_BRD)
        mean.append((states_BRD * mask_BR1).sum(1) / lengths_B.unsqueeze(1))
        peak.append(states_BRD.masked_fill(mask_BR1 == 0, -1e4).amax(1))
        rows = torch.arange(len(states_BRD), device=states_BRD.device)
        last.append(states_BRD[rows, lengths_B.long() - 1])
    places_BR = torch.where(batch.reply_mask_BR > 0, batch.reply_tokens_BR % PLACES, PLACES)
    tokens_BV = torch.zeros(len(places_BR), PLACES + 1, device=places_BR.device).scatter_(1, places_BR, 1.0)
    beyond_BS = lengths_B.log().unsqueeze(1) - torch.tensor(LENGTHS, device=lengths_B.device).log()
    views = {
        "mean": torch.cat(mean, 1),
        "peak": torch.cat(peak, 1),
        "last": torch.cat(last, 1),
        "tokens": tokens_BV[:, :PLACES],
        "length": torch.sigmoid(beyond_BS / STEP),
    }
    return {name: view.clamp(-MOST, MOST).half().cpu() for name, view in views.items()}


def _narrow(states_BRD: Tensor) -> Tensor:
    width = states_BRD.shape[2]
    if width <= WIDTH:
        return states_BRD
    generator = torch.Generator().manual_seed(width)
    matrix_DW = torch.randn(width, WIDTH, generator=generator) / WIDTH**0.5
    return torch.matmul(states_BRD, matrix_DW.to(states_BRD.device))
