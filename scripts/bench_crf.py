"""Times the dense CRF on one image, beside the authors' C++ code where that is installed.

    python scripts/bench_crf.py
    python scripts/bench_crf.py --image photo.jpg --size 375 500 --classes 21 --iterations 10 --threads 1

Both are given the same image, score map and parameters, for each published set of parameters; building what belongs
to the image is part of the time, as it is of every prediction. Runs alternate, so that a busy machine slows both alike;
the medians and their ratio are printed, and the share of labels that agree. Memory is the peak of a fresh process above
what it held before, on Linux. CUDA is timed where there is any. The C++ code, which uses one thread, is there after
`pip install pydensecrf2`. Aims: a ratio of at most 2 on the CPU with one thread, under 50 ms on CUDA.
"""

import argparse
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.data.reading import read_image
from segtrain.inference import DenseCRF, WholeImage

# spatial weight and sigma; bilateral weight, sigma of positions, sigma of colours
SETS = {
    "authors' defaults": (3.0, 3.0, 10.0, 80.0, 13.0),
    "DeepLab v1": (3.0, 3.0, 4.0, 49.0, 5.0),
    "DeepLab v2": (3.0, 1.0, 4.0, 67.0, 3.0),
}
HAS_REFERENCE = importlib.util.find_spec("pydensecrf") is not None


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    image, scores = inputs(arguments)
    print(
        f"{scores.shape[2]}x{scores.shape[1]}, {len(scores)} classes, {arguments.iterations} iterations, "
        f"{arguments.threads} thread(s), median of {arguments.repeats}"
    )
    if not HAS_REFERENCE:
        print("the C++ code is not installed: pip install pydensecrf2")
    heads = ["segtrain", "C++", "ratio", "labels", "memory", "C++", "CUDA", "memory"]
    print(" " * 18, *(f"{head:>9}" for head in heads))
    for name, numbers in SETS.items():
        print(f"{name:<18} {' '.join(row(numbers, image, scores, arguments))}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image", type=Path, help="a photograph; by default a picture made up of shapes and noise")
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def row(numbers: tuple[float, ...], image: Tensor, scores: Tensor, arguments: argparse.Namespace) -> list[str]:
    """The cells of one set of parameters."""
    ours = crf(numbers, arguments.iterations)
    runs = {"ours": lambda: ours.refine(image, scores)}
    if HAS_REFERENCE:
        runs["theirs"] = lambda: reference(numbers, arguments.iterations, image, scores)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results: dict[str, Tensor] = {}
    for _ in range(arguments.repeats + 1):
        for name, run in runs.items():
            begun = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - begun)
    times = {name: median(values[1:]) for name, values in seconds.items()}
    cells = [f"{1e3 * times['ours']:>6.0f} ms"]
    if HAS_REFERENCE:
        agreement = (results["ours"].argmax(dim=0) == results["theirs"].argmax(dim=0)).float().mean().item()
        cells += [f"{1e3 * times['theirs']:>6.0f} ms", f"{times['ours'] / times['theirs']:>9.2f}", f"{agreement:>9.3%}"]
    else:
        cells += [f"{'-':>9}"] * 3
    for which in ("ours", "theirs"):
        cells.append(
            f"{peak(which, numbers, arguments):>5.0f} MiB" if which in runs and sys.platform == "linux" else f"{'-':>9}"
        )
    return cells + on_cuda(ours, image, scores, arguments.repeats)


def on_cuda(ours: DenseCRF, image: Tensor, scores: Tensor, repeats: int) -> list[str]:
    """Time and peak memory on the GPU."""
    if not torch.cuda.is_available():
        return [f"{'-':>9}"] * 2
    image, scores = image.cuda(), scores.cuda()
    seconds = []
    ours.refine(image, scores)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    for _ in range(repeats):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        ours.refine(image, scores)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    memory = (torch.cuda.max_memory_allocated() - held) / 2**20
    return [f"{1e3 * median(seconds):>6.1f} ms", f"{memory:>5.0f} MiB"]


def peak(which: str, numbers: tuple[float, ...], arguments: argparse.Namespace) -> float:
    """MiB that one run takes at its peak, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(run_once, (which, numbers, arguments))


def run_once(which: str, numbers: tuple[float, ...], arguments: argparse.Namespace) -> float:
    torch.set_num_threads(arguments.threads)
    image, scores = inputs(arguments)
    small = (image[:, :16, :16], scores[:, :16, :16])
    run: Callable[[Tensor, Tensor], Tensor]
    if which == "ours":
        run = crf(numbers, arguments.iterations).refine
    else:

        def run(image: Tensor, scores: Tensor) -> Tensor:
            return reference(numbers, arguments.iterations, image, scores)

    run(*small)  # whatever is loaded at first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, at what is held now
    before = memory("VmRSS")
    run(image, scores)
    return (memory("VmHWM") - before) / 1024


def memory(key: str) -> int:
    """KiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def crf(numbers: tuple[float, ...], iterations: int) -> DenseCRF:
    return DenseCRF(WholeImage(1.0), iterations, *numbers, normalization="symmetric")


def reference(numbers: tuple[float, ...], iterations: int, image: Tensor, scores: Tensor) -> Tensor:
    """[C, H, W]: Q by the authors' code."""
    from pydensecrf.densecrf import DenseCRF2D

    spatial_weight, spatial_sigma, bilateral_weight, sigma_xy, sigma_rgb = numbers
    classes, height, width = scores.shape
    theirs = DenseCRF2D(width, height, classes)
    theirs.setUnaryEnergy(np.ascontiguousarray(-scores.log_softmax(dim=0).flatten(1).numpy()))
    theirs.addPairwiseGaussian(sxy=spatial_sigma, compat=spatial_weight)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    theirs.addPairwiseBilateral(sxy=sigma_xy, srgb=sigma_rgb, rgbim=pixels, compat=bilateral_weight)
    return torch.from_numpy(np.array(theirs.inference(iterations))).view(classes, height, width)


def inputs(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Image [3, H, W] uint8 and scores [C, H, W], a map of coarse blobs, of the size asked for."""
    size, generator = tuple(arguments.size), torch.Generator().manual_seed(0)
    if arguments.image is None:
        image = sum(
            strength * F.interpolate(torch.rand(1, 3, *shape, generator=generator), size=size, mode=mode)
            for strength, shape, mode in (
                (110, (3, 4), "bicubic"),
                (110, (9, 12), "nearest"),
                (25, (150, 200), "bilinear"),
            )
        )
        image = image + 3 * torch.randn(1, 3, *size, generator=generator)
    else:
        read = torch.tensor(read_image(arguments.image, 3)).permute(2, 0, 1)[None].float()
        image = F.interpolate(read, size=size, mode="bilinear", antialias=True)
    coarse = 3 * torch.randn(1, arguments.classes, -(-size[0] // 8), -(-size[1] // 8), generator=generator)
    scores = F.interpolate(coarse, size=size, mode="bilinear")
    return image[0].clamp(0, 255).byte(), scores[0]


if __name__ == "__main__":
    main()
