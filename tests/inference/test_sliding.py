"""Windows over an image."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from segtrain.errors import ConfigError
from segtrain.inference import MultiScale, ScoreMap, SlidingWindow
from segtrain.inference.sliding import check_memory, parse_bytes
from segtrain.inference.windows import spans, window_starts
from segtrain.types import Area

BLENDS = ("uniform", "gaussian", "nearest")


def sliding(size=(16, 16), stride=None, overlap=0.5, blend="gaussian", batch_size=3, memory=None) -> SlidingWindow:
    return SlidingWindow(
        list(size), stride, None if stride else overlap, blend, sigma=0.125, batch_size=batch_size, memory=memory
    )


def images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pointwise(batch: Tensor) -> ScoreMap:
    """A model whose receptive field is a pixel."""
    return ScoreMap(batch.float() * torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1))


@given(st.integers(1, 90), st.integers(1, 30), st.data())
def test_windows_lie_inside_cover_all_and_are_no_further_apart_than_the_stride(length, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(length, window, stride)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    assert all(0 < b - a <= stride for a, b in itertools.pairwise(starts))


@given(st.integers(1, 90), st.integers(1, 30), st.sampled_from(BLENDS), st.data())
def test_the_weights_of_all_windows_add_up_to_one_at_every_pixel(length, window, blend, data):
    stride = data.draw(st.integers(1, window))
    total = torch.zeros(length)
    for span in spans(length, window, stride, blend, 0.125):
        total[span.start : span.stop] += span.weights
        assert span.weights[: span.counts_from - span.start].sum() == 0
        assert span.weights[span.counts_to - span.start :].sum() == 0
    assert torch.allclose(total, torch.ones(length), atol=1e-6)


def test_nearest_gives_each_pixel_to_one_window_by_hand():
    owned = [(span.start, span.counts_from, span.counts_to) for span in spans(11, 4, 3, "nearest", 1.0)]
    assert owned == [(0, 0, 3), (3, 3, 6), (6, 6, 8), (7, 8, 11)]


def test_the_gaussian_of_two_windows_by_hand():
    one, other = spans(6, 4, 2, "gaussian", 0.25)
    bell = torch.tensor([-1.5, -0.5, 0.5, 1.5]).square().mul(-0.5).exp()
    shared = bell[2:] / (bell[2:] + bell[:2])
    assert torch.allclose(one.weights, torch.cat([torch.ones(2), shared]))
    assert torch.allclose(other.weights, torch.cat([1 - shared, torch.ones(2)]))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(1, 3, 40, 53), (2, 3, 16, 16), (1, 3, 7, 60), (5, 3, 9, 5)])
def test_of_a_pointwise_model_the_logits_are_those_of_the_whole_image(blend, shape):
    batch = images(*shape)
    logits = sliding(blend=blend)(pointwise, batch).full()
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, pointwise(batch).full(), rtol=1e-5, atol=1e-4)


def test_nearest_equals_the_whole_image_bit_for_bit_where_the_overlap_holds_the_receptive_field():
    torch.manual_seed(0)
    convs = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 5, padding=2))  # reaches 3 pixels

    def forward(batch: Tensor) -> ScoreMap:
        return ScoreMap(convs(batch.double() / 255).float())

    convs.double()
    batch = images(1, 3, 45, 38)
    with torch.no_grad():
        whole = forward(batch).full()
        assert torch.allclose(sliding(stride=[10, 10], blend="nearest")(forward, batch).full(), whole, atol=1e-6)
        assert not torch.allclose(sliding(stride=[12, 12], blend="nearest")(forward, batch).full(), whole, atol=1e-4)
        assert not torch.allclose(sliding(stride=[10, 10], blend="uniform")(forward, batch).full(), whole, atol=1e-4)


def test_uniform_and_gaussian_equal_a_slow_reference():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 2, 5, padding=2)

    def forward(batch: Tensor) -> ScoreMap:
        return ScoreMap(conv(batch.float() / 255))

    batch = images(1, 3, 21, 30)
    bell = ((torch.arange(16) - 7.5) / (0.125 * 16)).square().mul(-0.5).exp()
    for blend, profile in (("uniform", torch.ones(16)), ("gaussian", bell)):
        total, weight = torch.zeros(1, 2, 21, 30), torch.zeros(21, 30)
        for top in (0, 5):
            for left in (0, 8, 14):
                with torch.no_grad():
                    logits = conv(batch[:, :, top : top + 16, left : left + 16].float() / 255)
                total[:, :, top : top + 16, left : left + 16] += logits * torch.outer(profile, profile)
                weight[top : top + 16, left : left + 16] += torch.outer(profile, profile)
        with torch.no_grad():
            logits = sliding(blend=blend)(forward, batch).full()
        assert torch.allclose(logits, total / weight, atol=1e-5)


@pytest.mark.parametrize("blend", BLENDS)
def test_a_part_has_the_logits_that_it_has_in_the_whole(blend):
    conv = nn.Conv2d(3, 2, 5, padding=2)

    def forward(batch: Tensor) -> ScoreMap:
        return ScoreMap(conv(batch.float() / 255))

    batch, strategy = images(1, 3, 50, 61), sliding(blend=blend)
    with torch.no_grad():
        whole = strategy(forward, batch).full()
        for area in (Area(0, 0, 20, 61), Area(13, 7, 31, 40), Area(49, 60, 50, 61)):
            seen: list[Area] = []

            def crop(window: Area, seen: list[Area] = seen) -> Tensor:
                seen.append(window)
                return batch[:, :, window.rows, window.columns]

            part = strategy.logits_of(area, forward, crop, Area(0, 0, 50, 61))
            assert torch.allclose(part, whole[:, :, area.rows, area.columns], atol=1e-6)
            assert all(w.bottom > area.top and w.top < area.bottom for w in seen)


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 1), (1, 4), (3, 4), (5, 2)])
def test_the_model_never_sees_more_windows_than_the_batch_size_says(num_images, batch_size):
    sizes = []

    def forward(batch: Tensor) -> ScoreMap:
        sizes.append(tuple(batch.shape))
        return pointwise(batch)

    batch = images(num_images, 3, 30, 41)
    logits = sliding(batch_size=batch_size)(forward, batch).full()
    assert torch.allclose(logits, pointwise(batch).full(), rtol=1e-5, atol=1e-4)
    assert max(size[0] for size in sizes) <= batch_size
    assert {size[1:] for size in sizes} == {(3, 16, 16)}
    assert sum(size[0] for size in sizes) == num_images * 3 * 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": [512]}, "size="),
        ({"size": [0, 5]}, "size="),
        ({"stride": None, "overlap": None}, "set one of them"),
        ({"stride": [8, 8], "overlap": 0.5}, "set one of them"),
        ({"overlap": 1.0}, r"overlap=1.0 is outside \[0, 1\)"),
        ({"stride": [17, 8], "overlap": None}, "stride="),
        ({"stride": [0, 8], "overlap": None}, "stride="),
        ({"sigma": 0.0}, "sigma="),
        ({"batch_size": 0}, "batch_size="),
        ({"memory": "much"}, "memory=much: write a number and a unit"),
    ],
)
def test_impossible_windows_are_refused(given, message):
    plain = {"size": [16, 16], "stride": None, "overlap": 0.5, "blend": "uniform", "sigma": 0.1, "batch_size": 1}
    with pytest.raises(ConfigError, match=message):
        SlidingWindow(**{**plain, "memory": None, **given})


def test_amounts_of_memory():
    assert parse_bytes("2GiB") == 2 * 2**30
    assert parse_bytes(" 1.5 gb") == 1_500_000_000
    assert parse_bytes("512MiB") == 512 * 2**20
    assert parse_bytes("100B") == 100


def test_a_budget_at_windows_inside_another_strategy_is_no_silent_one():
    inside = sliding(memory="1GiB")
    check_memory(inside)
    with pytest.raises(ConfigError, match="memory is heeded by inference=slide alone"):
        check_memory(MultiScale([1.0], False, False, "logits", inside))
