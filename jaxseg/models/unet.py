"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), channel last."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class UNet(nnx.Module):
    """Encoder and decoder with skip connections, for images of any size.

    Each width is a level of two 3x3 convolutions, at half the resolution of the one before. Images
    are padded to whole cells of the coarsest level by repeating their border, and the logits
    cropped back, so any height and width will do. Differs from the paper in what later practice
    settled on: padded convolutions, normalisation, and upsampling by a dense layer and pixel
    shuffle, which on a CPU trains a fifth faster than transposed convolutions.

    Args:
      in_channels: channels of the images.
      num_classes: channels of the logits.
      widths: channels of each level, finest first.
      norm: "batch" (over all replicas when `axis_name` is given), or "group" (independent of the
        batch; at most 8 groups, and a divisor of the width).
      resolutions: at so many, finest first, there are logits in training, as a list for
        `losses.deep_supervision`; images must then be whole cells of the coarsest of them.
      dropout: rate after the coarsest level and in the decoder, when training.
      dtype: of the computation, such as jnp.bfloat16; the logits come out in `param_dtype`.
      param_dtype: of the parameters; the statistics are float32 at least.
      axis_name: the mapped axis of the replicas.
      rngs: source of the initial parameters.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256),
        norm: Literal["batch", "group"] = "batch",
        resolutions: int = 1,
        dropout: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        param_dtype: jnp.dtype = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        if not widths or any(width < 1 for width in widths):
            raise ValueError(f"widths are {tuple(widths)}, but must be positive, one for a level")
        if norm not in ("batch", "group"):
            raise ValueError(f'norm is {norm!r}, but must be "batch" or "group"')
        if not 1 <= resolutions <= len(widths):
            raise ValueError(
                f"resolutions are {resolutions}, but must lie in 1..{len(widths)}, the levels"
            )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is {dropout}, but must lie in [0, 1)")
        self.levels = len(widths)
        self.resolutions = resolutions
        self.in_channels = in_channels
        self.param_dtype = param_dtype
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        block = {"norm": norm, "axis_name": axis_name, **options}
        # Named attributes rather than lists, so that parameters have readable names everywhere.
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else in_channels
            setattr(self, f"down{level}", Block(before, width, **block))
        for level, (width, below) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"up{level}", Up(below, width, **options))
            setattr(self, f"decode{level}", Block(2 * width, width, **block))
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(widths[0], num_classes, **options)
        for level in range(1, resolutions):
            setattr(self, f"head{level}", nnx.Linear(widths[level], num_classes, **options))

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> (
        Float[Array, "batch height width classes"]
        | list[Float[Array, "batch level_height level_width classes"]]
    ):
        """The logits; in training a list of them, if there are several resolutions."""
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise ValueError(
                f"images are {list(images.shape)}, but this U-Net needs [batch, height, width, "
                f"{self.in_channels}]"
            )
        height, width = images.shape[1:3]
        cell = 2 ** (self.levels - 1)
        padding = ((0, 0), (0, -height % cell), (0, -width % cell), (0, 0))
        x = jnp.pad(images, padding, mode="edge")
        several, coarsest = train and self.resolutions > 1, 2 ** (self.resolutions - 1)
        if several and (height % coarsest or width % coarsest):
            raise ValueError(
                f"images are {height}x{width}, but logits at {self.resolutions} resolutions need "
                f"sides divisible by {coarsest}; crop or pad them"
            )
        keys = [None] * self.levels
        if train and self.dropout.rate > 0:
            if key is None:
                raise ValueError("dropout needs a key when training; pass key=")
            keys = jax.random.split(key, self.levels)

        skips = []
        for level in range(self.levels):
            x = getattr(self, f"down{level}")(max_pool(x) if level else x, train=train)
            skips.append(x)
        x = self.dropout(skips.pop(), deterministic=not train, rngs=keys[-1])
        decoded = [x]
        for level in reversed(range(self.levels - 1)):
            x = jnp.concatenate([skips.pop(), getattr(self, f"up{level}")(x)], -1)
            x = getattr(self, f"decode{level}")(x, train=train)
            x = self.dropout(x, deterministic=not train, rngs=keys[level])
            decoded.append(x)

        def logits(level):
            head = getattr(self, f"head{level}" if level else "head")
            found = head(decoded[-1 - level])[:, : height >> level, : width >> level]
            return found.astype(self.param_dtype)

        return [logits(level) for level in range(self.resolutions)] if several else logits(0)


class Block(nnx.Module):
    """Two 3x3 convolutions, each normalised and rectified."""

    def __init__(self, before: int, width: int, *, norm, axis_name, dtype, param_dtype, rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        for i, channels in enumerate((before, width)):
            # No bias: the normalisation that follows has one.
            conv = nnx.Conv(channels, width, (3, 3), use_bias=False, **options)
            setattr(self, f"conv{i}", conv)
            if norm == "batch":
                layer = nnx.BatchNorm(width, momentum=0.9, axis_name=axis_name, **options)
                # flax keeps statistics in float32 even where the parameters are float64.
                statistics = jnp.promote_types(param_dtype, jnp.float32)
                layer.mean = nnx.BatchStat(jnp.zeros(width, statistics))
                layer.var = nnx.BatchStat(jnp.ones(width, statistics))
            else:
                groups = max(g for g in range(1, min(8, width) + 1) if width % g == 0)
                layer = nnx.GroupNorm(width, num_groups=groups, **options)
            setattr(self, f"norm{i}", layer)
        self.batch = norm == "batch"

    def __call__(self, x, *, train):
        mode = {"use_running_average": not train} if self.batch else {}
        for i in range(2):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), **mode)
            x = nnx.relu(x)
        return x


class Up(nnx.Module):
    """Doubles height and width: a dense layer to four times the channels, and pixel shuffle."""

    def __init__(self, before: int, width: int, *, dtype, param_dtype, rngs):
        self.dense = nnx.Linear(before, 4 * width, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x):
        x = self.dense(x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height, width, 2, 2, channels // 4)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def max_pool(x: Float[Array, "batch height width channels"]) -> Array:
    """The maximum of each 2x2 cell, by strided slices: faster than a window reduction on CPU."""
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])
