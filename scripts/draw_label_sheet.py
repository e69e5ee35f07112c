"""Draws predicted label maps side by side with a legend, without the photographs: docs/images/camvid_predictions.png.

    segtrain predict checkpoint=RUN/checkpoints/best.pt input=/data/camvid/val output=predictions save=[palette]
    python scripts/draw_label_sheet.py RUN/checkpoints/best.pt predictions/palette docs/images/camvid_predictions.png

CamVid's photographs may not be passed on, so the picture shows what the model made of them and nothing else.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from segtrain.build import facts_from
from segtrain.engine import checkpoint
from segtrain.report.pictures import legend, save_picture, sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("palette_folder", type=Path, help="what save=[palette] wrote")
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--width", type=int, default=260, help="of each label map, in pixels")
    arguments = parser.parse_args()

    facts = facts_from(checkpoint.load(arguments.checkpoint)["facts"])
    files = sorted(arguments.palette_folder.glob("*.png"))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, arguments.columns * arguments.rows).round().astype(int)]
    maps = [read(path, arguments.width) for path in chosen]
    grid = sheet(maps, arguments.columns)
    save_picture(arguments.output, sheet([grid, legend(facts.class_names, facts.palette, grid.shape[1])], columns=1))


def read(path: Path, width: int) -> np.ndarray:
    """The label map's colours, reduced to `width` with nearest neighbours, which invents no colour."""
    image = Image.open(path).convert("RGB")
    small = image.resize((width, round(width * image.height / image.width)), Image.Resampling.NEAREST)
    return np.pad(np.array(small), ((4, 4), (4, 4), (0, 0)), constant_values=250)


if __name__ == "__main__":
    main()
