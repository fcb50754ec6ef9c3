"""Pictures of a prediction: image, label, prediction and uncertainty side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8

IGNORED = (128, 128, 128)
_CAPTION = 18  # pixels of height
_GAP = 4
_SMALLEST = 192  # panels are enlarged to this side, so that small images can be seen


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
    image: UInt8[np.ndarray, "height width channels"],
    labels: Int[np.ndarray, "height width"],
    where: Bool[np.ndarray, "height width"],
    probs: Float[np.ndarray, "height width classes"],
    classes: Sequence[str],
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: the image, its label, the prediction and the entropy, each with its caption.

    Pixels that don't count are grey in the label. The image's contrast is stretched for display;
    the entropy's scale is fixed, so pictures of different steps compare.
    """
    colours = palette(len(classes))
    label = np.where(where[..., None], colours[labels], np.uint8(IGNORED))
    row = [
        ("image", _display(image)),
        ("label", label),
        ("prediction", colours[probs.argmax(-1)]),
        (f"entropy, 0..{np.log(len(classes)):.2f} nats", _heat(probs)),
    ]
    return _beside(row)


def comparison(
    image: UInt8[np.ndarray, "height width channels"] | None,
    labels: Int[np.ndarray, "height width"],
    where: Bool[np.ndarray, "height width"],
    preds: Int[np.ndarray, "height width"],
    probs: Float[np.ndarray, "height width classes"] | None,
    num_classes: int,
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: label and prediction over the image, the pixels that are wrong, and the entropy.

    Without an image the colours stand alone, and without probabilities the entropy is left out.
    Wrong pixels are red, and those that don't count grey.
    """
    colours = palette(num_classes)
    shown = None if image is None else _display(image)
    picture = colours[labels] if shown is None else shown
    grey = np.repeat(picture.mean(-1, keepdims=True), 3, -1) // 2 + 96
    wrong = where & (preds != labels)
    errors = np.where(wrong[..., None], np.uint8((220, 30, 30)), grey.astype(np.uint8))
    row = [
        ("label", np.where(where[..., None], _over(shown, colours, labels), np.uint8(IGNORED))),
        ("prediction", _over(shown, colours, preds)),
        ("wrong pixels", np.where(where[..., None], errors, np.uint8(IGNORED))),
    ]
    if probs is not None:
        row.append((f"entropy, 0..{np.log(num_classes):.2f} nats", _heat(probs)))
    return _beside(row)


def segments(
    labels: Int[np.ndarray, "height width"],
    where: Bool[np.ndarray, "height width"],
    preds: Int[np.ndarray, "height width"],
) -> UInt8[np.ndarray, "panel_height panel_width 3"]:
    """One row: the labelled and the predicted segments, and their boundaries in one picture.

    Boundaries of labels are green, those of predictions red, and those of both yellow.
    """
    colours = palette(64)

    def coloured(ids):
        return np.where((ids > 0)[..., None], colours[1 + ids % 63], np.uint8(0))

    def boundaries(ids):
        ids = ids.astype(np.float32)
        return cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0

    both = np.stack([boundaries(preds), boundaries(labels), np.zeros_like(where)], -1)
    row = [
        ("labelled segments", np.where(where[..., None], coloured(labels), np.uint8(IGNORED))),
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


def _over(image: np.ndarray | None, colours: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The colours of the classes, half over the image; that of class 0 is the image itself."""
    drawn = colours[indices]
    if image is None:
        return drawn
    return np.where((indices > 0)[..., None], image // 2 + drawn // 2, image)


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
    enlarge = max(1, -(-_SMALLEST // min(row[0][1].shape[:2])))
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
