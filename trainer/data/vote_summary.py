"""This module summarises older votes by Laplace approximations, so that a round's cost depends on newer
votes.

When more than WINDOW votes are active, the oldest of them are compacted, down to half as many; signals
likewise, with a window of their own. Compacted votes are kept as one Laplace summary (`laplace`) for each
member of the reward model and each cross-validation fold, and are not loaded again. A round adds up the
summaries of its training folds. A vote's bootstrap weights are drawn when it is compacted and stay.

A summary holds for the projections that it was made with, so these stay too. No vote can be taken out of it:
when one of its votes is superseded, or the base or a setting changes, the summary is discarded, the next
round is fitted to all active votes, and a new summary begins."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from schemas.database import Pool
from schemas.settings import RewardSettings, TrainerSettings
from trainer.data import examples
from trainer.data.examples import Corpus, Erased, Key
from trainer.reward import ensemble
from trainer.reward.ensemble import HistoryPrior
from trainer.reward.features import FeatureGroups
from trainer.reward.laplace import LaplaceSummary
from trainer.reward.projection import Projection, Projections

WINDOW = 4_000
"""Most votes that are not compacted, and as many signals. Chosen on tests.bench.incremental."""

VERSION = 6
"""Version of what a summary means. It changes with the features, the members or the likelihood."""

FILE, OLD_FILE = "vote_summary.safetensors", "past.safetensors"
"""Names of a summary's file: this release's, and the name in the release before."""

UNREADABLE = -1
"""The fold of a compacted vote whose replies do not fit the base."""

_PROJECTION_TENSORS = ("mean_D", "std_D", "basis_DK", "scale")
_VOCABULARY = "vocabulary_D"  # of the token group's projection only
_MEMBER_TENSORS = ("precision_DD", "linear_D", "precision_U22", "linear_U2")
_OLD_PROJECTION_TENSORS = dict(
    zip(("centre_D", "spread_D", "basis_DK", "size"), _PROJECTION_TENSORS, strict=True)
)


@dataclass(frozen=True, slots=True)
class VoteSummary:
    """A summary of the votes `events`, each in its fold of `folds_E`, weighted as at the time `newest`.

    `weights_F2` holds the total weights of people's and of judges' votes by fold, without signals. `members`
    holds a summary for each member of the ensemble, with the folds as its groups and `raters` in this order.
    The table of training examples refers to the summary by `name`.
    """

    name: str
    compatibility_key: str
    newest: datetime
    projections: Projections
    events: list[str]
    folds_E: Tensor
    raters: list[str]
    weights_F2: Tensor
    members: list[LaplaceSummary]

    @classmethod
    def empty(
        cls, compatibility_key: str, newest: datetime, projections: Projections, folds: int, members: int
    ) -> "VoteSummary":
        """Returns the summary of no votes."""
        sizes = [ensemble.parameter_count(projections, number) for number in range(members)]
        return cls(
            uuid.uuid4().hex, compatibility_key, newest, projections,
            [], torch.zeros(0, dtype=torch.int16), [], torch.zeros(folds, 2, dtype=torch.float64),
            [LaplaceSummary.zero(folds, size) for size in sizes],
        )  # fmt: skip

    def save(self, pool: Pool, project: str, path: Path) -> None:
        """Writes the file and marks its votes in the database. After a crash between the two, `is_active` is
        False."""
        with pool.connection() as connection, connection.transaction():
            known = connection.execute(
                "select count(*) from training_examples where project = %s and vote_summary = %s",
                [project, self.name],
            ).fetchone()
            assert known is not None  # noqa: S101  (an aggregate gives its row)
            connection.execute(
                "update training_examples set vote_summary = %s where project = %s and event_id = any(%s)",
                [self.name, project, self.events[known["count"] :]],
            )
            self.write(path)
        path.with_name(OLD_FILE).unlink(missing_ok=True)

    def is_active(self, pool: Pool, project: str) -> bool:
        """Whether the database agrees that these votes are compacted, and all of them are active."""
        with pool.connection() as connection:
            row = connection.execute(
                "select count(*) from training_examples e join turns t on t.id = e.turn_id"
                " join feedback f on f.id = e.feedback_id"
                " where e.project = %s and e.vote_summary = %s and e.superseded_by is null",
                [project, self.name],
            ).fetchone()
        return row == {"count": len(self.events)}

    def require_present(self, pool: Pool, project: str) -> None:
        """Raises Erased when some of its votes, active or not, or their turns, are gone."""
        with pool.connection() as connection:
            row = connection.execute(
                "select count(*) from training_examples e join turns t on t.id = e.turn_id"
                " join feedback f on f.id = e.feedback_id where e.project = %s and e.event_id = any(%s)",
                [project, self.events],
            ).fetchone()
        assert row is not None  # noqa: S101  (an aggregate gives its row)
        if row["count"] < len(self.events):
            raise Erased("votes", len(self.events) - row["count"], len(self.events))

    def write(self, path: Path) -> None:
        """Writes the file atomically. The same summary always gives the same bytes."""
        tensors = {
            "events": _packed(self.events), "folds": self.folds_E, "raters": _packed(self.raters),
            "weights": self.weights_F2,
        }  # fmt: skip
        for name, projection in self.projections.items():
            for part in _PROJECTION_TENSORS:
                tensors[f"projection.{name}.{part}"] = torch.as_tensor(getattr(projection, part)).contiguous()
            if projection.vocabulary_D is not None:
                tensors[f"projection.{name}.{_VOCABULARY}"] = projection.vocabulary_D
        for number, member in enumerate(self.members):
            for part in _MEMBER_TENSORS:
                tensors[f"member.{number}.{part}"] = getattr(member, part).contiguous()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        header = {
            "name": self.name,
            "compatibility_key": self.compatibility_key,
            "newest": self.newest.isoformat(),
        }
        save_file(tensors, draft, metadata={"vote_summary": json.dumps(header)})
        draft.replace(path)

    @classmethod
    def read(cls, path: Path, compatibility_key: str) -> "VoteSummary | None":
        """Reads a file of this release or the one before; returns None where it is missing, broken or has
        another key."""
        try:
            with safe_open(path, framework="pt") as file:
                header = _header(file.metadata())
                found = {_new_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if header["compatibility_key"] != compatibility_key:
            return None
        if not all(tensor.isfinite().all() for tensor in found.values()):
            return None
        projections: Projections = {}
        members: list[LaplaceSummary] = []
        for group in sorted({name.split(".")[1] for name in found if name.startswith("projection.")}):
            mean_D, std_D, basis_DK, scale = (
                found[f"projection.{group}.{part}"] for part in _PROJECTION_TENSORS
            )
            vocabulary_D = found.get(f"projection.{group}.{_VOCABULARY}")
            projections[group] = Projection(mean_D, std_D, basis_DK, float(scale), vocabulary_D)
        while f"member.{len(members)}.linear_D" in found:
            parts = (found[f"member.{len(members)}.{part}"] for part in _MEMBER_TENSORS)
            members.append(LaplaceSummary(*parts))
        return cls(
            header["name"], compatibility_key, datetime.fromisoformat(header["newest"]), projections,
            _unpacked(found["events"]), found["folds"], _unpacked(found["raters"]), found["weights"], members,
        )  # fmt: skip

    def prior(self, folds: Sequence[int], raters: Sequence[str]) -> HistoryPrior:
        """Returns the prior from the votes of these folds, on these raters."""
        indices = _indices(raters, self.raters)
        return HistoryPrior(
            self.projections,
            [each.select_raters(indices).sum_groups(folds).positive_semidefinite() for each in self.members],
        )

    def weights(self, folds: Sequence[int]) -> tuple[float, float]:
        """Returns the total weights of people's and of judges' votes in these folds."""
        people, judges = self.weights_F2[list(folds)].sum(0).tolist()
        return people, judges

    def events_of_folds(self, folds: Sequence[int]) -> list[str]:
        """Returns the votes of these folds."""
        return [
            event for event, fold in zip(self.events, self.folds_E.tolist(), strict=True) if fold in folds
        ]

    def aged_to(self, newest: datetime, reward: RewardSettings) -> "VoteSummary":
        """Returns the summary with its weights decayed to the time of the newest vote."""
        factor = examples.age_weight(newest - self.newest, reward)
        members = [each.scaled(factor) for each in self.members]
        return replace(self, newest=newest, weights_F2=factor * self.weights_F2, members=members)

    def compact(
        self,
        corpus: Corpus,
        events: Sequence[str],
        features_of: Callable[[list[Key]], FeatureGroups],
        reward: RewardSettings,
        generator: torch.Generator,
    ) -> "VoteSummary":
        """Returns this summary, which must be aged to the corpus, with the votes `events` of the corpus
        added."""
        folds = range(len(self.weights_F2))
        votes, keys = corpus.votes(corpus.examples, reward, self.weights(folds))
        fold_of = dict.fromkeys(events, UNREADABLE)
        groups_FV = torch.zeros(len(folds), votes.count, dtype=torch.float64)
        weights_F2 = self.weights_F2.clone()
        for number, example in enumerate(corpus.examples):
            if example.event_id in fold_of:
                fold = fold_of[example.event_id] = example.fold(len(folds))
                groups_FV[fold, number] = 1
                if example.by_judge or example.by_person:
                    weights_F2[fold, int(example.by_judge)] += votes.weights[number]
        newer = examples.raters(corpus.examples)
        prior = self.prior(folds, newer)
        summaries = ensemble.summarise(features_of(keys), votes, prior, groups_FV, reward, generator)
        raters = list(dict.fromkeys([*self.raters, *newer]))
        before, now = _indices(raters, self.raters), _indices(raters, newer)
        return replace(
            self,
            events=[*self.events, *events],
            folds_E=torch.cat([self.folds_E, torch.tensor(list(fold_of.values()), dtype=torch.int16)]),
            raters=raters,
            weights_F2=weights_F2,
            members=[
                old.select_raters(before) + new.select_raters(now)
                for old, new in zip(self.members, summaries, strict=True)
            ],
        )


def find(directory: Path) -> Path:
    """Returns the path of the summary in a directory, under its old name if only that exists."""
    new, old = directory / FILE, directory / OLD_FILE
    return old if old.exists() and not new.exists() else new


def discard(pool: Pool, project: str, directory: Path) -> None:
    """Removes the summary in a directory and unmarks its votes."""
    for name in (FILE, OLD_FILE):
        (directory / name).unlink(missing_ok=True)
    with pool.connection() as connection:
        connection.execute(
            "update training_examples set vote_summary = null"
            " where project = %s and vote_summary is not null",
            [project],
        )


def to_compact(events: Sequence[str]) -> Sequence[str]:
    """Returns which of a round's votes, or signals, oldest first, are to be compacted after it."""
    return events[: -(WINDOW // 2)] if len(events) > WINDOW else []


def compatibility_key(base: str, trainer: TrainerSettings) -> str:
    """Returns what a summary depends on: this code, the base with that digest, and the settings."""
    return f"{VERSION} {base} {trainer.gate.folds} {trainer.reward.json_with_old_names()}"


def _header(metadata: dict[str, str]) -> dict[str, str]:
    """Returns the header of a file, with new names if it is of the release before."""
    if "past" in metadata:
        header = json.loads(metadata["past"])
        return {**header, "compatibility_key": header["made_for"]}
    found: dict[str, str] = json.loads(metadata["vote_summary"])
    return found


def _new_name(tensor: str) -> str:
    """Returns the name of a tensor, given its name in this release or the one before."""
    if not tensor.startswith("lens."):
        return tensor
    _, group, part = tensor.split(".")
    return f"projection.{group}.{_OLD_PROJECTION_TENSORS.get(part, part)}"


def _packed(names: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(names), "utf-8"), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> list[str]:
    names: list[str] = json.loads(packed.numpy().tobytes())
    return names


def _indices(names: Sequence[str], within: Sequence[str]) -> list[int | None]:
    index_of = {name: index for index, name in enumerate(within)}
    return [index_of.get(name) for name in names]
