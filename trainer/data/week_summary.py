"""WeekSummary holds the Laplace summaries of the compacted votes of one week, or of a group of older weeks.

Weeks are kept apart so that what is wrong with one costs only that one (`weeks`). Votes are added to a week,
taken out again (`vote_rows`), and two weeks are merged into one.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from schemas.settings import RewardSettings
from trainer.data.vote_rows import RowsMissing, VoteRows
from trainer.data.vote_weights import age_weight
from trainer.reward.laplace import LaplaceSummary, PackedSummary

PATTERN = "vote_summary-*.safetensors"
"""Names of the files."""

_MEMBER_TENSORS = ("triangle_GT", "linear_GD", "precision_GU22", "linear_GU2")


@dataclass(frozen=True, slots=True)
class WeekSummary:
    """A summary of the votes `events` of `week` and maybe later ones, weighted as at the time `newest`.

    An event is in the fold of `folds_E` (-1: unreadable), by the rater of `raters` that `rater_E` indexes,
    and its row is in the file of `batches` that `batch_E` indexes. `weights_F2` holds the total weights of
    people's and of judges' votes by fold, without signals. `members` holds a summary for each member of the
    ensemble, with the folds as its groups. The table of training examples refers to the week by `name`, in
    the rows of the first `marked` events; `file` is its file if that is up to date.
    """

    name: str
    week: int
    newest: datetime
    events: list[str]
    folds_E: Tensor
    raters: list[str]
    rater_E: Tensor
    batches: list[str]
    batch_E: Tensor
    weights_F2: Tensor
    members: list[PackedSummary]
    marked: int = 0
    file: str | None = None

    @classmethod
    def of(cls, rows: VoteRows, week: int, folds: Sequence[Sequence[str]]) -> "WeekSummary":
        """Returns the summary of the events of each fold, all of that week."""
        events = [event for fold in folds for event in fold]
        own = rows.only(events)
        return cls(
            uuid.uuid4().hex, week, rows.newest, events,
            torch.tensor([fold for fold, of in enumerate(folds) for _ in of], dtype=torch.int16),
            own.raters, torch.tensor(own.votes.rater_of_vote, dtype=torch.int32),
            [rows.name], torch.zeros(len(events), dtype=torch.int16), rows.weights(folds),
            [PackedSummary.pack(each) for each in rows.summaries(folds, own.raters)],
        )  # fmt: skip

    @classmethod
    def unreadable(
        cls, week: int, newest: datetime, events: Sequence[str], folds: int, sizes: Iterable[int]
    ) -> "WeekSummary":
        """Returns the summary of votes that count nothing and are not to be loaded again."""
        nothing_E = torch.full((len(events),), -1)
        return cls(
            uuid.uuid4().hex, week, newest, list(events), nothing_E.short(), [], nothing_E.int(), [],
            nothing_E.short(), torch.zeros(folds, 2, dtype=torch.float64),
            [PackedSummary.pack(LaplaceSummary.zero(folds, size)) for size in sizes],
        )  # fmt: skip

    @property
    def is_finite(self) -> bool:
        """Whether no number in it overflowed or is undefined; a file that has such numbers is not read."""
        parts = (getattr(member, part) for member in self.members for part in _MEMBER_TENSORS)
        return all(bool(part.isfinite().all()) for part in (self.weights_F2, *parts))

    def aged_to(self, newest: datetime, reward: RewardSettings) -> "WeekSummary":
        """Returns the summary with its weights decayed to that time."""
        factor = age_weight(newest - self.newest, reward)
        members = [PackedSummary.pack(each.unpack().scaled(factor)) for each in self.members]
        return replace(self, newest=newest, weights_F2=factor * self.weights_F2, members=members, file=None)

    def merged(self, other: "WeekSummary", reward: RewardSettings) -> "WeekSummary":
        """Returns the summary of the votes of both, under the name of this one."""
        newest = max(self.newest, other.newest)
        one, two = self.aged_to(newest, reward), other.aged_to(newest, reward)
        raters = list(dict.fromkeys([*one.raters, *two.raters]))
        batches = list(dict.fromkeys([*one.batches, *two.batches]))
        members = [
            left.unpack().select_raters(indices(raters, one.raters))
            + right.unpack().select_raters(indices(raters, two.raters))
            for left, right in zip(one.members, two.members, strict=True)
        ]
        return replace(
            one,
            week=min(one.week, two.week),
            events=[*one.events, *two.events],
            folds_E=torch.cat([one.folds_E, two.folds_E]),
            raters=raters,
            rater_E=torch.cat([one.rater_E, _renumbered(two.rater_E, two.raters, raters)]),
            batches=batches,
            batch_E=torch.cat([one.batch_E, _renumbered(two.batch_E, two.batches, batches)]),
            weights_F2=one.weights_F2 + two.weights_F2,
            members=[PackedSummary.pack(each) for each in members],
        )

    def without(
        self, gone: set[str], read: Callable[[str], VoteRows], reward: RewardSettings
    ) -> "WeekSummary":
        """Returns the summary with the events `gone` taken out, whose rows `read` finds by the name of their
        file. Raises RowsMissing."""
        members, weights_F2 = [each.unpack() for each in self.members], self.weights_F2
        for number, name in enumerate(self.batches):
            folds = [
                [self.events[each] for each in self._rows(number, fold) if self.events[each] in gone]
                for fold in range(len(weights_F2))
            ]
            if not any(folds):
                continue
            rows = read(name)
            factor = age_weight(self.newest - rows.newest, reward)
            weights_F2 = weights_F2 - factor * rows.weights(folds)
            parts = rows.summaries(folds, self.raters)
            members = [one + part.scaled(-factor) for one, part in zip(members, parts, strict=True)]
        kept = [number for number, event in enumerate(self.events) if event not in gone]
        if any(self.folds_E[n] >= 0 and self.batch_E[n] < 0 for n, e in enumerate(self.events) if e in gone):
            raise RowsMissing(f"the rows of week {self.week} are no longer kept")
        raters = [self.raters[each] for each in sorted(set(self.rater_E[kept].tolist()) - {-1})]
        batches = [self.batches[each] for each in sorted(set(self.batch_E[kept].tolist()) - {-1})]
        return replace(
            self,
            events=[self.events[each] for each in kept],
            folds_E=self.folds_E[kept],
            raters=raters,
            rater_E=_renumbered(self.rater_E[kept], self.raters, raters),
            batches=batches,
            batch_E=_renumbered(self.batch_E[kept], self.batches, batches),
            weights_F2=weights_F2,
            members=[
                PackedSummary.pack(each.select_raters(indices(raters, self.raters))) for each in members
            ],
            marked=sum(each < self.marked for each in kept),
            file=None,
        )

    def without_rows(self) -> "WeekSummary":
        """Returns the summary of votes that can no longer be taken out one by one."""
        return replace(self, batches=[], batch_E=torch.full_like(self.batch_E, -1), file=None)

    def prior(self, member: int, folds: Sequence[int], raters: Sequence[str]) -> LaplaceSummary:
        """Returns a member's summary of the votes of these folds, on these raters."""
        return self.members[member].sum_groups(folds).select_raters(indices(raters, self.raters))

    def events_of_folds(self, folds: Sequence[int]) -> list[str]:
        """Returns the votes of these folds."""
        return [
            event for event, fold in zip(self.events, self.folds_E.tolist(), strict=True) if fold in folds
        ]

    def write(self, directory: Path, group: str) -> str:
        """Writes the file, which the same summary always gives the same name and bytes; returns its name."""
        tensors = {"folds": self.folds_E, "rater": self.rater_E, "batch": self.batch_E}
        tensors["weights"] = self.weights_F2
        for number, member in enumerate(self.members):
            for part in _MEMBER_TENSORS:
                tensors[f"member.{number}.{part}"] = getattr(member, part).contiguous()
        header = {
            "name": self.name, "week": self.week, "newest": self.newest.isoformat(), "events": self.events,
            "raters": self.raters, "batches": self.batches,
        }  # fmt: skip
        content = save(tensors, metadata={"week_summary": json.dumps(header)})
        name = f"vote_summary-{group}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        if not (directory / name).exists():
            draft = directory / f"{name}.draft"
            draft.write_bytes(content)
            draft.replace(directory / name)
        return name

    @classmethod
    def read(cls, directory: Path, file: str) -> "WeekSummary | None":
        """Reads a file; returns None where it is missing or damaged."""
        try:
            with safe_open(directory / file, framework="pt") as opened:
                header = json.loads(opened.metadata()["week_summary"])
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if not all(tensor.isfinite().all() for tensor in found.values()):
                return None
            members: list[PackedSummary] = []
            while f"member.{len(members)}.linear_GD" in found:
                parts = (found[f"member.{len(members)}.{part}"] for part in _MEMBER_TENSORS)
                members.append(PackedSummary(*parts))
            return cls(
                header["name"], header["week"], datetime.fromisoformat(header["newest"]), header["events"],
                found["folds"], header["raters"], found["rater"], header["batches"], found["batch"],
                found["weights"], members, len(header["events"]), file,
            )  # fmt: skip
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def _rows(self, batch: int, fold: int) -> list[int]:
        """Returns the places of the events of a batch and a fold."""
        found: list[int] = ((self.batch_E == batch) & (self.folds_E == fold)).nonzero().flatten().tolist()
        return found


def indices(names: Sequence[str], within: Sequence[str]) -> list[int | None]:
    """Returns the place of each name, or None."""
    index_of = {name: index for index, name in enumerate(within)}
    return [index_of.get(name) for name in names]


def _renumbered(old_E: Tensor, names: Sequence[str], within: Sequence[str]) -> Tensor:
    """Returns indices into `within` for indices into `names`; -1 stays."""
    place = {name: index for index, name in enumerate(within)}
    new = [place[names[each]] if each >= 0 else -1 for each in old_E.tolist()]
    return torch.tensor(new, dtype=old_E.dtype)
