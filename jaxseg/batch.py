"""The one structure that crosses every boundary: from the data, through the step, to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Num


class Batch(NamedTuple):
    """Images or volumes with their labels and the pixels that count.

    The axes of pixels are (height, width), or of volumes (depth, height, width). `images` are uint8
    or uint16 as decoded until the step normalises them to float32. `labels` are class indices, or
    amounts of each class (votes, or weights in float16), which the step divides by their sum. A
    pixel outside `where` (an ignored label, padding, the outside of a rotated image) has no
    influence on any loss, gradient or score, whatever its label. `sizes` are the sides of each
    image, if it does not fill its array; the rest, at the end of each axis, is padding.
    """

    images: Num[Array, "batch *pixels channels"]
    labels: Int[Array, " batch *pixels"] | Num[Array, "batch *pixels classes"]
    where: Bool[Array, " batch *pixels"]
    sizes: Int[Array, "batch rank"] | None = None


class Prepared(NamedTuple):
    """A batch as the training step prepares it: normalised and augmented.

    Of the pixels, those `inside` show an image, labelled or not; only of these can any count.
    """

    images: Float[Array, "batch *pixels channels"]
    labels: Int[Array, " batch *pixels"] | Float[Array, "batch *pixels classes"]
    where: Bool[Array, " batch *pixels"]
    inside: Bool[Array, " batch *pixels"]
