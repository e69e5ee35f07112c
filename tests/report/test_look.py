"""Overlays: outlined, beside their image, with a legend of the classes that are there."""

import numpy as np
import pytest

from segtrain.report.look import Look
from segtrain.report.pictures import GAP, PAPER, borders

NAMES = ("sky", "road", "a rather long name")
PALETTE = ((10, 20, 230), (200, 0, 0), (0, 90, 0))


def draw(labels: np.ndarray, all_equal: bool = False, **changed: object) -> np.ndarray:
    image = np.full((*labels.shape, 3), 100, dtype=np.uint8)
    look = Look(**{"alpha": 0.0, "contours": False, "side_by_side": False, "legend": False, **changed})
    return look.draw(image, labels, NAMES, PALETTE, 255, all_equal)


@pytest.fixture
def halves() -> np.ndarray:
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:, 30:] = 1
    return labels


def test_borders_lie_on_both_sides_and_grow_by_steps() -> None:
    labels = np.zeros((5, 7), dtype=np.uint8)
    labels[2, 3] = 1
    assert borders(labels, thickness=1).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    rows, columns = np.mgrid[:5, :7]
    assert np.array_equal(borders(labels, thickness=2), abs(rows - 2) + abs(columns - 3) <= 2)


def test_contours_have_the_classes_colours_and_leave_the_image_bare(halves: np.ndarray) -> None:
    picture = draw(halves, contours=True)
    assert picture[7, 29].tolist() == list(PALETTE[0])
    assert picture[7, 30].tolist() == list(PALETTE[1])
    assert (picture[:, :29] == 100).all()
    assert (picture[:, 31:] == 100).all()


def test_contours_come_on_top_of_a_tint(halves: np.ndarray) -> None:
    picture = draw(halves, contours=True, alpha=0.5)
    assert picture[7, 30].tolist() == list(PALETTE[1])
    assert picture[7, 45].tolist() == [150, 50, 50]


def test_contours_of_large_images_are_thicker() -> None:
    labels = np.zeros((4, 2000), dtype=np.uint8)
    labels[:, 1000:] = 1
    assert (draw(labels, contours=True)[0, :1000] == PALETTE[0]).all(axis=1).sum() == 5


def test_side_by_side_has_the_image_on_the_left(halves: np.ndarray) -> None:
    picture = draw(halves, side_by_side=True, alpha=1.0)
    assert picture.shape == (40, 60 + GAP + 60, 3)
    assert (picture[:, :60] == 100).all()
    assert np.array_equal(picture[:, 60 + GAP :], draw(halves, alpha=1.0))


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_the_legend_shows_the_classes_that_are_there(halves: np.ndarray) -> None:
    picture = draw(halves, legend=True)
    legend = colours(picture[:, 60:])
    assert {PALETTE[0], PALETTE[1], PAPER} <= legend
    assert PALETTE[2] not in legend
    assert np.array_equal(picture[:40, :60], draw(halves))


def test_legends_of_equal_pictures_are_of_one_size_and_still_show_what_is_there(halves: np.ndarray) -> None:
    one, two = draw(np.zeros_like(halves), True, legend=True), draw(halves, True, legend=True)
    assert one.shape == two.shape
    assert one.shape[1] > draw(halves, legend=True).shape[1]  # room for the long name
    assert PALETTE[1] not in colours(one[:, 60:])


def test_a_legend_higher_than_its_picture_has_columns() -> None:
    labels = np.array([[0, 1, 2] * 20] * 40, dtype=np.uint8)
    picture = draw(labels, legend=True)
    assert {PALETTE[0], PALETTE[1], PALETTE[2]} <= colours(picture[:, 60:])
    assert picture.shape[0] == 40


def test_a_picture_of_void_alone_has_an_empty_legend() -> None:
    picture = draw(np.full((40, 60), 255, dtype=np.uint8), legend=True)
    assert colours(picture[:, 60:]) == {PAPER}
