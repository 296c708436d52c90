"""This module projects features onto the principal components of the variation within a prompt.

What all replies to one prompt share is the prompt's subject, which a policy cannot choose. So the components
are computed after each prompt's mean is subtracted, from the base's replies and from those that people
compared, standardised on the base's replies.

The token ids of a reply give two groups: which tokens occur in it, and at what rate. Their columns are the
tokens that occur in the replies; none is hashed. Tokens are many, and few of them matter to people, so each
column is weighed by the probability that it does (`variable_selection`) before the components are computed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from trainer.reward.features import AUXILIARY, NO_TOKEN, FeatureGroups
from trainer.reward.variable_selection import VariableSelection

COMPONENTS = (24, 48, 96)
"""Components of each feature group, for the members of the ensemble in turn. Chosen on tests.bench.reward:
few are more accurate after 400 votes, many tell more styles apart after 1,000."""

FEW_VOTES = 400
"""Votes up to which COMPONENTS holds. Beyond, the count grows with the square of the votes, up to the
largest of COMPONENTS."""

TOKENS, RATES = "tokens", "rates"
"""The groups that come from token ids: 1 for each token that occurs, and its share of the reply's tokens."""

UNSCALED = (TOKENS, RATES, "length")
"""Feature groups that are between 0 and 1 and are only centred."""

RATE_SMOOTHING = 16
"""Tokens that are added to a reply's length in rates, as one token is much of a short reply (additive
smoothing)."""

MAX_VOCABULARY = 8_192
"""Most columns of the token group: the tokens that occur in the most replies."""

MAX_ROWS = 1_024
"""Replies that the components are computed from, the base's first. The time grows with the cube."""

CHUNK = 1_024
"""Replies projected at a time, and tokens judged, which bounds the memory in single precision."""


@dataclass(frozen=True, slots=True)
class BaseFeatures:
    """Features of replies of the base, `samples_per_prompt` consecutive rows to each prompt."""

    groups: FeatureGroups
    samples_per_prompt: int


@dataclass(frozen=True, slots=True)
class VotedFeatures:
    """Features of replies that people voted on. Replies of the same number in `prompt_N` were compared with
    each other, so they answer the same prompt. `selection` finds the tokens that matter to people."""

    groups: FeatureGroups
    prompt_N: Tensor
    selection: VariableSelection | None = None


@dataclass(frozen=True, slots=True)
class Projection:
    """A projection standardises one feature group on the base's replies and reduces it by `basis_DK`.
    `vocabulary_D` has the ids of the columns of a group of tokens, ascending; other groups have none. A token
    has no std but 1 / √(the probability that it matters)."""

    mean_D: Tensor
    std_D: Tensor
    basis_DK: Tensor
    scale: float
    vocabulary_D: Tensor | None = None
    rates: bool = False

    @classmethod
    def fit(
        cls, name: str, base: BaseFeatures, components: int, voted: VotedFeatures | None = None
    ) -> "Projection":
        """Fits the projection of group `name`, with at most `components` components."""
        base_N = group_of(name, base.groups)
        voted_N = base_N[:0] if voted is None else group_of(name, voted.groups)
        unfitted = cls(torch.empty(0), torch.empty(0), torch.empty(0), 1.0, rates=name == RATES)
        if name in (TOKENS, RATES):
            unfitted = replace(unfitted, vocabulary_D=frequent_tokens(torch.cat([base_N, voted_N])))
        dense_ND = unfitted.dense(base_N)
        mean_D, std_D = dense_ND.mean(0), torch.ones(dense_ND.shape[1])
        if name not in UNSCALED:
            std_D = dense_ND.std(0).clamp_min(1e-3)
        elif voted is not None and voted.selection is not None:
            std_D = unfitted._importance(voted_N, voted.selection).rsqrt()
        unfitted = replace(unfitted, mean_D=mean_D, std_D=std_D, basis_DK=torch.empty(len(mean_D), 0))
        scaled_PKD = unfitted.standardised(base_N).view(-1, base.samples_per_prompt, len(mean_D))
        rows_ND = (scaled_PKD - scaled_PKD.mean(1, keepdim=True)).flatten(0, 1)
        if voted is not None:
            row_N, prompt_N = _compared(voted.prompt_N, MAX_ROWS - len(rows_ND))
            compared_ND = unfitted.standardised(voted_N[row_N])
            rows_ND = torch.cat([rows_ND, _within(compared_ND, prompt_N)])
        basis_DK = principal_components(rows_ND, components)
        return replace(unfitted, basis_DK=basis_DK)._rescaled(base_N)

    def _importance(self, features: Tensor, selection: VariableSelection) -> Tensor:
        """Returns the (D,) probability that each token of the vocabulary matters; 1 for other groups."""
        if self.vocabulary_D is None:
            return torch.ones(self.dense(features[:1]).shape[1])
        found = []
        for ids_D in torch.split(self.vocabulary_D, CHUNK):
            some = replace(self, vocabulary_D=ids_D)
            columns_ND = torch.cat([some.dense(part) for part in torch.split(features, CHUNK)])
            found.append(selection.probability(columns_ND))
        return torch.cat(found)

    def narrowed(self, components: int, base_N: Tensor) -> "Projection":
        """Returns the projection onto the largest `components` of its components, scaled on the base's
        features of the group."""
        return replace(self, basis_DK=self.basis_DK[:, -components:])._rescaled(base_N)

    def standardised(self, features: Tensor) -> Tensor:
        """Returns the (N, D) standardised features of N replies."""
        standardised_ND = (self.dense(features) - self.mean_D) / self.std_D
        return standardised_ND.clamp(-4, 4) if self.vocabulary_D is None else standardised_ND

    def dense(self, features: Tensor) -> Tensor:
        """Returns (N, D) single precision features; of a group of tokens, one column for each token of the
        vocabulary."""
        if self.vocabulary_D is None:
            return features.float()
        column_NL, value_NL = self._columns(features, self.vocabulary_D)
        dense_NC = torch.zeros(len(features), len(self.vocabulary_D) + 1)
        return dense_NC.scatter_add_(1, column_NL, value_NL)[:, :-1]

    def __call__(self, features: Tensor) -> Tensor:
        """Returns the (N, K) projected features, with a mean square norm of 1 on the base's replies."""
        return torch.cat([self._project(part) for part in torch.split(features, CHUNK)])

    def _project(self, features: Tensor) -> Tensor:
        if self.vocabulary_D is None:
            projected_NK = self.standardised(features) @ self.basis_DK
        else:  # the sum of the rows of the reply's tokens; a last row of zeros is all others'
            rows_DK = self.basis_DK / self.std_D.unsqueeze(1)
            rows_CK = torch.cat([rows_DK, rows_DK.new_zeros(1, rows_DK.shape[1])])
            column_NL, value_NL = self._columns(features, self.vocabulary_D)
            summed_NK = embedding_bag(column_NL, rows_CK, mode="sum", per_sample_weights=value_NL)
            projected_NK = summed_NK - self.mean_D @ rows_DK
        return projected_NK * self.scale

    def _columns(self, ids_NL: Tensor, vocabulary_D: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the column of each token, or the number of columns where the vocabulary does not have it,
        and what the token adds to it."""
        ids_NL = ids_NL[:, (ids_NL != NO_TOKEN).any(0)].contiguous()
        column_NL = torch.searchsorted(vocabulary_D, ids_NL).clamp_max(len(vocabulary_D) - 1)
        column_NL = torch.where(vocabulary_D[column_NL] == ids_NL, column_NL, len(vocabulary_D))
        if self.rates:
            length_N1 = (ids_NL != NO_TOKEN).sum(1, keepdim=True)
            return column_NL, (1 / (length_N1 + RATE_SMOOTHING)).expand(ids_NL.shape)
        return column_NL, pad(ids_NL[:, 1:] != ids_NL[:, :-1], (1, 0), value=True).float()

    def _rescaled(self, base_N: Tensor) -> "Projection":
        norm = float(self(base_N).square().sum(1).mean().sqrt())
        return replace(self, scale=self.scale / max(norm, 1e-6))


Projections = dict[str, Projection]
"""Projections by the name of their feature group."""


def fit_projections(base: BaseFeatures, components: int, voted: VotedFeatures | None = None) -> Projections:
    """Fits a projection to each feature group of the base's replies, and of those that people compared."""
    names = [*base.groups, RATES] if TOKENS in base.groups else list(base.groups)
    return {name: Projection.fit(name, base, components, voted) for name in names}


def group_of(name: str, features: FeatureGroups) -> Tensor:
    """Returns the features from which a group is projected."""
    return features[TOKENS if name == RATES else name]


def narrow(projections: Projections, components: int, base: BaseFeatures) -> Projections:
    """Returns the projections onto the largest `components` components of each."""
    return {
        name: each.narrowed(components, group_of(name, base.groups)) for name, each in projections.items()
    }


def component_count(member: int, votes: float) -> int:
    """Returns the number of components that a member uses after people's votes of so much weight."""
    few, most = COMPONENTS[member % len(COMPONENTS)], max(COMPONENTS)
    return round(min(most, max(few, few * (votes / FEW_VOTES) ** 2)))


def principal_components(rows_ND: Tensor, most: int) -> Tensor:
    """Returns the (D, K) orthonormal directions of largest second moment of the rows, at most `most`, the
    largest last. Rows of zeros say nothing, and hundreds of them keep LAPACK from converging."""
    some_N = rows_ND.any(1)
    rows_ND = rows_ND[some_N] if some_N.any() else rows_ND[:1]
    values, vectors_NN = torch.linalg.eigh((rows_ND @ rows_ND.T).double())
    kept = values > 1e-6 * values[-1]
    values, vectors_NN = values[kept][-most:], vectors_NN[:, kept][:, -most:]
    return torch.matmul(rows_ND.T, (vectors_NN / values.sqrt()).float())


def frequent_tokens(ids_NL: Tensor) -> Tensor:
    """Returns the ids of the tokens that occur in at least two of the replies (in one, where none does), the
    MAX_VOCABULARY most frequent of them, in ascending order."""
    ids_D, counts_D = torch.unique(ids_NL[ids_NL != NO_TOKEN], return_counts=True)
    order = counts_D.argsort(descending=True, stable=True)[:MAX_VOCABULARY]
    order = order[counts_D[order] >= min(2, int(counts_D.max()))]
    vocabulary_D: Tensor = ids_D[order.sort().values]
    return vocabulary_D


def member_features(projections: Projections, names: tuple[str, ...], features: FeatureGroups) -> Tensor:
    """Returns the (N, K) inputs of a member that uses the groups `names`, with a mean square norm of about 1
    on the base's replies."""
    return concatenate({name: _project(name, projections[name], features) for name in names}, names)


def project(projections: Projections, features: FeatureGroups) -> FeatureGroups:
    """Projects each feature group, once for all members."""
    return {name: _project(name, projection, features) for name, projection in projections.items()}


def _project(name: str, projection: Projection, features: FeatureGroups) -> Tensor:
    if name == AUXILIARY and name not in features:
        return torch.zeros(len(features["length"]), projection.basis_DK.shape[1])
    return projection(group_of(name, features))


def concatenate(projected: FeatureGroups, names: tuple[str, ...]) -> Tensor:
    """Joins projected groups into the (N, K) inputs of a member that uses the groups `names`."""
    return torch.cat([projected[name] for name in names], 1).div(len(names) ** 0.5)


def _compared(prompt_N: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Returns the rows of the replies that were compared with another, at most `most` of the last, and the
    number of the prompt of each, from 0."""
    _, prompt_N, count_P = torch.unique(prompt_N, return_inverse=True, return_counts=True)
    row_N = (count_P[prompt_N] > 1).nonzero().squeeze(1)
    row_N = row_N[max(0, len(row_N) - max(0, most)) :]
    return row_N, torch.unique(prompt_N[row_N], return_inverse=True)[1]


def _within(rows_ND: Tensor, prompt_N: Tensor) -> Tensor:
    """Returns the rows less their prompt's mean."""
    count_P = prompt_N.bincount().unsqueeze(1)
    sum_PD = rows_ND.new_zeros(len(count_P), rows_ND.shape[1]).index_add_(0, prompt_N, rows_ND)
    return rows_ND - (sum_PD / count_P)[prompt_N]
