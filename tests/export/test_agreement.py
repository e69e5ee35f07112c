"""What is counted when a model and its exported file are compared."""

import torch
from torch import Tensor

from segtrain.export.agreement import TRIED, compare, failing_sizes
from segtrain.types import Batch, DataFacts

FACTS = DataFacts(("a", "b"), ((0, 0, 0), (1, 1, 1)), 255, 1, (0.5,), (0.5,))


def first_channel(images: Tensor) -> Tensor:
    return images[:, 0].long()


def test_agreement_counts_every_pixel_and_both_models_are_scored_on_valid_ones() -> None:
    #             right, right, the exported one wrong, void and different
    images = torch.tensor([[[[0, 1, 1, 1]]]], dtype=torch.uint8)
    labels = torch.tensor([[[0, 1, 1, 255]]])

    def exported(seen: Tensor) -> Tensor:
        return torch.tensor([[[0, 1, 0, 0]]])

    agreement = compare(first_channel, exported, [[Batch(images, labels, ("x",))]], FACTS, 1)
    assert (agreement.same, agreement.pixels, agreement.images, agreement.share) == (2, 4, 1, 0.5)
    assert agreement.model.miou() == 1.0
    assert agreement.exported.miou() == 0.5  # both classes: one hit, one false
    assert "50.0000 % have the same class" in agreement.table()
    assert "model 1.0000  exported 0.5000  change -50.0000 points" in agreement.table()


def test_sizes_that_fail_are_named_with_the_reason() -> None:
    def recorded_for_one_size(images: Tensor) -> Tensor:
        if images.shape[-1] == 96:
            raise RuntimeError("expected 97\nat line 3")
        return first_channel(images) * (0 if images.shape[0] == 2 else 1)

    assert failing_sizes(first_channel, recorded_for_one_size, 1, 0.999) == [
        "3 of 64x96 (expected 97)",
        "2 of 129x70 (another result)",
    ]
    assert failing_sizes(first_channel, first_channel, 1, 1.0) == []
    assert len({number for number, _, _ in TRIED}) > 1, "the number of images is tried too"
