"""Draws the pictures of docs/models.md, and prints its table of backbones, from the models themselves.

    python scripts/draw_models.py docs/images/models
    python scripts/draw_models.py --table

Every model is built on torch's meta device; channels, strides and dilation rates are what it really has.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from model_pictures.blocks import BLOCKS
from model_pictures.convolutions import CONVOLUTIONS
from model_pictures.networks import NETWORKS
from model_pictures.table import backbone_table
from model_pictures.timeline import timeline

PICTURES = {"timeline": timeline} | NETWORKS | BLOCKS | CONVOLUTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where to write NAME.svg")
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(PICTURES)}; none: all")
    parser.add_argument("--table", action="store_true", help="print the table of backbones")
    arguments = parser.parse_args()
    if arguments.table:
        print(backbone_table())
    if arguments.folder is None:
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or PICTURES:
        (arguments.folder / f"{name}.svg").write_text(PICTURES[name]().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
