"""Array operations that JAX lacks, or has slower: distances in masks, windows, layers."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.convolution import convolve
from jaxseg.ops.dense import dense
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.images import each_image
from jaxseg.ops.normalisation import normalize_relu
from jaxseg.ops.pooling import max_pool
from jaxseg.ops.windows import sliding_windows

__all__ = [
    "connected_components",
    "convolve",
    "dense",
    "distance_transform",
    "each_image",
    "max_pool",
    "normalize_relu",
    "sliding_windows",
]
