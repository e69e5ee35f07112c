"""A picture far larger than memory through `segtrain predict`: peak memory seen from outside, and a kill half way.

    python scripts/bench_large.py
    python scripts/bench_large.py --side 50000 --memory 4GiB --window 1024

Draws a TIFF of side x side pixels, trains a tiny U-Net for a few steps on the shapes, and predicts the picture with
`inference=slide inference.memory=...` in a process that this one watches (VmHWM of /proc, so Linux only). The first is
killed by SIGKILL when half of its blocks are done; the same line again goes on. Needs rasterio.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

from segtrain.inference.sliding import parse_bytes

TINY = (
    *("data=shapes", "data.num_train=64", "data.num_val=4", "data.size=[96,96]", "augment.crop_size=[96,96]"),
    *("data.batch_size=4", "data.workers=0", "model=unet", "model.batch_norm=true"),
    *("model.decoder_channels=[8,8,8,4,4]", "model.backbone.channels=[4,4,8,8,8]", "model.backbone.batch_norm=true"),
    *("model.backbone.dropout=0", "trainer.max_steps=100", "trainer.evaluate_every=100"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000, help="of the picture, pixels")
    parser.add_argument("--memory", default="2GiB", help="inference.memory")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--folder", type=Path, default=None, help="for the picture; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        picture = draw(folder / "picture.tif", args.side)
        segtrain("train", *TINY, f"run_dir={folder / 'run'}")
        words = [
            *("predict", f"checkpoint={folder / 'run' / 'checkpoints' / 'last.pt'}", f"input={picture}"),
            *("inference=slide", f"inference.size=[{args.window},{args.window}]", f"inference.overlap={args.overlap}"),
            *(f"inference.memory={args.memory}", "save=[index,palette,overlay]", f"output={folder / 'out'}"),
        ]
        budget = parse_bytes(args.memory)
        print(f"{args.side}x{args.side}, {picture.stat().st_size / 2**20:.0f} MiB on disk, budget {args.memory}")
        killed = watch(words, folder / "out", kill_half_way=True)
        ended = watch(words, folder / "out", kill_half_way=False)
        for what, (seconds, peak, done) in {"killed": killed, "went on": ended}.items():
            print(
                f"  {what:<8} {seconds:8.1f} s   peak {peak / 2**20:7.0f} MiB, {peak / budget:.2f} of budget   {done}"
            )
        rate = args.side**2 / 1e6 / (killed[0] + ended[0])
        print(f"  {rate:.2f} Mpixel/s; labels: {check(folder / 'out' / 'index' / 'picture.tif', args.side)}")


def draw(path: Path, side: int) -> Path:
    """Tiles of noise in slowly changing colours, written a row of tiles at a time."""
    random = np.random.default_rng(0)
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": side, "width": side, "photometric": "rgb"}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", **profile, **tiled) as file:
        across = np.linspace(0, 12, side)
        for top in range(0, side, 512):
            rows = np.arange(top, min(top + 512, side))
            waves = [120 + 90 * np.sin(across * k + rows[:, None] / 700) for k in (1, 2, 3)]
            noise = random.integers(0, 30, (3, len(rows), side), dtype=np.uint8)
            strip = np.stack(waves).clip(0, 225).astype(np.uint8) + noise
            file.write(strip, window=((top, top + len(rows)), (0, side)))
    return path


def segtrain(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "segtrain", *words], check=True, capture_output=True)


def watch(words: list[str], output: Path, kill_half_way: bool) -> tuple[float, int, str]:
    """Seconds, the most memory the process ever had resident, and how far it came."""
    begun, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, "-m", "segtrain", *words], stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            done, blocks = progress(output)
            if kill_half_way and blocks and done >= blocks // 2:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return time.perf_counter() - begun, peak, f"{done} of {blocks} blocks, then SIGKILL"
            time.sleep(0.1)
        assert process.stderr is not None
        said = process.stderr.read()
    if process.returncode != 0:
        sys.exit(said)
    return time.perf_counter() - begun, peak, "to its end"


def high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def progress(output: Path) -> tuple[int, int]:
    """Blocks that are done, and how many there are."""
    for note in output.glob(".*.blocks/progress.json"):
        try:
            found = json.loads(note.read_text())
        except (OSError, ValueError):
            continue
        height, width = found["block"]
        rows = note.parent / "labels.raw"
        side = round(rows.stat().st_size ** 0.5)
        return int(found["done"]), -(-side // height) * -(-side // width)
    return 0, 0


def check(path: Path, side: int) -> str:
    with rasterio.open(path) as file:
        assert (file.height, file.width) == (side, side)
        labels = file.read(1, out_shape=(side // 10, side // 10))
    shares = np.bincount(labels.ravel()) / labels.size
    return ", ".join(f"class {label} {100 * share:.1f}%" for label, share in enumerate(shares) if share > 0)


if __name__ == "__main__":
    main()
