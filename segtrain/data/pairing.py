"""Which image belongs to which mask, and which of them are in a split: by names alone, in sorted order."""

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

from segtrain.data.reading import IMAGE_SUFFIXES, MASK_SUFFIXES
from segtrain.errors import ConfigError, DataError, nearest

Pairs = dict[str, tuple[Path, Path]]


def match_pairs(root: Path, images: str, masks: str, layout: str, names: Sequence[str] | None = None) -> Pairs:
    """Images and masks under `root` that have the same key: {key: (image, mask)}, sorted by key.

    Args:
        root: an existing folder.
        images: a folder under `root`, whose files' stems are the keys; or a glob, whose key is what its wildcards
            stand for, without the suffix. `gt/*_mask.png` finds gt/a_mask.png, of key a; `leftImg8bit/*/*_left.png`
            finds leftImg8bit/ulm/1_left.png, of key ulm/1. `**` stands for any number of folders.
        masks: likewise.
        layout: one line, how the data must lie on disk, for messages.
        names: only these keys, in this order; whatever else lies in the folders is left alone.

    Raises:
        ConfigError: a pattern that leaves `root`.
        DataError: a folder that is not there, two files of one key, an image without mask, a mask without image,
            or no image at all.
    """
    found_images = _find(root, images, IMAGE_SUFFIXES, layout)
    found_masks = _find(root, masks, MASK_SUFFIXES, layout)
    if not found_images:
        raise DataError(f"{root}: no image matches data.images={images}; {layout}")
    keys = sorted(found_images) if names is None else names
    unknown = [key for key in keys if key not in found_images]
    if unknown:
        hint = nearest(unknown[0], found_images)
        raise DataError(f"{root}: {listed(unknown, 'name')} in the split without an image in {images}{hint}; {layout}")
    without_mask = [key for key in keys if key not in found_masks]
    if without_mask:
        raise DataError(f"{root}: {listed(without_mask, 'image')} without a mask in {masks}; {layout}")
    without_image = sorted(found_masks.keys() - found_images.keys()) if names is None else []
    if without_image:
        raise DataError(f"{root}: {listed(without_image, 'mask')} without an image in {images}; {layout}")
    return {key: (found_images[key], found_masks[key]) for key in keys}


def existing_folder(path: Path, layout: str, key: str = "") -> Path:
    """`path`, or a DataError that says how the data must lie on disk; `key` is the config key that says the path."""
    if not path.is_dir():
        reason = "is a file, not a folder" if path.exists() else "no such folder"
        raise DataError(f"{f'{key}=' if key else ''}{path}: {reason}; {layout}")
    return path


def listed(names: Sequence[str], noun: str) -> str:
    """`"7 images (a, b, c, ...)"`."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"


def read_list(path: Path) -> tuple[str, ...]:
    """The names in a split file: the first word of every line, without leading slash and image suffix.

    Reads both `2007_000032` and `/JPEGImages/2007_000032.jpg /SegmentationClass/2007_000032.png`, then with the
    folders kept.

    Raises:
        DataError: missing, not text, empty, or with a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(
            f"{path}: cannot be read as a split's list ({reason}); it must be a text file of one name a line"
        ) from None
    names = tuple(_without_suffix(line.split()[0].lstrip("/")) for line in lines if line.strip())
    if not names:
        raise DataError(f"{path}: the list is empty, and so is its split; write one name a line")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"{path}: {twice} is listed twice; every item counts once")
    return names


def split_by_fractions(keys: Collection[str], fractions: Mapping[str, float], seed: int) -> dict[str, tuple[str, ...]]:
    """Parts that exclude each other, of `fractions` of the keys each, drawn by the hash of (seed, key).

    The same for the same keys whatever their order, on every machine and with every version of numpy. Together the
    parts have round(sum(fractions) * len(keys)) keys.

    Raises:
        ConfigError: a fraction outside (0, 1], or a sum above 1.
    """
    total = sum(fractions.values())
    if any(not 0 < fraction <= 1 for fraction in fractions.values()) or total > 1 + 1e-9:
        raise ConfigError(f"data.splits={dict(fractions)}: fractions are in (0, 1] and add up to 1 or less")
    shuffled = sorted(keys, key=lambda key: hashlib.blake2b(f"{seed}|{key}".encode(), digest_size=16).digest())
    parts, start, reached = {}, 0, 0.0
    for name, fraction in fractions.items():
        reached += fraction
        stop = round(reached * len(shuffled))
        parts[name] = tuple(sorted(shuffled[start:stop]))
        start = stop
    return parts


def _find(root: Path, pattern: str, suffixes: Collection[str], layout: str) -> dict[str, Path]:
    """{key: path} of the files that match a folder or a glob, of a known suffix; hidden files are left out."""
    if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
        raise ConfigError(f"data: {pattern} leaves data.root={root}; give folders and globs under it")
    is_glob = any(wildcard in pattern for wildcard in "*?")
    pattern = PurePosixPath(pattern if is_glob else f"{pattern}/*").as_posix()
    parts = PurePosixPath(pattern).parts
    fixed = PurePosixPath(*[part for i, part in enumerate(parts[:-1]) if not set("*?") & set("".join(parts[: i + 1]))])
    start = existing_folder(root / fixed, layout)
    expression = _glob_expression(pattern)
    found: dict[str, Path] = {}
    for folder, _, files in os.walk(start, followlinks=True):
        for file in files:
            path = Path(folder, file)
            match = expression.fullmatch(path.relative_to(root).as_posix())
            if match is None or file.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            key = _without_suffix("/".join(part.strip("/") for part in match.groups() if part))
            if key in found:
                first, second = sorted((found[key], path))
                raise DataError(f"{first} and {second} are both named {key}; keep one of them")
            found[key] = path
    return found


def _glob_expression(pattern: str) -> re.Pattern[str]:
    """A regular expression with one group a wildcard: `**/` any folders, `*` any text, `?` any one character."""
    pieces = {"**/": "((?:[^/]+/)*)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(pieces.get(token, re.escape(token)) for token in tokens))


def _without_suffix(name: str) -> str:
    """`name` without a known image suffix; other dots belong to the name."""
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in IMAGE_SUFFIXES | MASK_SUFFIXES else name
