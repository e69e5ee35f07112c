"""What training minimises: per-pixel and per-region losses, their weighted sums, and the criterion around them."""

from segtrain.losses.base import SegmentationLoss
from segtrain.losses.criterion import Criterion, LossOutput
from segtrain.losses.cross_entropy import CrossEntropy
from segtrain.losses.dice import Dice
from segtrain.losses.weighted_sum import WeightedSum

__all__ = ["Criterion", "CrossEntropy", "Dice", "LossOutput", "SegmentationLoss", "WeightedSum"]
