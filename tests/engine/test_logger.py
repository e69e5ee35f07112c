"""Scalars: one JSON line a step, and the same in TensorBoard."""

import json
import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtrain.engine.logger import RunLogger, attach_file, close_log, log_to_terminal
from segtrain.engine.progress import format_seconds
from segtrain.engine.run_directory import RunDirectory


def directory_in(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", tmp_path, "", "")


def lines(directory: RunDirectory) -> list[dict]:
    return [json.loads(line) for line in directory.metrics.read_text().splitlines()]


def test_a_scalar_is_a_line_and_an_event_and_absent_values_are_null(tmp_path: Path) -> None:
    directory = directory_in(tmp_path)
    logger = RunLogger(directory, resumed_step=None)
    logger.scalars("val", 5, {"miou": 0.25, "iou/cat": None, "loss": float("nan")})
    logger.close()
    assert lines(directory) == [{"kind": "val", "step": 5, "miou": 0.25, "iou/cat": None, "loss": None}]
    events = EventAccumulator(str(directory.tensorboard)).Reload()
    assert events.Tags()["scalars"] == ["val/miou"]
    assert [(event.step, event.value) for event in events.Scalars("val/miou")] == [(5, 0.25)]


def test_after_a_resume_no_step_appears_twice(tmp_path: Path) -> None:
    directory = directory_in(tmp_path)
    first = RunLogger(directory, resumed_step=None)
    for step in (10, 20, 30):
        first.scalars("train", step, {"loss": float(step)})
    first.close()
    with open(directory.metrics, "a") as file:
        file.write('{"kind": "train", "st')  # cut off by a crash
    second = RunLogger(directory, resumed_step=20)
    second.scalars("train", 30, {"loss": 3.0})
    second.close()
    assert [(line["step"], line["loss"]) for line in lines(directory)] == [(10, 10.0), (20, 20.0), (30, 3.0)]
    events = EventAccumulator(str(directory.tensorboard)).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in events] == [(10, 10.0), (20, 20.0), (30, 3.0)]


def test_an_evaluation_that_comes_once_more_is_not_logged_twice(tmp_path: Path) -> None:
    directory = directory_in(tmp_path)
    first = RunLogger(directory, resumed_step=None)
    first.scalars("train", 10, {"loss": 1.0})
    first.scalars("train", 20, {"loss": 2.0})
    first.scalars("val", 20, {"miou": 0.5})
    first.close()
    second = RunLogger(directory, resumed_step=20, evaluated=False)
    second.scalars("val", 20, {"miou": 0.5})
    second.close()
    assert [(line["kind"], line["step"]) for line in lines(directory)] == [("train", 10), ("train", 20), ("val", 20)]
    events = EventAccumulator(str(directory.tensorboard)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(10, 1.0), (20, 2.0)]
    assert [event.step for event in events.Scalars("val/miou")] == [20]


def test_the_log_file_holds_what_was_said_before_it_was_there(tmp_path: Path) -> None:
    log_to_terminal()
    try:
        logging.getLogger("segtrain").info("class weights: 1, 2")
        attach_file(tmp_path / "train.log")
        logging.getLogger("segtrain").info("step 1")
    finally:
        close_log()
    text = (tmp_path / "train.log").read_text()
    assert text.index("class weights") < text.index("step 1")
    assert text.count("class weights") == 1


def test_seconds_are_readable() -> None:
    assert [format_seconds(s) for s in (0, 59.6, 75.4, 3723)] == ["0:00", "1:00", "1:15", "1:02:03"]
