"""Everything between a model and a label map."""

from segtrain.inference.label_map import label_map
from segtrain.inference.predictor import Predictor
from segtrain.inference.whole import WholeImage

__all__ = ["Predictor", "WholeImage", "label_map"]
