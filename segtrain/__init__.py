"""segtrain: semantic segmentation models, trained and evaluated from configuration."""

__version__ = "0.1.0"
