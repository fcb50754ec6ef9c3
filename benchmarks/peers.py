"""What other packages compute for the inputs on which tests/test_losses_peers.py computes ours.

With the extra `peers` installed (and `test`, for the other half of the table),

    python benchmarks/peers.py

writes the inputs and the peers' values and gradients to tests/peers.json, and the comparison to
docs/peers.md. An entry is named `loss/package/variant`; its call has the arrays that it needs as
arguments. Packages of torch get tensors with the classes on axis 1, all others arrays with the
classes last.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import pathlib
import sys
import warnings
from collections.abc import Callable
from typing import NamedTuple

os.environ["KERAS_BACKEND"] = "jax"

import cv2
import dit
import jax
import jax.numpy as jnp
import keras
import kornia
import monai
import numpy as np
import optax
import scipy.ndimage
import scipy.spatial.distance
import scipy.special
import scipy.stats
import segmentation_models_pytorch as smp
import skimage
import timm.loss
import torch
import torchvision
from monai.losses import unified_focal_loss
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits
from tables import distance, expressions, worst, write_literals, write_table
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F
from torchmetrics.functional import classification, regression, segmentation

ROOT = pathlib.Path(__file__).parents[1]
TEST = ROOT / "tests" / "test_losses_peers.py"
LITERALS = ROOT / "tests" / "peers.json"
TABLE = ROOT / "docs" / "peers.md"

jax.config.update("jax_enable_x64", True)
keras.config.set_floatx("float64")
warnings.simplefilter("ignore")

CLASSES = 3
CLASSES_FIRST = {"z", "p", "t", "b"}  # the arrays that have classes or channels
TORCH = {
    *("kornia", "monai", "segmentation-models-pytorch"),
    *("timm", "torch", "torchmetrics", "torchvision"),
}
JAX = {"keras", "optax"}


def make_inputs() -> dict[str, dict[str, np.ndarray]]:
    """Few and short numbers, exact in float32, so that peers that round to it get the same.

    z are logits, t those of a teacher, m those of three models; y class indices, p distributions, b
    answers to yes-no questions; w weights, and `keep` is True where a pixel counts.
    """
    rng = np.random.default_rng(0)

    def logits(*shape, scale=1.5):
        return np.round(rng.normal(0, scale, shape) * 32) / 32

    def indices(*shape):
        labels = rng.integers(0, CLASSES, shape)
        labels.reshape(len(labels), -1)[:, :CLASSES] = np.arange(CLASSES)  # each in each image
        return labels

    shape = (2, 3, 4)
    w = np.array([0.5, 2.0, 1.0])
    y = indices(*shape)
    z = logits(*shape, CLASSES) + np.eye(CLASSES)[y] + [1.0, 0.0, -1.0]
    counts = rng.multinomial(64 - CLASSES, rng.dirichlet(np.ones(CLASSES), shape)) + 1
    keep = rng.random(shape) < 0.7
    keep[:, 0, :CLASSES] = True
    b, answers = rng.integers(0, 2, (*shape, 2)), rng.random((*shape, 2)) < 0.7
    pred = np.where(rng.random(shape) < 0.6, y, rng.integers(0, CLASSES, shape))
    volume = (1, 2, 3, 4)
    mask, solid = rng.random((2, 9, 12)) < 0.8, rng.random((1, 5, 6, 7)) < 0.85
    snake = np.zeros((1, 9, 31), bool)
    snake[:, ::2] = True
    snake[:, 1::4, -1] = snake[:, 3::4, 0] = True
    hole = np.ones((1, 1, 9, 9), bool)
    hole[..., 2, 2] = False
    square = np.zeros((1, 9, 9), int)
    square[:, 2:7, 1:6] = 1
    return {
        "hard": {"z": z, "y": y, "w": w},
        "soft": {"z": z, "p": counts / 64, "w": w, "t": logits(*shape, CLASSES)},
        "ignored": {"z": z, "y": np.where(keep, y, 255), "w": w, "keep": keep},
        "nan": {
            "z": np.where(keep[..., None], z, np.nan),
            "y": np.where(keep, y, 255),
            "keep": keep,
        },
        "absent": {"z": z, "y": np.where(y == CLASSES - 1, 0, y), "w": w},
        "predicted": {"z": 64.0 * np.eye(CLASSES)[pred], "y": y},
        "binary": {"z": logits(*shape, 1), "b": b[..., :1]},
        "channels": {"z": logits(*shape, 2), "b": b, "w": w[:2]},
        "channels_soft": {"z": logits(*shape, 2), "b": rng.integers(0, 17, (*shape, 2)) / 16},
        "channels_ignored": {
            "z": logits(*shape, 2),
            "b": np.where(answers, b, 255),
            "keep": answers,
        },
        "models": {"m": logits(3, *shape, CLASSES), "y": y},
        "volume": {"z": logits(*volume, CLASSES), "y": indices(*volume)},
        "squares": {"z": 4.0 * np.eye(2)[np.roll(square, 2, 2)], "y": square},
        "mask": {"mask": mask},
        "solid": {"mask": solid},
        "snake": {"mask": snake},
        "hole": {"mask": hole},
        "nothing": {"z": z, "y": np.full(shape, 255), "keep": np.zeros(shape, bool)},
    }


class Peer(NamedTuple):
    inputs: str
    call: Callable
    why: str | None = None  # it differs from ours, where it does


def one_hot(y):
    return F.one_hot(y, CLASSES).movedim(-1, 1).double()


def rows(x):
    """One distribution per row, as torchmetrics and timm want them."""
    return x.movedim(1, -1).flatten(0, -2)


def cards(x):
    """One distribution per image of one column, as kornia's divergences of heatmaps want them."""
    return rows(x)[:, None, :, None]


def last(x):
    return x.movedim(1, -1)


def log_softmax(z):
    return F.log_softmax(z, 1)


def softmax(z):
    """Of arrays of numpy."""
    return scipy.special.softmax(z, -1)


def mean_above(threshold, losses):
    return losses[losses > threshold].mean()


def over_pixels(divergence: Callable, *ps) -> float:
    """The mean over pixels of what dit makes of distributions."""
    pixels = zip(*(p.reshape(-1, p.shape[-1]) for p in ps), strict=True)
    outcomes = [str(c) for c in range(ps[0].shape[-1])]
    return np.mean([divergence(*(dit.Distribution(outcomes, [*p]) for p in ps)) for ps in pixels])


IGNORED = "its mean divides by all pixels, also by those ignored"
LEAK = "it multiplies what is ignored by 0, and NaN times 0 is NaN"
WEIGHTS = "its class weights multiply each class, and the mean divides by their number"
TWICE = "its smoothing stands beside I and not beside 2 I"

PEERS = {
    # Cross-entropy
    "cross_entropy/torch": Peer("hard", lambda z, y: F.cross_entropy(z, y)),
    "cross_entropy/torch/ignored": Peer(
        "ignored", lambda z, y: F.cross_entropy(z, y, ignore_index=255)
    ),
    "cross_entropy/torch/weighted": Peer(
        "ignored", lambda z, y, w: F.cross_entropy(z, y, w, ignore_index=255)
    ),
    "cross_entropy/torch/map": Peer(
        "hard", lambda z, y, w: F.cross_entropy(z, y, w, reduction="none")
    ),
    "cross_entropy/torch/smoothed": Peer(
        "ignored", lambda z, y: F.cross_entropy(z, y, ignore_index=255, label_smoothing=0.1)
    ),
    "cross_entropy/torch/smoothed_weighted": Peer(
        "hard",
        lambda z, y, w: F.cross_entropy(z, y, w, label_smoothing=0.1),
        "it weighs the smoothing by the class that gets it, not by the pixel's label, and divides "
        "by the labels' weights",
    ),
    "cross_entropy/torch/soft": Peer("soft", lambda z, p: F.cross_entropy(z, p)),
    "cross_entropy/torch/one_hot_weighted": Peer(
        "hard",
        lambda z, y, w: F.cross_entropy(z, one_hot(y), w),
        "its mean of weighted probabilities divides by the number of pixels, not by the weights as "
        "for class indices",
    ),
    "cross_entropy/torch/soft_weighted": Peer(
        "soft",
        lambda z, p, w: F.cross_entropy(z, p, w),
        "it weighs each class's term, not the pixel, and divides by the number of pixels",
    ),
    "cross_entropy/torch/nan": Peer(
        "nan",
        lambda z, y: torch.autograd.grad(F.cross_entropy(z, y, ignore_index=255), z)[0].abs().max(),
        "its gradient is NaN where what is ignored is NaN",
    ),
    "cross_entropy/torch/nothing": Peer(
        "nothing", lambda z, y: F.cross_entropy(z, y, ignore_index=255), "it is 0 / 0"
    ),
    "cross_entropy/optax": Peer(
        "hard", lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean()
    ),
    "cross_entropy/optax/ignored": Peer(
        "ignored",
        lambda z, y, keep: optax.softmax_cross_entropy_with_integer_labels(
            z, jnp.where(keep, y, 0)
        ).mean(where=keep),
    ),
    "cross_entropy/optax/soft": Peer("soft", lambda z, p: optax.softmax_cross_entropy(z, p).mean()),
    "cross_entropy/keras/smoothed": Peer(
        "hard",
        lambda z, y: keras.losses.categorical_crossentropy(
            jax.nn.one_hot(y, CLASSES), z, from_logits=True, label_smoothing=0.1
        ).mean(),
    ),
    "cross_entropy/timm/smoothed": Peer(
        "hard",
        lambda z, y: timm.loss.LabelSmoothingCrossEntropy(0.1)(rows(z), y.flatten()),
    ),
    "cross_entropy/timm/soft": Peer(
        "soft", lambda z, p: timm.loss.SoftTargetCrossEntropy()(rows(z), rows(p))
    ),
    "cross_entropy/segmentation-models-pytorch/smoothed": Peer(
        "hard", lambda z, y: smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1)(z, y)
    ),
    "cross_entropy/segmentation-models-pytorch/ignored": Peer(
        "ignored",
        lambda z, y: smp.losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255)(z, y),
        IGNORED,
    ),
    "weighted_sum/monai": Peer(
        "hard",
        lambda z, y: monai.losses.DiceCELoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0, lambda_ce=0.5
        )(z, y[:, None]),
    ),
    # Divergences
    "kl_divergence/torch": Peer(
        "soft", lambda z, p: F.kl_div(log_softmax(z), p, reduction="none").sum(1).mean()
    ),
    "kl_divergence/torch/batchmean": Peer(
        "soft",
        lambda z, p: F.kl_div(log_softmax(z), p, reduction="batchmean"),
        "it divides by the images and not by their pixels: H W times as large",
    ),
    "kl_divergence/torch/mean": Peer(
        "soft",
        lambda z, p: F.kl_div(log_softmax(z), p, reduction="mean"),
        "its mean divides by the classes, too",
    ),
    "kl_divergence/torch/distributions": Peer(
        "soft", lambda z, p: kl_divergence(Categorical(last(p)), Categorical(logits=last(z))).mean()
    ),
    "kl_divergence/torchmetrics": Peer(
        "soft",
        lambda z, p: regression.kl_divergence(rows(p), rows(z.softmax(1))),
    ),
    "kl_divergence/optax": Peer(
        "soft", lambda z, p: optax.losses.kl_divergence(jax.nn.log_softmax(z), p).mean()
    ),
    "kl_divergence/keras": Peer(
        "soft", lambda z, p: keras.losses.kl_divergence(p, jax.nn.softmax(z)).mean()
    ),
    "kl_divergence/scipy": Peer(
        "soft", lambda z, p: scipy.special.rel_entr(p, softmax(z)).sum(-1).mean()
    ),
    "kl_divergence/scipy/entropy": Peer(
        "soft", lambda z, p: scipy.stats.entropy(p, softmax(z), axis=-1).mean()
    ),
    "kl_divergence/kornia/cards": Peer(
        "soft", lambda z, p: kornia.losses.kl_div_loss_2d(cards(z.softmax(1)), cards(p))
    ),
    "kl_divergence/kornia": Peer(
        "soft",
        lambda z, p: kornia.losses.kl_div_loss_2d(z.softmax(1), p),
        "it is made for heatmaps, each channel a distribution over the image: given one over the "
        "classes, it is H W / C times as large",
    ),
    "relative_entropy/torch": Peer(
        "soft", lambda z, p: kl_divergence(Categorical(logits=last(z)), Categorical(last(p))).mean()
    ),
    "relative_entropy/torchmetrics": Peer(
        "soft",
        lambda z, p: regression.kl_divergence(rows(z.softmax(1)), rows(p)),
    ),
    "relative_entropy/scipy": Peer(
        "hard",
        lambda z, y: (
            scipy.special.rel_entr(softmax(z), 0.9 * np.eye(CLASSES)[y] + 0.1 / CLASSES)
            .sum(-1)
            .mean()
        ),
    ),
    "relative_entropy/keras": Peer(
        "hard",
        lambda z, y: keras.losses.kl_divergence(
            jax.nn.softmax(z), jax.nn.one_hot(y, CLASSES)
        ).mean(),
        "its hidden epsilon of 1e-7 is a label smoothing of 1e-7 C, and sets the scale",
    ),
    "jeffreys/scipy": Peer(
        "soft",
        lambda z, p: (
            (scipy.special.rel_entr(p, softmax(z)) + scipy.special.rel_entr(softmax(z), p))
            .sum(-1)
            .mean()
        ),
    ),
    "jeffreys/torch": Peer(
        "soft",
        lambda z, p: (
            kl_divergence(Categorical(last(p)), Categorical(logits=last(z)))
            + kl_divergence(Categorical(logits=last(z)), Categorical(last(p)))
        ).mean(),
    ),
    "jensen_shannon/torchmetrics": Peer(
        "soft",
        lambda z, p: regression.jensen_shannon_divergence(rows(p), rows(z.softmax(1))),
    ),
    "jensen_shannon/torchmetrics/log_prob": Peer(
        "soft",
        lambda z, p: regression.jensen_shannon_divergence(
            rows(p).log(), rows(log_softmax(z)), log_prob=True
        ),
    ),
    "jensen_shannon/scipy": Peer(
        "hard",
        lambda z, y: np.mean(
            scipy.spatial.distance.jensenshannon(np.eye(CLASSES)[y], softmax(z), axis=-1) ** 2
        ),
    ),
    "jensen_shannon/dit/weighted": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.jensen_shannon_divergence([p, q], [0.2, 0.8]),
            p,
            softmax(z),
        ),
        "it is in bits",
    ),
    "jensen_shannon/kornia/cards": Peer(
        "soft", lambda z, p: kornia.losses.js_div_loss_2d(cards(z.softmax(1)), cards(p))
    ),
    "jensen_shannon/kornia": Peer(
        "soft",
        lambda z, p: kornia.losses.js_div_loss_2d(z.softmax(1), p),
        "it is made for heatmaps: H W / C times as large",
    ),
    "alpha_divergence/scipy/0.3": Peer(
        "soft",
        lambda z, p: scipy.stats.power_divergence(p, softmax(z), axis=-1, lambda_=-0.7)[0].mean(),
        "Cressie and Read's power divergence is twice as large",
    ),
    "alpha_divergence/scipy/-1": Peer(
        "soft",
        lambda z, p: scipy.stats.power_divergence(p, softmax(z), axis=-1, lambda_=-2)[0].mean(),
        "Cressie and Read's power divergence is twice as large",
    ),
    "alpha_divergence/dit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.alpha_divergence(p, q, 0.4), p, softmax(z)
        ),
    ),
    "alpha_divergence/dit/limit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.alpha_divergence(p, q, 1), p, softmax(z)
        ),
        "at its alpha of 1 it has p and q swapped, and bits: its limit there is ours, in nats",
    ),
    "renyi_divergence/dit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.renyi_divergence(p, q, 2), p, softmax(z)
        ),
        "it is in bits",
    ),
    "renyi_divergence/dit/half": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.renyi_divergence(p, q, 0.5), p, softmax(z)
        ),
        "it is in bits",
    ),
    "tsallis_divergence/dit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.tsallis_divergence(p, q, 0.7), p, softmax(z)
        ),
    ),
    "f_divergence/dit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.f_divergence(p, q, lambda u: (u - 1) ** 2 / (u + 1)),
            p,
            softmax(z),
        ),
    ),
    "total_variation/dit": Peer(
        "soft", lambda z, p: over_pixels(dit.divergences.variational_distance, p, softmax(z))
    ),
    "hellinger/dit": Peer(
        "soft",
        lambda z, p: over_pixels(
            lambda p, q: dit.divergences.hellinger_distance(p, q) ** 2, p, softmax(z)
        ),
    ),
    "chi_squared/scipy": Peer(
        "soft", lambda z, p: scipy.stats.chisquare(p, softmax(z), axis=-1)[0].mean()
    ),
    "brier/torch": Peer(
        "soft",
        lambda z, p: F.mse_loss(z.softmax(1), p),
        "its mean divides by the classes, too",
    ),
    # Pixelwise losses
    "focal/monai": Peer(
        "hard",
        lambda z, y: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True)(z, y[:, None]),
        "its mean divides by the classes, too, unless it has an `ignore_index`",
    ),
    "focal/monai/ignored": Peer(
        "ignored",
        lambda z, y: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=255)(
            z, y[:, None]
        ),
    ),
    "focal/monai/nan": Peer(
        "nan",
        lambda z, y: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=255)(
            z, y[:, None]
        ),
        LEAK,
    ),
    "focal/monai/nothing": Peer(
        "nothing",
        lambda z, y: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=255)(
            z, y[:, None]
        ),
    ),
    "focal/monai/alpha": Peer(
        "hard",
        lambda z, y: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, alpha=0.25)(
            z, y[:, None]
        ),
        "its alpha weighs class 0 with 1 - alpha and all others with alpha, and its mean divides "
        "by pixels and classes",
    ),
    "focal/kornia": Peer(
        "hard",
        lambda z, y: kornia.losses.focal_loss(z, y, alpha=None, gamma=2.0, reduction="mean"),
        "its mean divides by the classes, too",
    ),
    "focal/kornia/map": Peer(
        "hard", lambda z, y: kornia.losses.focal_loss(z, y, alpha=None, gamma=0.5).sum(1)
    ),
    "focal/kornia/alpha": Peer(
        "hard",
        lambda z, y: kornia.losses.focal_loss(z, y, alpha=0.25, gamma=2.0, reduction="mean"),
        "as monai's alpha",
    ),
    "focal/kornia/ignored": Peer(
        "ignored",
        lambda z, y: kornia.losses.focal_loss(
            z, y, alpha=None, gamma=2.0, reduction="mean", ignore_index=255
        ),
        "its mean divides by the classes and by all pixels, also by those ignored",
    ),
    "focal/segmentation-models-pytorch/softmax": Peer(
        "hard", lambda z, y: softmax_focal_loss_with_logits(z, y, gamma=2.0)
    ),
    "focal/segmentation-models-pytorch": Peer(
        "hard",
        lambda z, y: smp.losses.FocalLoss("multiclass", gamma=2.0)(z, y),
        "it is of one class against the rest, without the softmax",
    ),
    "focal/keras": Peer(
        "hard",
        lambda z, y: keras.losses.categorical_focal_crossentropy(
            jax.nn.one_hot(y, CLASSES), z, alpha=1.0, from_logits=True
        ).mean(),
    ),
    "poly1/optax": Peer(
        "soft", lambda z, p: optax.losses.poly_loss_cross_entropy(z, p, epsilon=2.0).mean()
    ),
    "poly1/timm": Peer(
        "hard", lambda z, y: timm.loss.PolyCrossEntropy(epsilon=1.0)(rows(z), y.flatten())
    ),
    "generalized_cross_entropy/keras": Peer(
        "hard",
        lambda z, y: keras.losses.categorical_generalized_cross_entropy(
            y, jax.nn.softmax(z), q=0.7
        ).mean(),
    ),
    "logit_adjusted/torch": Peer(
        "hard",
        lambda z, y: F.cross_entropy(
            z + torch.tensor([[[0.5]], [[0.3]], [[0.2]]], dtype=z.dtype).log(), y
        ),
    ),
    "hard_pixels/torch": Peer(
        "hard",
        lambda z, y: F.cross_entropy(z, y, reduction="none").flatten().topk(6).values.mean(),
    ),
    "hard_pixels/torch/threshold": Peer(
        "ignored",
        lambda z, y: mean_above(1, F.cross_entropy(z, y, reduction="none", ignore_index=255)),
    ),
    "entropy/torch": Peer("soft", lambda z: Categorical(logits=last(z)).entropy().mean()),
    "entropy/scipy": Peer("soft", lambda z: scipy.stats.entropy(softmax(z), axis=-1).mean()),
    "confidence_penalty/torch": Peer(
        "soft",
        lambda z: kl_divergence(
            Categorical(logits=last(z)), Categorical(torch.ones_like(last(z)))
        ).mean(),
    ),
    # Between predictions
    "knowledge_distillation/torch": Peer(
        "soft",
        lambda z, t: (
            16 * F.kl_div(log_softmax(rows(z) / 4), (rows(t) / 4).softmax(1), reduction="batchmean")
        ),
    ),
    "channel_distillation/kornia": Peer(
        "soft",
        lambda z, t: (
            16
            * kornia.losses.kl_div_loss_2d(
                (z / 4).flatten(2).softmax(2).view_as(z), (t / 4).flatten(2).softmax(2).view_as(t)
            )
        ),
    ),
    "marginal_kl/scipy": Peer(
        "soft",
        lambda z, p: scipy.stats.entropy(p.mean((0, 1, 2)), softmax(z).mean((0, 1, 2))),
    ),
    "consistency/timm": Peer(
        "models",
        lambda m, y: timm.loss.JsdCrossEntropy(num_splits=3, alpha=12, smoothing=0)(
            m.reshape(-1, CLASSES), y.flatten()
        ),
        "it adds the cross-entropy of the first, and takes the divergence 12 times",
    ),
    "consistency/dit": Peer(
        "models",
        lambda m: over_pixels(
            lambda *ps: dit.divergences.jensen_shannon_divergence(ps, [0.2, 0.3, 0.5]),
            *softmax(m),
        ),
        "it is in bits",
    ),
    # Overlaps
    "dice/monai": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
    ),
    "dice/monai/image": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, smooth_nr=1, smooth_dr=1
        )(z, y[:, None]),
    ),
    "dice/monai/squared": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, squared_pred=True, batch=True, smooth_nr=1, smooth_dr=1
        )(z, y[:, None]),
    ),
    "dice/monai/squared_soft": Peer(
        "soft",
        lambda z, p: monai.losses.DiceLoss(
            softmax=True, squared_pred=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, p),
    ),
    "dice/monai/soft": Peer(
        "soft",
        lambda z, p: monai.losses.DiceLoss(
            softmax=True, soft_label=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, p),
    ),
    "dice/monai/product": Peer(
        "soft",
        lambda z, p: monai.losses.DiceLoss(softmax=True, batch=True, smooth_nr=0, smooth_dr=0)(
            z, p
        ),
        "without its `soft_label` it is the product form, which is not least at q = p",
    ),
    "dice/monai/foreground": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            include_background=False, softmax=True, to_onehot_y=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
    ),
    "dice/monai/weighted": Peer(
        "hard",
        lambda z, y, w: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, weight=w, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
        WEIGHTS,
    ),
    "dice/monai/absent": Peer(
        "absent",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
        'absent classes count, with a loss of 1: our `classes="all"`',
    ),
    "dice/monai/ignored": Peer(
        "ignored",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0, ignore_index=255
        )(z, y[:, None]),
    ),
    "dice/monai/nan": Peer(
        "nan",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, batch=True, ignore_index=255
        )(z, y[:, None]),
        LEAK,
    ),
    "dice/segmentation-models-pytorch": Peer(
        "hard", lambda z, y: smp.losses.DiceLoss("multiclass")(z, y)
    ),
    "dice/segmentation-models-pytorch/weighted": Peer(
        "ignored",
        lambda z, y: smp.losses.DiceLoss(
            "multiclass", class_weights=[0.5, 2.0, 1.0], ignore_index=255
        )(z, y),
    ),
    "dice/segmentation-models-pytorch/smooth": Peer(
        "hard", lambda z, y: smp.losses.DiceLoss("multiclass", smooth=1.0)(z, y), TWICE
    ),
    "dice/segmentation-models-pytorch/absent": Peer(
        "absent",
        lambda z, y: smp.losses.DiceLoss("multiclass")(z, y),
        "absent classes count, with a loss of 0",
    ),
    "dice/segmentation-models-pytorch/nothing": Peer(
        "nothing", lambda z, y: smp.losses.DiceLoss("multiclass", ignore_index=255)(z, y)
    ),
    "dice/segmentation-models-pytorch/nan": Peer(
        "nan", lambda z, y: smp.losses.DiceLoss("multiclass", ignore_index=255)(z, y), LEAK
    ),
    "dice/kornia": Peer(
        "ignored",
        lambda z, y, w: kornia.losses.dice_loss(
            z, y, average="macro", eps=0, weight=w, ignore_index=255
        ),
    ),
    "dice/kornia/micro": Peer(
        "hard",
        lambda z, y: kornia.losses.dice_loss(z, y),
        "its default pools the classes, which leaves 1 - mean q_y: our `total_variation`",
    ),
    "dice/kornia/absent": Peer(
        "absent", lambda z, y: kornia.losses.dice_loss(z, y, average="macro", eps=0)
    ),
    "dice/kornia/nothing": Peer(
        "nothing",
        lambda z, y: kornia.losses.dice_loss(z, y, average="macro", ignore_index=255),
        "an image of which all is ignored counts, with a loss of 1",
    ),
    "dice/kornia/nan": Peer(
        "nan",
        lambda z, y: kornia.losses.dice_loss(z, y, average="macro", ignore_index=255),
        LEAK,
    ),
    "dice/optax": Peer(
        "hard",
        lambda z, y: optax.losses.dice_loss(z, jax.nn.one_hot(y, CLASSES), smooth=0.0).mean(),
    ),
    "dice/optax/smooth": Peer(
        "hard",
        lambda z, y: optax.losses.dice_loss(z, jax.nn.one_hot(y, CLASSES)).mean(),
        TWICE,
    ),
    "dice/optax/soft": Peer(
        "soft",
        lambda z, p: optax.losses.dice_loss(z, p, smooth=0.0).mean(),
        "for distributions it is the product form, which is not least at q = p",
    ),
    "dice/keras": Peer(
        "hard",
        lambda z, y: keras.losses.dice(
            jax.nn.one_hot(y, CLASSES), jax.nn.softmax(z), axis=(0, 1, 2)
        ).mean(),
    ),
    "dice/torchmetrics": Peer(
        "predicted",
        lambda z, y: (
            1
            - segmentation.dice_score(
                z.argmax(1), y, CLASSES, input_format="index", aggregation_level="global"
            )[0]
        ),
    ),
    "jaccard/monai": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, jaccard=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
    ),
    "jaccard/monai/smooth": Peer(
        "hard",
        lambda z, y: monai.losses.DiceLoss(
            softmax=True, to_onehot_y=True, jaccard=True, batch=True, smooth_nr=1, smooth_dr=1
        )(z, y[:, None]),
        "its smoothing stands beside 2 I and twice the union",
    ),
    "jaccard/monai/squared": Peer(
        "soft",
        lambda z, p: monai.losses.DiceLoss(
            softmax=True, jaccard=True, squared_pred=True, smooth_nr=0, smooth_dr=0
        )(z, p),
    ),
    "jaccard/monai/soft": Peer(
        "soft",
        lambda z, p: monai.losses.DiceLoss(
            softmax=True, jaccard=True, soft_label=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, p),
    ),
    "jaccard/segmentation-models-pytorch": Peer(
        "ignored",
        lambda z, y: smp.losses.JaccardLoss("multiclass", smooth=1.0, ignore_index=255)(z, y),
    ),
    "jaccard/segmentation-models-pytorch/absent": Peer(
        "absent",
        lambda z, y: smp.losses.JaccardLoss("multiclass")(z, y),
        "absent classes count, with a loss of 0",
    ),
    "jaccard/torchmetrics": Peer(
        "predicted",
        lambda z, y: (
            1 - classification.jaccard_index(z.argmax(1), y, "multiclass", num_classes=CLASSES)
        ),
    ),
    "tversky/monai": Peer(
        "hard",
        lambda z, y: monai.losses.TverskyLoss(
            softmax=True,
            to_onehot_y=True,
            alpha=0.3,
            beta=0.7,
            batch=True,
            smooth_nr=1,
            smooth_dr=1,
        )(z, y[:, None]),
    ),
    "tversky/monai/soft": Peer(
        "soft",
        lambda z, p: monai.losses.TverskyLoss(
            softmax=True,
            alpha=0.3,
            beta=0.7,
            batch=True,
            soft_label=True,
            smooth_nr=0,
            smooth_dr=0,
        )(z, p),
    ),
    "tversky/monai/absent": Peer(
        "absent",
        lambda z, y: monai.losses.TverskyLoss(
            softmax=True,
            to_onehot_y=True,
            alpha=0.3,
            beta=0.7,
            batch=True,
            smooth_nr=0,
            smooth_dr=0,
        )(z, y[:, None]),
        "absent classes count, with a loss of 1",
    ),
    "tversky/monai/nan": Peer(
        "nan",
        lambda z, y: monai.losses.TverskyLoss(
            softmax=True, to_onehot_y=True, batch=True, ignore_index=255
        )(z, y[:, None]),
        LEAK,
    ),
    "tversky/segmentation-models-pytorch": Peer(
        "ignored",
        lambda z, y: smp.losses.TverskyLoss(
            "multiclass", alpha=0.3, beta=0.7, smooth=1.0, ignore_index=255
        )(z, y),
    ),
    "tversky/kornia": Peer(
        "ignored",
        lambda z, y: kornia.losses.tversky_loss(z, y, 0.3, 0.7, eps=0, ignore_index=255),
        "it is of each image by itself",
    ),
    "tversky/optax": Peer(
        "hard",
        lambda z, y: optax.losses.dice_loss(
            z, jax.nn.one_hot(y, CLASSES), smooth=1.0, alpha=0.3, beta=0.7, axis=(0, 1, 2)
        ),
    ),
    "tversky/keras": Peer(
        "hard",
        lambda z, y: keras.losses.tversky(
            jax.nn.one_hot(y, CLASSES), jax.nn.softmax(z), alpha=0.3, beta=0.7, axis=(0, 1, 2)
        ).mean(),
        "its alpha weighs false negatives and its beta false positives, against its documentation",
    ),
    "focal_tversky/segmentation-models-pytorch": Peer(
        "hard",
        lambda z, y: smp.losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=0.75)(z, y),
        "it raises the mean of the classes to gamma, not each class",
    ),
    "focal_tversky/monai": Peer(
        "binary",
        lambda z, b: unified_focal_loss.AsymmetricFocalTverskyLoss(delta=0.7, gamma=0.75)(
            torch.cat([(-z).sigmoid(), z.sigmoid()], 1), torch.cat([1 - b, b], 1)
        ),
        "its gamma is 1 minus ours and of class 1 alone, of each image by itself",
    ),
    "generalized_dice/monai": Peer(
        "hard",
        lambda z, y: monai.losses.GeneralizedDiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
    ),
    "generalized_dice/monai/soft": Peer(
        "soft",
        lambda z, p: monai.losses.GeneralizedDiceLoss(
            softmax=True, soft_label=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, p),
    ),
    "generalized_dice/monai/absent": Peer(
        "absent",
        lambda z, y: monai.losses.GeneralizedDiceLoss(
            softmax=True, to_onehot_y=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, y[:, None]),
        "absent classes get the largest weight of the others",
    ),
    "generalized_dice/optax": Peer(
        "hard",
        lambda z, y: optax.losses.multiclass_generalized_dice_loss(
            z, jax.nn.one_hot(y, CLASSES), smooth=0.0
        ),
        "it averages each class's Dice loss with the weights 1 / G^2, instead of weighing overlaps "
        "and areas: our `dice` with these class weights",
    ),
    "generalized_dice/torchmetrics": Peer(
        "predicted",
        lambda z, y: (
            1
            - segmentation.generalized_dice_score(
                z.argmax(1), y, CLASSES, input_format="index"
            ).mean()
        ),
        "it is of each image by itself",
    ),
    "lovasz_softmax/segmentation-models-pytorch": Peer(
        "ignored",
        lambda z, y: smp.losses.LovaszLoss("multiclass", ignore_index=255)(z.float(), y),
    ),
    "lovasz_softmax/segmentation-models-pytorch/image": Peer(
        "hard", lambda z, y: smp.losses.LovaszLoss("multiclass", per_image=True)(z.float(), y)
    ),
    "lovasz_softmax/kornia": Peer("hard", lambda z, y: kornia.losses.lovasz_softmax_loss(z, y)),
    "lovasz_softmax/kornia/absent": Peer(
        "absent",
        lambda z, y: kornia.losses.lovasz_softmax_loss(z, y),
        "absent classes count, with the largest q of an image",
    ),
    "lovasz_softmax/torchmetrics": Peer(
        "predicted",
        lambda z, y: (
            1 - classification.jaccard_index(z.argmax(1), y, "multiclass", num_classes=CLASSES)
        ),
    ),
    "lovasz_hinge/segmentation-models-pytorch": Peer(
        "binary", lambda z, b: smp.losses.LovaszLoss("binary")(z[:, 0].float(), b[:, 0])
    ),
    "lovasz_hinge/kornia": Peer("binary", lambda z, b: kornia.losses.lovasz_hinge_loss(z, b[:, 0])),
    "mcc/monai": Peer(
        "hard",
        lambda z, y: monai.losses.MCCLoss(softmax=True, to_onehot_y=True, batch=True, smooth_dr=0)(
            z, y[:, None]
        ),
    ),
    "mcc/monai/absent": Peer(
        "absent",
        lambda z, y: monai.losses.MCCLoss(softmax=True, to_onehot_y=True, batch=True)(
            z, y[:, None]
        ),
        "absent classes count, with a loss of 1",
    ),
    "mcc/segmentation-models-pytorch": Peer(
        "binary", lambda z, b: smp.losses.MCCLoss(eps=0)(z.sigmoid(), b)
    ),
    "mcc/torchmetrics": Peer(
        "binary",
        lambda z, b: 1 - classification.matthews_corrcoef((z > 0).long(), b, "binary"),
    ),
    # Yes-no questions
    "sigmoid_cross_entropy/torch": Peer(
        "channels",
        lambda z, b, w: F.binary_cross_entropy_with_logits(
            z, b.double(), pos_weight=w[:, None, None]
        ),
    ),
    "sigmoid_cross_entropy/torch/weighted": Peer(
        "channels",
        lambda z, b, w: F.binary_cross_entropy_with_logits(z, b.double(), w[:, None, None]),
        WEIGHTS,
    ),
    "sigmoid_cross_entropy/optax": Peer(
        "channels_soft", lambda z, b: optax.sigmoid_binary_cross_entropy(z, b).mean()
    ),
    "sigmoid_cross_entropy/keras": Peer(
        "channels",
        lambda z, b: keras.losses.binary_crossentropy(
            b, z, from_logits=True, label_smoothing=0.1
        ).mean(),
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch": Peer(
        "channels", lambda z, b: smp.losses.SoftBCEWithLogitsLoss()(z, b.double())
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch/smoothed": Peer(
        "channels",
        lambda z, b: smp.losses.SoftBCEWithLogitsLoss(smooth_factor=0.1)(z, b.double()),
        "its smoothing s leaves 1 - s of a label, ours 1 - e / 2",
    ),
    "sigmoid_cross_entropy/segmentation-models-pytorch/ignored": Peer(
        "channels_ignored",
        lambda z, b: smp.losses.SoftBCEWithLogitsLoss(ignore_index=255)(z, b.double()),
        IGNORED,
    ),
    "sigmoid_focal/torchvision": Peer(
        "channels",
        lambda z, b: torchvision.ops.sigmoid_focal_loss(z, b.double(), reduction="mean"),
    ),
    "sigmoid_focal/torchvision/soft": Peer(
        "channels_soft",
        lambda z, b: torchvision.ops.sigmoid_focal_loss(z, b, alpha=-1, reduction="mean"),
        "for a probability p it multiplies the cross-entropy with (p + s - 2 p s)^gamma; ours is "
        "the expectation of the loss under p",
    ),
    "sigmoid_focal/optax": Peer(
        "channels",
        lambda z, b: optax.losses.sigmoid_focal_loss(z, b, alpha=0.25, gamma=1.5).mean(),
    ),
    "sigmoid_focal/optax/soft": Peer(
        "channels_soft",
        lambda z, b: optax.losses.sigmoid_focal_loss(z, b).mean(),
        "as torchvision's",
    ),
    "sigmoid_focal/monai": Peer("channels", lambda z, b: monai.losses.FocalLoss(alpha=0.25)(z, b)),
    "sigmoid_focal/kornia": Peer(
        "channels_soft",
        lambda z, b: kornia.losses.binary_focal_loss_with_logits(z, b, reduction="mean"),
    ),
    "sigmoid_focal/segmentation-models-pytorch": Peer(
        "binary", lambda z, b: smp.losses.FocalLoss("binary", alpha=0.25)(z, b)
    ),
    "sigmoid_focal/segmentation-models-pytorch/nothing": Peer(
        "nothing",
        lambda z, y: smp.losses.FocalLoss("multiclass", ignore_index=255)(z, y),
        "it is 0 / 0",
    ),
    "sigmoid_focal/keras": Peer(
        "channels",
        lambda z, b: keras.losses.binary_focal_crossentropy(
            b, z, apply_class_balancing=True, from_logits=True
        ).mean(),
    ),
    "sigmoid_dice/monai": Peer(
        "channels",
        lambda z, b: monai.losses.DiceLoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)(
            z, b
        ),
    ),
    "sigmoid_dice/monai/soft": Peer(
        "channels_soft",
        lambda z, b: monai.losses.DiceLoss(
            sigmoid=True, soft_label=True, batch=True, smooth_nr=0, smooth_dr=0
        )(z, b),
    ),
    "sigmoid_dice/segmentation-models-pytorch": Peer(
        "binary", lambda z, b: smp.losses.DiceLoss("binary")(z, b)
    ),
    "sigmoid_dice/segmentation-models-pytorch/soft": Peer(
        "channels_soft", lambda z, b: smp.losses.DiceLoss("multilabel")(z, b)
    ),
    "sigmoid_dice/optax": Peer(
        "binary", lambda z, b: optax.losses.binary_dice_loss(z, b, smooth=0.0).mean()
    ),
    "sigmoid_tversky/monai": Peer(
        "channels",
        lambda z, b: monai.losses.TverskyLoss(
            sigmoid=True, alpha=0.3, beta=0.7, batch=True, smooth_nr=0, smooth_dr=0
        )(z, b),
    ),
    "sigmoid_tversky/segmentation-models-pytorch": Peer(
        "binary",
        lambda z, b: smp.losses.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=1.5)(z, b),
    ),
    # Boundaries
    "boundary/monai": Peer(
        "hard",
        lambda z, y: monai.losses.BoundaryLoss(softmax=True, to_onehot_y=True)(z, y[:, None]),
        "its mean divides by the classes, too",
    ),
    "boundary/monai/volume": Peer(
        "volume",
        lambda z, y: monai.losses.BoundaryLoss(
            include_background=False, softmax=True, to_onehot_y=True, reduction="sum"
        )(z, y[:, None]),
    ),
    "hausdorff_dt/monai": Peer(
        "hard",
        lambda z, y: monai.losses.HausdorffDTLoss(
            include_background=True, softmax=True, to_onehot_y=True
        )(z, y[:, None]),
    ),
    "hausdorff_dt/monai/volume": Peer(
        "volume",
        lambda z, y: monai.losses.HausdorffDTLoss(alpha=1.0, softmax=True, to_onehot_y=True)(
            z, y[:, None]
        ),
    ),
    "hausdorff_dt/kornia": Peer(
        "squares",
        lambda z, y: kornia.losses.HausdorffERLoss()(z.softmax(1), y[:, None]),
        "it counts erosions, each scaled to its own largest, instead of measuring distances",
    ),
    "cldice/monai": Peer(
        "squares",
        lambda z, y: monai.losses.SoftclDiceLoss(
            iter_=3,
            smooth_nr=0.0,
            smooth_dr=0.0,
            smooth=1e-12,
            include_background=False,
            softmax=True,
            to_onehot_y=True,
        )(z, y[:, None]),
    ),
    # Operations on masks
    "distance_transform/scipy": Peer(
        "mask",
        lambda mask: np.stack([scipy.ndimage.distance_transform_edt(x) for x in mask]),
    ),
    "distance_transform/scipy/volume": Peer(
        "solid",
        lambda mask: scipy.ndimage.distance_transform_edt(mask[0], sampling=(2.5, 1.0, 0.5))[None],
    ),
    "distance_transform/opencv-python-headless": Peer(
        "mask",
        lambda mask: np.stack(
            [
                cv2.distanceTransform(x.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                for x in mask
            ]
        ),
    ),
    "distance_transform/kornia": Peer(
        "hole",
        lambda mask: kornia.contrib.distance_transform((~mask).double())[0],
        "it adds up steps of a 3 x 3 window, so that a diagonal comes out short",
    ),
    "connected_components/scipy": Peer(
        "mask", lambda mask: np.stack([scipy.ndimage.label(x)[0] for x in mask])
    ),
    "connected_components/scikit-image": Peer(
        "mask", lambda mask: np.stack([skimage.measure.label(x, connectivity=2) for x in mask])
    ),
    "connected_components/scikit-image/volume": Peer(
        "solid", lambda mask: skimage.measure.label(mask[0], connectivity=2)[None]
    ),
    "connected_components/opencv-python-headless": Peer(
        "mask",
        lambda mask: np.array(
            [cv2.connectedComponents(x.astype(np.uint8), connectivity=4)[0] - 1 for x in mask]
        ),
    ),
    "connected_components/kornia": Peer(
        "snake",
        lambda mask: kornia.contrib.connected_components(mask.double()).unique().numel() - 1,
        "it stops after 100 steps of one pixel, and leaves one component in many",
    ),
}


def arrays_of(package: str, arrays: dict[str, np.ndarray]) -> dict:
    """The arrays as the package wants them."""
    if package in JAX:
        return {name: jnp.asarray(x) for name, x in arrays.items()}
    if package not in TORCH:
        return arrays
    return {
        name: torch.from_numpy(np.moveaxis(x, -1, 1).copy() if name in CLASSES_FIRST else x)
        for name, x in arrays.items()
    }


def run(name: str, inputs: dict) -> dict:
    """The value of a peer and, where it is ours, its gradient in the first argument."""
    package, peer = name.split("/")[1], PEERS[name]
    arrays = arrays_of(package, inputs[peer.inputs])
    wanted = list(inspect.signature(peer.call).parameters)
    logits, *others = (arrays[x] for x in wanted)
    gradient = None
    if package in JAX:
        value, gradient = jax.value_and_grad(peer.call)(logits, *others)
    elif package in TORCH and logits.is_floating_point():
        value = peer.call(logits.requires_grad_(), *others)
        if value.grad_fn is not None and value.ndim == 0:
            (gradient,) = torch.autograd.grad(value, logits)
            gradient = last(gradient) if wanted[0] in CLASSES_FIRST else gradient
        value = value.detach()
    else:
        value = peer.call(logits, *others)
    entry = {"inputs": peer.inputs, "value": np.asarray(value).tolist()}
    if gradient is not None and peer.why is None:
        # Eight digits, of which six matter.
        entry["gradient"] = [float(f"{x:.8g}") for x in np.ravel(gradient)]
    return entry


def compared(name: str, entry: dict, inputs: dict, theirs: list[str], mine: list[str]) -> str:
    """A row of the table: both calls, and how far they are from each other."""
    from test_losses_peers import OURS, Differs, compute

    def close(function):
        value, gradient = compute(function, entry, inputs)
        text = distance(value, entry["value"])
        if gradient is not None:
            text += f" (gradient {distance(gradient, entry['gradient'])})"
        return text

    package, ours = name.split("/")[1], OURS[name]
    if not isinstance(ours, Differs):
        result = close(ours)
    else:
        value, _ = compute(ours.ours, entry, inputs)
        a, b = worst(entry["value"], np.asarray(value))
        result = f"differs: {PEERS[name].why}. Theirs {a:.6g}, ours {b:.6g}"
        if ours.theirs is not None:
            result += f"; theirs is `{mine[1]}` to {close(ours.theirs)}"
    peer = f"{package} {importlib.metadata.version(package)}"
    return f"| `{mine[0]}` | {peer} | `{theirs[0]}` | {entry['inputs']} | {result} |"


def main() -> None:
    sys.path.insert(0, str(TEST.parent))
    inputs = make_inputs()
    entries = {name: run(name, inputs) for name in PEERS}
    packages = sorted({name.split("/")[1] for name in PEERS})
    literals = {
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "inputs": {
            kind: {name: x.tolist() for name, x in arrays.items()}
            for kind, arrays in inputs.items()
        },
        "peers": entries,
    }
    write_literals(LITERALS, literals)
    theirs, mine = expressions(pathlib.Path(__file__), "PEERS"), expressions(TEST, "OURS")
    rows = [compared(name, x, inputs, theirs[name], mine[name]) for name, x in entries.items()]
    write_table(TABLE, ["ours", "peer", "theirs", "inputs", "relative difference"], rows)


if __name__ == "__main__":
    main()
