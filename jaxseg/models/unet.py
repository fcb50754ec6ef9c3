"""The U-Net of Ronneberger, Fischer and Brox 2015 (arXiv:1505.04597), channel last."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxseg import ops

if TYPE_CHECKING:
    from jaxtyping import Array, Float

_SIDES = {2: "height, width", 3: "depth, height, width"}


class UNet(nnx.Module):
    """Encoder and decoder with skip connections, for images and volumes of any size.

    Each width is a level of two convolutions of side 3, at half the resolution of the one before.
    Images are padded to whole cells of the coarsest level by repeating their border, and the logits
    cropped back, so any size will do. Differs from the paper in what later practice settled on:
    padded convolutions, normalisation, and upsampling by a dense layer and pixel shuffle, which a
    CPU computes faster than transposed convolutions. That of volumes is the same along three axes
    (Cicek et al. 2016, arXiv:1606.06650), and halves all of them alike: one of few slices is
    padded, so it needs few levels.

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
      spatial_rank: the axes of pixels: 2 of images, 3 of volumes.
      remat: compute each block again when its gradient is taken, rather than to keep what is in it
        (Chen et al. 2016, arXiv:1604.06174).
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
        spatial_rank: int = 2,
        remat: bool = False,
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
        if spatial_rank not in _SIDES:
            raise ValueError(
                f"spatial_rank is {spatial_rank}, but must be 2, for images, or 3, for volumes"
            )
        self.levels = len(widths)
        self.spatial_rank = spatial_rank
        self.resolutions = resolutions
        self.remat = remat
        self.in_channels = in_channels
        self.param_dtype = param_dtype
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        spatial = {"spatial_rank": spatial_rank, **options}
        block = {"norm": norm, "axis_name": axis_name, **spatial}
        # Named attributes rather than lists, so that parameters have readable names everywhere.
        for level, width in enumerate(widths):
            before = widths[level - 1] if level else in_channels
            setattr(self, f"down{level}", Block(before, width, **block))
        for level, (width, below) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"up{level}", Up(below, width, **spatial))
            setattr(self, f"decode{level}", Block(2 * width, width, **block))
        self.dropout = nnx.Dropout(dropout)
        self.head = Dense(widths[0], num_classes, **options)
        for level in range(1, resolutions):
            setattr(self, f"head{level}", Dense(widths[level], num_classes, **options))

    def __call__(
        self,
        images: Float[Array, "batch *pixels channels"],
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> Float[Array, "batch *pixels classes"] | list[Float[Array, "batch *level_pixels classes"]]:
        """The logits; in training a list of them, if there are several resolutions."""
        rank = self.spatial_rank
        if images.ndim != rank + 2 or images.shape[-1] != self.in_channels:
            raise ValueError(
                f"images are {list(images.shape)}, but this U-Net needs [batch, {_SIDES[rank]}, "
                f"{self.in_channels}]"
            )
        size = images.shape[1:-1]
        cell = 2 ** (self.levels - 1)
        padding = ((0, 0), *((0, -side % cell) for side in size), (0, 0))
        x = jnp.pad(images, padding, mode="edge")
        several, coarsest = train and self.resolutions > 1, 2 ** (self.resolutions - 1)
        if several and any(side % coarsest for side in size):
            raise ValueError(
                f"images are {'x'.join(map(str, size))}, but logits at {self.resolutions} "
                f"resolutions need sides divisible by {coarsest}; crop or pad them"
            )
        keys = [None] * self.levels
        if train and self.dropout.rate > 0:
            if key is None:
                raise ValueError("dropout needs a key when training; pass key=")
            keys = jax.random.split(key, self.levels)

        def run(block, x):
            return block(x, train=train)

        if train and self.remat:
            run = nnx.remat(run)

        skips = []
        for level in range(self.levels):
            x = run(getattr(self, f"down{level}"), ops.max_pool(x) if level else x)
            skips.append(x)
        x = self.dropout(skips.pop(), deterministic=not train, rngs=keys[-1])
        decoded = [x]
        for level in reversed(range(self.levels - 1)):
            x = jnp.concatenate([skips.pop(), getattr(self, f"up{level}")(x)], -1)
            x = run(getattr(self, f"decode{level}"), x)
            x = self.dropout(x, deterministic=not train, rngs=keys[level])
            decoded.append(x)

        def logits(level):
            head = getattr(self, f"head{level}" if level else "head")
            inside = (slice(None), *(slice(side >> level) for side in size))
            found = head(decoded[-1 - level])[inside]
            return found.astype(self.param_dtype)

        return [logits(level) for level in range(self.resolutions)] if several else logits(0)


class Block(nnx.Module):
    """Two convolutions of side 3, each normalised and rectified."""

    def __init__(
        self, before: int, width: int, *, spatial_rank, norm, axis_name, dtype, param_dtype, rngs
    ):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        for i, channels in enumerate((before, width)):
            # No bias: the normalisation that follows has one.
            conv = nnx.Conv(
                channels,
                width,
                (3,) * spatial_rank,
                use_bias=False,
                conv_general_dilated=_convolve,
                **options,
            )
            setattr(self, f"conv{i}", conv)
            if norm == "batch":
                layer = BatchNorm(width, momentum=0.9, axis_name=axis_name, **options)
            else:
                groups = max(g for g in range(1, min(8, width) + 1) if width % g == 0)
                layer = nnx.GroupNorm(width, num_groups=groups, **options)
            setattr(self, f"norm{i}", layer)
        self.batch = norm == "batch"

    def __call__(self, x, *, train):
        for i in range(2):
            conv, norm = getattr(self, f"conv{i}"), getattr(self, f"norm{i}")
            if not self.batch:
                x = nnx.relu(norm(conv(x)))
            elif train:
                x = norm.rectified(conv(x))
            else:
                kernel, bias = norm.folded(conv.kernel[...])
                x = nnx.relu(ops.convolve(x.astype(kernel.dtype), kernel) + bias)
        return x


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32 at least, whose answer alone is rounded to `dtype`."""

    def __init__(self, width, *, param_dtype=jnp.float32, **options):
        super().__init__(width, param_dtype=param_dtype, **options)
        # flax keeps statistics in float32 even where the parameters are float64.
        statistics = jnp.promote_types(param_dtype, jnp.float32)
        self.mean = nnx.BatchStat(jnp.zeros(width, statistics))
        self.var = nnx.BatchStat(jnp.ones(width, statistics))

    def rectified(self, x):
        """ReLU of it by the moments of the batch, of which the running ones take account."""
        x = x.astype(jnp.promote_types(x.dtype, self.mean.dtype))
        pixels = tuple(range(x.ndim - 1))
        moments = jnp.stack([jnp.mean(x, pixels), jnp.mean(x * x, pixels)])
        if self.axis_name is not None:
            moments = lax.pmean(moments, self.axis_name)
        mean, var = moments[0], jnp.maximum(0, moments[1] - moments[0] ** 2)
        for running, new in ((self.mean, mean), (self.var, var)):
            moved = self.momentum * running[...] + (1 - self.momentum) * new
            running[...] = moved.astype(running.dtype)
        scale, bias = self.scale[...], self.bias[...]
        return ops.normalize_relu(x, mean, var, scale, bias, self.epsilon).astype(self.dtype)

    def folded(self, kernel):
        """The kernel and bias by which the layer before does it, with the running moments.

        A GPU then convolves, adds and rectifies in one.
        """
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        bias = self.bias[...] - self.mean[...] * factor
        others = range(kernel.ndim - 1)
        found = kernel * jnp.expand_dims(factor, others), jnp.expand_dims(bias, others)
        return tuple(x.astype(self.dtype) for x in found)


class Dense(nnx.Linear):
    """The product of each pixel's channels with a kernel, and a bias, by `ops.dense`."""

    def __init__(self, before: int, after: int, *, dtype, param_dtype, rngs):
        super().__init__(before, after, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x):
        arrays = x, self.kernel[...], self.bias[...]
        return ops.dense(*self.promote_dtype(arrays, dtype=self.dtype))


class Up(nnx.Module):
    """Doubles each side: a dense layer to the channels of all pixels of a cell, and their shuffle.

    A cell is 2x2 pixels of an image, or 2x2x2 of a volume.
    """

    def __init__(self, before: int, width: int, *, spatial_rank, dtype, param_dtype, rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.dense = Dense(before, 2**spatial_rank * width, **options)

    def __call__(self, x):
        x = self.dense(x)
        batch, *size, channels = x.shape
        rank, channels = len(size), channels >> len(size)
        x = x.reshape(batch, *size, *(2,) * rank, channels)
        # Each axis of cells is followed by that of the pixels within them.
        axes = (axis for i in range(1, 1 + rank) for axis in (i, i + rank))
        x = x.transpose(0, *axes, 1 + 2 * rank)
        return x.reshape(batch, *(2 * side for side in size), channels)


def _convolve(images, kernel, strides, padding, **options):
    """`ops.convolve` as `nnx.Conv` calls it in `Block`."""
    plain = set(strides) | set(options["rhs_dilation"]) == {1} and padding == "SAME"
    if not plain or options["feature_group_count"] != 1:
        raise ValueError("layers have strides and dilations of 1, SAME padding and one group")
    return ops.convolve(images, kernel)
