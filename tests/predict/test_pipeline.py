"""Reading, the model and writing work at the same time. Each waits here for the others: one after the other hangs."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from segtrain.engine.progress import Progress
from segtrain.errors import DataError, MachineError
from segtrain.predict import pipeline
from segtrain.predict.inputs import Input
from segtrain.predict.pipeline import End, Pace, Picture, predict_all, read_all
from segtrain.predict.products import Places, Prediction, Products
from segtrain.report.look import Look
from segtrain.types import DataFacts

LOOK = Look(alpha=0.5, contours=False, side_by_side=False, legend=False)
FACTS = DataFacts.of(num_classes=2, in_channels=3)


def picture(number: int) -> Picture:
    image = np.full((4, 4, 3), number, dtype=np.uint8)
    return Picture(Input(f"p{number}", Path(f"p{number}.png")), image, torch.from_numpy(image.transpose(2, 0, 1)[None]))


class Model:
    """Answers with the picture's number as its labels."""

    def ask(self, image: np.ndarray, seen: torch.Tensor) -> Prediction:
        return Prediction(image, image[..., 0])


def run(pictures: Iterator[Picture | End], model: Model, products: Products) -> pipeline.Outcome:
    pace = Pace(prefetch=2, size=2**20, writers=1)
    with Progress("predict", None, unit="img", line_every=None) as progress:
        return predict_all(pictures, model, products, pace, progress)  # type: ignore[arg-type]


def test_one_is_read_and_one_written_while_the_model_works_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third_is_read, first_is_being_written, second_is_answered = (threading.Event() for _ in range(3))

    def pictures() -> Iterator[Picture | End]:
        for number in range(3):
            if number == 2:
                third_is_read.set()
            yield picture(number)

    class Waiting(Model):
        def ask(self, image: np.ndarray, seen: torch.Tensor) -> Prediction:
            if image[0, 0, 0] == 1:
                assert third_is_read.wait(30)
                assert first_is_being_written.wait(30)
                second_is_answered.set()
            return super().ask(image, seen)

    real = Products.write

    def write(self: Products, name: str, prediction: Prediction, without: tuple[str, ...] = ()) -> None:
        if name == "p0":
            first_is_being_written.set()
            assert second_is_answered.wait(30)
        real(self, name, prediction, without)

    monkeypatch.setattr(Products, "write", write)
    outcome = run(pictures(), Waiting(), Products(Places(tmp_path, ["index"]), FACTS, LOOK))
    assert outcome.pictures == 3
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["p0.png", "p1.png", "p2.png"]


def test_problems_are_collected_in_order_and_cost_nothing_else(tmp_path: Path) -> None:
    def pictures() -> Iterator[Picture | End]:
        for number in range(5):
            if number % 2:
                yield End(Input(f"p{number}", Path()), f"p{number} is damaged")
            else:
                yield picture(number)
                yield End(picture(number).input)

    outcome = run(pictures(), Model(), Products(Places(tmp_path, ["index"]), FACTS, LOOK))
    assert outcome.problems == ["p1 is damaged", "p3 is damaged"]
    assert outcome.pictures == len(list((tmp_path / "index").iterdir())) == 3


@pytest.mark.parametrize("where", ["reading", "asking", "writing"])
def test_a_failure_anywhere_is_raised_as_it_is_and_no_thread_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = threading.active_count()
    failure = MachineError(f"no memory for {where}")

    def fail(*_: object, **__: object) -> None:
        raise failure

    def pictures() -> Iterator[Picture | End]:
        number = 0
        while True:
            if where == "reading" and number == 5:
                raise failure
            yield picture(number % 200)
            number += 1

    model = Model()
    if where == "asking":
        monkeypatch.setattr(model, "ask", fail)
    if where == "writing":
        monkeypatch.setattr(Products, "write", fail)
    with pytest.raises(MachineError) as raised:
        run(pictures(), model, Products(Places(tmp_path, ["index"]), FACTS, LOOK))
    assert raised.value is failure
    assert threading.active_count() == before


def test_every_input_has_an_end_and_one_that_cannot_be_read_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *_: object) -> np.ndarray:
        if path.stem == "b":
            raise DataError("b is damaged")
        return np.zeros((4, 4, 3), dtype=np.uint8)

    monkeypatch.setattr(pipeline, "read_image", read)
    inputs = [Input(name, Path(f"{name}.png")) for name in "abc"]
    found = list(read_all(inputs, FACTS, lambda image, name: torch.zeros(1), None))
    assert [(type(one).__name__, one.input.name, getattr(one, "problem", None)) for one in found] == [
        ("Picture", "a", None),
        ("End", "a", None),
        ("End", "b", "b is damaged"),
        ("Picture", "c", None),
        ("End", "c", None),
    ]
