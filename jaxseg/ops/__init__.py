"""Array operations that JAX lacks: distances within masks, and their connected components."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.distance import distance_transform
from jaxseg.ops.images import each_image

__all__ = ["connected_components", "distance_transform", "each_image"]
