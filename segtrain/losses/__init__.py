"""What training minimises: per-pixel and per-region losses, their weighted sums, and the criterion around them."""

from segtrain.losses.base import SegmentationLoss
from segtrain.losses.boundary import Boundary
from segtrain.losses.criterion import Criterion, LossOutput
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.dice import Dice
from segtrain.losses.focal import Focal
from segtrain.losses.jaccard import Jaccard
from segtrain.losses.lovasz import LovaszHinge, LovaszSoftmax
from segtrain.losses.ohem_cross_entropy import OhemCrossEntropy
from segtrain.losses.tversky import Tversky
from segtrain.losses.weighted_sum import WeightedSum

__all__ = [
    "Boundary",
    "Criterion",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Jaccard",
    "LossOutput",
    "LovaszHinge",
    "LovaszSoftmax",
    "OhemCrossEntropy",
    "SegmentationLoss",
    "Tversky",
    "WeightedSum",
]
