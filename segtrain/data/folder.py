"""One's own images and masks, matched by name."""

from pathlib import Path

from segtrain.data.dataset import ImageMaskDataset
from segtrain.data.pairing import Pairs, existing_folder, match_pairs, read_list, split_by_fractions
from segtrain.errors import ConfigError, DataError, nearest

LAYOUT = "data=folder expects the images under data.root/data.images and masks of the same stems under data.masks"


class Folder(ImageMaskDataset):
    """Images and masks from two folders, or by globs, and splits by lists, by fractions or by folders.

    Args:
        root: the folder that the others are in.
        split: a name in `splits`, or what "{split}" in `images` and `masks` stands for.
        images: folder or glob of the images under `root`, see `match_pairs`.
        masks: likewise of the masks.
        splits: {name: text file under `root`, one stem a line} for all, and only what is listed
            must be there; or {name: fraction of the items} for all;
            None where the folders say it, by "{split}" in `images` and in `masks`. Splits exclude each other.
        split_seed: another seed draws other parts for the same fractions; the order of files on disk has no part in it.
        classes, palette, labels, mask_format, ignore_index, in_channels: see `ImageMaskDataset`.

    Raises:
        ConfigError: `splits` is none of the above.
        DataError: something is missing, empty, doubled, or does not match.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        images: str,
        masks: str,
        splits: dict[str, float | str] | None,
        split_seed: int,
        classes: list[str],
        palette: list[list[int]] | None,
        labels: dict[str, list] | None,
        mask_format: str,
        ignore_index: int,
        in_channels: int,
    ) -> None:
        folder = existing_folder(Path(root).expanduser(), LAYOUT, key="data.root")
        by_folder = "{split}" in images and "{split}" in masks
        if by_folder == (splits is not None) or ("{split}" in images) != ("{split}" in masks):
            raise ConfigError(
                "data.splits: give files or fractions, or else null and {split} in both data.images and data.masks"
            )
        names = _listed_names(folder, split, splits) if splits is not None else None
        pairs = match_pairs(folder, images.replace("{split}", split), masks.replace("{split}", split), LAYOUT, names)
        if splits is not None and names is None:
            pairs = _draw(pairs, split, splits, split_seed)
        super().__init__(pairs, classes, palette, labels, mask_format, ignore_index, in_channels)


def _listed_names(root: Path, split: str, splits: dict[str, float | str]) -> tuple[str, ...] | None:
    """The names in the split's file, or None where `splits` are fractions."""
    if split not in splits:
        raise DataError(f"split {split!r} is not in data.splits ({', '.join(splits)}){nearest(split, splits)}")
    files = {name: root / value for name, value in splits.items() if isinstance(value, str)}
    if not files:
        return None
    if len(files) < len(splits):
        raise ConfigError(f"data.splits={splits}: give files for all splits or fractions for all")
    lists = {name: read_list(path) for name, path in files.items()}
    for name, names in lists.items():
        shared = sorted(set(names) & set(lists[split])) if name != split else []
        if shared:
            raise DataError(f"{files[split]}: {shared[0]} is in {files[name]} too; splits must exclude each other")
    return lists[split]


def _draw(pairs: Pairs, split: str, splits: dict[str, float | str], seed: int) -> Pairs:
    fractions = {name: float(value) for name, value in splits.items()}
    keys = split_by_fractions(pairs, fractions, seed)[split]
    if not keys:
        raise DataError(f"data.splits.{split}={fractions[split]} of {len(pairs)} images is none; raise it")
    return {key: pairs[key] for key in keys}
