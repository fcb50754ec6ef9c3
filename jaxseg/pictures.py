"""Pictures of a prediction: image, label, prediction and uncertainty side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, UInt, UInt8

    Labels = Int[np.ndarray, "*pixels"] | Num[np.ndarray, "*pixels classes"]

IGNORED = (128, 128, 128)
_CAPTION = 18  # pixels of height
_GAP = 4
_TILE = 176  # pixels of the longer side of an image in a contact sheet
_SMALLEST = 192  # panels are enlarged to this side, so that small images can be seen
_LARGEST = 1024  # but not so that the other side is longer than this


def palette(num_classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Distinct colours: black for class 0, then hues a golden angle apart."""
    hues = (np.arange(num_classes) * 180 * 0.618034 + 20) % 180
    values = 255 - 60 * (np.arange(num_classes) // 3 % 3)
    hsv = np.stack([hues, np.full(num_classes, 190), values], -1).astype(np.uint8)
    colours = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    colours[0] = 0
    return colours


def entropy(probs: Float[np.ndarray, "*pixels classes"]) -> Float[np.ndarray, "*pixels"]:
    """The entropy of each pixel's prediction in nats, from 0 (certain) to log(classes)."""
    probs = np.asarray(probs, np.float64)
    return -np.sum(np.where(probs > 0, probs * np.log(np.where(probs > 0, probs, 1)), 0), -1)


def panels(
    image: UInt[np.ndarray, "*pixels channels"],
    labels: Labels,
    where: Bool[np.ndarray, "*pixels"],
    probs: Float[np.ndarray, "*pixels classes"],
    classes: Sequence[str],
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: the image, its label, the prediction and the entropy, each with its caption.

    Pixels that don't count are grey in the label. Of a volume it is the slice along the first axis
    that has most of what is labelled other than class 0. Where labels are amounts of each class,
    colours are mixed by their shares, and those of the prediction by its probabilities. The image's
    contrast is stretched for display; the entropy's scale is fixed, so pictures of different steps
    compare.
    """
    colours, soft = palette(len(classes)), labels.ndim > where.ndim
    labelled = where * _foreground(labels, where.ndim)
    place, (image, labels, where, probs) = _sliced(labelled, image, labels, where, probs)
    row = [
        (f"image{place}", _display(image)),
        ("label", np.where(where[..., None], _drawn(labels, colours), np.uint8(IGNORED))),
        ("prediction", _drawn(probs if soft else probs.argmax(-1), colours)),
        (f"entropy, 0..{np.log(len(classes)):.2f} nats", _heat(probs)),
    ]
    return _beside(row)


def comparison(
    image: UInt[np.ndarray, "*pixels channels"] | None,
    labels: Labels,
    where: Bool[np.ndarray, "*pixels"],
    preds: Int[np.ndarray, "*pixels"],
    probs: Float[np.ndarray, "*pixels classes"] | None,
    num_classes: int,
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: label and prediction over the image, the pixels that are wrong, and the entropy.

    Without an image the colours stand alone, and without probabilities the entropy is left out.
    Wrong pixels are red, and those that don't count grey; a pixel of amounts is right if the
    prediction is the class with most. Colours are mixed as in `panels`, and so is the slice of a
    volume chosen, but it is the one with most wrong pixels if there are any.
    """
    colours = palette(num_classes)
    soft = labels.ndim > where.ndim
    wrong = where & (preds != (labels.argmax(-1) if soft else labels))
    labelled = where * _foreground(labels, where.ndim)
    place, (image, labels, where, preds, probs, wrong) = _sliced(
        wrong if wrong.any() else labelled, image, labels, where, preds, probs, wrong
    )
    shown = None if image is None else _display(image)
    picture = _drawn(labels, colours) if shown is None else shown
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1) // 2 + 96
    errors = np.where(wrong[..., None], np.uint8((220, 30, 30)), grey.astype(np.uint8))
    label = np.where(where[..., None], _over(shown, colours, labels), np.uint8(IGNORED))
    row = [
        (f"label{place}", label),
        ("prediction", _over(shown, colours, probs if soft and probs is not None else preds)),
        ("wrong pixels", np.where(where[..., None], errors, np.uint8(IGNORED))),
    ]
    if probs is not None:
        row.append((f"entropy, 0..{np.log(num_classes):.2f} nats", _heat(probs)))
    return _beside(row)


def segments(
    labels: Int[np.ndarray, "*pixels"],
    where: Bool[np.ndarray, "*pixels"],
    preds: Int[np.ndarray, "*pixels"],
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: the labelled and the predicted segments, and their boundaries in one picture.

    Boundaries of labels are green, those of predictions red, and those of both yellow. Of a volume
    it is the slice along the first axis where most pixels are of a segment in one of both alone.
    """
    colours = palette(64)
    wrong = where & ((preds > 0) != (labels > 0))  # ids differ where nothing is wrong
    place, (labels, where, preds) = _sliced(
        wrong if wrong.any() else where & (labels > 0), labels, where, preds
    )

    def coloured(ids):
        return np.where((ids > 0)[..., None], colours[1 + ids % 63], np.uint8(0))

    def boundaries(ids):
        ids = ids.astype(np.float32)
        return cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0

    both = np.stack([boundaries(preds), boundaries(labels), np.zeros_like(where)], -1)
    label = np.where(where[..., None], coloured(labels), np.uint8(IGNORED))
    row = [
        (f"labelled segments{place}", label),
        ("predicted segments", coloured(preds)),
        ("boundaries: label green, prediction red", 255 * both.astype(np.uint8)),
    ]
    return _beside(row)


def sheet(
    rows: Sequence[np.ndarray], classes: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Rows of panels one below the other, with a legend of the classes."""
    rows = [np.pad(row, ((0, _GAP), (0, 0), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate([*rows, _legend(classes, rows[0].shape[1])])


def contact_sheet(
    examples: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
    classes: Sequence[str],
    columns: int = 4,
) -> UInt8[np.ndarray, "height width 3"]:
    """Many examples in small: each as it is, and with its label over it.

    An example is its caption, image, labels and `where`; pixels that don't count are grey. Amounts
    of classes, which may be small, are drawn alone, their colours mixed by their shares, as are
    those of pixels that become one.
    """
    colours = palette(len(classes))
    tiles = []
    for caption, image, labels, where in examples:
        scale = _TILE / max(where.shape)
        size = tuple(max(1, round(side * scale)) for side in where.shape[::-1])
        shown = _display(image)
        over = _over(None if labels.ndim > where.ndim else shown, colours, labels)
        over = np.where(where[..., None], over, shown // 2 + np.uint8(IGNORED) // 2)
        shown, over = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (shown, over))
        width = 2 * (_TILE + _GAP) + _GAP
        tile = Image.new("RGB", (width, size[1] + _CAPTION), "white")
        for column, picture in enumerate((shown, over)):
            tile.paste(Image.fromarray(picture), (column * (_TILE + _GAP), _CAPTION))
        ImageDraw.Draw(tile).text((2, 2), _shortened(caption, width - 2 * _GAP), "black", _font())
        tiles.append(np.asarray(tile))
    columns = min(columns, len(tiles))
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        canvas = np.full((max(map(len, row)), columns * width, 3), 255, np.uint8)
        for column, tile in enumerate(row):
            canvas[: len(tile), column * width : (column + 1) * width] = tile
        rows.append(canvas)
    return sheet(rows, classes)


def _shortened(text: str, width: int) -> str:
    """The text without as much of its beginning as leaves it within this width."""
    font, start = _font(), 0
    while font.getlength(text[start:]) > width:
        start += 1
    return text[start:]


def _sliced(interest: np.ndarray, *arrays: np.ndarray | None) -> tuple[str, list]:
    """Of volumes the slice along the first axis with most of interest, and words that name it."""
    if interest.ndim == 2:
        return "", list(arrays)
    index = int(np.argmax(interest.sum((1, 2))))
    words = f", slice {index} of 0..{len(interest) - 1}"
    return words, [None if x is None else x[index] for x in arrays]


def _shares(amounts: np.ndarray) -> np.ndarray:
    amounts = amounts.astype(np.float32)
    return amounts / np.maximum(amounts.sum(-1, keepdims=True), 1e-30)


def _foreground(labels: np.ndarray, rank: int) -> np.ndarray:
    """Whether pixels are not of class 0, or how large the share of all others is."""
    return labels > 0 if labels.ndim == rank else _shares(labels)[..., 1:].sum(-1)


def _drawn(labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The colours of class indices, or those of amounts as a mixture."""
    return colours[labels] if labels.ndim == 2 else np.uint8(_shares(labels) @ colours)


def _over(image: np.ndarray | None, colours: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The colours of the labels, half over the image; class 0, which is black, is the image."""
    drawn = _drawn(labels, colours)
    if image is None:
        return drawn
    return np.uint8(image * (1 - _foreground(labels, 2)[..., None] / 2)) + drawn // 2


def _heat(probs: np.ndarray) -> np.ndarray:
    uncertainty = entropy(probs) / np.log(max(2, probs.shape[-1]))
    levels = (255 * np.clip(uncertainty, 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]


def _display(image: np.ndarray) -> np.ndarray:
    image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)
    low, high = np.percentile(image, (0.5, 99.5))
    stretched = (image.astype(np.float64) - low) / max(high - low, 1.0)
    return (255 * np.clip(stretched, 0, 1)).astype(np.uint8)


def _beside(row: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one size with their captions."""
    sides = row[0][1].shape[:2]
    enlarge = max(1, min(-(-_SMALLEST // min(sides)), _LARGEST // max(sides)))
    return np.concatenate([_captioned(text, picture, enlarge) for text, picture in row], 1)


def _captioned(text: str, picture: np.ndarray, enlarge: int) -> np.ndarray:
    picture = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    canvas = Image.new("RGB", (picture.shape[1] + _GAP, picture.shape[0] + _CAPTION), "white")
    canvas.paste(Image.fromarray(np.ascontiguousarray(picture)), (0, _CAPTION))
    ImageDraw.Draw(canvas).text((2, 2), text, "black", _font())
    return np.asarray(canvas)


def _legend(classes: Sequence[str], width: int) -> np.ndarray:
    font, x, y = _font(), 2, 2
    places = []
    for name in (*classes, "does not count"):
        size = int(font.getlength(name)) + 30
        if x + size > width and x > 2:
            x, y = 2, y + _CAPTION
        places.append((name, x, y))
        x += size
    canvas = Image.new("RGB", (width, y + _CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    colours = [*map(tuple, palette(len(classes)).tolist()), IGNORED]
    for (name, x, y), colour in zip(places, colours, strict=True):
        draw.rectangle((x, y + 2, x + 12, y + 14), colour, "black")
        draw.text((x + 17, y + 1), name, "black", font)
    return np.asarray(canvas)


def _font():
    return ImageFont.load_default(13)
