"""Label maps as pictures: colours, overlays, panels, sheets and legends, and the PNG files of a prediction.

Pictures are [H, W, 3] uint8; label maps [H, W] of any integer dtype; palettes one (red, green, blue) in
0..255 per class.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Labels = NDArray[np.integer]
Palette = Sequence[tuple[int, int, int]]

VOID = (224, 224, 192)  # the cream that VOC 2012 paints its own void with
PAPER = (250, 250, 248)
INK = (60, 60, 66)
WRONG = (222, 45, 38)

# Tiles of a panel have their longer side between these, in pixels: readable, and small enough to store hundreds of.
TILE_SIDE = (256, 640)
GAP = 8
BAND = 256  # rows that are tinted at a time
FONT_SIZE = 14


def colorize(labels: Labels, palette: Palette, ignore_index: int) -> Picture:
    """Paint each class in its colour, ignored pixels in `VOID`.

    Raises:
        ValueError: a label is neither a class of the palette nor `ignore_index`.
    """
    void = labels == ignore_index
    classes = np.where(void, 0, labels)
    if classes.size and not 0 <= classes.min() <= classes.max() < len(palette):
        raise ValueError(f"labels span [{classes.min()}, {classes.max()}], the palette has {len(palette)} colours")
    picture = np.array(palette, dtype=np.uint8)[classes]
    picture[void] = VOID
    return picture


def overlay(
    image: NDArray[np.uint8],
    labels: Labels,
    palette: Palette,
    ignore_index: int,
    alpha: float = 0.55,
    outlined: bool = True,
) -> Picture:
    """Tint an image with the classes' colours and draw a thin line around each region.

    Args:
        image: [H, W, C] or [H, W] uint8; see `as_rgb`.
        labels: [H, W]; ignored pixels show the bare image.
        alpha: opacity of the tint, in [0, 1].
        outlined: draw the line.
    """
    rgb = as_rgb(image)
    picture = np.empty(rgb.shape, dtype=np.uint8)
    contour = _contour(labels)
    for top in range(0, len(rgb), BAND):  # real numbers of a large photograph would take gigabytes
        rows = slice(top, top + BAND)
        opacity = np.where(labels[rows] == ignore_index, 0, alpha)[..., None]
        band = rgb[rows] * (1 - opacity) + colorize(labels[rows], palette, ignore_index) * opacity
        if outlined:
            band[contour[rows]] = 0.35 * band[contour[rows]] + 0.65 * 255
        picture[rows] = band.round()
    return picture


def borders(labels: Labels, thickness: int) -> NDArray[np.bool_]:
    """True at pixels from which another label is at most `thickness` steps away, up, down, left or right."""
    border = _contour(labels)
    border[:, 1:] |= labels[:, :-1] != labels[:, 1:]
    border[1:] |= labels[:-1] != labels[1:]
    for _ in range(thickness - 1):
        wider = border.copy()
        wider[:, 1:] |= border[:, :-1]
        wider[:, :-1] |= border[:, 1:]
        wider[1:] |= border[:-1]
        wider[:-1] |= border[1:]
        border = wider
    return border


def errors(image: NDArray[np.uint8], truth: Labels, prediction: Labels, ignore_index: int) -> Picture:
    """The image in pale grey, with wrong pixels in red and ignored ones in cream."""
    grey = as_rgb(image).mean(axis=2, keepdims=True)
    picture = np.repeat(120 + grey * 0.5, 3, axis=2)
    wrong = truth != prediction
    picture[wrong] = 0.2 * picture[wrong] + 0.8 * np.array(WRONG)
    picture[truth == ignore_index] = VOID
    return picture.round().astype(np.uint8)


def panel(
    image: NDArray[np.uint8],
    truth: Labels | None,
    prediction: Labels,
    palette: Palette,
    ignore_index: int,
    title: str = "",
    with_errors: bool = True,
) -> Picture:
    """Image, truth, prediction and errors side by side with captions; image and prediction where there is no truth.

    Everything is enlarged by a whole factor, or reduced, until its longer side lies in `TILE_SIDE`.

    Args:
        image: [H, W, C] or [H, W] uint8, and `truth` and `prediction` [H, W].
        title: a line above, such as the sample's name.
        with_errors: show the errors too, if there is a truth.
    """
    size = _tile_size(*prediction.shape)
    image = _resize(as_rgb(image), size)
    prediction = _resize(prediction, size)
    tiles = [("image", image)]
    if truth is not None:
        truth = _resize(truth, size)
        tiles.append(("truth", overlay(image, truth, palette, ignore_index)))
    tiles.append(("prediction", overlay(image, prediction, palette, ignore_index)))
    if truth is not None and with_errors:
        tiles.append(("errors", errors(image, truth, prediction, ignore_index)))

    line = FONT_SIZE + 6
    top = GAP + (line + 2 if title else 0)
    height, width = size
    canvas = Image.new("RGB", (GAP + len(tiles) * (width + GAP), top + line + height + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, GAP), _shorten(title, canvas.width - 2 * GAP), INK, _font(FONT_SIZE))
    for column, (caption, tile) in enumerate(tiles):
        left = GAP + column * (width + GAP)
        draw.text((left, top), caption, INK, _font(FONT_SIZE))
        canvas.paste(Image.fromarray(tile), (left, top + line))
    return np.asarray(canvas)


def sheet(panels: Sequence[Picture], columns: int) -> Picture:
    """Pictures in a grid, row by row; rows are as high and columns as wide as their largest picture.

    Raises:
        ValueError: no picture, or fewer than one column.
    """
    if not panels or columns < 1:
        raise ValueError(f"{len(panels)} pictures in {columns} columns make no sheet")
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    widths = [max(row[column].shape[1] for row in rows if column < len(row)) for column in range(len(rows[0]))]
    canvas = np.full((sum(heights), sum(widths), 3), PAPER, dtype=np.uint8)
    for row, top in zip(rows, np.cumsum([0, *heights]), strict=False):
        for picture, left in zip(row, np.cumsum([0, *widths]), strict=False):
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def legend(class_names: Sequence[str], palette: Palette, width: int = 800) -> Picture:
    """Each class's colour and name in columns; at most `width` pixels wide unless one name alone is wider."""
    font, swatch, line = _font(FONT_SIZE), FONT_SIZE + 2, FONT_SIZE + 10
    entries = [*zip(class_names, palette, strict=True), ("ignored", VOID)]
    cell = max(round(font.getlength(name)) for name, _ in entries) + swatch + 6 + 2 * GAP
    columns = min(max((width - GAP) // cell, 1), len(entries))
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (GAP + columns * cell, 2 * GAP + rows * line), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (name, colour) in enumerate(entries):
        row, column = divmod(index, columns)
        left, top = GAP + column * cell, GAP + row * line + 4
        draw.rounded_rectangle((left, top, left + swatch, top + swatch), 3, fill=tuple(colour), outline=INK)
        draw.text((left + swatch + 6, top + swatch // 2), name, INK, font, anchor="lm")
    return np.asarray(canvas)


def as_rgb(image: NDArray[np.uint8]) -> Picture:
    """[H, W, 3] of an image with any number of channels: grey is repeated, of four or more the first three are shown.

    Of two channels the third colour is 0.
    """
    if image.ndim == 2:
        image = image[..., None]
    channels = image.shape[2]
    if channels == 1:
        return np.repeat(image, 3, axis=2)
    if channels == 2:
        return np.concatenate([image, np.zeros_like(image[..., :1])], axis=2)
    return image[..., :3]


def save_picture(path: Path, picture: Picture) -> None:
    """Write a picture as PNG; the file is complete or not there."""
    _save_png(path, Image.fromarray(picture))


def index_png(labels: Labels) -> Image.Image:
    """Class indices as the grey values of a PNG: 8 bits, or 16 where a label is above 255.

    Raises:
        ValueError: a label is negative or above 65535.
    """
    _check_span(labels, 65535)
    return Image.fromarray(labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.uint16))


def palette_png(labels: Labels, palette: Palette, ignore_index: int) -> Image.Image:
    """Class indices as a PNG that viewers show in the classes' colours, the form of VOC's own masks.

    Reading it as a palette image gives the indices back. `ignore_index`, if 0..255 and not a class, is shown in `VOID`.

    Raises:
        ValueError: a label is negative or above 255.
    """
    _check_span(labels, 255)
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette[:256]
    if len(palette) <= ignore_index < 256:
        colours[ignore_index] = VOID
    png = Image.fromarray(labels.astype(np.uint8))
    png.putpalette(colours.tobytes())  # turns grey into mode P
    return png


def _check_span(labels: Labels, high: int) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() <= high:
        raise ValueError(f"labels span [{labels.min()}, {labels.max()}]; this file holds 0..{high}")


def _save_png(path: Path, png: Image.Image) -> None:
    encoded = io.BytesIO()
    png.save(encoded, format="PNG")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # beside the target: a rename stays on one disk
    try:
        temporary.write_bytes(encoded.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _contour(labels: Labels) -> NDArray[np.bool_]:
    """True at pixels whose right or lower neighbour has another label: lines one pixel thin."""
    contour = np.zeros(labels.shape, dtype=bool)
    contour[:, :-1] = labels[:, :-1] != labels[:, 1:]
    contour[:-1] |= labels[:-1] != labels[1:]
    return contour


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """[height, width] brought into `TILE_SIDE`: 100 x 60 becomes 300 x 180, 2048 x 1024 becomes 640 x 320."""
    low, high = TILE_SIDE
    longer = max(height, width)
    scale = -(-low // longer) if longer < low else min(high / longer, 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _resize(array: NDArray, size: tuple[int, int]) -> NDArray:
    """Enlarge by repeating pixels; reduce pictures by averaging and label maps by picking."""
    height, width = size
    if array.ndim == 3 and height < array.shape[0]:
        return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BOX))
    rows = np.arange(height) * array.shape[0] // height
    columns = np.arange(width) * array.shape[1] // width
    return array[rows[:, None], columns]


def _shorten(text: str, width: int) -> str:
    """The text, or as much of its end as fits into `width` pixels: names of files differ at the end."""
    length = _font(FONT_SIZE).getlength
    if length(text) <= width:
        return text
    while text and length("..." + text) > width:
        text = text[1:]
    return "..." + text


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
