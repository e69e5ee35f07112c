"""What the tests of single losses share: batches, and the comparison with a reference in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segtrain.losses import SegmentationLoss

IGNORE = 255
Reference = Callable[[Tensor, Tensor], Tensor]


def make_batch(num_images: int, num_classes: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits and labels with ignored pixels, of classes in blobs, so that regions have an inside."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_images, num_classes, height, width, generator=generator)
    coarse = torch.randint(0, num_classes, (num_images, 1, 3, 3), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, (height, width))[:, 0].long()
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return logits, labels


@pytest.fixture(params=["batch", "image", "absent class", "ignored image", "pixel", "two classes"])
def case(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    """Logits and labels in which something is unusual."""
    if request.param == "image":
        return make_batch(1, 4, 7, 9, seed=1)
    if request.param == "pixel":
        return make_batch(1, 4, 1, 1, seed=2)[0], torch.tensor([[[3]]])
    if request.param == "two classes":
        return make_batch(2, 2, 8, 5, seed=3)
    logits, labels = make_batch(3, 4, 7, 9, seed=4)
    if request.param == "absent class":
        labels[labels == 1] = 3
    if request.param == "ignored image":
        labels[1] = IGNORE
    return logits, labels


@pytest.fixture
def check_reference() -> Callable[..., None]:
    """`check(loss, reference, logits, labels)`: value and gradient within 1e-6 of the reference's in float64."""

    def check(loss: SegmentationLoss, reference: Reference, logits: Tensor, labels: Tensor) -> None:
        ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
        value, expected = loss(ours, labels), reference(exact, labels)
        value.backward()
        expected.backward()
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)

    return check
