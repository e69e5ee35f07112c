"""Everything between a model and a label map."""

from segtrain.inference.crf import DenseCRF
from segtrain.inference.label_map import label_map
from segtrain.inference.multiscale import MultiScale
from segtrain.inference.predictor import Predictor
from segtrain.inference.score_map import ScoreMap
from segtrain.inference.sliding import SlidingWindow
from segtrain.inference.whole import FixedSize, WholeImage

__all__ = ["DenseCRF", "FixedSize", "MultiScale", "Predictor", "ScoreMap", "SlidingWindow", "WholeImage", "label_map"]
