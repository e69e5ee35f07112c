"""Scales and mirrorings, averaged."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.inference import MultiScale, ScoreMap, SlidingWindow, WholeImage

WHOLE = WholeImage(1.0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 5, padding=2)


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize(("horizontal", "vertical"), [(False, False), (True, False), (False, True), (True, True)])
def test_scales_and_mirrorings_are_averaged_as_in_a_slow_reference(average, horizontal, vertical):
    model, batch, scales = net(), images(2, 3, 20, 31), [0.5, 1.0, 1.5]

    def forward(images: Tensor) -> ScoreMap:
        return ScoreMap(model(images.float() / 255))

    answers = []
    for scale in scales:
        size = round(20 * scale), round(31 * scale)
        resized = batch
        if scale != 1:
            resized = F.interpolate(batch.float(), size=size, mode="bilinear", antialias=True).round().clamp(0, 255)
        for axes in [(), (3,)][: 1 + horizontal]:
            for more in [(), (2,)][: 1 + vertical]:
                turned = (*axes, *more)
                logits = model(resized.flip(turned) / 255).flip(turned) if turned else model(resized / 255)
                logits = F.interpolate(logits, size=(20, 31), mode="bilinear", align_corners=False)
                answers.append(logits.softmax(dim=1) if average == "probabilities" else logits)
    mean = torch.stack(answers).mean(dim=0)
    with torch.no_grad():
        got = MultiScale(scales, horizontal, vertical, average, WHOLE)(forward, batch).full()
    assert torch.allclose(got.softmax(dim=1) if average == "probabilities" else got, mean, atol=1e-5)


def test_one_scale_without_mirroring_is_the_base_itself():
    model, batch = net(), images(1, 3, 12, 9)

    def forward(images: Tensor) -> ScoreMap:
        return ScoreMap(model(images.float() / 255))

    with torch.no_grad():
        assert torch.equal(
            MultiScale([1.0], False, False, "logits", WHOLE)(forward, batch).full(), forward(batch).full()
        )


def test_averaged_logits_leave_the_models_own_untouched():
    kept = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    before = kept.clone()
    MultiScale([1.0], True, False, "logits", WHOLE)(lambda images: ScoreMap(kept), images(1, 3, 4, 4))
    assert torch.equal(kept, before)


def test_a_class_that_is_impossible_at_every_scale_stays_a_number():
    certain = torch.tensor([0.0, 500.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    got = MultiScale([1.0], True, False, "probabilities", WHOLE)(lambda images: ScoreMap(certain), images(1, 3, 4, 4))
    assert got.full().isfinite().all()
    assert got.full().argmax(dim=1).eq(1).all()


def test_each_scale_goes_through_the_base():
    seen = []

    def forward(images: Tensor) -> ScoreMap:
        seen.append(tuple(images.shape[-2:]))
        return ScoreMap(images.float())

    windows = SlidingWindow([8, 8], None, 0.5, "uniform", 0.125, batch_size=100, memory=None)
    MultiScale([0.5, 2.0], False, False, "logits", windows)(forward, images(1, 3, 12, 12))
    assert seen == [(6, 6), (8, 8)]


@pytest.mark.parametrize("scales", [[], [0.0], [1.0, 5.0]])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(ConfigError, match="scales="):
        MultiScale(scales, False, False, "logits", WHOLE)
