"""From a mask's source values to class indices, and from class indices to colours."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segtrain.errors import ConfigError, DataError, nearest

Colour = tuple[int, int, int]

IGNORE = "ignore"
_UNKNOWN = np.iinfo(np.int32).min
_LARGEST_TABLE = 1 << 16  # source values up to 16 bits by table, colours (24 bits) by binary search


def default_palette(num_colours: int) -> tuple[Colour, ...]:
    """VOC's colour map: black, (128, 0, 0), (0, 128, 0), ...; entry 255 is the (224, 224, 192) of VOC's void.

    The bits of the index, in threes from the lowest, become the bits of red, green and blue from the highest.

    Source: VOC devkit, VOClabelcolormap.m.
    """
    colours = []
    for index in range(num_colours):
        red = green = blue = 0
        for bit in range(8):
            red |= (index >> (3 * bit) & 1) << (7 - bit)
            green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
            blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
        colours.append((red, green, blue))
    return tuple(colours)


def check_palette(palette: Sequence[Sequence[int]] | None, num_classes: int) -> tuple[Colour, ...]:
    """One colour a class; None is VOC's colour map. ConfigError for a wrong number or wrong values."""
    if palette is None:
        return default_palette(num_classes)
    if len(palette) != num_classes:
        raise ConfigError(f"data.palette has {len(palette)} colours for {num_classes} classes; give one for each")
    for colour in palette:
        if len(colour) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in colour):
            raise ConfigError(f"data.palette: {list(colour)} is no colour; write [red, green, blue], each 0..255")
    return tuple((colour[0], colour[1], colour[2]) for colour in palette)


def pack_colour(colour: Sequence[int]) -> int:
    """(red, green, blue) as 0xRRGGBB, the source value of a palette mask's pixel."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


class LabelMap:
    """Source values -> class indices, by lookup; whatever is not listed is an error, nothing is shifted or clipped.

    Args:
        classes: names, by class index.
        labels: for every class name, and for "ignore" where there is something to ignore, the list of its source
            values: ints, or [red, green, blue] for palette masks. None: value i is class i and `ignore_index` is
            ignored; for palette masks the class's colour in `palette` is the class, and where that is None (VOC's
            colour map) the map's colour of `ignore_index` is ignored.
        ignore_index: what ignored pixels become; not in [0, num_classes).
        colours: source values are colours (mask_format=palette).
        palette: one colour a class, or None for VOC's colour map.

    Raises:
        ConfigError: a class without entry, an entry without class, one source value for two classes, no classes,
            a name twice, or an `ignore_index` that is a class.
    """

    def __init__(
        self,
        classes: Sequence[str],
        labels: Mapping[str, Sequence[int | Sequence[int]]] | None,
        ignore_index: int,
        colours: bool = False,
        palette: Sequence[Sequence[int]] | None = None,
    ) -> None:
        if not classes:
            raise ConfigError("data.classes is empty; name every class, in the order of its index")
        if len(set(classes)) < len(classes) or IGNORE in classes:
            raise ConfigError(f"data.classes: every name once, and none of them {IGNORE!r}")
        if 0 <= ignore_index < len(classes):
            raise ConfigError(
                f"data.ignore_index={ignore_index} is the class {classes[ignore_index]!r}; use one that is none: 255"
            )
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.colours = colours
        # The smallest dtype that holds every class and the ignore index; labels travel between processes.
        self.dtype = np.dtype(np.uint8 if len(classes) <= 256 and 0 <= ignore_index < 256 else np.int32)
        targets = self._targets(labels) if labels is not None else self._identity(palette)
        self._values = np.array(sorted(targets), dtype=np.int64)
        self._indices = np.array([targets[value] for value in sorted(targets)], dtype=np.int32)
        small = not colours and max(targets) < _LARGEST_TABLE
        self._table = self._make_table() if small else None

    def _identity(self, palette: Sequence[Sequence[int]] | None) -> dict[int, int]:
        if not self.colours:
            return {index: index for index in (*range(len(self.classes)), self.ignore_index)}
        targets = {pack_colour(colour): index for index, colour in enumerate(check_palette(palette, len(self.classes)))}
        if len(targets) < len(self.classes):
            raise ConfigError("data.palette has one colour for two classes: masks in it cannot be told apart")
        if palette is None and 0 <= self.ignore_index < 256:
            targets[pack_colour(default_palette(256)[self.ignore_index])] = self.ignore_index
        return targets

    def _targets(self, labels: Mapping[str, Sequence[int | Sequence[int]]]) -> dict[int, int]:
        indices = {name: index for index, name in enumerate(self.classes)} | {IGNORE: self.ignore_index}
        for name in labels:
            if name not in indices:
                raise ConfigError(f"data.labels.{name}: no such class{nearest(name, indices)}")
        missing = [name for name in self.classes if name not in labels]
        if missing:
            raise ConfigError(f"data.labels: no source values for {', '.join(missing)}; list them, or [] for none")
        targets: dict[int, int] = {}
        for name, values in labels.items():
            for value in values:
                source = self._source(name, value)
                if source in targets:
                    raise ConfigError(f"data.labels.{name}: the source value {value} already has a class")
                targets[source] = indices[name]
        if not targets:
            raise ConfigError("data.labels lists no source value at all; give at least one class its values")
        return targets

    def _source(self, name: str, value: int | Sequence[int]) -> int:
        if isinstance(value, int) and not self.colours:
            return value
        if self.colours and not isinstance(value, int) and len(value) == 3 and all(0 <= part <= 255 for part in value):
            return pack_colour(value)
        expected = "[red, green, blue], as data.mask_format=palette," if self.colours else "an integer"
        raise ConfigError(f"data.labels.{name}: {value} is not {expected} as a source value")

    def _make_table(self) -> NDArray[np.int32]:
        table = np.full(max(int(self._values.max()) + 1, 256), _UNKNOWN, dtype=np.int32)
        known = self._values >= 0  # a negative ignore index is looked up by search
        table[self._values[known]] = self._indices[known]
        return table

    def apply(self, values: NDArray[np.integer], name: str) -> NDArray[np.integer]:
        """[H, W] source values -> [H, W] class indices, uint8 where they fit, else int32.

        Args:
            values: as `read_mask` returns them.
            name: the mask's file, for the message.

        Raises:
            DataError: a value that has no class, with its row and column.
        """
        indices = self._look_up(values)
        unknown = indices == _UNKNOWN
        if unknown.any():
            row, column = (int(axis[0]) for axis in np.nonzero(unknown))
            raise DataError(f"{name}: {self._problem(int(values[row, column]), row, column)}")
        return indices.astype(self.dtype)

    def _look_up(self, values: NDArray[np.integer]) -> NDArray[np.int32]:
        table = self._table
        if table is not None and (values.dtype == np.uint8 or (values.min() >= 0 and values.max() < len(table))):
            return table[values]
        places = np.searchsorted(self._values, values).clip(max=len(self._values) - 1)
        return np.where(self._values[places] == values, self._indices[places], np.int32(_UNKNOWN))

    def _problem(self, value: int, row: int, column: int) -> str:
        count = f"{len(self.classes)} classes"
        where = f"at row {row}, column {column}"
        if self.colours:
            colour = (value >> 16, value >> 8 & 255, value & 255)
            return f"colour {colour} {where} is of none of the {count}; add it to data.labels, perhaps under {IGNORE!r}"
        hint = "set data.mask_format=binary if the mask is 0 and 255, or " if value == 255 else ""
        return (
            f"label value {value} {where}, but the data has {count} (0..{len(self.classes) - 1}, "
            f"ignore {self.ignore_index}); {hint}say in data.labels which class each source value is"
        )
