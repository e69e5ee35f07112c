"""CamVid (Brostow et al. 2009) in the layout and the 11 classes of SegNet (Badrinarayanan et al. 2017)."""

from pathlib import Path

from segtrain.data.dataset import ImageMaskDataset
from segtrain.data.pairing import existing_folder, match_pairs
from segtrain.errors import ConfigError, DataError, nearest

LAYOUT = "data=camvid expects ROOT/ with train/ trainannot/ val/ valannot/ (test/ testannot/), masks named as images"


class CamVid(ImageMaskDataset):
    """CamVid: a folder of images and a folder of masks for each split, matched by stem.

    Args:
        root: the folder of the splits' folders.
        split: train, val or test, or whatever folders there are.
        images: folder or glob of the images under `root`; "{split}" in it stands for the split.
        masks: likewise of the masks.
        classes, palette, labels, mask_format, ignore_index, in_channels: see `ImageMaskDataset`.

    Raises:
        DataError: root or split is missing or empty, or images and masks do not match.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        images: str,
        masks: str,
        classes: list[str],
        palette: list[list[int]] | None,
        labels: dict[str, list] | None,
        mask_format: str,
        ignore_index: int,
        in_channels: int,
    ) -> None:
        folder = existing_folder(Path(root).expanduser(), LAYOUT, key="data.root")
        if "{split}" not in images or "{split}" not in masks:
            raise ConfigError(
                f"data.images={images} data.masks={masks}: both need {{split}} in them, or splits would mix"
            )
        if images == "{split}" and not (folder / split).is_dir():
            known = sorted(path.name for path in folder.iterdir() if (folder / f"{path.name}annot").is_dir())
            raise DataError(f"{folder / split}: no such split{nearest(split, known)}; {LAYOUT}")
        pairs = match_pairs(folder, images.replace("{split}", split), masks.replace("{split}", split), LAYOUT)
        super().__init__(pairs, classes, palette, labels, mask_format, ignore_index, in_channels)
