"""Curves, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save_range_curve(
    path: Path, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], marks: Mapping[str, float]
) -> None:
    """The loss over the learning rate of a range test, with a line at each rate in `marks`, named in the legend.

    Args:
        path: PNG to write.
        rates: on a logarithmic axis.
        losses: as measured.
        smoothed: likewise, smoothed; the axis fits these, so that an explosion does not flatten the rest.
        marks: learning rates by name.
    """
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(rates, losses, color="0.75", linewidth=1, label="loss")
    axes.plot(rates, smoothed, color="tab:blue", linewidth=2, label="smoothed")
    for (name, rate), color in zip(marks.items(), ("tab:green", "tab:orange", "tab:red"), strict=False):
        axes.axvline(rate, color=color, linestyle="--", linewidth=1.5, label=f"{name}: {rate:.1e}")
    low, first = min(smoothed), smoothed[0]
    axes.set_ylim(low - 0.15 * (first - low + 1e-3), first + 0.6 * (first - low + 1e-3))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    figure.savefig(path)
