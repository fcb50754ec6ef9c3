"""Array operations that JAX lacks: distances within masks, and their connected components."""

from jaxseg.ops.components import connected_components
from jaxseg.ops.distance import distance_transform

__all__ = ["connected_components", "distance_transform"]
