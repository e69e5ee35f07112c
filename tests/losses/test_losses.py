"""What every loss over logits and labels holds."""

import pytest
import torch

from segtrain.losses import CrossEntropy, Dice, WeightedSum

IGNORE = 255


def make_sum():
    return WeightedSum(
        {
            "cross_entropy": {"weight": 1.0, "loss": CrossEntropy(4, IGNORE, class_weights=None, label_smoothing=0.1)},
            "dice": {"weight": 0.5, "loss": Dice(4, IGNORE, smooth=1.0)},
        }
    )


LOSSES = {
    "cross_entropy": lambda: CrossEntropy(4, IGNORE, class_weights=None, label_smoothing=0.1),
    "weighted_cross_entropy": lambda: CrossEntropy(4, IGNORE, class_weights=[1.0, 2.0, 3.0, 0.0], label_smoothing=0.1),
    "dice": lambda: Dice(4, IGNORE, smooth=0.0),
    "smooth_dice": lambda: Dice(4, IGNORE, smooth=1.0),
    "sum": make_sum,
}


@pytest.fixture(params=LOSSES)
def loss(request):
    return LOSSES[request.param]()


def batch(num_images=2):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(num_images, 4, 6, 5, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (num_images, 6, 5), generator=generator)
    labels[:, 1] = IGNORE
    return logits, labels


def test_all_ignored_gives_exactly_0_with_a_graph(loss):
    logits, labels = batch()
    value = loss(logits, torch.full_like(labels, IGNORE))
    value.backward()
    assert value.item() == 0
    assert logits.grad.eq(0).all()


def test_ignored_pixels_change_nothing_and_get_no_gradient(loss):
    logits, labels = batch()
    value = loss(logits, labels)
    value.backward()
    assert logits.grad[:, :, 1].eq(0).all()
    other = logits.detach().clone()
    other[:, :, 1] += 10
    torch.testing.assert_close(loss(other, labels), value)


def test_autocast_does_not_change_the_value(loss):
    logits, labels = batch()
    expected = loss(logits, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert value == expected


def test_large_half_precision_maps_stay_finite(loss):
    logits = torch.full((1, 4, 1024, 1024), 8.0, dtype=torch.float16)
    assert loss(logits, torch.zeros(1, 1024, 1024, dtype=torch.uint8)).isfinite()


def test_batch_of_one(loss):
    assert loss(*batch(num_images=1)).isfinite()


def test_gradient_is_that_of_finite_differences(loss):
    logits, labels = batch(num_images=1)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    loss(logits, labels).backward()
    with torch.no_grad():
        slope = (loss(logits + 1e-2 * direction, labels) - loss(logits - 1e-2 * direction, labels)) / 2e-2
    torch.testing.assert_close((logits.grad * direction).sum(), slope, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (1, 6, 5), (2, 5, 6)])
def test_labels_of_another_shape_are_refused(loss, shape):
    with pytest.raises(ValueError, match="expected"):
        loss(batch()[0], torch.zeros(shape, dtype=torch.int64))
