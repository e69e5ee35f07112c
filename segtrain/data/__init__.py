"""From files to batches: reading, label maps, data sets, augmentation, sampling and loading.

Import from the modules; this file stays light so that a data set without augmentation needs no albumentations.
"""

import os

# albumentations asks a server for its newest version when imported, unless this is set before.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
