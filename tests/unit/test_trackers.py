"""Trackers get the figures of a round; one that is away, slow or not installed harms no round."""

import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tensorboardX.proto.event_pb2 import Event

from schemas.settings import Settings, TrackingSettings
from trainer.records import trackers
from trainer.records.trackers import RoundFigures, Trackers

RECORD: dict[str, Any] = {
    "votes": 40, "seed": 7, "parent": "p0", "seconds": 3.5, "knowledge": {"questions": 9},
    "gate": {"outcome": "passed", "passed": True, "figures": {"kl": 0.4, "held_out_gain": None, "alike": 0}},
    "style": {"live": {"ask a question": 0.5}, "candidate": {"ask a question": 0.25}},
    "criteria": {"safe": {"blames": 9, "change": -0.01, "coefficient": None}},
    "optimization": {"steps": [{"reward": 0.1, "kl": 0.0}, {"reward": 0.3, "kl": 0.2}], "stopped": None},
}  # fmt: skip


def settings(folder: Path, **tracking: Any) -> Settings:
    return Settings(data_dir=folder, tracking=TrackingSettings(**tracking))


def written(folder: Path) -> Iterator[tuple[str, int, float]]:
    """Yields (name, step, value) of TensorBoard's files: records of a length, its checksum, the event, its
    checksum."""
    for path in sorted(folder.rglob("*.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                yield value.tag, event.step, round(value.simple_value, 4)


def test_tensorboard_has_the_figures_of_rounds_and_steps(tmp_path: Path) -> None:
    sending = Trackers(settings(tmp_path))
    sending.log_round(1, RECORD)
    sending.log_round(2, RECORD)
    sending.close()
    found = set(written(tmp_path / "tensorboard" / "default"))
    assert {
        ("round/votes", 1, 40.0), ("round/seconds", 2, 3.5), ("gate/kl", 2, 0.4), ("gate/alike", 1, 0.0),
        ("style/candidate/ask_a_question", 1, 0.25), ("criteria/safe/change", 2, -0.01),
        ("step/reward", 0, 0.1), ("step/reward", 1, 0.3), ("step/kl", 3, 0.2),
    } <= found  # fmt: skip
    assert not {name for name, _, _ in found} & {"round/seed", "gate/passed", "gate/held_out_gain"}


def test_nothing_is_written_where_no_tracker_is_asked_for(tmp_path: Path) -> None:
    sending = Trackers(settings(tmp_path, tensorboard=False))
    sending.log_round(1, RECORD)
    sending.close()
    Trackers(settings(tmp_path)).close()  # before any round
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_is_missing_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with capture_logs() as logs:
        sending = Trackers(settings(tmp_path, mlflow_url="http://127.0.0.1:9", wandb_project="x"))
        sending.log_round(1, RECORD)
        sending.close()
    assert {each["tracker"] for each in logs if each["event"] == "tracker failed"} == {"mlflow", "wandb"}
    assert ("gate/kl", 1, 0.4) in set(written(tmp_path / "tensorboard"))


def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    sending = Trackers(settings(tmp_path))
    with capture_logs() as logs:
        sending.log_round(1, RECORD)
        while not logs:
            time.sleep(0.01)
        (tmp_path / "tensorboard").unlink()
        sending.log_round(2, RECORD)
        sending.close()
    assert [each["event"] for each in logs] == ["tracker failed"]
    assert {step for name, step, _ in written(tmp_path / "tensorboard") if name == "gate/kl"} == {2}


def test_a_tracker_that_hangs_holds_up_neither_rounds_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()

    class Hanging:
        def __init__(self, *_: object) -> None:
            hangs.wait()

        def log(self, found: RoundFigures) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(trackers, "MLflow", Hanging)
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.2)
    sending = Trackers(settings(tmp_path, tensorboard=False, mlflow_url="http://127.0.0.1:9"))
    began = time.monotonic()
    with capture_logs() as logs:
        for number in range(trackers.BACKLOG + 5):
            sending.log_round(number, RECORD)
        sending.close()
    assert time.monotonic() - began < 5
    assert {each["event"] for each in logs} == {"tracker is behind; figures left out"}
    hangs.set()
