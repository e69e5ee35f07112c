"""The fully connected CRF with Gaussian pairwise terms (dense CRF), over a permutohedral lattice."""

from segtrain.inference.crf.lattice import Lattice
from segtrain.inference.crf.mean_field import PairwiseTerm, mean_field
from segtrain.inference.crf.strategy import DenseCRF

__all__ = ["DenseCRF", "Lattice", "PairwiseTerm", "mean_field"]
