"""Everything between a model and a label map."""

from segtrain.inference.predictor import Predictor
from segtrain.inference.whole import WholeImage

__all__ = ["Predictor", "WholeImage"]
