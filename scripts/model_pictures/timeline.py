"""When each idea was published: segmentation networks above, what they stand on below."""

# ruff: noqa: RUF001 (multiplication signs are meant)

from model_pictures.canvas import FAINT, LINE, Canvas

# name, idea, year and month of the first arXiv version, row above or below the axis
NETWORKS = (
    ("FCN", "pixels, end to end", 2014, 11, 1),
    ("DeepLab v1", "dilation", 2014, 12, 2),
    ("U-Net", "a skip at every level", 2015, 5, 3),
    ("DeepLab v2", "several rates", 2016, 6, 1),
    ("FC-DenseNet", "dense blocks", 2016, 11, 2),
    ("PSPNet", "cells of the scene", 2016, 12, 3),
    ("DeepLab v3", "the whole image", 2017, 6, 1),
    ("DeepLab v3+", "a decoder", 2018, 2, 2),
    ("UPerNet", "a feature pyramid", 2018, 7, 1),
)
IDEAS = (
    ("VGG", "3×3 only", 2014, 9, 1),
    ("GoogLeNet", "inception", 2014, 9, 2),
    ("ResNet", "shortcuts", 2015, 12, 1),
    ("DenseNet", "all shortcuts", 2016, 8, 2),
    ("Xception", "separable", 2016, 10, 3),
    ("Deformable", "moving taps", 2017, 3, 1),
    ("SENet", "channel weights", 2017, 9, 2),
    ("MobileNetV2", "thin skips", 2018, 1, 3),
    ("EfficientNet", "scaling", 2019, 5, 1),
)
FIRST, LAST, YEAR = 2014, 2019, 158


def timeline() -> Canvas:
    c = Canvas(980, 372, "The lineage")
    c.text(16, 25, c.title, size=15, anchor="start", bold=True)
    c.text(
        120, 25, "segmentation networks above, the ideas in their backbones below", size=12, anchor="start", color=FAINT
    )
    axis = 200.0
    for networks, kind, direction in ((NETWORKS, "decoder", -1), (IDEAS, "encoder", 1)):
        for name, idea, year, month, row in sorted(networks, key=lambda event: -event[-1]):
            x = _place(year, month)
            middle = axis + direction * (2 + 46 * row)
            c.line((x, axis), (x, middle), color=LINE)
            c.dot(x, axis, 4, LINE)
            c.box(max(8, x - 64), middle - 19, 128, 38, (name, idea), kind, size=11.5)
    c.arrow((16, axis), (964, axis))
    for year in range(FIRST + 1, LAST + 1):
        c.line((_place(year, 1), axis - 5), (_place(year, 1), axis + 5), color=FAINT)
        c.text(_place(year, 1) + 4, axis + 15, str(year), size=11, anchor="start", color=FAINT)
    return c


def _place(year: int, month: int) -> float:
    """Of the middle of a month on the axis, pixels."""
    return round(YEAR * (year + (month - 0.5) / 12 - FIRST) - 40)
