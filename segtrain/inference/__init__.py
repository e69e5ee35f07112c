"""Everything between a model and a label map."""

from segtrain.inference.label_map import label_map
from segtrain.inference.multiscale import MultiScale
from segtrain.inference.predictor import Predictor
from segtrain.inference.score_map import ScoreMap
from segtrain.inference.sliding import SlidingWindow
from segtrain.inference.whole import FixedSize, WholeImage

__all__ = ["FixedSize", "MultiScale", "Predictor", "ScoreMap", "SlidingWindow", "WholeImage", "label_map"]
