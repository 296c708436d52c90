"""VoteSummary holds Laplace approximations of older votes, so that a round's cost depends on newer votes.

When more than WINDOW votes are active, the oldest of them are compacted, down to half as many; signals
likewise, with a window of their own. Compacted votes are kept as Laplace summaries (`laplace`) for each
member of the reward model, each cross-validation fold and each week (`week_summary`), and are not loaded
again. A round adds up the weeks and its training folds. A vote's bootstrap weights are drawn when it is
compacted and stay.

A summary holds for the projections that it was made with, so these stay too. When the base, a setting or the
meaning of a summary changes, it is discarded, and a new one begins.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import structlog
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas.feedback import JUDGE
from schemas.files import private_folder
from schemas.settings import TrainerSettings
from trainer.data import examples
from trainer.data.examples import Corpus, Key
from trainer.data.vote_rows import VoteRows
from trainer.data.vote_weights import HistoryWeights, age_weight
from trainer.data.week_summary import WeekSummary
from trainer.data.weeks import NO_WEEK, OLDER, group_of, week_of
from trainer.reward import ensemble
from trainer.reward.ensemble import HistoryPrior
from trainer.reward.expansion import expansion
from trainer.reward.features import FeatureGroups
from trainer.reward.laplace import LaplaceSummary
from trainer.reward.projection import RATES, Projection, Projections

WINDOW = 4_000
"""Most votes that are not compacted, and as many signals. Chosen on tests.bench.incremental."""

VERSION = 7
"""Version of what a summary means. It changes with the features, the members or the likelihood."""

FILE = "vote_summary.safetensors"
"""The file that names the files of all weeks, and has the projections."""

log = structlog.get_logger("trainer")

_PROJECTION_TENSORS = ("mean_D", "std_D", "basis_DK", "scale")
_VOCABULARY = "vocabulary_D"  # of the projections of tokens only


@dataclass(frozen=True, slots=True)
class VoteSummary:
    """A summary of compacted votes by `weeks`, as at the time `newest`, for the base with that digest and the
    settings. `lost` counts the weeks whose files could not be read."""

    base: str
    trainer: TrainerSettings
    newest: datetime
    projections: Projections
    weeks: tuple[WeekSummary, ...] = ()
    lost: int = 0

    @property
    def events(self) -> list[str]:
        """All votes."""
        return [event for week in self.weeks for event in week.events]

    def prior(self, folds: Sequence[int], raters: Sequence[str]) -> HistoryPrior:
        """Returns the prior from the votes of these folds, on these raters."""
        members = []
        for member, size in enumerate(self._sizes()):
            total = LaplaceSummary.zero(1, size).select_raters([None] * len(raters)).sum_groups([0])
            for week in self.weeks:
                total = total + week.prior(member, folds, raters).scaled(self._decay(week))
            members.append(total.positive_semidefinite())
        return HistoryPrior(self.projections, members)

    def weights(self, folds: Sequence[int]) -> tuple[float, float]:
        """Returns the total weights of people's and of judges' votes in these folds."""
        total_2 = torch.zeros(2, dtype=torch.float64)
        for week in self.weeks:
            total_2 += self._decay(week) * week.weights_F2[list(folds)].sum(0)
        people, judges = total_2.tolist()
        return people, judges

    def history_weights(self, folds: Sequence[int]) -> HistoryWeights:
        """Returns the weights of the votes of these folds, and of each person's in all, as if none were
        bounded."""
        raters: dict[str, float] = {}
        for week in self.weeks:
            counts = week.rater_E[week.rater_E >= 0].bincount(minlength=len(week.raters)).tolist()
            for rater, count in zip(week.raters, counts, strict=True):
                if not rater.startswith(JUDGE):
                    raters[rater] = raters.get(rater, 0.0) + self._decay(week) * count
        return HistoryWeights(*self.weights(folds), raters)

    def events_of_folds(self, folds: Sequence[int]) -> list[str]:
        """Returns the votes of these folds."""
        return [event for week in self.weeks for event in week.events_of_folds(folds)]

    def aged_to(self, newest: datetime) -> "VoteSummary":
        """Returns the summary with its weights decayed to the time of the newest vote."""
        return replace(self, newest=newest)

    def compact(
        self,
        corpus: Corpus,
        events: Sequence[str],
        features_of: Callable[[list[Key]], FeatureGroups],
        generator: torch.Generator,
    ) -> tuple["VoteSummary", VoteRows]:
        """Returns this summary, which must be aged to the corpus, with the votes `events` of the corpus
        added, and their rows. Of a week whose own summary fails numerically, the votes that were to be added
        count nothing from now on. Raises FloatingPointError where all fail together."""
        folds, reward = self.trainer.gate.folds, self.trainer.reward
        votes, keys = corpus.votes(corpus.examples, reward, self.history_weights(range(folds)))
        raters = examples.raters(corpus.examples)
        expanded = expansion(features_of(keys), votes, self.prior(range(folds), raters), reward, generator)
        if not all(bool(mode.isfinite().all()) for mode in expanded.modes):
            raise FloatingPointError("the votes have no finite fit")
        chosen = set(events)
        by_week: dict[int, list[list[str]]] = {}
        for example in corpus.examples:
            if example.event_id in chosen:
                week = week_of(example.turn_id, example.created_at)
                of_week = by_week.setdefault(week, [[] for _ in range(folds)])
                of_week[example.fold(folds)].append(example.event_id)
        names = [example.event_id for example in corpus.examples]
        whole = VoteRows.of(self.newest, names, raters, votes, expanded)
        rows = whole.only(name for name in names if name in chosen)
        found = {week: _summary_of(rows, week, by_fold) for week, by_fold in sorted(by_week.items())}
        new = [summary for summary in found.values() if summary is not None]
        kept = {event for summary in new for event in summary.events}
        rows = rows.only(name for name in rows.events if name in kept)
        unreadable = [event for event in events if event not in set(rows.events)]
        if unreadable:
            new.append(WeekSummary.unreadable(NO_WEEK, self.newest, unreadable, folds, self._sizes()))
        return replace(self, weeks=self._grouped([*self.weeks, *new])), rows

    def write(self, directory: Path) -> None:
        """Writes the files of the weeks, then atomically the one that names them. The same summary always
        gives the same bytes."""
        files = [week.file or week.write(directory, group) for group, week in self._groups()]
        tensors = {}
        for name, projection in self.projections.items():
            for part in _PROJECTION_TENSORS:
                tensors[f"projection.{name}.{part}"] = torch.as_tensor(getattr(projection, part)).contiguous()
            if projection.vocabulary_D is not None:
                tensors[f"projection.{name}.{_VOCABULARY}"] = projection.vocabulary_D
        draft = directory / f"{FILE}.draft"
        header = {"compatibility_key": compatibility_key(self.base, self.trainer), "weeks": files}
        save_file(tensors, draft, metadata={"vote_summary": json.dumps(header)})
        draft.replace(directory / FILE)

    @classmethod
    def read(cls, directory: Path, base: str, trainer: TrainerSettings) -> "VoteSummary | None":
        """Reads the files in a directory; returns None where there are none, or for another base, other
        settings or another version."""
        try:
            with safe_open(directory / FILE, framework="pt") as file:
                header = json.loads(file.metadata()["vote_summary"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names: list[str] = header["weeks"]
            if header["compatibility_key"] != compatibility_key(base, trainer):
                return None
            if not all(tensor.isfinite().all() for tensor in found.values()):
                return None
            projections: Projections = {}
            for group in sorted({name.split(".")[1] for name in found}):
                mean_D, std_D, basis_DK, scale = (
                    found[f"projection.{group}.{part}"] for part in _PROJECTION_TENSORS
                )
                vocabulary_D = found.get(f"projection.{group}.{_VOCABULARY}")
                projections[group] = Projection(
                    mean_D, std_D, basis_DK, float(scale), vocabulary_D, rates=group == RATES
                )
            read = [WeekSummary.read(directory, name) for name in names]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        weeks = tuple(week for week in read if week is not None)
        newest = max((week.newest for week in weeks), default=datetime.min)
        return cls(base, trainer, newest, projections, weeks, len(read) - len(weeks))

    def copy_to(self, directory: Path) -> None:
        """Writes all files into another directory."""
        private_folder(directory)
        replace(self, weeks=tuple(replace(week, file=None) for week in self.weeks)).write(directory)

    def _sizes(self) -> list[int]:
        """Returns the number of each member's free parameters that belong to no rater."""
        members = range(self.trainer.reward.members)
        return [ensemble.parameter_count(self.projections, member) for member in members]

    def _decay(self, week: WeekSummary) -> float:
        return age_weight(self.newest - week.newest, self.trainer.reward)

    def _groups(self) -> Iterator[tuple[str, WeekSummary]]:
        newest = max((week.week for week in self.weeks), default=0)
        return ((group_of(week.week, newest), week) for week in self.weeks)

    def _grouped(self, weeks: Sequence[WeekSummary]) -> tuple[WeekSummary, ...]:
        """Merges the weeks of one group."""
        found: dict[str, WeekSummary] = {}
        for group, week in replace(self, weeks=tuple(weeks))._groups():
            both = found[group].merged(week, self.trainer.reward) if group in found else week
            found[group] = both.without_rows() if group == OLDER and both.batches else both
        return tuple(found.values())


def _summary_of(rows: VoteRows, week: int, by_fold: Sequence[Sequence[str]]) -> WeekSummary | None:
    """Returns the summary of a week's votes; None, with an error in the log, where it fails numerically."""
    try:
        found = WeekSummary.of(rows, week, by_fold)
        if found.is_finite:
            return found
        reason = "their summary is not finite"
    except (ArithmeticError, RuntimeError) as error:
        reason = str(error)
    log.error("votes of a week are given up", week=week, votes=sum(map(len, by_fold)), reason=reason)
    return None


def files(directory: Path) -> list[Path]:
    """Returns the files of the summary in a directory: the one that names the weeks first."""
    with safe_open(directory / FILE, framework="pt") as file:
        header = json.loads(file.metadata()["vote_summary"])
    return [directory / name for name in (FILE, *header["weeks"])]


def events_in(directory: Path) -> list[str] | None:
    """Returns the votes of the summary in a directory, whatever it was made for; None where a file of it is
    missing or damaged."""
    try:
        weeks = [WeekSummary.read(directory, path.name) for path in files(directory)[1:]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    found = [week.events for week in weeks if week is not None]
    return None if len(found) < len(weeks) else [event for events in found for event in events]


def to_compact(events: Sequence[str]) -> Sequence[str]:
    """Returns which of a round's votes, or signals, oldest first, are to be compacted after it."""
    return events[: -(WINDOW // 2)] if len(events) > WINDOW else []


def compatibility_key(base: str, trainer: TrainerSettings) -> str:
    """Returns what a summary depends on: this code, the base with that digest, and the settings."""
    return f"{VERSION} {base} {trainer.gate.folds} {trainer.reward.json_with_old_names()}"
