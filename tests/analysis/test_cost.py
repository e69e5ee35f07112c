"""Parameters, multiply-accumulates and memory, against hand counts, published numbers and real runs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from segtrain.analysis.cost import FakeNetwork, Shares, count_parameters, inference_cost, training_memory
from segtrain.backbones.unet_encoder import UNetEncoder
from segtrain.models.auxiliary import FCNAuxiliary
from segtrain.models.unet import UNet
from segtrain.nn.deformable import make_deformable

LITTLE = (1, 3, 8, 8)


def unet() -> UNet:
    backbone = UNetEncoder(3, [4, 8, 8], batch_norm=True, residual=False, dropout=0.5)
    return UNet(backbone, 2, [8, 4], "transposed", batch_norm=True, head_kernel_size=1, attention=False, residual=False)


def fake(module: nn.Module, dtype: torch.dtype | None = None) -> FakeNetwork:
    return FakeNetwork(module.to("meta"), dtype)


def macs(module: nn.Module, shape: tuple[int, ...] = LITTLE) -> int:
    return inference_cost(fake(module), shape)[0][""]


def test_what_is_neither_backbone_nor_auxiliary_is_decoder():
    model = unet()
    model.add_auxiliary("deep", FCNAuxiliary(model.backbone.deepest, 2, 0.0), 0.4)
    parts = [sum(x.numel() for x in part.parameters()) for part in (model.backbone, model, model.auxiliary)]
    assert count_parameters(model) == Shares(parts[0], parts[1] - parts[0] - parts[2], parts[2])
    assert count_parameters(model).total == parts[1]


def test_a_shared_parameter_counts_once():
    model = unet()
    alone = count_parameters(model).total
    model.again = model.backbone
    assert count_parameters(model).total == alone


@pytest.mark.parametrize(
    ("layer", "by_hand"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), 8 * 8 * 4 * 3 * 3 * 3),
        (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), 4 * 4 * 6 * 3 * 3),
        (nn.Conv2d(3, 4, 3, padding=2, dilation=2), 8 * 8 * 4 * 3 * 3 * 3),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 8 * 8 * 3 * 5 * 2 * 2),
        (nn.Linear(8, 7), 3 * 8 * 8 * 7),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)), 0),
    ],
)
def test_multiply_accumulates_of_a_layer(layer: nn.Module, by_hand: int):
    assert macs(layer) == by_hand


def test_a_deformable_convolution_counts_as_a_plain_one_and_that_of_its_offsets():
    stage = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    make_deformable(stage, 2)
    by_hand = 8 * 8 * 3 * 3 * 3 * (4 + 27)  # modulated: two offsets and a mask for each of 9 taps
    assert macs(stage) == by_hand


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "densenet121", "mobilenet_v2", "convnext_tiny"])
def test_published_multiply_accumulates(name: str):
    """torchvision's table of pretrained weights, in G; resnet50: 4.09."""
    published = get_model_weights(name)["IMAGENET1K_V1"].meta["_ops"]
    with torch.device("meta"):
        net = get_model(name)
    assert macs(net, (1, 3, 224, 224)) / 1e9 == pytest.approx(published, abs=0.0006)


def test_the_parts_of_a_model_have_counts_of_their_own():
    by_part, _ = inference_cost(fake(unet()), (1, 3, 32, 32))
    backbone, _ = inference_cost(fake(unet().backbone), (1, 3, 32, 32))
    assert by_part["backbone"] == backbone[""]
    assert by_part["head"] == 32 * 32 * 4 * 2


def saved_in_a_real_run(model: nn.Module, images: Tensor) -> int:
    """Bytes of the storages that a real forward pass keeps for the backward pass, parameters and buffers left out."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output: Any = model.train()(images)
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    assert output is not None
    return sum(storage.nbytes() for key, storage in kept.items() if key not in own)


@pytest.mark.parametrize("recompute", [False, True])
def test_training_memory_holds_at_least_what_a_real_run_keeps(recompute: bool):
    model = unet()
    model.add_auxiliary("deep", FCNAuxiliary(model.backbone.deepest, 2, 0.1), 0.4)
    model.backbone.recompute = recompute
    real = saved_in_a_real_run(model, torch.rand(2, 3, 33, 40))
    told, copies = training_memory(fake(model), (2, 3, 33, 40))
    assert (told >= real, copies) == (True, 0)


def test_where_every_tensor_is_kept_training_memory_is_what_a_real_run_keeps():
    backbone = UNetEncoder(3, [4, 8, 8], batch_norm=True, residual=False, dropout=0.0)
    real = saved_in_a_real_run(backbone, torch.rand(2, 3, 33, 40))
    assert training_memory(fake(backbone), (2, 3, 33, 40)) == (real, 0)


@pytest.mark.parametrize("frozen", [False, True])
def test_training_takes_no_less_than_inference(frozen: bool):
    """A frozen part keeps nothing for a backward pass, but its own steps take what they take in inference."""
    model = unet()
    model.backbone.requires_grad_(not frozen)
    network = fake(model)
    assert training_memory(network, (1, 3, 64, 64))[0] >= inference_cost(network, (1, 3, 64, 64))[1]


def test_activation_checkpointing_keeps_less():
    plain, recomputing = unet(), unet()
    recomputing.backbone.recompute = True
    assert training_memory(fake(recomputing), (1, 3, 64, 64))[0] < training_memory(fake(plain), (1, 3, 64, 64))[0]


def conv_relu() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))


def test_training_memory_by_hand():
    """The images and what the first ReLU left, kept for the convolutions; the second one's result and its ReLU's."""
    image, activation = 4 * 3 * 8 * 8, 4 * 4 * 8 * 8
    net = nn.Sequential(conv_relu(), nn.Conv2d(4, 4, 1), nn.ReLU())
    assert training_memory(fake(net), LITTLE)[0] == image + 3 * activation


def test_of_frozen_layers_only_the_step_at_work_is_alive():
    """As in inference: the images, which the caller holds, and what goes into and comes out of the last layer."""
    net = nn.Sequential(conv_relu(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)).requires_grad_(False)
    assert training_memory(fake(net), LITTLE)[0] == 4 * (3 + 4 + 4) * 8 * 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_halves_activations_and_adds_copies_of_the_weights(dtype: torch.dtype):
    """The images stay in float32 beside their copy."""
    image, activation = 4 * 3 * 8 * 8, 4 * 4 * 8 * 8
    training, copies = training_memory(fake(conv_relu(), dtype), LITTLE)
    assert training == image + image / 2 + activation / 2
    assert copies == 2 * (4 * 3 * 3 * 3 + 4)


def test_inference_memory_is_that_of_the_widest_step():
    """The images, which the caller holds, and what goes into and comes out of the second convolution."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 1, 1))
    assert inference_cost(fake(net), LITTLE)[1] == 4 * (3 + 4 + 8) * 8 * 8


def test_nothing_is_allocated():
    images = (64, 3, 16384, 16384)  # 206 GB of them alone
    assert training_memory(fake(conv_relu()), images)[0] == 4 * 7 * 64 * 16384**2
