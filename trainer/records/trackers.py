"""Trackers send the figures of each round to experiment trackers: TensorBoard, MLflow, Weights & Biases.

Each is written by its own library, in a thread of its own, so that a tracker that is slow, away or not
installed costs a round nothing: what it could not take is logged and left out. The record of the round has
everything anyway. Figures of a round have its number as their step; the optimizer's steps are numbered on
through all rounds that one process ran.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from schemas.settings import Settings

BACKLOG = 16
"""Rounds that wait for a slow tracker. Further ones are left out there."""

CLOSE_SECONDS = 10.0
"""Longest wait for the trackers when the trainer ends, seconds."""

REQUEST_SECONDS = 10
"""Longest wait for an answer of MLflow's server, and for a run of Weights & Biases to begin, seconds."""

SECTIONS = ("gate", "reward_model", "style", "criteria")
"""Parts of a round's record whose numbers are sent, beside the counts at its top."""

log = structlog.get_logger("trainer")


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """The numbers of a round, by names such as `gate/kl`, and those of each of its optimizer steps, the first
    of which has the number `first_step`."""

    number: int
    figures: Mapping[str, float]
    steps: Sequence[Mapping[str, float]] = ()
    first_step: int = 0

    @classmethod
    def of(cls, number: int, record: Mapping[str, Any], first_step: int) -> "RoundFigures":
        """Takes the numbers out of a round's record."""
        counts = {name: value for name, value in record.items() if name not in ("seed", "draw")}
        found = {f"round/{name}": value for name, value in _numbers(counts, depth=1)}
        for section in SECTIONS:
            part = record.get(section) or {}
            found |= {
                f"{section}/{name}": value for name, value in _numbers(part.get("figures", part), depth=3)
            }
        steps = [
            {f"step/{name}": value for name, value in _numbers(step, depth=1)}
            for step in (record.get("optimization") or {}).get("steps", [])
        ]
        return cls(number, found, steps, first_step)


class Tracker(Protocol):
    """An experiment tracker."""

    def log(self, found: RoundFigures) -> None:
        """Sends the figures of a round. It may raise whatever its library raises."""
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


class TensorBoard:
    """TensorBoard's event files in a folder."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(folder))

    def log(self, found: RoundFigures) -> None:
        for name, value in found.figures.items():
            self._writer.add_scalar(name, value, found.number)
        for number, step in enumerate(found.steps, found.first_step):
            for name, value in step.items():
                self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A run on MLflow's tracking server, in the experiment of the project."""

    MOST = 1_000  # metrics of one request

    def __init__(self, url: str, project: str) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=url)
        name = f"hearken-{project}"
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(number).info.run_id

    def log(self, found: RoundFigures) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1_000)
        metrics = [Metric(name, value, now, found.number) for name, value in found.figures.items()]
        for number, step in enumerate(found.steps, found.first_step):
            metrics += [Metric(name, value, now, number) for name, value in step.items()]
        for start in range(0, len(metrics), self.MOST):
            self._client.log_batch(self._run, metrics=metrics[start : start + self.MOST])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WeightsAndBiases:
    """A run at Weights & Biases, whose files are in a folder. Its key and server come from the variables that
    its library reads."""

    def __init__(self, folder: Path, wandb_project: str, project: str) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            init_timeout=REQUEST_SECONDS, finish_timeout=CLOSE_SECONDS, silent=True, console="off"
        )
        self._run = wandb.init(
            project=wandb_project, group=f"hearken-{project}", dir=str(folder), settings=settings
        )
        self._run.define_metric("*", step_metric="round")
        self._run.define_metric("step/*", step_metric="optimizer_step")

    def log(self, found: RoundFigures) -> None:
        self._run.log({**found.figures, "round": found.number})
        for number, step in enumerate(found.steps, found.first_step):
            self._run.log({**step, "optimizer_step": number})

    def close(self) -> None:
        self._run.finish()


class Trackers:
    """All trackers of the settings. Each has a thread and begins its run with the first round that it is
    given; one that fails begins anew with the next."""

    def __init__(self, settings: Settings) -> None:
        tracking, project, folder = settings.tracking, settings.project, settings.data_dir
        opening: dict[str, Callable[[], Tracker]] = {}
        if tracking.tensorboard:
            opening["tensorboard"] = lambda: TensorBoard(folder / "tensorboard" / project)
        if (url := tracking.mlflow_url) is not None:
            opening["mlflow"] = lambda: MLflow(url, project)
        if (name := tracking.wandb_project) is not None:
            opening["wandb"] = lambda: WeightsAndBiases(folder / "wandb", name, project)
        self._steps = 0
        self._threads = [_TrackerThread(name, opened) for name, opened in opening.items()]

    def log_round(self, number: int, record: Mapping[str, Any]) -> None:
        """Hands a round's record to each tracker, and returns at once."""
        found = RoundFigures.of(number, record, self._steps)
        self._steps += len(found.steps)
        for thread in self._threads:
            thread.put(found)

    def close(self) -> None:
        """Waits until all is sent, but no longer than CLOSE_SECONDS."""
        deadline = time.monotonic() + CLOSE_SECONDS
        begun = [thread for thread in self._threads if thread.is_alive()]
        for thread in begun:
            thread.put(None)
        for thread in begun:
            thread.join(max(0.0, deadline - time.monotonic()))


class _TrackerThread(threading.Thread):
    """Sends to one tracker what it is given; None ends it."""

    def __init__(self, name: str, opened: Callable[[], Tracker]) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self._which, self._opened = name, opened
        self._tracker: Tracker | None = None
        self._waiting: queue.Queue[RoundFigures | None] = queue.Queue(BACKLOG)

    def put(self, found: RoundFigures | None) -> None:
        if not self.is_alive():
            self.start()
        try:
            self._waiting.put_nowait(found)
        except queue.Full:
            log.warning("tracker is behind; figures left out", tracker=self._which)

    def run(self) -> None:
        while (found := self._waiting.get()) is not None:
            self._guarded(found)
        self._guarded(None)

    def _guarded(self, found: RoundFigures | None) -> None:
        try:
            if found is not None:
                self._tracker = self._tracker or self._opened()
                self._tracker.log(found)
            elif self._tracker is not None:
                self._tracker.close()
        except Exception as error:  # whatever the library raises, no round depends on it
            self._tracker = None
            log.warning("tracker failed", tracker=self._which, error=f"{type(error).__name__}: {error}"[:300])


def _numbers(found: Mapping[str, Any], depth: int) -> Iterator[tuple[str, float]]:
    """Yields the numbers in a mapping, and in the mappings in it down to a depth, with names joined by /."""
    for name, value in found.items():
        if isinstance(value, Mapping) and depth > 1:
            yield from ((f"{name}/{inner}", each) for inner, each in _numbers(value, depth - 1))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name.replace(" ", "_"), float(value)
