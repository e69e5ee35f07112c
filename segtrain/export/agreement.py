"""Whether an exported model says what the model says: on real pictures, and at sizes that no picture has."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segtrain.engine.progress import Progress
from segtrain.metrics import ConfusionMatrix
from segtrain.types import Batch, DataFacts

Labels = Callable[[Tensor], Tensor]  # uint8 images [N, C, H, W] -> class indices [N, H, W]

# Images, height, width: one and several, odd and even, narrow and small.
TRIED = ((1, 65, 97), (3, 64, 96), (2, 129, 70))


@dataclass(frozen=True)
class Agreement:
    """Label maps of a model and of its exported file, side by side.

    Attributes:
        same: pixels, void ones included, that both give the same class.
        pixels: in all.
        images: in all.
        model: confusion matrix of the model.
        exported: of the exported file.
    """

    same: int
    pixels: int
    images: int
    model: ConfusionMatrix
    exported: ConfusionMatrix

    @property
    def share(self) -> float:
        """Of the pixels with the same class, in [0, 1]."""
        return self.same / max(1, self.pixels)

    def table(self) -> str:
        """Plain text for a terminal."""
        before, after = self.model.miou(), self.exported.miou()
        return (
            f"{self.images} images, {self.pixels:,} pixels: {100 * self.share:.4f} % have the same class\n"
            f"mIoU  model {before:.4f}  exported {after:.4f}  change {100 * (after - before):+.4f} points"
        )


def compare(
    model: Labels, exported: Labels, batches: Iterable[Sequence[Batch]], facts: DataFacts, num_images: int
) -> Agreement:
    """Runs both over all images.

    Args:
        model: the model's label maps.
        exported: the exported file's.
        batches: lists of batches; within a batch all images have one size.
        facts: of the data.
        num_images: in `batches`, for the progress bar.
    """
    matrices = [ConfusionMatrix(facts.num_classes, facts.ignore_index) for _ in range(2)]
    same = pixels = images = 0
    with Progress("compare", num_images, unit="img", line_every=None, transient=True) as progress:
        for batch in (batch for group in batches for batch in group):
            maps = [predict(batch.images).cpu().long() for predict in (model, exported)]
            for matrix, labels in zip(matrices, maps, strict=True):
                matrix.update(labels, batch.labels.long())
            same += int((maps[0] == maps[1]).sum())
            pixels += maps[0].numel()
            images += len(batch.names)
            progress.advance(len(batch.names))
    return Agreement(same, pixels, images, *matrices)


def failing_sizes(model: Labels, exported: Labels, in_channels: int, min_agreement: float) -> list[str]:
    """Numbers and sizes of images (`TRIED`) at which the two differ, or the exported file fails, each with the reason.

    The images are noise, seeded.
    """
    failing = []
    for number, height, width in TRIED:
        images = torch.randint(
            256, (number, in_channels, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        expected = model(images)
        try:
            given = exported(images)
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:150]
        else:
            if given.shape == expected.shape and float((given == expected).double().mean()) >= min_agreement:
                continue
            reason = "another result"
        failing.append(f"{number} of {height}x{width} ({reason})")
    return failing
