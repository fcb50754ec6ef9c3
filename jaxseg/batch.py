"""The one structure that crosses every boundary: from the data, through the step, to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Int, Num


class Batch(NamedTuple):
    """Images with their labels and the pixels that count.

    `images` are uint8 as decoded until the step normalises them to float32. `labels` are class
    indices. A pixel outside `where` (an ignored label, padding, the outside of a rotated image)
    has no influence on any loss, gradient or score, whatever its label. `sizes` are the height and
    width of each image, if it does not fill its array; the rest, below and to the right, is
    padding.
    """

    images: Num[Array, "batch height width channels"]
    labels: Int[Array, "batch height width"]
    where: Bool[Array, "batch height width"]
    sizes: Int[Array, "batch 2"] | None = None
