"""How good a prediction is, from one integer confusion matrix."""

from segtrain.metrics.confusion import ConfusionMatrix

__all__ = ["ConfusionMatrix"]
