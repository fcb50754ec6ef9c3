"""Losses and operations against the numbers of other packages, which need not be installed.

tests/peers.json holds their numbers; benchmarks/peers.py writes it, and has the other half of the
table below under the same names. Where a peer differs, its number must follow from ours in a way
that says how, and docs/peers.md says why.
"""

import functools
import inspect
import json
import math
import pathlib
import tomllib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, ops

pytestmark = pytest.mark.exhaustive  # the numbers of others are the same with any version

HERE = pathlib.Path(__file__).parent
# Compiling takes most of these tests' time.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Differs(NamedTuple):
    ours: Callable
    theirs: Callable | None = None  # what they compute instead, as far as it is any of ours


def by_image(loss, *arrays, **options):
    """The mean over the images of the loss of each."""
    return sum(loss(*(x[i] for x in arrays), **options) for i in range(len(arrays[0]))) / len(
        arrays[0]
    )


def area(keep):
    """The share of the pixels that count."""
    return np.mean(keep)


def two_classes(z):
    """Logits of which the softmax is the sigmoid of z."""
    return jnp.concatenate([jnp.zeros_like(z), z], -1)


def share_of_present(z, y):
    """Of weighted areas, if absent classes get the largest weight of the others."""
    predicted, labelled = jax.nn.softmax(z).sum((0, 1, 2)), np.bincount(y.ravel(), minlength=3)
    weights = 1 / np.where(labelled, labelled, labelled[labelled > 0].min()) ** 2
    areas = weights * (predicted + labelled)
    return areas[labelled > 0].sum() / areas.sum()


def triangular(u):
    return (u - 1) ** 2 / (u + 1)


OURS = {
    # Cross-entropy
    "cross_entropy/torch": lambda z, y: losses.cross_entropy(z, y),
    "cross_entropy/torch/ignored": lambda z, y, keep: losses.cross_entropy(z, y, where=keep),
    "cross_entropy/torch/weighted": lambda z, y, w, keep: losses.cross_entropy(
        z, y, where=keep, class_weights=w
    ),
    "cross_entropy/torch/map": lambda z, y, w: losses.cross_entropy(
        z, y, class_weights=w, reduce=None
    ),
    "cross_entropy/torch/smoothed": lambda z, y, keep: losses.cross_entropy(
        z, y, where=keep, label_smoothing=0.1
    ),
    "cross_entropy/torch/smoothed_weighted": Differs(
        lambda z, y, w: losses.cross_entropy(z, y, class_weights=w, label_smoothing=0.1),
        lambda z, y, w: (
            0.9 * losses.cross_entropy(z, y, class_weights=w)
            + 0.1 * losses.cross_entropy(z, np.broadcast_to(w / 3, z.shape)) / np.mean(w[y])
        ),
    ),
    "cross_entropy/torch/soft": lambda z, p: losses.cross_entropy(z, p),
    "cross_entropy/torch/one_hot_weighted": Differs(
        lambda z, y, w: losses.cross_entropy(z, y, class_weights=w),
        lambda z, y, w: losses.cross_entropy(z, y, class_weights=w) * np.mean(w[y]),
    ),
    "cross_entropy/torch/soft_weighted": Differs(
        lambda z, p, w: losses.cross_entropy(z, p, class_weights=w),
        lambda z, p, w: losses.cross_entropy(z, p * w),
    ),
    "cross_entropy/torch/nan": Differs(
        lambda z, y, keep: jnp.abs(jax.grad(losses.cross_entropy)(z, y, where=keep)).max()
    ),
    "cross_entropy/torch/nothing": Differs(
        lambda z, y, keep: losses.cross_entropy(z, y, where=keep)
    ),
    "cross_entropy/optax": lambda z, y: losses.cross_entropy(z, y),
    "cross_entropy/optax/ignored": lambda z, y, keep: losses.cross_entropy(z, y, where=keep),
    "cross_entropy/optax/soft": lambda z, p: losses.cross_entropy(z, p),
    "cross_entropy/keras/smoothed": lambda z, y: losses.cross_entropy(z, y, label_smoothing=0.1),
    "cross_entropy/timm/smoothed": lambda z, y: losses.cross_entropy(z, y, label_smoothing=0.1),
    "cross_entropy/timm/soft": lambda z, p: losses.cross_entropy(z, p),
    "cross_entropy/segmentation-models-pytorch/smoothed": lambda z, y: losses.cross_entropy(
        z, y, label_smoothing=0.1
    ),
    "cross_entropy/segmentation-models-pytorch/ignored": Differs(
        lambda z, y, keep: losses.cross_entropy(z, y, where=keep, label_smoothing=0.1),
        lambda z, y, keep: losses.cross_entropy(z, y, where=keep, label_smoothing=0.1) * area(keep),
    ),
    "weighted_sum/monai": lambda z, y: losses.weighted_sum({"dice": 1.0, "cross_entropy": 0.5})(
        z, y
    )[0],
    # Divergences
    "kl_divergence/torch": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/torch/batchmean": Differs(
        lambda z, p: losses.kl_divergence(z, p),
        lambda z, p: losses.kl_divergence(z, p) * p[0, ..., 0].size,
    ),
    "kl_divergence/torch/mean": Differs(
        lambda z, p: losses.kl_divergence(z, p), lambda z, p: losses.kl_divergence(z, p) / 3
    ),
    "kl_divergence/torch/distributions": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/torchmetrics": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/optax": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/keras": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/scipy": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/scipy/entropy": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/kornia/cards": lambda z, p: losses.kl_divergence(z, p),
    "kl_divergence/kornia": Differs(
        lambda z, p: losses.kl_divergence(z, p),
        lambda z, p: losses.kl_divergence(z, p) * p[0, ..., 0].size / 3,
    ),
    "relative_entropy/torch": lambda z, p: losses.relative_entropy(z, p, label_smoothing=0.0),
    "relative_entropy/torchmetrics": lambda z, p: losses.relative_entropy(
        z, p, label_smoothing=0.0
    ),
    "relative_entropy/scipy": lambda z, y: losses.relative_entropy(z, y),
    "relative_entropy/keras": Differs(
        lambda z, y: losses.relative_entropy(z, y),
        lambda z, y: losses.relative_entropy(z, y, label_smoothing=3e-7),
    ),
    "jeffreys/scipy": lambda z, p: losses.jeffreys(z, p, label_smoothing=0.0),
    "jeffreys/torch": lambda z, p: losses.jeffreys(z, p, label_smoothing=0.0),
    "jensen_shannon/torchmetrics": lambda z, p: losses.jensen_shannon(z, p),
    "jensen_shannon/torchmetrics/log_prob": lambda z, p: losses.jensen_shannon(z, p),
    "jensen_shannon/scipy": lambda z, y: losses.jensen_shannon(z, y),
    "jensen_shannon/dit/weighted": Differs(
        lambda z, p: losses.jensen_shannon(z, p, weight=0.2),
        lambda z, p: losses.jensen_shannon(z, p, weight=0.2) / math.log(2),
    ),
    "jensen_shannon/kornia/cards": lambda z, p: losses.jensen_shannon(z, p),
    "jensen_shannon/kornia": Differs(
        lambda z, p: losses.jensen_shannon(z, p),
        lambda z, p: losses.jensen_shannon(z, p) * p[0, ..., 0].size / 3,
    ),
    "alpha_divergence/scipy/0.3": Differs(
        lambda z, p: losses.alpha_divergence(z, p, alpha=0.3),
        lambda z, p: 2 * losses.alpha_divergence(z, p, alpha=0.3),
    ),
    "alpha_divergence/scipy/-1": Differs(
        lambda z, p: losses.alpha_divergence(z, p, alpha=-1.0),
        lambda z, p: 2 * losses.alpha_divergence(z, p, alpha=-1.0),
    ),
    "alpha_divergence/dit": lambda z, p: losses.alpha_divergence(z, p, alpha=(1 - 0.4) / 2),
    "alpha_divergence/dit/limit": Differs(
        lambda z, p: losses.alpha_divergence(z, p, alpha=0.0),
        lambda z, p: losses.alpha_divergence(z, p, alpha=1.0) / math.log(2),
    ),
    "renyi_divergence/dit": Differs(
        lambda z, p: losses.renyi_divergence(z, p),
        lambda z, p: losses.renyi_divergence(z, p) / math.log(2),
    ),
    "renyi_divergence/dit/half": Differs(
        lambda z, p: losses.renyi_divergence(z, p, order=0.5),
        lambda z, p: losses.renyi_divergence(z, p, order=0.5) / math.log(2),
    ),
    "tsallis_divergence/dit": lambda z, p: losses.tsallis_divergence(z, p, order=0.7),
    "f_divergence/dit": lambda z, p: losses.f_divergence(z, p, f=triangular),
    "total_variation/dit": lambda z, p: losses.total_variation(z, p),
    "hellinger/dit": lambda z, p: losses.hellinger(z, p),
    "chi_squared/scipy": lambda z, p: losses.chi_squared(z, p),
    "brier/torch": Differs(lambda z, p: losses.brier(z, p), lambda z, p: losses.brier(z, p) / 3),
    # Pixelwise losses
    "focal/monai": Differs(lambda z, y: losses.focal(z, y), lambda z, y: losses.focal(z, y) / 3),
    "focal/monai/ignored": lambda z, y, keep: losses.focal(z, y, where=keep),
    "focal/monai/nan": Differs(lambda z, y, keep: losses.focal(z, y, where=keep)),
    "focal/monai/nothing": lambda z, y, keep: losses.focal(z, y, where=keep),
    "focal/monai/alpha": Differs(
        lambda z, y: losses.focal(z, y, class_weights=(0.75, 0.25, 0.25)),
        lambda z, y: jnp.mean(
            losses.focal(z, y, class_weights=(0.75, 0.25, 0.25), reduce=None) / 3
        ),
    ),
    "focal/kornia": Differs(lambda z, y: losses.focal(z, y), lambda z, y: losses.focal(z, y) / 3),
    "focal/kornia/map": lambda z, y: losses.focal(z, y, gamma=0.5, reduce=None),
    "focal/kornia/alpha": Differs(
        lambda z, y: losses.focal(z, y, class_weights=(0.75, 0.25, 0.25)),
        lambda z, y: jnp.mean(
            losses.focal(z, y, class_weights=(0.75, 0.25, 0.25), reduce=None) / 3
        ),
    ),
    "focal/kornia/ignored": Differs(
        lambda z, y, keep: losses.focal(z, y, where=keep),
        lambda z, y, keep: losses.focal(z, y, where=keep) * area(keep) / 3,
    ),
    "focal/segmentation-models-pytorch/softmax": lambda z, y: losses.focal(z, y),
    "focal/segmentation-models-pytorch": Differs(
        lambda z, y: losses.focal(z, y),
        lambda z, y: losses.sigmoid_focal(z, np.eye(3)[y], alpha=None),
    ),
    "focal/keras": lambda z, y: losses.focal(z, y),
    "poly1/optax": lambda z, p: losses.poly1(z, p, epsilon=2.0),
    "poly1/timm": lambda z, y: losses.poly1(z, y),
    "generalized_cross_entropy/keras": lambda z, y: losses.generalized_cross_entropy(z, y),
    "logit_adjusted/torch": lambda z, y: losses.logit_adjusted(z, y, prior=(0.5, 0.3, 0.2)),
    "hard_pixels/torch": lambda z, y: losses.hard_pixels(losses.cross_entropy, fraction=0.25)(z, y),
    "hard_pixels/torch/threshold": lambda z, y, keep: losses.hard_pixels(
        losses.cross_entropy, threshold=1.0
    )(z, y, where=keep),
    "entropy/torch": lambda z: losses.entropy(z),
    "entropy/scipy": lambda z: losses.entropy(z),
    "confidence_penalty/torch": lambda z: losses.confidence_penalty(z),
    # Between predictions
    "knowledge_distillation/torch": lambda z, t: losses.knowledge_distillation(z, t),
    "channel_distillation/kornia": lambda z, t: losses.channel_distillation(z, t),
    "marginal_kl/scipy": lambda z, p: losses.marginal_kl(z, p),
    "consistency/timm": Differs(
        lambda m, y: losses.consistency(m),
        lambda m, y: losses.cross_entropy(m[0], y) + 12 * losses.consistency(m),
    ),
    "consistency/dit": Differs(
        lambda m: losses.consistency(m, weights=[0.2, 0.3, 0.5]),
        lambda m: losses.consistency(m, weights=[0.2, 0.3, 0.5]) / math.log(2),
    ),
    # Overlaps
    "dice/monai": lambda z, y: losses.dice(z, y),
    "dice/monai/image": lambda z, y: losses.dice(z, y, smooth=1.0, per="image"),
    "dice/monai/squared": lambda z, y: losses.dice(z, y, form="squared", smooth=1.0),
    "dice/monai/squared_soft": lambda z, p: losses.dice(z, p, form="squared"),
    "dice/monai/soft": lambda z, p: losses.dice(z, p),
    "dice/monai/product": Differs(
        lambda z, p: losses.dice(z, p), lambda z, p: losses.dice(z, p, form="product")
    ),
    "dice/monai/foreground": lambda z, y: losses.dice(
        z, y, class_weights=(0.0, 1.0, 1.0), per="image"
    ),
    "dice/monai/weighted": Differs(
        lambda z, y, w: losses.dice(z, y, class_weights=w),
        lambda z, y, w: losses.dice(z, y, class_weights=w) * np.mean(w),
    ),
    "dice/monai/absent": Differs(
        lambda z, y: losses.dice(z, y), lambda z, y: losses.dice(z, y, classes="all")
    ),
    "dice/monai/ignored": lambda z, y, keep: losses.dice(z, y, where=keep),
    "dice/monai/nan": Differs(lambda z, y, keep: losses.dice(z, y, where=keep)),
    "dice/segmentation-models-pytorch": lambda z, y: losses.dice(z, y),
    "dice/segmentation-models-pytorch/weighted": lambda z, y, w, keep: losses.dice(
        z, y, where=keep, class_weights=w
    ),
    "dice/segmentation-models-pytorch/smooth": Differs(
        lambda z, y: losses.dice(z, y, smooth=1.0), lambda z, y: losses.dice(z, y, smooth=2.0)
    ),
    "dice/segmentation-models-pytorch/absent": Differs(
        lambda z, y: losses.dice(z, y), lambda z, y: losses.dice(z, y) * 2 / 3
    ),
    "dice/segmentation-models-pytorch/nothing": lambda z, y, keep: losses.dice(z, y, where=keep),
    "dice/segmentation-models-pytorch/nan": Differs(
        lambda z, y, keep: losses.dice(z, y, where=keep)
    ),
    "dice/kornia": lambda z, y, w, keep: losses.dice(
        z, y, where=keep, class_weights=w, per="image"
    ),
    "dice/kornia/micro": Differs(
        lambda z, y: losses.dice(z, y), lambda z, y: losses.total_variation(z, y)
    ),
    "dice/kornia/absent": lambda z, y: losses.dice(z, y, per="image"),
    "dice/kornia/nothing": Differs(lambda z, y, keep: losses.dice(z, y, where=keep, per="image")),
    "dice/kornia/nan": Differs(lambda z, y, keep: losses.dice(z, y, where=keep, per="image")),
    "dice/optax": lambda z, y: losses.dice(z, y, per="image"),
    "dice/optax/smooth": Differs(
        lambda z, y: losses.dice(z, y, smooth=1.0, per="image"),
        lambda z, y: losses.dice(z, y, smooth=2.0, per="image"),
    ),
    "dice/optax/soft": Differs(
        lambda z, p: losses.dice(z, p, per="image"),
        lambda z, p: losses.dice(z, p, form="product", per="image"),
    ),
    "dice/keras": lambda z, y: losses.dice(z, y),
    "dice/torchmetrics": lambda z, y: losses.dice(z, y),
    "jaccard/monai": lambda z, y: losses.jaccard(z, y),
    "jaccard/monai/smooth": Differs(
        lambda z, y: losses.jaccard(z, y, smooth=1.0), lambda z, y: losses.jaccard(z, y, smooth=0.5)
    ),
    "jaccard/monai/squared": lambda z, p: losses.jaccard(z, p, form="squared", per="image"),
    "jaccard/monai/soft": lambda z, p: losses.jaccard(z, p),
    "jaccard/segmentation-models-pytorch": lambda z, y, keep: losses.jaccard(
        z, y, where=keep, smooth=1.0
    ),
    "jaccard/segmentation-models-pytorch/absent": Differs(
        lambda z, y: losses.jaccard(z, y), lambda z, y: losses.jaccard(z, y) * 2 / 3
    ),
    "jaccard/torchmetrics": lambda z, y: losses.jaccard(z, y),
    "tversky/monai": lambda z, y: losses.tversky(z, y, smooth=1.0),
    "tversky/monai/soft": lambda z, p: losses.tversky(z, p),
    "tversky/monai/absent": Differs(
        lambda z, y: losses.tversky(z, y), lambda z, y: (losses.tversky(z, y) * 2 + 1) / 3
    ),
    "tversky/monai/nan": Differs(lambda z, y, keep: losses.tversky(z, y, where=keep)),
    "tversky/segmentation-models-pytorch": lambda z, y, keep: losses.tversky(
        z, y, where=keep, smooth=1.0
    ),
    "tversky/kornia": Differs(
        lambda z, y, keep: losses.tversky(z, y, where=keep),
        lambda z, y, keep: by_image(lambda z, y, k: losses.tversky(z, y, where=k), z, y, keep),
    ),
    "tversky/optax": lambda z, y: losses.tversky(z, y, smooth=1.0),
    "tversky/keras": Differs(
        lambda z, y: losses.tversky(z, y, alpha=0.3, beta=0.7),
        lambda z, y: losses.tversky(z, y, alpha=0.7, beta=0.3),
    ),
    "focal_tversky/segmentation-models-pytorch": Differs(
        lambda z, y: losses.focal_tversky(z, y), lambda z, y: losses.tversky(z, y) ** 0.75
    ),
    "focal_tversky/monai": Differs(
        lambda z, b: losses.focal_tversky(two_classes(z), b[..., 0]),
        lambda z, b: by_image(
            lambda z, y: (
                (
                    losses.tversky(z, y, class_weights=(1.0, 0.0))
                    + losses.focal_tversky(z, y, class_weights=(0.0, 1.0), gamma=1 - 0.75)
                )
                / 2
            ),
            two_classes(z),
            b[..., 0],
        ),
    ),
    "generalized_dice/monai": lambda z, y: losses.generalized_dice(z, y),
    "generalized_dice/monai/soft": lambda z, p: losses.generalized_dice(z, p),
    "generalized_dice/monai/absent": Differs(
        lambda z, y: losses.generalized_dice(z, y),
        lambda z, y: 1 - (1 - losses.generalized_dice(z, y)) * share_of_present(z, y),
    ),
    "generalized_dice/optax": Differs(
        lambda z, y: losses.generalized_dice(z, y),
        lambda z, y: losses.dice(
            z, y, class_weights=1 / np.bincount(y.ravel()) ** 2.0, per="image"
        ),
    ),
    "generalized_dice/torchmetrics": Differs(
        lambda z, y: losses.generalized_dice(z, y),
        lambda z, y: by_image(losses.generalized_dice, z, y),
    ),
    "lovasz_softmax/segmentation-models-pytorch": lambda z, y, keep: losses.lovasz_softmax(
        z, y, where=keep
    ),
    "lovasz_softmax/segmentation-models-pytorch/image": lambda z, y: losses.lovasz_softmax(
        z, y, per="image"
    ),
    "lovasz_softmax/kornia": lambda z, y: losses.lovasz_softmax(z, y, per="image"),
    "lovasz_softmax/kornia/absent": Differs(
        lambda z, y: losses.lovasz_softmax(z, y, per="image"),
        lambda z, y: (
            (
                losses.lovasz_softmax(z, y, per="image") * 2
                + jnp.mean(jnp.max(jax.nn.softmax(z)[..., 2], (1, 2)))
            )
            / 3
        ),
    ),
    "lovasz_softmax/torchmetrics": lambda z, y: losses.lovasz_softmax(z, y),
    "lovasz_hinge/segmentation-models-pytorch": lambda z, b: losses.lovasz_hinge(z, b),
    "lovasz_hinge/kornia": lambda z, b: losses.lovasz_hinge(z, b, per="image"),
    "mcc/monai": lambda z, y: losses.mcc(z, y),
    "mcc/monai/absent": Differs(
        lambda z, y: losses.mcc(z, y), lambda z, y: (losses.mcc(z, y) * 2 + 1) / 3
    ),
    "mcc/segmentation-models-pytorch": lambda z, b: losses.mcc(two_classes(z), b[..., 0]),
    "mcc/torchmetrics": lambda z, b: losses.mcc(two_classes(64.0 * (z > 0) - 32.0), b[..., 0]),
    # Yes-no questions
    "sigmoid_cross_entropy/torch": lambda z, b, w: losses.sigmoid_cross_entropy(z, b, pos_weight=w),
    "sigmoid_cross_entropy/torch/weighted": Differs(
        lambda z, b, w: losses.sigmoid_cross_entropy(z, b, class_weights=w),
        lambda z, b, w: losses.sigmoid_cross_entropy(z, b, class_weights=w) * np.mean(w),
    ),
    "sigmoid_cross_entropy/optax": lambda z, b: losses.sigmoid_cross_entropy(z, b),
    "sigmoid_cross_entropy/keras": lambda z, b: losses.sigmoid_cross_entropy(
        z, b, label_smoothing=0.1
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch": lambda z, b: losses.sigmoid_cross_entropy(
        z, b
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch/smoothed": Differs(
        lambda z, b: losses.sigmoid_cross_entropy(z, b, label_smoothing=0.1),
        lambda z, b: losses.sigmoid_cross_entropy(z, b, label_smoothing=0.2),
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch/ignored": Differs(
        lambda z, b, keep: losses.sigmoid_cross_entropy(z, b, where=keep),
        lambda z, b, keep: losses.sigmoid_cross_entropy(z, b, where=keep) * area(keep),
    ),
    "sigmoid_focal/torchvision": lambda z, b: losses.sigmoid_focal(z, b),
    "sigmoid_focal/torchvision/soft": Differs(
        lambda z, b: losses.sigmoid_focal(z, b, alpha=None),
        lambda z, b: jnp.mean(
            losses.sigmoid_cross_entropy(z, b, reduce=None)
            * (b + jax.nn.sigmoid(z) - 2 * b * jax.nn.sigmoid(z)) ** 2
        ),
    ),
    "sigmoid_focal/optax": lambda z, b: losses.sigmoid_focal(z, b, gamma=1.5),
    "sigmoid_focal/optax/soft": Differs(
        lambda z, b: losses.sigmoid_focal(z, b, alpha=None),
        lambda z, b: jnp.mean(
            losses.sigmoid_cross_entropy(z, b, reduce=None)
            * (b + jax.nn.sigmoid(z) - 2 * b * jax.nn.sigmoid(z)) ** 2
        ),
    ),
    "sigmoid_focal/monai": lambda z, b: losses.sigmoid_focal(z, b),
    "sigmoid_focal/kornia": lambda z, b: losses.sigmoid_focal(z, b),
    "sigmoid_focal/segmentation-models-pytorch": lambda z, b: losses.sigmoid_focal(z, b),
    "sigmoid_focal/segmentation-models-pytorch/nothing": Differs(
        lambda z, y, keep: losses.sigmoid_focal(z, jax.nn.one_hot(y, 3), where=keep)
    ),
    "sigmoid_focal/keras": lambda z, b: losses.sigmoid_focal(z, b),
    "sigmoid_dice/monai": lambda z, b: losses.sigmoid_dice(z, b, smooth=1.0),
    "sigmoid_dice/monai/soft": lambda z, b: losses.sigmoid_dice(z, b),
    "sigmoid_dice/segmentation-models-pytorch": lambda z, b: losses.sigmoid_dice(z, b),
    "sigmoid_dice/segmentation-models-pytorch/soft": lambda z, b: losses.sigmoid_dice(z, b),
    "sigmoid_dice/optax": lambda z, b: losses.sigmoid_dice(z, b, per="image"),
    "sigmoid_tversky/monai": lambda z, b: losses.sigmoid_tversky(z, b),
    "sigmoid_tversky/segmentation-models-pytorch": lambda z, b: losses.sigmoid_tversky(
        z, b, gamma=1.5
    ),
    # Boundaries
    "boundary/monai": Differs(
        lambda z, y: losses.boundary(z, y), lambda z, y: losses.boundary(z, y) / 3
    ),
    "boundary/monai/volume": lambda z, y: losses.boundary(z, y, class_weights=(0.0, 1.0, 1.0)),
    "hausdorff_dt/monai": lambda z, y: losses.hausdorff_dt(z, y),
    "hausdorff_dt/monai/volume": lambda z, y: losses.hausdorff_dt(
        z, y, alpha=1.0, class_weights=(0.0, 1.0, 1.0)
    ),
    "hausdorff_dt/kornia": Differs(lambda z, y: losses.hausdorff_dt(z, y)),
    "cldice/monai": lambda z, y: losses.cldice(z, y, class_weights=(0.0, 1.0), iterations=3),
    # Operations on masks
    "distance_transform/scipy": lambda mask: ops.distance_transform(mask),
    "distance_transform/scipy/volume": lambda mask: ops.distance_transform(
        mask, spatial_rank=3, spacing=(2.5, 1.0, 0.5)
    ),
    "distance_transform/opencv-python-headless": lambda mask: ops.distance_transform(mask),
    "distance_transform/kornia": Differs(lambda mask: ops.distance_transform(mask[0])),
    "connected_components/scipy": lambda mask: ops.connected_components(mask)[0],
    "connected_components/scikit-image": lambda mask: ops.connected_components(
        mask, connectivity=2
    )[0],
    "connected_components/scikit-image/volume": lambda mask: ops.connected_components(
        mask, spatial_rank=3, connectivity=2
    )[0],
    "connected_components/opencv-python-headless": lambda mask: ops.connected_components(mask)[1],
    "connected_components/kornia": Differs(
        lambda mask: ops.connected_components(mask, connectivity=2)[1]
    ),
}


def compute(function, entry, inputs):
    """Our value and, where the entry has theirs, our gradient in the first argument."""
    arrays = inputs[entry["inputs"]]
    arguments = [arrays[name] for name in inspect.signature(function).parameters]
    first, *others = arguments
    if "gradient" not in entry:
        return quick(lambda x: function(x, *others))(first), None
    return quick(jax.value_and_grad(lambda x: function(x, *others)))(first)


@functools.cache
def literals():
    return json.loads((HERE / "peers.json").read_text())


@functools.cache
def inputs():
    return {
        kind: {name: np.array(x) for name, x in arrays.items()}
        for kind, arrays in literals()["inputs"].items()
    }


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n, x in OURS.items() if getattr(x, "theirs", x)])
def test_number_of_the_peer(name):
    """Ours, or what a peer that differs computes in terms of ours; and the gradient of it."""
    entry = literals()["peers"][name]
    value, gradient = compute(getattr(OURS[name], "theirs", OURS[name]), entry, inputs())
    np.testing.assert_allclose(value, entry["value"], rtol=1e-6)
    if gradient is not None:
        theirs = np.array(entry["gradient"])
        atol = 1e-6 * np.max(np.abs(theirs))
        np.testing.assert_allclose(np.ravel(gradient), theirs, rtol=0, atol=atol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n, x in OURS.items() if isinstance(x, Differs)])
def test_peer_that_differs(name):
    """Ours is finite, and what the table calls a difference is one."""
    entry = literals()["peers"][name]
    ours, _ = compute(OURS[name].ours, entry, inputs())
    assert np.all(np.isfinite(ours))
    assert not np.allclose(ours, entry["value"], rtol=1e-3, atol=0)


def test_the_literals_are_of_this_table_and_of_the_pinned_versions():
    assert list(literals()["peers"]) == list(OURS)
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    pins = dict(pin.split("==") for pin in project["optional-dependencies"]["peers"])
    assert literals()["versions"].items() <= pins.items()
