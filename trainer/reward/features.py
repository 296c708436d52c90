"""This module extracts pooled hidden-state features of replies from the frozen base.

Features never come from the policy. There are five groups, and each member of the ensemble uses some of them:
mean, max and last-token pooling of the hidden states over the reply, each on several layers; a bag of tokens;
and the length, as a soft threshold at each of LENGTH_THRESHOLDS, because whoever likes short replies likes
every reply below some length. Hidden states wider than MAX_WIDTH go through a fixed random projection
(Johnson–Lindenstrauss), and token ids are hashed into TOKEN_BUCKETS, so the size of a reply's features does
not grow with the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch

MAX_LAYERS = 5
MAX_WIDTH = 256
TOKEN_BUCKETS = 2048
LENGTH_THRESHOLDS = tuple(2 ** (half / 2) for half in range(4, 25))
"""Lengths of a reply in tokens, from 4 to 4,096, two to each doubling."""

LENGTH_SOFTNESS = 0.15
"""Width of the soft thresholds in log tokens: a sigmoid rises from 1/4 to 3/4 over a factor of about 1.4."""

MAX_MAGNITUDE = 60_000.0
"""Limit of a hidden state's components, so that they fit into half precision."""

FeatureGroups = dict[str, Tensor]
"""(N, D) features of N replies in half precision, by the name of the group."""


def select_layers(backbone: Backbone) -> list[int]:
    """Returns at most MAX_LAYERS indices of hidden states, evenly spaced from the embedding to the last."""
    last = int(backbone.model.config.get_text_config().num_hidden_layers)
    count = min(MAX_LAYERS, last + 1)
    return [round(index * last / (count - 1)) for index in range(count)]


def extract_features(batch: PaddedBatch, hidden: Sequence[Tensor]) -> FeatureGroups:
    """Returns the features of each reply of a batch. `hidden` are its (B, R, D) hidden states by layer."""
    mask_BR1 = batch.reply_mask_BR.unsqueeze(2)
    lengths_B = batch.reply_mask_BR.sum(1)
    mean, peak, last = [], [], []
    for states_BRD in hidden:
        states_BRD = _random_projection(states_BRD)
        mean.append((states_BRD * mask_BR1).sum(1) / lengths_B.unsqueeze(1))
        peak.append(states_BRD.masked_fill(mask_BR1 == 0, -1e4).amax(1))
        rows = torch.arange(len(states_BRD), device=states_BRD.device)
        last.append(states_BRD[rows, lengths_B.long() - 1])
    buckets_BR = torch.where(batch.reply_mask_BR > 0, batch.reply_tokens_BR % TOKEN_BUCKETS, TOKEN_BUCKETS)
    tokens_BV = torch.zeros(len(buckets_BR), TOKEN_BUCKETS + 1, device=buckets_BR.device)
    tokens_BV.scatter_(1, buckets_BR, 1.0)
    log_ratio_BS = (
        lengths_B.log().unsqueeze(1) - torch.tensor(LENGTH_THRESHOLDS, device=lengths_B.device).log()
    )
    features = {
        "mean": torch.cat(mean, 1),
        "peak": torch.cat(peak, 1),
        "last": torch.cat(last, 1),
        "tokens": tokens_BV[:, :TOKEN_BUCKETS],
        "length": torch.sigmoid(log_ratio_BS / LENGTH_SOFTNESS),
    }
    return {name: group.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE).half().cpu() for name, group in features.items()}


def _random_projection(states_BRD: Tensor) -> Tensor:
    width = states_BRD.shape[2]
    if width <= MAX_WIDTH:
        return states_BRD
    generator = torch.Generator().manual_seed(width)
    matrix_DW = torch.randn(width, MAX_WIDTH, generator=generator) / MAX_WIDTH**0.5
    return torch.matmul(states_BRD, matrix_DW.to(states_BRD.device))
