"""A view of replies made comparable: what a member of the reward model looks through."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.reward.features import Views

DIRECTIONS = (24, 48, 96)
"""Of each view, at most, for one member of the reward model after the other. With 24 alone what nobody had
voted on moved by half as much again after 1,000 votes, as one style could not be told from another however
many votes there were, and what a policy says is told apart poorly. With 96 alone the reward model is three
points less accurate after 400 thumbs about the base. Together they do nearly as well as the better of them
at both."""

ENOUGH = 400
"""Votes up to which it is so many. With twice as many there are four times the directions, up to the most."""

SHARES = ("tokens", "length")
"""Views whose numbers are between 0 and 1 as they are."""


@dataclass(frozen=True, slots=True)
class Lens:
    """One view made comparable: centred and scaled on the base's replies, and narrowed to `basis_DK`."""

    centre_D: Tensor
    spread_D: Tensor
    basis_DK: Tensor
    size: float

    @classmethod
    def on(cls, name: str, view_ND: Tensor, per_prompt: int, directions: int) -> "Lens":
        """From the base's replies, `per_prompt` of them in a row to each prompt."""
        centre_D = view_ND.mean(0)
        spread_D = torch.ones_like(centre_D) if name in SHARES else view_ND.std(0).clamp_min(1e-3)
        scaled_PKD = ((view_ND - centre_D) / spread_D).clamp(-4, 4).view(-1, per_prompt, view_ND.shape[1])
        within_ND = (scaled_PKD - scaled_PKD.mean(1, keepdim=True)).flatten(0, 1)
        basis_DK = principal_directions(within_ND, directions)
        norm = float((scaled_PKD @ basis_DK).square().sum(2).mean().sqrt())
        return cls(centre_D, spread_D, basis_DK, 1 / max(norm, 1e-6))

    def __call__(self, view_ND: Tensor) -> Tensor:
        scaled_ND = ((view_ND.float() - self.centre_D) / self.spread_D).clamp(-4, 4)
        narrowed_NK: Tensor = torch.matmul(scaled_ND, self.basis_DK) * self.size
        return narrowed_NK


Lenses = dict[str, Lens]


def lenses(base: Views, per_prompt: int, directions: int) -> Lenses:
    """One for each view, from the base's replies."""
    return {name: Lens.on(name, view_ND.float(), per_prompt, directions) for name, view_ND in base.items()}


def directions(member: int, votes: int) -> int:
    """How many a member looks at after so many votes."""
    few, most = DIRECTIONS[member % len(DIRECTIONS)], max(DIRECTIONS)
    return round(min(most, max(few, few * (votes / ENOUGH) ** 2)))


def principal_directions(rows_ND: Tensor, most: int) -> Tensor:
    """(D, K) at most `most` orthonormal directions in which the rows are largest."""
    values, vectors_NN = torch.linalg.eigh((rows_ND @ rows_ND.T).double())
    kept = values > 1e-6 * values[-1]
    values, vectors_NN = values[kept][-most:], vectors_NN[:, kept][:, -most:]
    return torch.matmul(rows_ND.T, (vectors_NN / values.sqrt()).float())


def look(through: Lenses, names: tuple[str, ...], views: Views) -> Tensor:
    """(N, K) what a member sees, of mean square length about 1 on the base's replies."""
    return beside({name: through[name](views[name]) for name in names}, names)


def narrow(through: Lenses, views: Views) -> Views:
    """Each view through its lens: done once, all members can look."""
    return {name: lens(views[name]) for name, lens in through.items()}


def beside(narrowed: Views, names: tuple[str, ...]) -> Tensor:
    """What `look` gives, of views that went through their lenses."""
    return torch.cat([narrowed[name] for name in names], 1).div(len(names) ** 0.5)
