"""Auxiliary heads on the stages of a decoder."""

import copy

import pytest
import torch

from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.errors import ConfigError
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.fcdensenet import FCDenseNet
from segtrain.models.unet import UNet

STRIDES = (8, 4, 2, 1)


def encoder():
    return UNetEncoder(3, channels=[4, 8, 8, 8, 16], batch_norm=True, dropout=0.0, residual=False)


def unet(batch_norm=True, residual=False):
    torch.manual_seed(0)
    options = {"attention": False, "residual": residual, "head_kernel_size": 1}
    return UNet(encoder(), 3, [12, 10, 8, 6], "bilinear", batch_norm, **options)


def fcdensenet():
    torch.manual_seed(0)
    return FCDenseNet(encoder(), 3, growth_rate=4, layers=[2, 2, 1, 1], bottleneck_channels=6, dropout=0.0)


def supervised(model, feature="decoder4", head="linear"):
    adapt(model, ModelOptions(), {"side": AuxiliaryOptions(feature=feature, weight=0.5, head=head, dropout=0.0)})
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("build", [unet, fcdensenet])
@pytest.mark.parametrize("stride", STRIDES)
def test_a_head_reads_the_stage_of_its_stride(build, stride, images):
    model = supervised(build(), f"decoder{stride}").train()
    stages = dict(zip(STRIDES, model.decoder, strict=True))
    seen = {}
    stages[stride].register_forward_hook(lambda stage, inputs, output: seen.update(given=output.clone()))
    output = model(images)
    head = model.auxiliary["side"]
    assert seen["given"].shape[2:] == (-(-17 // stride), -(-21 // stride))
    expected = torch.nn.functional.interpolate(head(seen["given"]), (17, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output.aux["side"], expected)


@pytest.mark.parametrize("build", [unet, fcdensenet])
@pytest.mark.parametrize("head", ["fcn", "linear", "googlenet"])
def test_the_logits_are_those_without_the_head(build, head, images):
    plain = build()
    with_head = supervised(copy.deepcopy(plain), head=head)
    assert torch.equal(with_head.train()(images).logits, plain.train()(images).logits)
    assert with_head.eval()(images).aux == {}


@pytest.mark.parametrize(("batch_norm", "residual"), [(True, False), (False, False), (True, True), (False, True)])
def test_its_gradient_reaches_what_is_below_and_nothing_above(batch_norm, residual, images):
    model = supervised(unet(batch_norm, residual)).train()
    model(images).aux["side"].square().mean().backward()
    reached = [any(p.grad is not None and p.grad.any() for p in stage.parameters()) for stage in model.decoder]
    assert reached == [True, True, False, False]  # strides 8, 4 | 2, 1
    assert model.backbone.get_parameter(next(name for name, _ in model.backbone.named_parameters())).grad.any()


def test_parameters_keep_their_names():
    names = set(unet().state_dict())
    added = set(supervised(unet()).state_dict()) - names
    assert added == {"auxiliary.side.classifier.weight", "auxiliary.side.classifier.bias"}


def test_in_evaluation_no_stage_is_kept(images):
    model = supervised(unet()).eval()
    features = model.encode(images)
    before = set(features)
    model.decode(features, (17, 21))
    assert set(features) == before


def test_a_stage_that_is_not_there_is_named_beside_those_that_are():
    with pytest.raises(
        ConfigError, match=r"^model.aux.side: UNetEncoder has no feature called 'decoder16'.*decoder8, "
    ):
        supervised(unet(), "decoder16")
