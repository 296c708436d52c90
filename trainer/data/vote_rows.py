"""VoteRows keeps the votes of one compaction row by row, so that any of them can be taken out of a summary.

A Laplace summary is a sum over votes, so a vote that is retracted, erased or expired is subtracted exactly,
if its part can be computed again. For that a file beside the vote summary has the projected features of the
replies, the votes, their weights and the points of expansion; no text and no ids of tokens. Rows of votes
that were taken out are deleted.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from schemas.errors import HearkenError
from schemas.files import private_folder
from trainer.reward.expansion import Expansion, subset
from trainer.reward.laplace import LaplaceSummary
from trainer.reward.likelihood import Votes

PATTERN = "vote_rows-*.safetensors"
"""Names of the files."""


class RowsMissing(HearkenError):
    """The rows of some compacted votes are missing or damaged. Their week is discarded and compacted anew."""


@dataclass(frozen=True, slots=True)
class VoteRows:
    """The votes `events`, weighted as at the time `newest`, by `raters` in this order."""

    name: str
    newest: datetime
    events: list[str]
    raters: list[str]
    votes: Votes
    expansion: Expansion

    @classmethod
    def of(
        cls, newest: datetime, names: Sequence[str], raters: Sequence[str], votes: Votes, expansion: Expansion
    ) -> "VoteRows":
        """Returns the rows of all votes, whose events are `names`, under a new name."""
        return cls(uuid.uuid4().hex, newest, list(names), list(raters), votes, expansion)

    def only(self, events: Iterable[str]) -> "VoteRows":
        """Returns the rows of these events, in their order."""
        number = {event: index for index, event in enumerate(self.events)}
        kept = list(events)
        try:
            chosen = [number[event] for event in kept]
        except KeyError as error:
            raise RowsMissing(f"vote {error} is not in {self.name}") from None
        votes, replies, raters = subset(self.votes, chosen)
        expansion = self.expansion.subset(replies, raters, chosen)
        return VoteRows(
            self.name, self.newest, kept, [self.raters[each] for each in raters], votes, expansion
        )

    def without(self, events: Iterable[str]) -> "VoteRows":
        """Returns the rows of all other events."""
        gone = set(events)
        return self.only(event for event in self.events if event not in gone)

    def summaries(self, folds: Sequence[Sequence[str]], raters: Sequence[str]) -> list[LaplaceSummary]:
        """Returns for each member the Laplace summaries of the events of each fold, on these raters."""
        by_fold = [self.only(events) for events in folds]
        found = []
        for member in range(len(self.expansion.modes)):
            parts = []
            for rows in by_fold:
                place = {rater: index for index, rater in enumerate(rows.raters)}
                if rows.events:
                    part = rows.expansion.laplace_summary(member, rows.votes)
                else:
                    part = LaplaceSummary.zero(1, self.expansion.size(member)).sum_groups([0])
                parts.append(part.select_raters([place.get(rater) for rater in raters]))
            found.append(LaplaceSummary.stack(parts))
        return found

    def weights(self, folds: Sequence[Sequence[str]]) -> Tensor:
        """Returns the (F, 2) total weights of people's and of judges' votes by fold, without signals."""
        weights_F2 = torch.zeros(len(folds), 2, dtype=torch.float64)
        for fold, events in enumerate(folds):
            votes = self.only(events).votes
            signals = {row[0] for row in votes.signals}
            for vote, weight in enumerate(votes.weights):
                by_judge = votes.rater_of_vote[vote] in votes.judges
                if by_judge or vote not in signals:
                    weights_F2[fold, int(by_judge)] += weight
        return weights_F2

    def write(self, directory: Path) -> None:
        """Writes the file atomically, or deletes it when it would have no rows."""
        path = file_of(directory, self.name)
        if not self.events:
            path.unlink(missing_ok=True)
            return
        tensors = {f"input.{name}": group for name, group in self.expansion.inputs.items()}
        tensors |= {f"mode.{number}": mode for number, mode in enumerate(self.expansion.modes)}
        tensors["bootstrap"] = self.expansion.bootstrap_MV
        header = {
            "newest": self.newest.isoformat(), "events": self.events, "raters": self.raters,
            "votes": {**asdict(self.votes), "judges": sorted(self.votes.judges)},
        }  # fmt: skip
        private_folder(path.parent)
        draft = path.with_suffix(".draft")
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            draft,
            metadata={"vote_rows": json.dumps(header)},
        )
        draft.replace(path)

    @classmethod
    def read(cls, directory: Path, name: str) -> "VoteRows":
        """Reads a file. Raises RowsMissing."""
        try:
            with safe_open(file_of(directory, name), framework="pt") as file:
                header = json.loads(file.metadata()["vote_rows"])
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            inputs = {
                key.partition(".")[2]: group for key, group in found.items() if key.startswith("input.")
            }
            modes = [found[f"mode.{number}"] for number in range(len(found["bootstrap"]))]
            return cls(
                name, datetime.fromisoformat(header["newest"]), header["events"], header["raters"],
                _votes(header["votes"]), Expansion(inputs, modes, found["bootstrap"]),
            )  # fmt: skip
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RowsMissing(f"{file_of(directory, name).name}: {type(error).__name__}") from None


def file_of(directory: Path, name: str) -> Path:
    """Returns the path of the rows of this name."""
    return directory / f"vote_rows-{name}.safetensors"


def _votes(found: dict[str, Any]) -> Votes:
    """Returns votes read from JSON, which has no sets and no numbers as keys."""
    stages = {int(size): rows for size, rows in found["stages"].items()}
    return Votes(**{**found, "judges": set(found["judges"]), "stages": stages})
