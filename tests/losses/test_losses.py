"""What every loss over logits and labels holds: each YAML in configs/loss, and some with other options."""

from functools import cache

import pytest
import torch

from segtrain.build import Builder
from segtrain.compose import run_command
from segtrain.config_tree import find_groups
from segtrain.construct import Slot
from segtrain.losses import CrossEntropy, Dice, Focal, LovaszHinge, LovaszSoftmax, OhemCrossEntropy, Tversky

IGNORE = 255
WEIGHTS = [1.0, 2.0, 3.0, 0.0]

LOSSES = {
    "weighted_cross_entropy": lambda: CrossEntropy(4, IGNORE, class_weights=WEIGHTS, label_smoothing=0.1),
    "ohem_of_few": lambda: OhemCrossEntropy(4, IGNORE, class_weights=None, threshold=0.2, min_kept=3),
    "weighted_ohem": lambda: OhemCrossEntropy(4, IGNORE, class_weights=WEIGHTS, threshold=0.5, min_kept=1),
    "weighted_focal": lambda: Focal(4, IGNORE, class_weights=WEIGHTS, gamma=0.5),
    "plain_dice": lambda: Dice(4, IGNORE, smooth=0.0),
    "square_tversky": lambda: Tversky(4, IGNORE, alpha=0.0, beta=2.0, exponent=2.0, smooth=0.0),
    "lovasz_softmax_per_image": lambda: LovaszSoftmax(4, IGNORE, per_image=True),
    "lovasz_hinge_per_image": lambda: LovaszHinge(4, IGNORE, per_image=True),
}


@cache
def from_yaml(option, ignore_index=IGNORE, num_classes=4):
    composed = []
    assert run_command("train", [f"loss={option}"], lambda job: composed.append(job.config)) == 0
    node = Builder(composed[0]).section("loss")
    return Slot("loss", node, torch.nn.Module, {"num_classes": num_classes, "ignore_index": ignore_index}).build()


@pytest.fixture(params=[*find_groups()["loss"], *LOSSES], scope="module")
def loss(request):
    return LOSSES[request.param]() if request.param in LOSSES else from_yaml(request.param)


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
    other[:, :, 1] += 10 * torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loss(other, labels), value)


def test_an_image_without_a_valid_pixel_changes_nothing(loss):
    logits, labels = batch()
    labels[1] = IGNORE
    torch.testing.assert_close(loss(logits, labels), loss(logits[:1], labels[:1]))


@pytest.mark.parametrize("option", find_groups()["loss"])
def test_the_ignored_label_may_be_the_index_of_a_class(option):
    logits, labels = batch()
    expected = from_yaml(option)(logits, labels.where(labels != 2, IGNORE))
    assert from_yaml(option, ignore_index=2)(logits, labels.where(labels != IGNORE, 2)) == expected


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype(loss, dtype):
    logits, labels = batch()
    assert loss(logits, labels.to(dtype)) == loss(logits, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_with_in_float32(loss, dtype):
    logits, labels = batch()
    half = logits.detach().to(dtype).requires_grad_()
    value = loss(half, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert value == loss(half.detach().float(), labels)
    assert half.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_does_not_change_the_value(loss, dtype):
    logits, labels = batch()
    expected = loss(logits, labels)
    with torch.autocast("cpu", dtype=dtype):
        value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert value == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sign", [1, -1], ids=["right", "wrong"])
def test_extreme_logits_give_a_finite_value_and_gradient(loss, sign, dtype):
    _, labels = batch()
    right = torch.nn.functional.one_hot(labels % 4, 4).permute(0, 3, 1, 2) * 2 - 1
    logits = (sign * 1e4 * right).to(dtype).requires_grad_()
    value = loss(logits, labels)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_large_half_precision_maps_stay_finite(loss):
    logits = torch.full((1, 4, 512, 512), 8.0, dtype=torch.float16)
    assert loss(logits, torch.zeros(1, 512, 512, dtype=torch.uint8)).isfinite()


def test_batch_of_one(loss):
    assert loss(*batch(num_images=1)).isfinite()


@pytest.mark.parametrize("num_images", [1, 2])
def test_images_of_one_pixel(loss, num_images):
    logits = torch.linspace(-1, 1, 4 * num_images).view(num_images, 4, 1, 1).requires_grad_()
    labels = torch.tensor([2, IGNORE][:num_images]).view(-1, 1, 1)
    value = loss(logits, labels)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert loss(logits, torch.full_like(labels, IGNORE)) == 0


def test_a_class_without_a_pixel_leaves_value_and_gradient_finite(loss):
    logits, labels = batch()
    value = loss(logits, labels.where(labels == IGNORE, labels % 2))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


def test_gradient_is_that_of_finite_differences(loss):
    logits, labels = batch(num_images=1)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    loss(logits, labels).backward()
    with torch.no_grad():
        slope = (loss(logits + 1e-3 * direction, labels) - loss(logits - 1e-3 * direction, labels)) / 2e-3
    # Where two errors change places (Lovasz) the slope jumps: as small a step as float32 allows, and some tolerance.
    # Each loss's own test compares its gradient with autograd's in float64.
    torch.testing.assert_close((logits.grad * direction).sum(), slope, rtol=5e-3, atol=3e-4)


@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (1, 6, 5), (2, 5, 6)])
def test_labels_of_another_shape_are_refused(loss, shape):
    with pytest.raises(ValueError, match="expected"):
        loss(batch()[0], torch.zeros(shape, dtype=torch.int64))


# A binary task: the model's one logit z arrives as [0, z].


@pytest.fixture(params=find_groups()["loss"], scope="module")
def binary_loss(request):
    return from_yaml(request.param, num_classes=2)


def binary_batch(num_images=2):
    generator = torch.Generator().manual_seed(4)
    z = 2 * torch.randn(num_images, 1, 6, 5, generator=generator)
    labels = torch.randint(0, 2, (num_images, 6, 5), generator=generator)
    labels[:, 1] = IGNORE
    return z.requires_grad_(), labels


def two(z):
    return torch.cat([torch.zeros_like(z), z], dim=1)


@pytest.mark.parametrize("num_images", [1, 2])
def test_binary_only_the_difference_of_the_logits_matters(binary_loss, num_images):
    z, labels = binary_batch(num_images)
    value = binary_loss(two(z), labels)
    torch.testing.assert_close(binary_loss(torch.cat([-z / 2, z / 2], dim=1), labels), value)
    torch.testing.assert_close(binary_loss(two(z) - 3, labels), value)


def test_binary_a_step_down_the_gradient_lowers_the_loss(binary_loss):
    z, labels = binary_batch()
    binary_loss(two(z), labels).backward()
    assert z.grad.isfinite().all()
    assert z.grad[:, 0][labels == IGNORE].eq(0).all()
    with torch.no_grad():
        assert binary_loss(two(z - 1e-2 * z.grad / z.grad.norm()), labels) < binary_loss(two(z), labels)


def test_binary_all_ignored_gives_exactly_0_with_a_graph(binary_loss):
    z, labels = binary_batch()
    value = binary_loss(two(z), torch.full_like(labels, IGNORE))
    value.backward()
    assert value.item() == 0
    assert z.grad.eq(0).all()


@pytest.mark.parametrize("only", [0, 1], ids=["no foreground", "no background"])
def test_binary_one_of_the_classes_may_be_absent(binary_loss, only):
    z, labels = binary_batch()
    value = binary_loss(two(z), torch.full_like(labels, only))
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sign", [1, -1], ids=["right", "wrong"])
def test_binary_extreme_logits_give_a_finite_value_and_gradient(binary_loss, sign, dtype):
    _, labels = binary_batch()
    z = (sign * 1e4 * (2.0 * (labels == 1) - 1)).unsqueeze(1).to(dtype).requires_grad_()
    value = binary_loss(two(z), labels)
    value.backward()
    assert value.isfinite()
    assert z.grad.isfinite().all()
