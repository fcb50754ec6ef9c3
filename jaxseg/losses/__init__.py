"""Pure loss functions on logits: divergences, pixelwise losses, overlaps, boundaries."""

from jaxseg.losses.boundaries import boundary, hausdorff_dt
from jaxseg.losses.distillation import (
    channel_distillation,
    consistency,
    knowledge_distillation,
    marginal_kl,
)
from jaxseg.losses.divergences import (
    alpha_divergence,
    brier,
    chi_squared,
    cross_entropy,
    f_divergence,
    hellinger,
    jeffreys,
    jensen_shannon,
    kl_divergence,
    relative_entropy,
    renyi_divergence,
    total_variation,
    tsallis_divergence,
)
from jaxseg.losses.lovasz import lovasz_hinge, lovasz_softmax
from jaxseg.losses.pixelwise import (
    confidence_penalty,
    entropy,
    focal,
    generalized_cross_entropy,
    hard_pixels,
    logit_adjusted,
    poly1,
    symmetric_cross_entropy,
)
from jaxseg.losses.regions import dice, focal_tversky, generalized_dice, jaccard, mcc, tversky
from jaxseg.losses.sigmoid import (
    sigmoid_cross_entropy,
    sigmoid_dice,
    sigmoid_focal,
    sigmoid_tversky,
)
from jaxseg.losses.terms import weighted_sum

__all__ = [
    "alpha_divergence",
    "boundary",
    "brier",
    "channel_distillation",
    "chi_squared",
    "confidence_penalty",
    "consistency",
    "cross_entropy",
    "dice",
    "entropy",
    "f_divergence",
    "focal",
    "focal_tversky",
    "generalized_cross_entropy",
    "generalized_dice",
    "hard_pixels",
    "hausdorff_dt",
    "hellinger",
    "jaccard",
    "jeffreys",
    "jensen_shannon",
    "kl_divergence",
    "knowledge_distillation",
    "logit_adjusted",
    "lovasz_hinge",
    "lovasz_softmax",
    "marginal_kl",
    "mcc",
    "poly1",
    "relative_entropy",
    "renyi_divergence",
    "sigmoid_cross_entropy",
    "sigmoid_dice",
    "sigmoid_focal",
    "sigmoid_tversky",
    "symmetric_cross_entropy",
    "total_variation",
    "tsallis_divergence",
    "tversky",
    "weighted_sum",
]
