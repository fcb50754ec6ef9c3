"""Pure loss functions on logits: divergences between label and prediction, and overlaps."""

from jaxseg.losses.divergences import cross_entropy, kl_divergence, relative_entropy
from jaxseg.losses.regions import dice
from jaxseg.losses.terms import combine

__all__ = ["combine", "cross_entropy", "dice", "kl_divergence", "relative_entropy"]
