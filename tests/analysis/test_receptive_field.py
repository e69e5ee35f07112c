"""Receptive fields: what the arithmetic says a value sees is what gradients of a real backward pass say."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3

from segtrain.analysis.receptive_field import SIZES, FieldTracer, receptive_fields
from segtrain.analysis.spans import NOTHING, read
from segtrain.backbones.base import Backbone
from segtrain.backbones.resnet import ResNet
from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.models.base import SegmentationModel
from segtrain.models.deeplabv2 import DeepLabV2
from segtrain.models.fcn import FCN
from segtrain.models.unet import UNet
from segtrain.nn.deformable import make_deformable
from segtrain.types import Feature


class Window(NamedTuple):
    """Rows and columns of the image, both ends included."""

    top: int
    bottom: int
    left: int
    right: int


class Do(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def positive(net: nn.Module) -> nn.Module:
    """With positive weights and no bias, so that on positive images ReLUs are open and no two paths cancel."""
    for name, parameter in net.named_parameters():
        fan_in = max(1, parameter[0].numel())
        nn.init.uniform_(parameter, 0.5 / fan_in, 1 / fan_in)
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)  # of a norm
    return net.double().eval()


@pytest.fixture
def every_pixel_of_a_window_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Averages for maxima, whose gradient goes to the largest pixel alone."""

    def average(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)

    monkeypatch.setattr(F, "max_pool2d", average)


def seen_by_gradients(out: Tensor, images: Tensor, row: int, column: int) -> Window | None:
    """The smallest window that holds every pixel whose gradient is not zero; None where there is none."""
    [gradient] = torch.autograd.grad(out[:, :, row, column].sum(), images, retain_graph=True, allow_unused=True)
    rows, columns = torch.nonzero(gradient.abs().sum(dim=(0, 1)), as_tuple=True)
    if len(rows) == 0:
        return None
    return Window(int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))


def seen_by_arithmetic(tracer: FieldTracer, out: Tensor, size: tuple[int, int], row: int, column: int) -> Window | None:
    """What the values at one position of `out` see of an image of `size`, likewise."""
    ends: list[int] = []
    for spans, length in zip(tracer.field(out), size, strict=True):
        here = read(read(spans, 2, np.array([row])), 3, np.array([column]))
        minus_first, last, _ = here.reshape(3, -1).max(axis=1)
        if last == NOTHING:
            return None
        ends += [max(0, -int(minus_first)), min(length - 1, int(last))]
    return Window(*ends)


def outputs(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    given = net(images)
    if isinstance(given, Tensor):
        return {"out": given}
    return given if isinstance(given, dict) else {"logits": given.logits}


def assert_agree(net: nn.Module, size: tuple[int, int], every: int = 1) -> None:
    """Arithmetic and gradients, at every position of every output (every `every`-th, and the last)."""
    torch.manual_seed(0)
    net, images = positive(net), torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    real = outputs(net, images)
    with torch.no_grad(), FieldTracer() as tracer:
        traced = outputs(net.to("meta"), tracer.image(torch.empty(1, 3, *size, dtype=torch.float64, device="meta")))
    assert tracer.unknown == []
    assert real
    for name, out in real.items():
        height, width = out.shape[-2:]
        assert traced[name].shape == out.shape
        for row in {*range(0, height, every), height - 1}:
            for column in {*range(0, width, every), width - 1}:
                wanted = seen_by_gradients(out, images, row, column)
                assert seen_by_arithmetic(tracer, traced[name], size, row, column) == wanted, (name, row, column)


def attention_in_windows(x: Tensor) -> Tensor:
    """Windows of 4x3 positions: partition, attention of each position to all of its window, and back."""
    n, c, h, w = x.shape
    windows = x.permute(0, 2, 3, 1).view(n, h // 4, 4, w // 3, 3, c).transpose(2, 3).reshape(-1, 1, 12, c)
    attended = F.scaled_dot_product_attention(windows, windows, windows)
    return attended.view(n, h // 4, w // 3, 4, 3, c).transpose(2, 3).reshape(n, h, w, c).permute(0, 3, 1, 2)


def shuffled(x: Tensor) -> Tensor:
    """Two halves of the channels, one of which has seen more, dealt out alternately."""
    n, c, h, w = x.shape
    near, far = x.chunk(2, dim=1)
    return torch.cat([near, F.avg_pool2d(far, 5, 1, 2)], 1).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(x.shape)


NETS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)),
    "strided": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 2, 2)),
    "dilated": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=3, dilation=3)),
    "oblong": lambda: nn.Conv2d(3, 4, (1, 5), (2, 3), (0, 1), (1, 2)),
    "average pooling": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.AvgPool2d(3, 2, ceil_mode=True)),
    "transposed": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 2, 4, 2, 1)),
    "transposed with holes": lambda: nn.ConvTranspose2d(3, 2, 2, stride=3, padding=1, output_padding=1),
    "transposed dilated": lambda: nn.ConvTranspose2d(3, 2, 3, 2, 1, output_padding=1, dilation=2),
    "BatchNorm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.Hardswish(inplace=True)),
    "bilinear": lambda: nn.Sequential(
        nn.Conv2d(3, 3, 3, 2, 1), Do(lambda x: F.interpolate(x, (17, 22), mode="bilinear"))
    ),
    "bilinear by a factor": lambda: Do(lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear")),
    "bilinear corners": lambda: Do(lambda x: F.interpolate(x, (23, 9), mode="bilinear", align_corners=True)),
    "nearest": lambda: Do(lambda x: F.interpolate(x[..., ::2, 1::3], (19, 21))),
    "padded": lambda: nn.Sequential(nn.ZeroPad2d((2, 1, 0, -3)), nn.Conv2d(3, 2, 3)),
    "padded with copies": lambda: nn.Sequential(
        nn.ReplicationPad2d(2), nn.ReplicationPad2d((3, 1, 0, -2)), nn.Conv2d(3, 2, 3)
    ),
    "rolled": lambda: Do(lambda x: torch.roll(x, (3, -2), (2, 3))),
    "joined": lambda: Do(lambda x: torch.cat([x[..., 4:], F.avg_pool2d(x[..., :6], 3, 1, 1)], dim=3)),
    "stacked": lambda: Do(lambda x: torch.stack([x, F.avg_pool2d(x, 3, 1, 1)]).sum(dim=0)),
    "multiplied": lambda: Do(lambda x: x * F.avg_pool2d(x, (3, 1), 1, (1, 0)).mean(dim=1, keepdim=True)),
    "squeeze and excitation": lambda: Do(lambda x: x * F.adaptive_avg_pool2d(x, 1)),
    "strips": lambda: Do(lambda x: x + x.mean(dim=3, keepdim=True)),
    "shuffled channels in groups": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), Do(shuffled), Do(shuffled), nn.Conv2d(4, 4, 3, groups=4), Do(lambda x: x[:, 1:3])
    ),
    "LayerNorm and linear": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 4, 4), Do(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(6), nn.Linear(6, 5), nn.GELU(),
        Do(lambda x: x.permute(0, 3, 1, 2)),
    ),
    "unbound": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), Do(lambda x: torch.stack(shuffled(x).unbind(1)[2:], 1))),
    "attention in windows": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Do(attention_in_windows)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_every_position_sees_what_its_gradient_says(name: str):
    assert_agree(NETS[name](), (16, 15))


@pytest.mark.usefixtures("every_pixel_of_a_window_counts")
@pytest.mark.parametrize("output_stride", [8, 32])
def test_every_feature_of_resnet18_sees_what_its_gradient_says(output_stride: int):
    net = ResNet(3, "resnet18", None, output_stride, **RESNET)
    assert_agree(net, (97, 66), every=9)


def little_resnet(output_stride: int) -> ResNet:
    net = ResNet(3, "resnet18", None, output_stride, **RESNET)
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        del stage[1]
    return net


@pytest.mark.usefixtures("every_pixel_of_a_window_counts")
def test_the_logits_of_deeplabv2_see_what_their_gradient_says():
    model = DeepLabV2(little_resnet(8), 2, [1, 2, 4], branch_channels=None, dropout=0.0, scales=[1.0])
    assert_agree(model, (73, 58), every=8)


@pytest.mark.usefixtures("every_pixel_of_a_window_counts")
def test_the_logits_of_fcn_see_what_their_gradient_says():
    model = FCN(little_resnet(32), 2, 8, upsampling="learned", final_upsampling="learned", skip_scales=[1.0, 1.0])
    assert_agree(model, (73, 58), every=8)


@pytest.mark.usefixtures("every_pixel_of_a_window_counts")
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear", "nearest"])
def test_the_logits_of_unet_see_what_their_gradient_says(upsampling: str):
    assert_agree(unet([4, 4, 4, 4], upsampling), (73, 58), every=8)


RESNET = {
    "dilate_strided": False, "multi_grid": None, "deformable_stages": [], "deformable_version": 2
}  # fmt: skip


def unet(channels: list[int], upsampling: str) -> UNet:
    backbone = UNetEncoder(3, channels, batch_norm=True, residual=False, dropout=0.0)
    return UNet(
        backbone, 2, channels[-2::-1], upsampling, batch_norm=True, head_kernel_size=1, attention=False, residual=False
    )


def trace(net: nn.Module, size: tuple[int, int] = (64, 64)) -> tuple[FieldTracer, Tensor]:
    with torch.no_grad(), FieldTracer() as tracer:
        out = net.to("meta")(tracer.image(torch.empty(1, 3, *size, device="meta")))
    return tracer, out


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pooling_sees_the_windows_of_average_pooling(ceil_mode: bool):
    tracers = [trace(nn.Sequential(nn.Conv2d(3, 3, 3), pool(3, 2, 1, ceil_mode=ceil_mode))) for pool in
               (nn.MaxPool2d, nn.AvgPool2d)]  # fmt: skip
    for row in range(31):
        windows = {seen_by_arithmetic(tracer, out, (64, 64), row, 30 - row) for tracer, out in tracers}
        assert len(windows) == 1


class Encoder(Backbone):
    """Any layers as a backbone of one feature."""

    def __init__(self, layers: nn.Module, channels: int, stride: int) -> None:
        super().__init__(3, [Feature("deep", channels, stride)])
        self.layers = layers

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"deep": self.layers(images)}


class Head(SegmentationModel):
    """A 1x1 classifier."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone, 2)
        self.classifier = nn.Conv2d(backbone.deepest.channels, 2, 1)

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return self.classifier(features["deep"])


def field_of(layers: nn.Module, channels: int = 3, stride: int = 1, size: tuple[int, int] = (64, 64)):
    with torch.device("meta"):
        model = Head(Encoder(layers, channels, stride)).to("meta")
    fields, unknown = receptive_fields(model, 3, size)
    return fields["deep"], unknown


def test_a_field_larger_than_the_first_image_is_measured_on_a_larger_one():
    layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=999, dilation=999), nn.Conv2d(3, 3, (1, 3), padding=(0, 1)))
    assert field_of(layers)[0] == (1999, 2001)


def test_a_field_larger_than_the_largest_image_is_given_as_a_bound():
    field, _ = field_of(nn.Conv2d(3, 3, 3, padding=SIZES[-1], dilation=SIZES[-1] - 1))
    assert field == (">= 1", ">= 1")


def test_a_network_for_images_of_one_size_is_looked_at_in_that_size():
    class LearnedPositions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(1, 3, 32, 48))

        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool2d(x + self.positions, 5, 1, 2)

    assert field_of(LearnedPositions(), size=(32, 48))[0] == (5, 5)


def test_published_receptive_fields():
    """Araujo et al. 2019, table of receptive fields: VGG-16 212, Inception v3 1311."""
    configuration = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
    layers: list[nn.Module] = []
    channels = 3
    with torch.device("meta"):
        for width in configuration:
            layers += [nn.MaxPool2d(2) if width == "M" else nn.Conv2d(channels, width, 3, padding=1)]
            channels = channels if width == "M" else width
        inception = inception_v3(init_weights=False, aux_logits=True)
        mixed = [
            layer for name, layer in inception.named_children() if name not in ("AuxLogits", "avgpool", "fc", "dropout")
        ]
    assert field_of(nn.Sequential(*layers), 512, 32)[0] == (212, 212)
    assert field_of(nn.Sequential(*mixed), 2048, 32)[0] == (1311, 1311)


WHOLE_IMAGE = {
    "global pooling": lambda: Do(lambda x: x * F.adaptive_avg_pool2d(x, 1)),
    "pooling to a grid": lambda: Do(
        lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 6), x.shape[-2:], mode="bilinear")
    ),
    "GroupNorm": lambda: nn.GroupNorm(1, 3),
    "BatchNorm in training": lambda: nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)),
    "attention": lambda: Do(lambda x: attend(x[..., ::64, ::64])),
}


def attend(x: Tensor) -> Tensor:
    tokens = x.reshape(1, 1, 3, -1).transpose(2, 3)  # one head
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(2, 3).reshape(x.shape)


@pytest.mark.parametrize("name", WHOLE_IMAGE)
def test_what_reads_all_positions_sees_the_whole_image(name: str):
    field, unknown = field_of(WHOLE_IMAGE[name]())
    assert (field, unknown) == (("whole image", "whole image"), [])


def test_a_mean_over_each_row_sees_whole_rows_only():
    assert field_of(NETS["strips"]())[0] == (1, "whole image")


def test_deformable_convolution_reads_where_it_has_learned_to():
    stage = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1))
    make_deformable(stage, 2)
    assert field_of(stage, stride=2)[0] == ("adaptive", "adaptive")
    assert field_of(nn.Sequential(nn.GroupNorm(1, 3), stage), stride=2)[0] == ("whole image", "whole image")


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x.cumsum(2), "cumsum"),
        (lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[-2:], 3, padding=1), "im2col"),
        (lambda x: assigned_in_part(x), "copy_"),
        (lambda x: added_in_part(x), "add_ on a view"),
    ],
)
def test_an_operation_without_a_rule_makes_what_follows_unknown_and_is_named(function, named: str):
    field, unknown = field_of(Do(function))
    assert field == ("unknown", "unknown")
    assert unknown[0] == named


def assigned_in_part(x: Tensor) -> Tensor:
    result = torch.zeros(x.shape, device=x.device)
    result[..., ::2] = x[..., ::2]
    return result


def added_in_part(x: Tensor) -> Tensor:
    result = x + 1
    result[..., :-1] += F.avg_pool2d(x, 3, 1, 1)[..., :-1]
    return result
