"""The whole image, at its own size or scaled."""

import pytest
import torch
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.inference import FixedSize, Predictor, ScoreMap, WholeImage
from segtrain.types import Hardware, ModelOutput

CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, False)


def brightness(images: Tensor) -> ScoreMap:
    """Two classes; the second one's logit is the pixel's value."""
    values = images.float()[:, :1]
    return ScoreMap(torch.cat([torch.zeros_like(values), values], dim=1))


def test_scale_one_hands_the_image_through() -> None:
    images = torch.randint(0, 256, (2, 3, 7, 5), dtype=torch.uint8)
    assert torch.equal(WholeImage(1.0)(brightness, images).full(), brightness(images).full())


def test_logits_come_back_at_the_images_size_and_the_model_sees_the_scaled_one() -> None:
    seen = []

    def model(images: Tensor) -> ScoreMap:
        seen.append(tuple(images.shape))
        return brightness(images)

    images = torch.full((1, 3, 36, 48), 90, dtype=torch.uint8)
    logits = WholeImage(0.5)(model, images).full()
    assert seen == [(1, 3, 18, 24)]
    assert logits.shape == (1, 2, 36, 48)
    assert torch.allclose(logits[:, 1], torch.full((1, 36, 48), 90.0))


@pytest.mark.parametrize("scale", [0.0, -1.0, 5.0])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale="):
        WholeImage(scale)


def test_every_image_is_shown_at_a_fixed_size_and_comes_back_at_its_own() -> None:
    seen = []

    def model(images: Tensor) -> ScoreMap:
        seen.append(tuple(images.shape))
        return brightness(images)

    for shape in ((1, 3, 7, 50), (2, 3, 32, 24), (1, 3, 16, 16)):
        assert FixedSize([32, 24])(model, torch.zeros(shape, dtype=torch.uint8)).full().shape[-2:] == shape[-2:]
    assert seen == [(1, 3, 32, 24), (2, 3, 32, 24), (1, 3, 32, 24)]


@pytest.mark.parametrize("size", [[], [32], [0, 32], [32, 32, 3]])
def test_impossible_sizes_are_refused(size: list[int]) -> None:
    with pytest.raises(ConfigError, match="size="):
        FixedSize(size)


class OneConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, images: Tensor) -> ModelOutput:
        return ModelOutput(self.norm(self.conv(images)), {})


def test_the_predictor_leaves_the_model_as_it_found_it() -> None:
    model = OneConvolution().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = Predictor(model, nn.Identity(), WholeImage(1.0), CPU)
    predictor.normalize = lambda images: images.float() / 255
    logits = predictor.logits(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    assert logits.dtype == torch.float32
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
