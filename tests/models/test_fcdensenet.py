"""FC-DenseNet: the published networks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from torch import nn

from segtrain.backbones.fcdensenet_encoder import FCDenseNetEncoder
from segtrain.errors import ConfigError
from segtrain.models.fcdensenet import FCDenseNet

CAMVID_CLASSES = 12


def encoder(layers, **options):
    return FCDenseNetEncoder(
        **{"in_channels": 3, "first_channels": 48, "growth_rate": 16, "layers": layers, "dropout": 0.2} | options
    )


def decoder(backbone, layers, **options):
    options = {"growth_rate": 16, "bottleneck_channels": backbone.deepest.channels, "dropout": 0.2} | options
    return FCDenseNet(backbone, **{"num_classes": CAMVID_CLASSES, "layers": layers} | options)


def small(dropout=0.0):
    """Two poolings, blocks of 2, 1, (3), 2, 1 layers, 4 maps each."""
    backbone = encoder([2, 1, 3], first_channels=5, growth_rate=4, dropout=dropout)
    return decoder(backbone, [2, 1], growth_rate=4, dropout=dropout)


class ReferenceTiramisu(nn.Module):
    """Figure 1 of arXiv:1611.09326 spelt out for `small`, each layer by itself; for sizes divisible by 4."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.down1a, self.down1b, self.transition1 = layer(5), layer(9), layer(13, 13, 1)
        self.down2a, self.transition2 = layer(13), layer(17, 17, 1)
        self.middle_a, self.middle_b, self.middle_c = layer(17), layer(21), layer(25)
        self.up2 = nn.ConvTranspose2d(12, 12, 3, stride=2, bias=False)
        self.up2a, self.up2b = layer(12 + 17), layer(12 + 17 + 4)
        self.up1 = nn.ConvTranspose2d(8, 8, 3, stride=2, bias=False)
        self.up1a = layer(8 + 13)
        self.out = nn.Conv2d(8 + 13 + 4, CAMVID_CLASSES, 1)

    def forward(self, images):
        x = self.first(images)
        x = torch.cat([x, self.down1a(x)], 1)
        skip1 = torch.cat([x, self.down1b(x)], 1)
        x = F.max_pool2d(self.transition1(skip1), 2)
        skip2 = torch.cat([x, self.down2a(x)], 1)
        x = F.max_pool2d(self.transition2(skip2), 2)
        a = self.middle_a(x)
        b = self.middle_b(torch.cat([x, a], 1))
        c = self.middle_c(torch.cat([x, a, b], 1))
        x = torch.cat([self.up2(torch.cat([a, b, c], 1))[..., :-1, :-1], skip2], 1)
        a = self.up2a(x)
        b = self.up2b(torch.cat([x, a], 1))
        x = torch.cat([self.up1(torch.cat([a, b], 1))[..., :-1, :-1], skip1], 1)
        return self.out(torch.cat([x, self.up1a(x)], 1))


def layer(in_channels, out_channels=4, kernel_size=3):
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(), conv)


def parts(model):
    """Layers of `small`, in the order in which the reference registers them."""
    (block1, block2), (transition1, transition2) = model.backbone.blocks, model.backbone.transitions
    up2, up1 = model.decoder
    return [
        *(model.backbone.stem, *block1.layers, transition1.conv, *block2.layers, transition2.conv),
        *(*model.backbone.bottleneck.layers, up2.up, *up2.block.layers, up1.up, *up1.block.layers, model.head),
    ]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_it_equals_a_plain_reference_with_the_same_weights(training):
    torch.manual_seed(0)
    model, reference = small().train(training), ReferenceTiramisu().train(training)
    for norm in (layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    for ours, theirs in zip(parts(model), reference.children(), strict=True):
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 12, 20)
    torch.testing.assert_close(model(images).logits, reference(images), atol=1e-5, rtol=1e-5)


@pytest.fixture
def model_from_yaml(backbone_named):
    def build(name):
        with initialize_config_module("segtrain.configs", version_base="1.3"):
            node = compose(overrides=[f"+model={name}"]).model
        own = {key: node[key] for key in ("growth_rate", "layers", "bottleneck_channels", "dropout")}
        return FCDenseNet(backbone_named(name), CAMVID_CLASSES, **own)

    return build


# Layers of Tables 1 and 2, with the numbers of parameters worked out from them; in brackets the paper's (Table 3).
# Theirs come out when BatchNorm's running statistics are counted, as the authors' code does (Lasagne's
# get_all_param_values). FC-DenseNet56 alone does not reach its number, with statistics or without, with biases or
# without: 4 layers of growth rate 12, 56 convolutions in all, are 1.4 M, not 1.5.
PUBLISHED = {
    "fcdensenet56": (12, [4] * 6, [4] * 5, 1_375_212, 1.4),  # (1.5)
    "fcdensenet67": (16, [5] * 6, [5] * 5, 3_460_764, 3.5),  # (3.5)
    "fcdensenet103": (16, [4, 5, 7, 10, 12, 15], [12, 10, 7, 5, 4], 9_318_332, 9.4),  # (9.4)
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_paper(name, model_from_yaml):
    growth_rate, down, up, learned, millions = PUBLISHED[name]
    with torch.device("meta"):
        model = model_from_yaml(name)
        by_hand = decoder(encoder(down, growth_rate=growth_rate), up, growth_rate=growth_rate)
    shapes = {key: x.shape for key, x in model.state_dict().items()}
    assert shapes == {key: x.shape for key, x in by_hand.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == learned
    statistics = sum(x.numel() for key, x in model.named_buffers() if "running" in key)
    assert round((learned + statistics) / 1e6, 1) == millions


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_in_the_name_counts_convolutions(name, model_from_yaml):
    with torch.device("meta"):
        model = model_from_yaml(name)
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert name == f"fcdensenet{len(convs)}"


def test_maps_are_as_many_as_in_the_papers_table_2():
    with torch.device("meta"):
        model = decoder(encoder([4, 5, 7, 10, 12, 15]), [12, 10, 7, 5, 4])
    # From the bottleneck on the paper prints 16 too few (880, 1072, 800 ...), as the authors' README corrects.
    assert [feature.channels for feature in model.backbone.features] == [112, 192, 304, 464, 656, 15 * 16]
    stacks = [stage.block.layers[0].conv.in_channels + stage.block.out_channels for stage in model.decoder]
    assert stacks == [1088, 816, 576, 384, 256]
    assert model.head.in_channels == 256


def test_weights_start_uniform_with_the_deviation_of_he():
    torch.manual_seed(0)
    weight = encoder([1, 15]).bottleneck.layers[-1].conv.weight
    bound = (6 / (9 * weight.shape[1])) ** 0.5
    assert 0.99 * bound < weight.abs().max() <= bound
    torch.testing.assert_close(weight.std().item(), bound / 3**0.5, rtol=0.02, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (13, 18)], ids="{0[0]}x{0[1]}".format)
def test_any_size_goes_in_and_a_batch_of_one_trains(size):
    model = small(dropout=0.2).train()
    logits = model(torch.randn(1, 3, *size)).logits
    assert logits.shape == (1, CAMVID_CLASSES, *size)
    assert logits.isfinite().all()


def test_activation_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    plain, images = small(dropout=0.2).train(), torch.randn(2, 3, 9, 12)
    saving = copy.deepcopy(plain)
    saving.backbone.recompute = True
    for model in (plain, saving):
        torch.manual_seed(1)
        model(images).logits.square().mean().backward()
    for ours, expected in zip(saving.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    assert all(map(torch.equal, saving.buffers(), plain.buffers()))


def test_over_another_backbone_the_first_transition_up_narrows_to_the_papers_bottleneck(backbone_named):
    model = decoder(backbone_named("resnet18", output_stride=16), [12, 10, 7, 5, 4], bottleneck_channels=240)
    up = model.decoder[0].up
    assert (model.strides, model.skips) == ((8, 4, 2, 1), ("layer2", "layer1", "stem", None))
    assert (up.in_channels, up.out_channels) == (512, 240)
    assert [len(stage.block.layers) for stage in model.decoder] == [10, 7, 5, 4]
    assert model.eval()(torch.randn(1, 3, 33, 47)).logits.shape == (1, CAMVID_CLASSES, 33, 47)


@pytest.mark.parametrize("options", [{"growth_rate": 0}, {"layers": [1]}, {"bottleneck_channels": 0}, {"dropout": 1.0}])
def test_impossible_options_of_the_decoder_name_their_key(options):
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}="):
        decoder(encoder([1, 1, 1]), **{"layers": [1, 1]} | options)


@pytest.mark.parametrize(
    "options", [{"first_channels": 0}, {"growth_rate": 0}, {"layers": []}, {"layers": [4, 0]}, {"dropout": -0.1}]
)
def test_impossible_options_of_the_encoder_name_their_key(options):
    with pytest.raises(ConfigError, match=f"model.backbone.{next(iter(options))}="):
        encoder(**{"layers": [1, 1]} | options)
