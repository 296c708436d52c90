"""What is left of older votes, so that a round costs what the newer ones cost.

When more than WINDOW votes stand side by side, the oldest of them are folded, down to half as many, and so
with signals, which would else push votes out. What they say is kept as a quadratic (`quadratic`) for each
member of the reward model and each fold of votes, and they are not loaded, read or looked at again. A round
adds up the folds that it does not keep back. Each vote was drawn for each member when it was folded, and
stays so.

A quadratic holds in the coordinates that it was made in, so the lenses are those of the first time. It cannot
be taken apart: when one of its votes no longer stands, or another base or setting takes over, the past is
forgotten, the next round is fitted to all votes that stand, and a new past begins.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from trainer.reward.ensemble import Recalled
from trainer.reward.features import Views
from trainer.reward.laplace import Quadratic
from trainer.reward.projection import Lens, Lenses

WINDOW = 4_000
"""Votes that are learned from as they are, and as many signals; where there are more, the newest half of it.
With a quarter of that, votes were folded before it was found out which of many raters are hostile, and
accuracy was up to three points below that of a full refit."""

VERSION = 5
"""Of what a past means: another looks at other things, or reckons otherwise."""

OF_LENS = ("centre_D", "spread_D", "basis_DK", "size")
OF_MEMBER = ("precision_DD", "linear_D", "precision_U22", "linear_U2")
"""Their parts, as the file names them."""

UNREAD = -1
"""The fold of a vote that the base cannot read."""


@dataclass(frozen=True, slots=True)
class Past:
    """`events` were folded, each in its fold of `folds_E`; they weigh as on the day `newest`. `weights_F2` is
    what people's votes and judges' weigh in all, signals left out. Each of `members` has the folds as its
    groups, and knows the `raters`, in that order. The table of examples knows what was folded by the past's
    `name`."""

    name: str
    made_for: str
    newest: datetime
    lenses: Lenses
    events: list[str]
    folds_E: Tensor
    raters: list[str]
    weights_F2: Tensor
    members: list[Quadratic]

    @classmethod
    def none(cls, made_for: str, newest: datetime, lenses: Lenses, folds: int, members: int) -> "Past":
        """That of no votes."""
        sizes = [ensemble.parameters(lenses, number) for number in range(members)]
        return cls(
            uuid.uuid4().hex, made_for, newest, lenses, [], torch.zeros(0, dtype=torch.int16), [],
            torch.zeros(folds, 2, dtype=torch.float64), [Quadratic.zero(folds, size) for size in sizes],
        )  # fmt: skip

    def keep(self, pool: Pool, project: str, path: Path) -> None:
        """In its file and in the table of examples. Of one killed between the two, the next trainer sees
        that they differ."""
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

    def stands(self, pool: Pool, project: str) -> bool:
        """Whether it is what was folded, and every vote of it still stands."""
        with pool.connection() as connection:
            row = connection.execute(
                "select count(*) from training_examples e join turns t on t.id = e.turn_id"
                " join feedback f on f.id = e.feedback_id"
                " where e.project = %s and e.vote_summary = %s and e.superseded_by is null",
                [project, self.name],
            ).fetchone()
        return row == {"count": len(self.events)}

    def require(self, pool: Pool, project: str) -> None:
        """Raises Erased when some of its votes, standing or not, or what they are about, are gone."""
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
        """Whole or not at all. The same is always the same bytes."""
        tensors = {
            "events": _packed(self.events), "folds": self.folds_E, "raters": _packed(self.raters),
            "weights": self.weights_F2,
        }  # fmt: skip
        for name, lens in self.lenses.items():
            tensors |= {f"lens.{name}.{part}": torch.as_tensor(getattr(lens, part)) for part in OF_LENS}
        for number, member in enumerate(self.members):
            tensors |= {f"member.{number}.{part}": getattr(member, part).contiguous() for part in OF_MEMBER}
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        about = {"name": self.name, "made_for": self.made_for, "newest": self.newest.isoformat()}
        save_file(tensors, draft, metadata={"past": json.dumps(about)})
        draft.replace(path)

    @classmethod
    def read(cls, path: Path, made_for: str) -> "Past | None":
        """None where there is none, whole, that was made for this."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["past"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        if about["made_for"] != made_for or not all(tensor.isfinite().all() for tensor in found.values()):
            return None
        lenses: Lenses = {}
        members: list[Quadratic] = []
        for view in sorted({name.split(".")[1] for name in found if name.startswith("lens.")}):
            centre_D, spread_D, basis_DK, size = (found[f"lens.{view}.{part}"] for part in OF_LENS)
            lenses[view] = Lens(centre_D, spread_D, basis_DK, float(size))
        while f"member.{len(members)}.linear_D" in found:
            members.append(Quadratic(*(found[f"member.{len(members)}.{part}"] for part in OF_MEMBER)))
        return cls(
            about["name"], made_for, datetime.fromisoformat(about["newest"]), lenses,
            _unpacked(found["events"]), found["folds"], _unpacked(found["raters"]), found["weights"], members,
        )  # fmt: skip

    def recall(self, folds: Sequence[int], raters: Sequence[str]) -> Recalled:
        """What the votes of these folds say of the reward and of these raters."""
        places = _places(raters, self.raters)
        return Recalled(
            self.lenses, [each.of_raters(places).of_groups(folds).convex() for each in self.members]
        )

    def weights(self, folds: Sequence[int]) -> tuple[float, float]:
        """What people's votes and judges' weigh in these folds."""
        people, judges = self.weights_F2[list(folds)].sum(0).tolist()
        return people, judges

    def of_folds(self, folds: Sequence[int]) -> list[str]:
        """The votes of these folds."""
        of_each = zip(self.events, self.folds_E.tolist(), strict=True)
        return [event for event, fold in of_each if fold in folds]

    def on(self, newest: datetime, reward: RewardSettings) -> "Past":
        """The same when votes as new as that have come: it weighs less."""
        factor = examples.weight_of_age(newest - self.newest, reward)
        return Past(
            self.name, self.made_for, newest, self.lenses, self.events, self.folds_E, self.raters,
            factor * self.weights_F2, [each.times(factor) for each in self.members],
        )  # fmt: skip

    def fold(
        self,
        corpus: Corpus,
        events: Sequence[str],
        views: Callable[[list[Key]], Views],
        reward: RewardSettings,
        generator: torch.Generator,
    ) -> "Past":
        """This, as on the day of the corpus, and the votes of `corpus` that are named by `events`."""
        folds = range(len(self.weights_F2))
        votes, keys = corpus.votes(corpus.examples, reward, self.weights(folds))
        fold_of = dict.fromkeys(events, UNREAD)
        groups_FV = torch.zeros(len(folds), votes.count, dtype=torch.float64)
        weights_F2 = self.weights_F2.clone()
        for number, example in enumerate(corpus.examples):
            if example.event_id in fold_of:
                fold = fold_of[example.event_id] = example.fold(len(folds))
                groups_FV[fold, number] = 1
                if example.by_judge or example.of_person:
                    weights_F2[fold, int(example.by_judge)] += votes.weights[number]
        here = examples.raters(corpus.examples)
        said = ensemble.expand(views(keys), votes, self.recall(folds, here), groups_FV, reward, generator)
        raters = list(dict.fromkeys([*self.raters, *here]))
        before, now = _places(raters, self.raters), _places(raters, here)
        return Past(
            self.name, self.made_for, self.newest, self.lenses, [*self.events, *events],
            torch.cat([self.folds_E, torch.tensor(list(fold_of.values()), dtype=torch.int16)]), raters,
            weights_F2,
            [
                old.of_raters(before) + new.of_raters(now)
                for old, new in zip(self.members, said, strict=True)
            ],
        )  # fmt: skip


def forget(pool: Pool, project: str, path: Path) -> None:
    """No vote is folded any more."""
    path.unlink(missing_ok=True)
    with pool.connection() as connection:
        connection.execute(
            "update training_examples set vote_summary = null"
            " where project = %s and vote_summary is not null",
            [project],
        )


def oldest(events: Sequence[str]) -> Sequence[str]:
    """Those of a round's votes, or signals, oldest first, that are to be folded after it: none while they are
    few."""
    return events[: -(WINDOW // 2)] if len(events) > WINDOW else []


def made_for(base: str, trainer: TrainerSettings) -> str:
    """What a past hangs on: this code, the base with that digest, and the settings."""
    return f"{VERSION} {base} {trainer.gate.folds} {trainer.reward.json_with_old_names()}"


def _packed(names: Sequence[str]) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(names), "utf-8"), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> list[str]:
    names: list[str] = json.loads(packed.numpy().tobytes())
    return names


def _places(names: Sequence[str], within: Sequence[str]) -> list[int | None]:
    place = {name: index for index, name in enumerate(within)}
    return [place.get(name) for name in names]
