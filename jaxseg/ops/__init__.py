"""Array operations that JAX lacks, or has slower: distances in masks, windows, convolutions."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.convolution import convolve
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.images import each_image
from jaxseg.ops.windows import sliding_windows

__all__ = [
    "connected_components",
    "convolve",
    "distance_transform",
    "each_image",
    "sliding_windows",
]
