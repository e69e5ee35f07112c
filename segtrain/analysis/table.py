"""Descriptions as plain text, for a terminal of 80 columns; several models in one of 120."""

from collections.abc import Iterable, Sequence

from segtrain.analysis.description import Description, Stage
from segtrain.analysis.receptive_field import ReceptiveField

GAP = "  "


def describe_table(description: Description) -> str:
    """What one model sees, weighs and costs: a table of its stages, one of its parts, and two lines about memory."""
    stages = [
        [stage.name, str(stage.channels), str(stage.stride), times(*stage.size), field(stage.receptive_field)]
        for stage in description.stages
    ]
    memory = description.memory
    parts = [
        [name, *("" if number is None else metric(number) for number in (*shares, shares.total))]
        for name, shares in (("parameters", description.parameters), ("multiply-accumulates", description.macs))
    ]
    kept = [
        ["training", mebibytes(memory.training), "alive at the same time in a forward pass, at most"],
        ["inference", mebibytes(memory.inference), "likewise, with nothing kept for a backward pass"],
    ]
    if memory.weight_copies:
        kept.append(["weights", mebibytes(memory.weight_copies), "on top of both: autocast's copies in low precision"])
    blocks = [
        aligned(["stage", "channels", "stride", "map", "receptive field"], stages),
        aligned(["", "backbone", "decoder", "auxiliary", "total"], parts) + _frozen(description),
        aligned(["activations", "memory", ""], kept, left=(0, 2)),
        *_notes(description.stages, description.unknown),
    ]
    return "\n\n".join(blocks)


def compare_table(models: Sequence[tuple[str, str, Description]]) -> str:
    """A line for each (model, backbone, description)."""
    rows = [
        [
            model,
            backbone,
            str(one.output_stride),
            metric(one.parameters.evaluated),
            metric(one.macs.evaluated),
            mebibytes(one.memory.training),
            mebibytes(one.memory.inference),
            field(one.stages[-1].receptive_field),
        ]
        for model, backbone, one in models
    ]
    header = ["model", "backbone", "stride", "parameters", "MACs", "training", "inference", "receptive field"]
    unknown = dict.fromkeys(name for _, _, one in models for name in one.unknown)
    notes = _notes([one.stages[-1] for _, _, one in models], unknown)
    columns = [
        "stride: of the backbone's deepest feature; MACs: multiply-accumulates; receptive field: of the logits",
        "training, inference: activations alive at the same time in a forward pass, at most",
    ]
    if any(one.parameters.auxiliary for _, _, one in models):
        columns.append("auxiliary heads: left out of parameters and MACs; in memory, part of training")
    return "\n\n".join([aligned(header, rows, left=(0, 1)), "\n".join([*columns, *notes])])


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns under their header; those numbered in `left` begin, the others end, at the same place."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return GAP.join(cells).rstrip()

    return "\n".join([line(header), "-" * (sum(widths) + len(GAP) * (len(widths) - 1)), *map(line, rows)])


def metric(number: int) -> str:
    """Three or four digits and a unit: 11.18 M, 0."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def mebibytes(number: int) -> str:
    """1 MiB is 2^20 bytes."""
    return f"{number / 2**20:,.1f} MiB"


def times(height: int, width: int) -> str:
    return f"{height} x {width}"


def field(sides: ReceptiveField) -> str:
    """`43 x 43`, `whole image`, `43 x whole image`."""
    height, width = sides
    return height if height == width and isinstance(height, str) and height[0] != ">" else f"{height} x {width}"


def _frozen(description: Description) -> str:
    frozen = description.parameters.total - description.trainable
    return f"\n{metric(description.trainable)} parameters learn, {metric(frozen)} are frozen" if frozen else ""


def _notes(stages: Iterable[Stage], unknown: Iterable[str]) -> list[str]:
    """What the words in a column of receptive fields mean."""
    shown = {str(side) for stage in stages for side in stage.receptive_field}
    notes = {
        "whole image": "whole image: behind a pooling, an attention or a norm over all positions",
        "adaptive": "adaptive: behind deformable convolutions, which read where they have learned to",
        "unknown": f"unknown: behind an operation that segtrain cannot follow ({', '.join(unknown)})",
        ">=": ">= N: cut off by the largest image that was tried",
    }
    lines = [note for word, note in notes.items() if any(side.startswith(word) for side in shown)]
    return ["\n".join(lines)] if lines else []
