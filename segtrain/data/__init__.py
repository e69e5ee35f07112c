"""From files to batches: reading, label maps, data sets, augmentation, sampling and loading.

Import from the modules; this file stays light so that a data set without augmentation needs no albumentations.
"""
