"""Flax NNX models and the pure functions they become."""

from jaxseg.models.functional import Functional, to_functional
from jaxseg.models.unet import UNet

__all__ = ["Functional", "UNet", "to_functional"]
