"""One channel of logits that whoever comes after the model sees as two."""

import copy

import pytest
import torch
from torch import nn

from segtrain.errors import ConfigError
from segtrain.models.adapt import ModelOptions, adapt
from segtrain.models.auxiliary import AuxiliaryOptions
from segtrain.models.base import SegmentationModel
from segtrain.models.binary import give_two_logits
from segtrain.types import ModelOutput


class Head(SegmentationModel):
    """A classifier on the deepest feature."""

    def __init__(self, backbone, num_classes):
        super().__init__(backbone, num_classes)
        self.classifier = nn.Conv2d(backbone.deepest.channels, num_classes, 1)

    def decode(self, features, size):
        return self.classifier(features[self.backbone.deepest.name])


class Foreign(nn.Module):
    """A model that knows nothing of segtrain but the type of its output."""

    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(3, num_classes, 1)

    def forward(self, images):
        return ModelOutput(self.layer(images), {})


def build(tiny_backbone, num_classes=1):
    torch.manual_seed(0)
    model = Head(tiny_backbone(), num_classes)
    adapt(model, ModelOptions(), {"side": AuxiliaryOptions(feature="early", weight=0.4, head="fcn", dropout=0.0)})
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 17, 21, generator=torch.Generator().manual_seed(0))


def test_every_output_becomes_0_and_the_logit(tiny_backbone, images):
    plain, binary = build(tiny_backbone), build(tiny_backbone)
    give_two_logits(binary)
    one, two = plain.train()(images), binary.train()(images)
    for z, logits in zip((one.logits, one.aux["side"]), (two.logits, two.aux["side"]), strict=True):
        assert z.shape == (2, 1, 17, 21)
        assert torch.equal(logits, torch.cat([torch.zeros_like(z), z], dim=1))


def test_softmax_of_the_two_is_the_sigmoid_of_the_one():
    z = torch.linspace(-30, 30, 101).view(1, 1, 1, -1)
    model = nn.Module()
    model.forward = lambda images: ModelOutput(images, {})
    give_two_logits(model)
    probabilities = model(z).logits.softmax(dim=1)
    torch.testing.assert_close(probabilities[:, 1:], z.sigmoid(), rtol=1e-6, atol=0)


def test_names_attributes_and_class_of_the_model_stay(tiny_backbone):
    plain, binary = build(tiny_backbone), build(tiny_backbone)
    give_two_logits(binary)
    assert list(binary.state_dict()) == list(plain.state_dict())
    binary.load_state_dict(plain.state_dict())
    assert type(binary) is Head
    assert binary.aux_weights == {"side": 0.4}


def test_the_gradient_is_that_of_the_logit(tiny_backbone, images):
    plain, binary = build(tiny_backbone), build(tiny_backbone)
    give_two_logits(binary)
    (plain(images).logits ** 2).sum().backward()
    (binary(images).logits ** 2).sum().backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, binary.get_parameter(name).grad), name


def test_a_copy_of_the_model_gives_two_logits_too(tiny_backbone, images):
    model = build(tiny_backbone).eval()
    give_two_logits(model)
    assert torch.equal(copy.deepcopy(model)(images).logits, model(images).logits)
    assert copy.deepcopy(model)(images).logits.shape[1] == 2


def test_it_compiles_with_the_model_as_one_graph(tiny_backbone, images):
    model = build(tiny_backbone).eval()
    give_two_logits(model)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)(images).logits
        torch.testing.assert_close(compiled, model(images).logits)


def test_low_precision_stays_as_it_is(tiny_backbone, images):
    model = build(tiny_backbone)
    give_two_logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(images).logits.dtype == torch.bfloat16


def test_a_model_that_is_no_segmentation_model_will_do(images):
    model = Foreign(num_classes=1)
    give_two_logits(model)
    assert torch.equal(model(images).logits[:, 1:], model.layer(images))


def test_a_model_of_two_channels_is_refused_by_name(images):
    model = Foreign(num_classes=2)
    give_two_logits(model)
    with pytest.raises(ConfigError, match=r"^model: Foreign gives 2 channels of logits; with data.task=binary"):
        model(images)
