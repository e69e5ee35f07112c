"""Pretrained weights: fetched, verified, read, adapted, and matched by name and shape."""

from segtrain.weights.files import published_file, read_state
from segtrain.weights.matching import Match, load_weights, match
from segtrain.weights.stem import adapt_stem

__all__ = ["Match", "adapt_stem", "load_weights", "match", "published_file", "read_state"]
