"""A few images of a data set beside their truth, their prediction and the errors."""

from collections.abc import Sequence

from segtrain.report.pictures import Picture, legend, panel, sheet
from segtrain.types import DataFacts, Example


def draw_examples(examples: Sequence[Example], facts: DataFacts) -> Picture:
    """One [H, W, 3] uint8 picture: a row per example, and a legend of the classes below."""
    rows = [
        panel(
            example.sample.image,
            example.sample.labels,
            example.prediction,
            facts.palette,
            facts.ignore_index,
            title=example.sample.name,
        )
        for example in examples
    ]
    width = max(row.shape[1] for row in rows)
    return sheet([*rows, legend(facts.class_names, facts.palette, width)], columns=1)
