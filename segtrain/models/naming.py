"""What other frameworks call the parameters of the networks that segtrain has too."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Naming:
    """One framework's names for one model.

    Attributes:
        framework: whose.
        model: our class.
        mark: a name that begins with this gives the framework away.
        rules: pattern and replacement; every one that matches at the start of a name is applied, in this order.
    """

    framework: str
    model: str
    mark: str
    rules: tuple[tuple[str, str], ...]

    def ours(self, name: str) -> str:
        """Our name of their parameter `name`; the same where no rule knows it."""
        for pattern, replacement in self.rules:
            name = re.sub(f"^{pattern}", replacement, name)
        return name


TORCHVISION, SMP = "torchvision", "segmentation_models.pytorch"


def _aspp(theirs: str, separable: bool) -> tuple[tuple[str, str], ...]:
    """Rules for torchvision's ASPP, which segmentation_models.pytorch has with separable convolutions.

    The last branch begins with a pooling, so that its convolution is number 1 and its norm number 2.
    """
    pooling = (
        (rf"{theirs}\.convs\.4\.1\.", "aspp.branches.4.conv."),
        (rf"{theirs}\.convs\.4\.2\.", "aspp.branches.4.norm."),
    )
    apart = (
        (rf"{theirs}\.convs\.([123])\.0\.0\.", r"aspp.branches.\1.depthwise."),
        (rf"{theirs}\.convs\.([123])\.0\.1\.", r"aspp.branches.\1.pointwise."),
    )
    plain = (
        (rf"{theirs}\.convs\.(\d)\.0\.", r"aspp.branches.\1.conv."),
        (rf"{theirs}\.convs\.(\d)\.1\.", r"aspp.branches.\1.norm."),
        (rf"{theirs}\.project\.0\.", "aspp.project.conv."),
        (rf"{theirs}\.project\.1\.", "aspp.project.norm."),
    )
    return (*pooling, *(apart if separable else ()), *plain)


def _fcn_head(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    return (
        (rf"{theirs}\.0\.", f"{ours}.conv.conv."),
        (rf"{theirs}\.1\.", f"{ours}.conv.norm."),
        (rf"{theirs}\.4\.", f"{ours}.classifier."),
    )


# Under `backbone.` names are the backbone's own, with or without the `net.` it may hold its network under.
_TORCHVISION_BACKBONE = (
    (r"backbone\.(\d+)\.", r"backbone.features.\1."),
)  # a torchvision Sequential taken out of its net
_SMP_ENCODER = ((r"encoder\.(model\.)?", "backbone."),)

NAMINGS = (
    Naming(
        TORCHVISION,
        "DilatedFCN",
        "classifier.",
        (*_TORCHVISION_BACKBONE, *_fcn_head("aux_classifier", "auxiliary.stage4"), *_fcn_head("classifier", "head")),
    ),
    Naming(
        TORCHVISION,
        "DeepLabV3",
        "classifier.0.",
        (
            *_TORCHVISION_BACKBONE,
            *_fcn_head("aux_classifier", "auxiliary.stage4"),
            *_aspp(r"classifier\.0", separable=False),
            (r"classifier\.1\.", "head_conv.conv."),
            (r"classifier\.2\.", "head_conv.norm."),
            (r"classifier\.4\.", "classifier."),
        ),
    ),
    Naming(
        SMP,
        "UNet",
        "segmentation_head.",
        (
            *_SMP_ENCODER,
            (r"decoder\.blocks\.(\d)\.conv([12])\.0\.", r"decoder.\1.conv\2.conv."),
            (r"decoder\.blocks\.(\d)\.conv([12])\.1\.", r"decoder.\1.conv\2.norm."),
            (r"segmentation_head\.0\.", "head."),
        ),
    ),
    Naming(
        SMP,
        "DeepLabV3Plus",
        "segmentation_head.",
        (
            *_SMP_ENCODER,
            *_aspp(r"decoder\.aspp\.0", separable=True),
            (r"decoder\.aspp\.1\.0\.", "head_conv.depthwise."),
            (r"decoder\.aspp\.1\.1\.", "head_conv.pointwise."),
            (r"decoder\.aspp\.2\.", "head_conv.norm."),
            (r"decoder\.block1\.0\.", "reduce.conv."),
            (r"decoder\.block1\.1\.", "reduce.norm."),
            (r"decoder\.block2\.0\.0\.", "decoder.0.depthwise."),
            (r"decoder\.block2\.0\.1\.", "decoder.0.pointwise."),
            (r"decoder\.block2\.1\.", "decoder.0.norm."),
            (r"segmentation_head\.0\.", "classifier."),
        ),
    ),
)
