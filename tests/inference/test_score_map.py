"""Logits that are brought to their image's size a band of classes at a time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.inference import Predictor, ScoreMap, WholeImage, label_map
from segtrain.inference.label_map import CLASSES_AT_ONCE
from segtrain.inference.score_map import Resize
from segtrain.models.base import SegmentationModel
from segtrain.types import Hardware, ModelOutput

CPU = Hardware(torch.device("cpu"), None, torch.contiguous_format, False)


@pytest.mark.parametrize("size", [(33, 47), (80, 64), (9, 5)])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("num_classes", [2, CLASSES_AT_ONCE, CLASSES_AT_ONCE + 1, 50])
def test_labels_by_bands_are_the_argmax_of_the_upsampled_logits(size, align_corners, num_classes):
    values = torch.randn(2, num_classes, 10, 8, generator=torch.Generator().manual_seed(0))
    plain = F.interpolate(values, size=size, mode="bilinear", align_corners=align_corners)
    scores = ScoreMap(values, (Resize(*size, align_corners),))
    assert torch.equal(scores.full(), plain)
    assert torch.equal(label_map(scores, None), plain.argmax(dim=1))


def test_resizes_follow_one_another():
    values = torch.randn(1, 12, 6, 6, generator=torch.Generator().manual_seed(0))
    twice = ScoreMap(values).then(Resize(11, 13)).then(Resize(30, 30))
    plain = F.interpolate(values, size=(11, 13), mode="bilinear", align_corners=False)
    plain = F.interpolate(plain, size=(30, 30), mode="bilinear", align_corners=False)
    assert torch.equal(twice.full(), plain)
    assert torch.equal(label_map(twice, None), plain.argmax(dim=1))


def test_of_equal_logits_in_different_bands_the_first_class_counts():
    values = torch.zeros(1, 3 * CLASSES_AT_ONCE, 2, 2)
    values[:, 2 * CLASSES_AT_ONCE] = -1.0
    assert label_map(ScoreMap(values, (Resize(4, 4),)), None).unique().tolist() == [0]


def test_a_channels_last_map_gives_the_same_labels():
    values = torch.randn(1, 20, 10, 8, generator=torch.Generator().manual_seed(0))
    resizes = (Resize(37, 31),)
    cl = values.to(memory_format=torch.channels_last)
    assert torch.equal(label_map(ScoreMap(cl, resizes), None), label_map(ScoreMap(values, resizes), None))


def test_the_binary_threshold_is_applied_at_the_images_size():
    values = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    scores = ScoreMap(values, (Resize(20, 20),))
    assert torch.equal(label_map(scores, 0.3), label_map(scores.full(), 0.3))


class Coarse(SegmentationModel):
    """Logits at a quarter of the resolution."""

    def __init__(self, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.auxiliary = nn.ModuleDict()
        self.frozen = ()
        self.align_corners_at_end = True
        self.conv = nn.Conv2d(3, num_classes, 4, stride=4)

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"x": images}

    def decode(self, features: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        return self.conv(features["x"])


def test_the_predictor_takes_logits_before_the_models_last_upsampling():
    model = Coarse(20).eval()
    predictor = Predictor(model, nn.Identity(), WholeImage(1.0), CPU)
    predictor.normalize = lambda images: images.float() / 255
    images = torch.randint(0, 256, (2, 3, 41, 35), dtype=torch.uint8)
    assert predictor.score_map(images).values.shape == (2, 20, 10, 8)
    with torch.inference_mode():
        plain = model(images.float() / 255).logits
    assert torch.equal(predictor.logits(images), plain)
    assert torch.equal(predictor.labels(images, None), plain.argmax(dim=1))


def test_a_forward_of_the_users_own_that_upsamples_by_itself_is_called_with_images_alone():
    class Doubled(Coarse):
        def forward(self, images: Tensor) -> ModelOutput:
            return ModelOutput(2 * super().forward(images).logits, {})

    class HandsOn(Coarse):
        def forward(self, images: Tensor, **options: bool) -> ModelOutput:
            return ModelOutput(2 * super().forward(images, **options).logits, {})

    images = torch.randint(0, 256, (1, 3, 13, 9), dtype=torch.uint8)
    for kind, size in ((Doubled, (13, 9)), (HandsOn, (3, 2))):
        model = kind(5).eval()
        predictor = Predictor(model, nn.Identity(), WholeImage(1.0), CPU)
        predictor.normalize = lambda images: images.float() / 255
        assert predictor.score_map(images).values.shape == (1, 5, *size)
        with torch.inference_mode():
            assert torch.equal(predictor.logits(images), model(images.float() / 255).logits)


def test_a_model_of_another_kind_is_called_with_images_alone():
    class Own(nn.Module):
        def forward(self, images: Tensor) -> ModelOutput:
            return ModelOutput(images[:, :2], {})

    predictor = Predictor(Own(), nn.Identity(), WholeImage(1.0), CPU)
    images = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(predictor.logits(images), images[:, :2].float())
