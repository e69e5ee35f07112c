"""VGG: torchvision's convolutions, and its fully connected layers as convolutions."""

import pytest
import torch
from torch import nn
from torchvision.models import vgg as torchvisions

from segtrain.backbones.vgg import VGG, decimate
from segtrain.errors import CheckpointError, ConfigError
from segtrain.nn.norm import convert_norm

DEFAULTS = {
    "in_channels": 3,
    "name": "vgg11",
    "weights": None,
    "output_stride": 32,
    "dilate_strided": False,
    "multi_grid": None,
    "taps": "conv",
    "pool_kernel_size": 2,
    "fc_channels": None,
    "fc_kernel_size": 7,
    "fc_dilation": 1,
    "fc_dropout": 0.5,
}


def vgg(**options):
    return VGG(**DEFAULTS | options)


def num_parameters(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in vgg(**options).parameters())


def published(batch_norm=False, fc_channels=16):
    """torchvision's VGG-11, with a classifier of fewer units than the published 4096."""
    torch.manual_seed(0)
    net = nn.Module()
    net.features = torchvisions.make_layers(torchvisions.cfgs["A"], batch_norm)
    net.classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, fc_channels),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(fc_channels, fc_channels),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(fc_channels, 10),
    )
    return net


@pytest.fixture(scope="module")
def net(as_trained):
    return as_trained(published())


@pytest.fixture(scope="module")
def saved(net, save):
    return save(net)


@pytest.mark.parametrize("batch_norm", [False, True])
@torch.no_grad()
def test_features_are_torchvisions_maps_before_or_after_each_pooling(batch_norm, as_trained, save):
    net = as_trained(published(batch_norm))
    options = {"name": "vgg11_bn" if batch_norm else "vgg11", "weights": save(net)}
    x = images = torch.randn(2, 3, 64, 96)
    before, after = [], []
    for layer in net.features:
        before += [x] if isinstance(layer, nn.MaxPool2d) else []
        x = layer(x)
        after += [x] if isinstance(layer, nn.MaxPool2d) else []
    expected = {
        "conv": dict(zip(["conv1", "conv2", "conv3", "conv4", "conv5", "pool5"], [*before, x], strict=True)),
        "pool": dict(zip(["pool1", "pool2", "pool3", "pool4", "pool5"], after, strict=True)),
    }
    for taps, maps in expected.items():
        features = vgg(taps=taps, **options).eval()(images)
        assert list(features) == list(maps)
        assert all(torch.equal(features[name], maps[name]) for name in maps)


@torch.no_grad()
def test_fc7_in_the_middle_of_a_224_pixel_image_is_what_the_classifier_computes(net, saved):
    images = torch.randn(1, 3, 224, 224)
    backbone = vgg(weights=saved, taps="pool", fc_channels=16).eval()
    features = backbone(images)
    pool5 = net.features(images)
    assert features["fc7"].shape == (1, 16, 7, 7)
    torch.testing.assert_close(features["fc7"][..., 3, 3], net.classifier[:6](pool5.flatten(1)))


def test_smaller_fully_connected_layers_take_evenly_spaced_taps_and_channels(net, saved):
    fc6, _, _, fc7, _, _ = vgg(weights=saved, fc_channels=6, fc_kernel_size=3).net["classifier"]
    kernels = net.classifier[0].weight.view(16, 512, 7, 7)
    kept = [0, 3, 6, 9, 12, 15]
    assert torch.equal(fc6.weight, kernels[kept][..., [0, 3, 6], :][..., [0, 3, 6]])
    assert torch.equal(fc6.bias, net.classifier[0].bias[kept])
    assert torch.equal(fc7.weight[..., 0, 0], net.classifier[3].weight[kept][:, kept])


def test_decimation_by_hand():
    assert decimate(torch.arange(7.0), (4,)).tolist() == [0, 2, 4, 6]
    assert decimate(torch.arange(4096.0), (1024,)).diff().min() == 4
    assert decimate(torch.arange(3.0), (5,)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("options", [{"fc_channels": 32}, {"fc_channels": 16, "fc_kernel_size": 9}])
def test_weights_too_small_for_the_fully_connected_layers_are_refused(saved, options):
    with pytest.raises(CheckpointError, match=r"of another shape \(classifier.0.weight \[16, 512, 7, 7\]"):
        vgg(weights=saved, **options)


@pytest.mark.parametrize(
    ("key", "value"),
    [("classifier.0.weight", torch.zeros(16, 9)), ("classifier.3.weight", torch.zeros(())), ("extra", torch.ones(1))],
)
def test_a_file_of_another_network_is_refused_in_one_line(net, tmp_path, key, value):
    torch.save(net.state_dict() | {key: value}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=key):
        vgg(weights=str(tmp_path / "other.pth"), fc_channels=16)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("pool_kernel_size", [2, 3])
def test_dilated_maps_equal_the_strided_ones_at_the_strided_pixels(
    output_stride, pool_kernel_size, assert_dilated_equals_strided
):
    options = {"taps": "pool", "pool_kernel_size": pool_kernel_size, "fc_channels": 8}
    dilated = vgg(**options, output_stride=output_stride, fc_dilation=32 // output_stride)
    assert_dilated_equals_strided(vgg(**options), dilated)


def test_layers_after_a_lost_stride_are_dilated_but_fc6_only_as_told():
    backbone = vgg(output_stride=8, fc_channels=4, fc_kernel_size=3, fc_dilation=12)
    pool4, conv5_1, _, conv5_2, _, pool5 = backbone.net["features"][-6:]
    assert (pool4.dilation, conv5_1.dilation, conv5_2.dilation, pool5.dilation) == (1, (2, 2), (2, 2), 2)
    assert backbone.net["classifier"][0].dilation == (12, 12)


def test_multi_grid_is_a_factor_for_each_convolution_of_conv5():
    convolutions = [x for x in vgg(output_stride=8, multi_grid=[1, 3]).net["features"] if isinstance(x, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convolutions] == [1, 1, 1, 1, 1, 1, 2, 6]


def test_parameters_are_as_many_as_published():
    # arXiv:1411.4038, Table 1: 134 M; counted by hand: conv 14,714,688, fc6 102,764,544, fc7 16,781,312.
    assert num_parameters(name="vgg16") == 14_714_688
    assert num_parameters(name="vgg16", fc_channels=4096) == 14_714_688 + 102_764_544 + 16_781_312 == 134_260_544
    assert num_parameters(name="vgg19_bn") == 20_035_392


@pytest.mark.parametrize(
    ("fc_kernel_size", "fc_channels", "millions"), [(7, 4096, 134.3), (4, 4096, 65.1), (3, 1024, 20.5)]
)
def test_deeplabs_variants_have_the_parameters_of_its_table(fc_kernel_size, fc_channels, millions):
    # arXiv:1412.7062, Table 2; the classifier of 21 classes is not in the backbone.
    count = num_parameters(name="vgg16", fc_kernel_size=fc_kernel_size, fc_channels=fc_channels)
    assert (count + 21 * (fc_channels + 1)) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("kernel_size", [3, 4, 7])
def test_fc6_keeps_the_size_of_its_map(kernel_size):
    backbone = vgg(taps="pool", fc_channels=4, fc_kernel_size=kernel_size, fc_dilation=4, output_stride=8)
    features = backbone(torch.randn(1, 3, 33, 47))
    assert features["fc7"].shape[-2:] == features["pool5"].shape[-2:] == (5, 6)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_any_number_of_channels_goes_in(saved, in_channels):
    backbone = vgg(in_channels=in_channels, weights=saved)
    assert backbone(torch.randn(1, in_channels, 33, 33))["pool5"].shape == (1, 512, 2, 2)


def test_activation_checkpointing_changes_no_gradient(assert_recomputing_changes_no_gradient):
    assert_recomputing_changes_no_gradient(vgg(name="vgg11_bn", fc_channels=4), torch.randn(2, 3, 33, 47))


def test_norms_that_take_the_place_of_batchnorm_are_those_that_run():
    backbone = vgg(name="vgg11_bn")
    convert_norm(backbone, "group")
    backbone(torch.randn(1, 3, 32, 32))["pool5"].mean().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 4},
        {"multi_grid": [1, 2, 4]},
        {"fc_kernel_size": 0, "fc_channels": 4},
        {"fc_dilation": 0, "fc_channels": 4},
        {"fc_dropout": 1.0, "fc_channels": 4},
        {"fc_channels": 0},
    ],
)
def test_impossible_options_name_their_key(options):
    with pytest.raises(ConfigError, match=f"model.backbone.{next(iter(options))}="):
        vgg(**options)
