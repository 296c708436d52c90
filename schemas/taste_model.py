"""A taste model is what serving needs of a reward model: it maps a reply's features to its value by taste.

The trainer publishes it beside a policy, and the embedded engine, which has the
base's hidden states, evaluates it. Its features are the reward model's: hidden states of the frozen base,
pooled over the reply by mean, maximum and last token, its length, which tokens occur in it, and at what rate.
A feature of the first four is standardised and clipped to ±CLIP. All are weighed by each member of the
ensemble for each taste: first everybody's mean, then each direction in which people differ, if they do. The
file is safetensors, with the header as metadata, and its digest is in the policy's manifest.

Tensors: for each of GROUPS `mean` (D), `std` (D) and `weights` (M, C, D); for each of TOKEN_GROUPS
`vocabulary` (D, ascending) and `weights` (M, C, D); `bias` (M, C).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TASTES = "tastes.safetensors"
"""The file in a policy's directory, where people's tastes differ."""

REWARD = "reward.safetensors"
"""The file where they do not: it has everybody's mean alone."""

METADATA = "tastes"
"""Name of the header in the file's metadata."""

GROUPS = ("mean", "peak", "last", "length")
"""The dense feature groups."""

TOKEN_GROUPS = ("tokens", "rates")
"""The groups that come from token ids: 1 for each token that occurs, and its count by the reply's tokens and
`rate_smoothing` more. Files of the releases before have no rates."""

CLIP = 4.0
"""Most standard deviations that a feature counts."""


class TasteHeader(BaseModel):
    """What the features are. `layers` are indices of hidden states, 0 the embedding; `think_ids` are the
    tokens that open and close a thought, which is not judged; `lengths` are the soft thresholds of a reply's
    length in tokens, `softness` their width in log tokens; `max_tokens` is the most tokens whose ids count,
    the first; `max_magnitude` bounds a hidden state's components. `ranking_scale` is the scale of comparisons
    against thumbs, `caution` the weight of the members' disagreement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["hearken.tastes.v1"] = "hearken.tastes.v1"
    base_digest: str
    directions: Annotated[int, Field(ge=0, le=16)]
    members: Annotated[int, Field(ge=1, le=64)]
    layers: Annotated[list[int], Field(min_length=1, max_length=16)]
    think_ids: tuple[int, int] | None
    lengths: Annotated[list[float], Field(min_length=1, max_length=64)]
    softness: float
    max_tokens: int
    rate_smoothing: Annotated[int, Field(ge=1)] = 1
    max_magnitude: float
    ranking_scale: float
    caution: float
