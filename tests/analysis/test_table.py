"""Descriptions as text: short, aligned, no wider than a terminal."""

import pytest

from segtrain.analysis.cost import Memory, Shares
from segtrain.analysis.description import Description, Stage
from segtrain.analysis.receptive_field import ReceptiveField
from segtrain.analysis.table import aligned, compare_table, describe_table, field, mebibytes, metric


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (11_176_512, "11.18 M"), (4_089_184_256, "4.09 G"), (10**12, "1.00 T")],
)
def test_a_number_with_a_unit(number: int, text: str):
    assert metric(number) == text


def test_mebibytes_are_powers_of_two():
    assert mebibytes(3 * 2**29) == "1,536.0 MiB"


@pytest.mark.parametrize(
    ("sides", "text"),
    [
        ((7, 7), "7 x 7"),
        (("whole image", "whole image"), "whole image"),
        ((1, "whole image"), "1 x whole image"),
        ((">= 900", ">= 900"), ">= 900 x >= 900"),
    ],
)
def test_a_receptive_field_in_words(sides, text: str):
    assert field(ReceptiveField(*sides)) == text


def test_columns_are_aligned_under_their_header():
    table = aligned(["name", "size"], [["a", "1"], ["bcdefg", "12345"]])
    assert table.splitlines() == ["name     size", "-------------", "a           1", "bcdefg  12345"]


def description(*sides: int | str, frozen: int = 0, weight_copies: int = 0) -> Description:
    stages = [
        Stage(f"a_stage_with_a_long_name_{i}", 2048, 32, (2048, 2048), ReceptiveField(side, side))
        for i, side in enumerate(sides)
    ]
    shares = Shares(123_456_789_012, 999_000, 5)
    return Description(
        stages,
        32,
        shares,
        shares.total - frozen,
        shares,
        Memory(2**38, 2**37, weight_copies),
        ["aten_op"] * ("unknown" in sides),
    )


def test_every_line_fits_a_terminal():
    one = description(7168, "whole image", "unknown", frozen=7, weight_copies=2**30)
    assert max(map(len, describe_table(one).splitlines())) <= 80
    models = [("deeplabv3plus", "resnext101_32x8d", one), ("fcn8s_atonce", "efficientnet_v2_l", one)]
    assert max(map(len, compare_table(models).splitlines())) <= 120


@pytest.mark.parametrize(
    ("side", "note"),
    [
        ("whole image", "whole image: behind a pooling"),
        ("adaptive", "adaptive: behind deformable"),
        ("unknown", "(aten_op)"),
        (">= 7168", ">= N: cut off"),
    ],
)
def test_a_word_for_a_receptive_field_is_explained_where_it_is_used(side: str, note: str):
    assert note in describe_table(description(7, side))
    assert note in compare_table([("unet", "", description(7, side))])
    assert note not in describe_table(description(7))


def test_frozen_parameters_and_copies_of_weights_are_told_only_where_there_are_some():
    told = describe_table(description(7, frozen=1_500_000, weight_copies=2**20))
    assert "1.50 M are frozen" in told
    assert "autocast" in told
    untold = describe_table(description(7))
    assert "frozen" not in untold
    assert "autocast" not in untold
