"""Array operations that JAX lacks: distances in masks, their components, and sliding windows."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.images import each_image
from jaxseg.ops.windows import sliding_windows

__all__ = ["connected_components", "distance_transform", "each_image", "sliding_windows"]
