"""What segtrain's inference costs over the model itself: time of sliding windows, memory of many classes.

    python scripts/bench_inference.py
    python scripts/bench_inference.py --cases windows --device cuda

windows: an image of 2048x1024 in windows of 512x512 that overlap by half, blended; beside it the model alone on the
same windows, which are cut and normalised beforehand. Both in turn; shown are medians and the median of the rounds'
ratios. Aim: at most 1.1.

upsampling: logits of 150 classes at stride 8 become the label map of an image of 2048x1024: by interpolation and
argmax, and by bands of classes. Peak memory beyond what was there before, each in a process of its own (on CUDA as the
allocator counts it), and time. Aim: a third of the memory, equal labels.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.build import Builder
from segtrain.compose import Job, run_command
from segtrain.engine.memory_use import cuda_peak, peak_resident, reset_peaks, resident
from segtrain.engine.precision import choose_hardware
from segtrain.inference import Predictor, ScoreMap, SlidingWindow, label_map
from segtrain.inference.predictor import evaluation_mode
from segtrain.inference.score_map import Resize
from segtrain.types import Area, DataFacts, Hardware

HEIGHT, WIDTH, CLASSES = 1024, 2048, 150
WINDOW, OVERLAP = 512, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["windows", "upsampling"], choices=["windows", "upsampling"])
    parser.add_argument("--device", default="auto", help="cpu | cuda | auto")
    parser.add_argument("--precision", default="fp32", help="of the windows' model: fp32 | bf16 | fp16")
    parser.add_argument("--model", default="unet_light", help="a model config")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    hardware = choose_hardware(args.device, args.precision, False)
    print(f"torch {torch.__version__}, {hardware.device}, {torch.get_num_threads()} threads")
    if "windows" in args.cases:
        bench_windows(args.model, hardware, args.rounds)
    if "upsampling" in args.cases:
        bench_upsampling(hardware, args.rounds)


def bench_windows(name: str, hardware: Hardware, rounds: int) -> None:
    facts = DataFacts.of(19, 3)
    jobs: list[Job] = []
    run_command("train", [f"model={name}", "data=shapes"], jobs.append)
    builder = Builder(jobs[0].config)
    model = builder.model(facts, pretrained=False).to(hardware.device).eval()
    normalize = builder.normalize(facts).to(hardware.device)
    windows = SlidingWindow([WINDOW, WINDOW], None, OVERLAP, "gaussian", 0.125, batch_size=4, memory=None)
    predictor = Predictor(model, normalize, windows, hardware)
    image = torch.randint(0, 256, (1, 3, HEIGHT, WIDTH), dtype=torch.uint8, device=hardware.device)
    rows, columns = windows.spans_over(Area(0, 0, HEIGHT, WIDTH))
    crops = torch.cat([image[:, :, r.start : r.stop, c.start : c.stop] for r in rows for c in columns])
    batches = [normalize(part).contiguous() for part in crops.split(windows.batch_size)]

    def alone() -> None:
        with torch.inference_mode(), evaluation_mode(model), hardware.autocast():
            for batch in batches:
                model(batch)

    def blended() -> None:
        predictor.logits(image)

    times = in_turn({"model alone": alone, "sliding window": blended}, rounds, hardware)
    ratios = [b / a for a, b in zip(times["model alone"], times["sliding window"], strict=True)]
    print(f"\nwindows: {name}, {HEIGHT}x{WIDTH}, {len(crops)} windows of {WINDOW}x{WINDOW}, {hardware.autocast_dtype}")
    for what, seconds in times.items():
        print(f"  {what:<16} {1000 * median(seconds):9.1f} ms")
    print(f"  ratio            {median(ratios):9.3f}    (aim: at most 1.1)")


def in_turn(work: dict[str, Callable[[], None]], rounds: int, hardware: Hardware) -> dict[str, list[float]]:
    """Seconds of each round of each, after one that does not count."""
    times: dict[str, list[float]] = {what: [] for what in work}
    for number in range(rounds + 1):
        for what, do in work.items():
            synchronize(hardware.device)
            begun = time.perf_counter()
            do()
            synchronize(hardware.device)
            if number > 0:
                times[what].append(time.perf_counter() - begun)
    return times


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def plain(values: Tensor) -> Tensor:
    return F.interpolate(values, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False).argmax(dim=1)


def banded(values: Tensor) -> Tensor:
    return label_map(ScoreMap(values, (Resize(HEIGHT, WIDTH),)), None)


def bench_upsampling(hardware: Hardware, rounds: int) -> None:
    values = some_logits(hardware.device)
    assert torch.equal(plain(values), banded(values))
    times = in_turn({"plain": lambda: plain(values), "bands": lambda: banded(values)}, rounds, hardware)
    peaks = {what: peak_of(what, hardware) for what in times}
    print(f"\nupsampling: {CLASSES} classes, {HEIGHT // 8}x{WIDTH // 8} to {HEIGHT}x{WIDTH}; the labels are equal")
    for what, seconds in times.items():
        print(f"  {what:<16} {1000 * median(seconds):9.1f} ms {peaks[what] / 2**20:9.1f} MiB")
    print(f"  ratio            {median(times['bands']) / median(times['plain']):9.3f}    ", end="")
    print(f"{peaks['bands'] / peaks['plain']:9.3f}    (aim for the memory: at most 0.333)")


def some_logits(device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, CLASSES, HEIGHT // 8, WIDTH // 8, generator=generator).to(device)


def peak_of(what: str, hardware: Hardware) -> int:
    """Bytes at the peak beyond those before, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (what, str(hardware.device)))


def _peak(what: str, device_name: str) -> int:
    device = torch.device(device_name)
    values, work = some_logits(device), {"plain": plain, "bands": banded}[what]
    work(values[:, :2])  # what the first call of all allocates is not counted
    reset_peaks(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        work(values)
        return (cuda_peak(device) or 0) - before
    before = resident() or 0
    work(values)
    return (peak_resident() or 0) - before


if __name__ == "__main__":
    main()
