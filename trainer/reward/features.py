"""This module extracts features of replies from the frozen base: pooled hidden states, tokens and length.

Features never come from the policy. There are five groups, and each member of the ensemble uses some of them:
mean, max and last-token pooling of the hidden states over the reply, each on several layers at full width;
the ids of its tokens; and the length, as a soft threshold at each of LENGTH_THRESHOLDS, because whoever likes
short replies likes every reply below some length. A thought (`<think>…</think>`) before the answer is no part
of what is judged.

A reply's features take at most MAX_STATE_BYTES and 4 bytes for each of MAX_TOKENS, whatever the model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from trainer.model.backbone import Backbone
from trainer.model.batch import PaddedBatch

AUXILIARY = "auxiliary"
"""The feature group that an auxiliary model gives, where there is one (`model.auxiliary`): of whole replies
only. A reply without it, such as a prefix, counts as average in it."""

MAX_LAYERS = 5
MAX_STATE_BYTES = 2**17
"""Bytes of a reply's pooled hidden states: MAX_LAYERS layers up to a width of 4,369, fewer beyond."""

MAX_TOKENS = 1_024
"""Tokens of a reply whose ids are kept, the first."""

NO_TOKEN = 2**31 - 1
"""Padding behind a reply's token ids."""

LENGTH_THRESHOLDS = tuple(2 ** (half / 2) for half in range(4, 25))
"""Lengths of a reply in tokens, from 4 to 4,096, two to each doubling."""

LENGTH_SOFTNESS = 0.15
"""Width of the soft thresholds in log tokens: a sigmoid rises from 1/4 to 3/4 over a factor of about 1.4."""

MAX_MAGNITUDE = 60_000.0
"""Limit of a hidden state's components, so that they fit into half precision."""

FeatureGroups = dict[str, Tensor]
"""Features of N replies by the name of the group: (N, D) in half precision, and for `tokens` the (N,
MAX_TOKENS) token ids in ascending order, padded with NO_TOKEN."""


def select_layers(backbone: Backbone) -> list[int]:
    """Returns at most MAX_LAYERS indices of hidden states, evenly spaced from the embedding to the last; of a
    very wide model the last ones of these."""
    config = backbone.model.config.get_text_config()
    last = int(config.num_hidden_layers)
    count = min(MAX_LAYERS, last + 1)
    layers = [round(index * last / (count - 1)) for index in range(count)]
    bytes_per_layer = 3 * torch.half.itemsize * int(config.hidden_size)  # mean, peak and last
    return layers[-max(1, MAX_STATE_BYTES // bytes_per_layer) :]


def extract_features(
    batch: PaddedBatch, hidden: Sequence[Tensor], think_ids: tuple[int, int] | None = None
) -> FeatureGroups:
    """Returns the features of each reply of a batch. `hidden` are its (B, R, D) hidden states by layer,
    `think_ids` the tokens that open and close a thought."""
    return masked_features(batch, hidden, judged_mask(batch, think_ids))


def judged_mask(batch: PaddedBatch, think_ids: tuple[int, int] | None) -> Tensor:
    """Returns the (B, R) mask of the tokens that are judged: a reply's, less its thought."""
    return batch.reply_mask_BR if think_ids is None else answer_mask(batch, *think_ids)


def masked_features(batch: PaddedBatch, hidden: Sequence[Tensor], mask_BR: Tensor) -> FeatureGroups:
    """Returns the features of the reply tokens in a mask, at least one in each row."""
    mask_BR1 = mask_BR.unsqueeze(2)
    lengths_B = mask_BR.sum(1)
    mean, peak, last = [], [], []
    for states_BRD in hidden:
        mean.append((states_BRD * mask_BR1).sum(1) / lengths_B.unsqueeze(1))
        peak.append(states_BRD.masked_fill(mask_BR1 == 0, -MAX_MAGNITUDE).amax(1))
        last.append(at_last(states_BRD, mask_BR))
    log_ratio_BS = (
        lengths_B.log().unsqueeze(1) - torch.tensor(LENGTH_THRESHOLDS, device=lengths_B.device).log()
    )
    dense = {
        "mean": torch.cat(mean, 1),
        "peak": torch.cat(peak, 1),
        "last": torch.cat(last, 1),
        "length": torch.sigmoid(log_ratio_BS / LENGTH_SOFTNESS),
    }
    features = {name: group.clamp(-MAX_MAGNITUDE, MAX_MAGNITUDE).half() for name, group in dense.items()}
    features["tokens"] = first_tokens(batch.reply_tokens_BR, mask_BR)
    return {name: group.cpu() for name, group in features.items()}


def at_last(values_BRC: Tensor, mask_BR: Tensor) -> Tensor:
    """Returns the (B, C) values at the last token of each row in a mask."""
    last_B = (mask_BR * torch.arange(1, mask_BR.shape[1] + 1, device=mask_BR.device)).argmax(1)
    return values_BRC[torch.arange(len(mask_BR), device=mask_BR.device), last_B]


def answer_mask(batch: PaddedBatch, opening: int, closing: int) -> Tensor:
    """Returns the (B, R) mask of the tokens behind a reply's thought; of all tokens where it has none, and of
    the last one where nothing follows the thought."""
    mask_BR, tokens_BR = batch.reply_mask_BR, batch.reply_tokens_BR
    closed_BR = ((tokens_BR == closing) & (mask_BR > 0)).cumsum(1)
    thought_BR = closed_BR.roll(1, 1) == 0
    thought_BR[:, 0] = True
    thinks_B1 = (closed_BR[:, -1:] > 0) | (tokens_BR[:, :1] == opening)
    last_BR = torch.arange(mask_BR.shape[1], device=mask_BR.device) == mask_BR.sum(1, keepdim=True) - 1
    return mask_BR * (~(thinks_B1 & thought_BR) | last_BR)


def answer_length(token_ids: Sequence[int], think_ids: tuple[int, int] | None) -> int:
    """Returns the number of tokens of a reply behind its thought, as `answer_mask` has them."""
    if think_ids is None:
        return len(token_ids)
    opening, closing = think_ids
    if closing in token_ids:
        return max(1, len(token_ids) - list(token_ids).index(closing) - 1)
    return 1 if token_ids[:1] == [opening] else len(token_ids)


def first_tokens(tokens_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Returns the (B, MAX_TOKENS) ids of each row's first tokens in a mask, in ascending order."""
    first_BR = (mask_BR > 0) & (mask_BR.cumsum(1) <= MAX_TOKENS)
    ids_BR = torch.where(first_BR, tokens_BR, NO_TOKEN).sort(1).values[:, :MAX_TOKENS]
    return pad(ids_BR, (0, MAX_TOKENS - ids_BR.shape[1]), value=NO_TOKEN).int()
