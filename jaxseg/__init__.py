"""Semantic segmentation in JAX with information-theoretic losses.

    from jaxseg import losses
    loss = losses.cross_entropy(logits, labels) + 0.5 * losses.relative_entropy(logits, labels)

Importing jaxseg loads jax, flax, optax and numpy at most; data, checkpoints and the command line
(`python -m jaxseg.train`) bring the rest when they are used.
"""

from jaxseg import decisions, labels, losses, metrics, models, ops, uncertainty
from jaxseg.batch import Batch

__version__ = "0.1.0"
__all__ = ["Batch", "decisions", "labels", "losses", "metrics", "models", "ops", "uncertainty"]
