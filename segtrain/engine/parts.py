"""What the engine is handed: everything that varies between runs, already built."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from segtrain.engine.freezing import FreezeSchedule
from segtrain.inference import Predictor
from segtrain.types import Batch, DataFacts, Example


@dataclass(frozen=True)
class Parts:
    """The parts of a training.

    Attributes:
        model: float images -> `ModelOutput`.
        normalize: uint8 images -> float images, on the device.
        criterion: (ModelOutput, labels, shares) -> (total, terms), and `denominators`: a `segtrain.losses.Criterion`.
        optimizer: its groups hold `initial_lr`, and a `name` for the log.
        freezing: parts of the model that learn later.
        schedule: step -> factor on every group's `initial_lr`.
        train_batches: step -> the endless stream of training batches, from that step on.
        val_batches: one pass over the validation set.
        num_val_images: how many that are.
        predictor: the same model with its inference strategy.
        facts: of the data.
        saved: what a checkpoint holds besides weights and state: the config, its choices, the facts, as plain values.
        draw: examples -> one [H, W, 3] uint8 picture.
    """

    model: nn.Module
    normalize: nn.Module
    criterion: nn.Module
    optimizer: Optimizer
    freezing: FreezeSchedule
    schedule: Callable[[int], float]
    train_batches: Callable[[int], Iterable[Batch]]
    val_batches: Iterable[list[Batch]]
    num_val_images: int
    predictor: Predictor
    facts: DataFacts
    saved: dict[str, Any]
    draw: Callable[[list[Example]], NDArray[np.uint8]]
