"""PASCAL VOC 2012 (Everingham et al.), with or without SBD's additional masks (Hariharan et al. 2011)."""

from pathlib import Path, PurePosixPath

from segtrain.data.dataset import ImageMaskDataset
from segtrain.data.pairing import Pairs, existing_folder, listed, read_list
from segtrain.errors import DataError, nearest

LAYOUT = "data=voc expects ROOT/VOCdevkit/VOC2012/ with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/"
AUGMENTED = (
    "train_aug is VOC's train with SBD's masks, 10,582 images: put the list of names there, and SBD's masks converted "
    "to class-index PNGs into SegmentationClassAug/"
)
TRAIN_AUG_LISTS = ("train_aug", "trainaug")


class VOC2012(ImageMaskDataset):
    """VOC 2012 segmentation in the VOCdevkit layout.

    Args:
        root: the folder that holds VOCdevkit, or VOCdevkit, or VOC2012 itself.
        split: a list in ImageSets/Segmentation: train, val, trainval; or train_aug (also as trainaug.txt), whose
            masks come from SegmentationClassAug, and from SegmentationClass for the images that are not there.
        classes, palette, labels, mask_format, ignore_index, in_channels: see `ImageMaskDataset`.

    Raises:
        DataError: root, split, images or masks are not where they must be.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: list[str],
        palette: list[list[int]] | None,
        labels: dict[str, list] | None,
        mask_format: str,
        ignore_index: int,
        in_channels: int,
    ) -> None:
        pairs = _pairs(_voc_folder(Path(root).expanduser()), split)
        super().__init__(pairs, classes, palette, labels, mask_format, ignore_index, in_channels)


def _voc_folder(root: Path) -> Path:
    existing_folder(root, LAYOUT, key="data.root")
    for folder in (root / "VOCdevkit" / "VOC2012", root / "VOC2012", root):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise DataError(f"data.root={root}: no ImageSets/Segmentation in it; {LAYOUT}")


def _pairs(folder: Path, split: str) -> Pairs:
    images = existing_folder(folder / "JPEGImages", LAYOUT)
    source = _list_file(folder, split)
    names = [PurePosixPath(name).name for name in read_list(source)]
    mask_folders = [folder / "SegmentationClass"]
    if split in TRAIN_AUG_LISTS:
        mask_folders.insert(0, folder / "SegmentationClassAug")
    # One listing a folder instead of two questions an item: 10,582 items may lie on a network drive.
    present = {path: {entry.name for entry in path.iterdir()} for path in (images, *mask_folders) if path.is_dir()}
    pairs, without_image, without_mask = {}, [], []
    for name in names:
        mask_folder = next((path for path in mask_folders if f"{name}.png" in present.get(path, ())), None)
        if f"{name}.jpg" not in present[images]:
            without_image.append(name)
        elif mask_folder is None:
            without_mask.append(name)
        else:
            pairs[name] = (images / f"{name}.jpg", mask_folder / f"{name}.png")
    _complain(source, without_image, "JPEGImages/NAME.jpg", LAYOUT)
    where = " or ".join(f"{path.name}/NAME.png" for path in mask_folders)
    _complain(source, without_mask, where, AUGMENTED if split in TRAIN_AUG_LISTS else LAYOUT)
    return pairs


def _list_file(folder: Path, split: str) -> Path:
    lists = folder / "ImageSets" / "Segmentation"
    for name in TRAIN_AUG_LISTS if split in TRAIN_AUG_LISTS else (split,):
        if (lists / f"{name}.txt").is_file():
            return lists / f"{name}.txt"
    if split in TRAIN_AUG_LISTS:
        raise DataError(f"{lists / 'train_aug.txt'}: no such split file; {AUGMENTED}")
    known = sorted(path.stem for path in lists.glob("*.txt"))
    there = f"there is {', '.join(known) or 'none'}{nearest(split, known)}"
    raise DataError(f"{lists / split}.txt: no such split file; {there}; {LAYOUT}")


def _complain(source: Path, names: list[str], what: str, layout: str) -> None:
    if names:
        raise DataError(f"{source}: {listed(names, 'name')} without {what}; {layout}")
