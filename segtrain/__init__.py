"""segtrain: semantic segmentation models, trained and evaluated from configuration."""

import os

# albumentations asks a server for its newest version when imported, unless this is set before.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__version__ = "0.1.0"
