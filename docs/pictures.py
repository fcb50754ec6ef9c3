"""Draws the pictures of losses.md, each from the values and gradients of the loss that it shows.

python docs/pictures.py [--out=docs/losses] [NAME ...]
"""

from __future__ import annotations

import argparse
import functools
import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import kl_tables
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from jaxseg import labels, losses

BLUE, LIGHT_BLUE, ORANGE, PALE = "#0064b0", "#6db3e8", "#d55e00", "#b4b4b4"
STYLE = {
    "font.size": 9,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.2,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
}
SIZE = (6.0, 2.5)  # inches, of which the page shows one as 100 pixels
DPI = 180


# Pixelwise losses: value and derivative over the logit margin of a pixel.

MARGINS = np.linspace(-6, 6, 601)
MARGIN = "logit margin of the true class (nats)"


class Curve(NamedTuple):
    """A loss of a pixel of two classes, of which the label is the first, or gives it 0.7."""

    loss: Callable
    name: str
    colour: str
    style: str = "-"
    soft: bool = False


def hard(loss, name="hard label", colour=BLUE, style="-"):
    return Curve(loss, name, colour, style)


def soft(loss, name="label (0.7, 0.3)", style="-"):
    return Curve(loss, name, ORANGE, style, soft=True)


CROSS_ENTROPY = hard(losses.cross_entropy, "cross_entropy", PALE)


def pixel(
    *curves, unit="nats", top=6.3, slopes=(-1.2, None), reference=CROSS_ENTROPY, margin=MARGIN
):
    """Value and derivative; a dot where the value is least, a dotted line where q is the label."""

    def draw(figure):
        left, right = figure.subplots(1, 2)
        for loss, name, colour, style, is_soft in (*filter(None, [reference]), *curves):
            logits = jnp.stack([MARGINS, np.zeros_like(MARGINS)], -1)
            label = jnp.array([0.7, 0.3]) if is_soft else jnp.array(0)
            label = jnp.broadcast_to(label, MARGINS.shape + label.shape)
            values, pull = jax.vjp(functools.partial(loss, labels=label, reduce=None), logits)
            left.plot(MARGINS, values, style, color=colour, label=name)
            right.plot(MARGINS, pull(jnp.ones_like(values))[0][:, 0], style, color=colour)
            least = int(np.argmin(values))
            if 0 < least < len(MARGINS) - 1 and colour != PALE:
                left.plot(MARGINS[least], values[least], "o", color=colour, markersize=4)
                right.plot(MARGINS[least], 0, "o", color=colour, markersize=4)
        if any(curve.soft for curve in curves):
            for axes in (left, right):
                axes.axvline(np.log(0.7 / 0.3), color=ORANGE, linewidth=0.8, linestyle=":")
        left.set(ylabel=f"value ({unit})" if unit else "value", ylim=(-0.04 * top, top))
        right.set(ylabel="derivative in its logit", ylim=slopes)
        for axes in (left, right):
            axes.set(xlabel=margin, xlim=(-6, 6), xticks=range(-6, 7, 2))
        figure.legend(loc="outside upper center", ncols=4)

    return draw


def of(loss, **options):
    return functools.partial(loss, **options)


def triangular(u):
    return (u - 1) ** 2 / (u + 1)


def without_labels(loss):
    return lambda logits, labels, reduce: loss(logits, reduce=reduce)


# Of kl-and-relative-entropy.md.


def modes(figure):
    """A Gaussian fitted to two modes, and one prediction fitted to labels that contradict."""
    left, right = figure.subplots(1, 2)
    left.fill_between(kl_tables.LINE, kl_tables.two_modes(), color="#dcdcdc", label="label p")
    shares = np.linspace(0.501, 0.999, 250)
    reverse = of(losses.relative_entropy, label_smoothing=0.0)
    for loss, colour, name in (
        (losses.kl_divergence, BLUE, "D(p || q)"),
        (reverse, ORANGE, "D(q || p)"),
    ):
        left.plot(
            kl_tables.LINE, jax.nn.softmax(kl_tables.fitted(loss)[0][2]), color=colour, label=name
        )
    for loss, colour, style, name in (
        (losses.cross_entropy, BLUE, "-", "cross_entropy"),
        (losses.relative_entropy, ORANGE, "-", "relative_entropy, 0.1"),
        (of(losses.relative_entropy, label_smoothing=0.01), ORANGE, "--", "0.01"),
        (losses.total_variation, "#444444", ":", "total_variation"),
    ):
        right.plot(shares, kl_tables.agreed(loss, shares), style, color=colour, label=name)
    left.set(xlabel="class, on a line", ylabel="probability", ylim=(0, None))
    right.set(xlabel="share of the labels", ylabel="best prediction")
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def vanishing(figure):
    """The size of the derivative in the true class's logit, of two."""
    left, right = figure.subplots(1, 2)
    for loss, colour, style, name in (
        (losses.cross_entropy, PALE, "-", "cross_entropy"),
        (of(losses.kl_divergence, label_smoothing=0.1), BLUE, "--", "kl_divergence, 0.1"),
        (losses.relative_entropy, ORANGE, "-", "relative_entropy, 0.1"),
        (losses.jensen_shannon, LIGHT_BLUE, "-", "jensen_shannon"),
        (losses.hellinger, BLUE, "-", "hellinger"),
        (losses.focal, "#444444", ":", "focal"),
    ):
        for axes, margins in ((left, np.linspace(-20, 0, 401)), (right, np.linspace(0, 20, 401))):
            slopes = abs(kl_tables.slope(loss, margins))
            axes.plot(margins, slopes, style, color=colour, label=name)
            axes.set(yscale="log", ylim=(1e-10, 10), xlim=(margins[0], margins[-1]))
    left.set(xlabel="margin, confidently wrong (nats)", ylabel="size of the derivative")
    right.set(xlabel="margin, confidently right (nats)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)


# Overlaps: hard discs of many radii, and the pull at the logits of an object.

SIDE = 96


def disc(share, shift=0.0):
    """The pixels of a disc that has this share of the picture, shifted to the right."""
    at = jnp.arange(SIDE) - (SIDE - 1) / 2
    radius = SIDE * jnp.sqrt(share / jnp.pi)
    return jnp.square(at)[:, None] + jnp.square(at - shift)[None] <= jnp.square(radius)


def of_object(loss, **options):
    """A softmax loss as a function of the margin of an object's class over the rest's."""

    def value(margins, label):
        logits = jnp.stack([jnp.zeros_like(margins), margins], -1)
        return loss(logits[None], label[None].astype(jnp.int32), **options)

    return value


def of_question(loss):
    """Likewise a sigmoid loss."""
    return lambda margins, label: loss(margins[None, ..., None], label[None])


DICE = of_object(losses.dice, class_weights=(0, 1))
MEAN = of_object(losses.cross_entropy)


def overlap(loss, certain=20.0):
    """Value over the radius of a disc, and derivative over the margin of an object's pixels."""

    def draw(figure):
        left, right = figure.subplots(1, 2)
        radii, margins = jnp.linspace(0, 2, 121), jnp.linspace(-8, 8, 161)
        for share, colour, style in ((0.1, BLUE, "-"), (0.01, LIGHT_BLUE, "--")):
            label = disc(share)

            def slopes(loss, label=label):
                slope = jax.grad(lambda m: loss(jnp.where(label, m, -20.0), label))
                return jax.lax.map(slope, margins)

            right.plot(margins, slopes(MEAN), style, color=PALE)
            right.plot(margins, slopes(loss), style, color=colour)
            left.plot([], [], style, color=colour, label=f"object of {share:.0%}")
        left.plot([], [], color=PALE, label="left dice, right cross_entropy")
        left.plot(radii, by_radius(DICE, radii), color=PALE)
        left.plot(radii, by_radius(loss, radii, certain), color=BLUE)
        left.set(xlabel="predicted radius / true radius", ylabel="value", ylim=(0, None))
        right.set(xlabel="margin of the object's pixels (nats)", ylabel="derivative in it")
        figure.legend(loc="outside upper center", ncols=3)

    return draw


def by_radius(loss, radii, certain=20.0):
    label = disc(0.1)

    def value(radius):
        return loss(jnp.where(disc(0.1 * radius**2), certain, -certain), label)

    return jax.lax.map(value, radii)


def overlaps(figure):
    """All overlaps over the radius; and Dice of a soft label over the prediction, by form."""
    left, right = figure.subplots(1, 2)
    radii = jnp.linspace(0, 2, 121)
    for loss, colour, style in (
        (losses.dice, BLUE, "-"),
        (losses.jaccard, LIGHT_BLUE, "-"),
        (losses.tversky, ORANGE, "-"),
        (losses.focal_tversky, ORANGE, "--"),
        (losses.mcc, BLUE, ":"),
    ):
        values = by_radius(of_object(loss, class_weights=(0, 1)), radii)
        left.plot(radii, values, style, color=colour, label=loss.__name__)
    q = jnp.linspace(0.01, 0.99, 491)
    logits = jnp.stack([jnp.zeros_like(q), jnp.log(q) - jnp.log1p(-q)], -1)
    label = jnp.array([[0.3, 0.7]])
    for form, colour, style in (
        ("l1", BLUE, "-"),
        ("squared", ORANGE, "-"),
        ("product", BLUE, ":"),
    ):
        loss = of(losses.dice, form=form, class_weights=jnp.array([0, 1]))
        values = jax.vmap(lambda z, loss=loss: loss(z[None], label))(logits)
        right.plot(q, values, style, color=colour, label=f'"{form}"')
        least = int(np.argmin(values))
        right.plot(q[least], values[least], "o", color=colour, markersize=4)
    left.set(xlabel="predicted radius / true radius", ylabel="value", ylim=(0, None))
    right.set(xlabel="prediction, where the label is 0.7", ylabel="value")
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, handlelength=1.2)


# Maps.


def show(axes, values, title, colours="Blues", limits=None):
    axes.set(title=title, xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(True)
    return axes.imshow(values, colours, interpolation="nearest", clim=limits)


def signed(axes, values, title):
    """Values around 0, blue below."""
    most = float(jnp.max(jnp.abs(values)))
    return show(axes, values, title, "RdBu_r", (-most, most))


def bar(axes, shown, shrink):
    axes.figure.colorbar(shown, ax=axes, shrink=shrink, aspect=12).ax.tick_params(labelsize=7)


def outline(axes, mask, style="-"):
    axes.contour(mask, [0.5], colors="black", linewidths=0.9, linestyles=style)


def distance(loss):
    """The gradient for a shifted disc, and the value over its shift."""

    def draw(figure):
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        label, shifted, shifts = disc(0.1), disc(0.1, 14.0), jnp.arange(-30.0, 31.0)
        slopes = jax.grad(loss)(jnp.where(shifted, 3.0, -3.0), label) * SIDE**2
        middle = slice(SIDE // 6, -SIDE // 6)
        slopes, inside, outside = (x[middle, middle] for x in (slopes, label, shifted))
        bar(left, signed(left, slopes, "pixels x derivative in a margin"), 0.9)
        outline(left, inside)
        outline(left, outside, "--")

        def value(shift):
            return loss(jnp.where(disc(0.1, shift), 20.0, -20.0), label)

        right.plot(shifts, jax.lax.map(value, shifts), color=BLUE)
        right.set(xlabel="shift of a certain prediction (pixels)", ylabel="value")

    return draw


def scene():
    """A label of two objects, and the margins of a prediction that errs at their boundaries."""
    y, x = jnp.meshgrid(jnp.linspace(-1, 1, SIDE), jnp.linspace(-1, 1, SIDE), indexing="ij")
    label = (jnp.hypot(x + 0.25, y + 0.1) < 0.5) | (jnp.hypot(x - 0.6, y - 0.6) < 0.22)
    seen = jnp.maximum(0.45 - jnp.hypot(x + 0.15, y + 0.1), 0.25 - jnp.hypot(x - 0.6, y - 0.5))
    return label, 12 * seen + 0.8 * jnp.sin(9 * x + 5 * y) * jnp.cos(7 * y - 4 * x)


def hard_pixels(figure):
    """The loss of each pixel, and which ones are kept."""
    label, margins = scene()
    panels = figure.subplots(1, 3)
    values = of_object(losses.cross_entropy, reduce=None)(margins, label)[0]
    bar(panels[0], show(panels[0], values, "cross_entropy (nats)", limits=(0, 3)), 0.6)
    for axes, options in zip(panels[1:], ({"fraction": 0.1}, {"threshold": 0.36}), strict=True):
        loss = of_object(losses.hard_pixels(losses.cross_entropy, **options))
        ((name, value),) = options.items()
        show(axes, jax.grad(loss)(margins, label) != 0, f"kept by {name} {value:g}")
    for axes in panels:
        outline(axes, label)


def upsampled(figure):
    """Logits of low resolution, the map of the loss, and the gradient."""
    label, margins = scene()
    cells = margins.reshape(8, SIDE // 8, 8, SIDE // 8).mean((1, 3))
    panels = figure.subplots(1, 3)
    signed(panels[0], cells, "margins of 8 x 8 cells")
    values = of_object(losses.upsample_cross_entropy, reduce=None)(cells, label)[0]
    show(panels[1], values, f"loss of {SIDE} x {SIDE} pixels", limits=(0, 3))
    outline(panels[1], label)
    slopes = jax.grad(of_object(losses.upsample_cross_entropy))(cells, label)
    signed(panels[2], slopes, "derivative in the cells")


def deep_supervision(figure):
    """The labels that a loss is given at a coarse resolution."""
    at = np.arange(SIDE)
    label = np.hypot(at[:, None] - 30, at - 30) < 22
    label |= abs(at[:, None] - 0.7 * at - 25) < 2
    panels = figure.subplots(1, 3)
    show(panels[0], label, f"labels, {SIDE} x {SIDE}")
    for axes, kind in zip(panels[1:], ("nearest", "shares"), strict=True):
        given = {}

        def loss(logits, labels, where, given=given):
            given["object"] = labels[0] if labels.ndim == 3 else labels[0, ..., 1]
            return 0.0

        cells = jnp.zeros((1, 12, 12, 2))
        losses.deep_supervision(loss, labels=kind)([cells], jnp.asarray(label[None], jnp.int32))
        show(axes, given["object"], f'"{kind}", 12 x 12', limits=(0, 1))


def weighted_sum(figure):
    """Weights over the steps, and what that makes of the sum."""
    left, right = figure.subplots(1, 2)
    terms = (("cross_entropy", 1.0), ("boundary", ((200, 0.0), (800, 0.1))))
    loss, label = losses.weighted_sum(terms), disc(0.1)
    steps, shifts = jnp.arange(0, 1001, 10), jnp.arange(-30.0, 31.0)

    def at(step, shift):
        total = of_object(lambda z, y: loss(z, y, step=step)[0])
        return total(jnp.where(disc(0.1, shift), 2.0, -2.0), label)

    left.plot(steps, jnp.ones(steps.shape), color=BLUE, label="weight of cross_entropy")
    left.plot(steps, jnp.interp(steps, *np.array(terms[1][1]).T), color=ORANGE, label="of boundary")
    for step, style in ((0, ":"), (500, "--"), (1000, "-")):
        values = jax.lax.map(lambda x, step=step: at(step, x), shifts)
        right.plot(shifts, values, style, color="#444444", label=f"step {step}")
    left.set(xlabel="step", ylabel="weight")
    right.set(xlabel="shift of the prediction (pixels)", ylabel="weighted sum")
    figure.legend(loc="outside upper center", ncols=5)


def cldice(figure):
    """Value over the width and over a gap of a thin object, and the gradient at a gap."""
    first, second, third = figure.subplots(1, 3)
    at = jnp.arange(SIDE)
    away = abs(at[:, None] - 48 - 20 * jnp.sin(at[None] / 15))
    label = away < 4

    def seen(width, gap, certain):
        hole = abs(at - SIDE / 2)[None] < gap / 2
        return jnp.where((away < width) & ~hole, certain, -certain)

    widths, gaps = jnp.arange(0.5, 8, 0.5), jnp.arange(0.0, 49.0, 2)
    loss = of_object(losses.cldice, class_weights=(0, 1), iterations=6)
    for function, colour, name in ((DICE, PALE, "dice"), (loss, BLUE, "cldice")):
        values = jax.lax.map(lambda w, f=function: f(seen(w, 0.0, 20.0), label), widths)
        first.plot(2 * widths, values, color=colour, label=name)
        values = jax.lax.map(lambda gap, f=function: f(seen(4.0, gap, 20.0), label), gaps)
        second.plot(gaps, values, color=colour)
    for axes in (first, second):
        axes.set(ylim=(-0.03, 1.03))
    first.set(xlabel="width, of 8 (pixels)", ylabel="value")
    second.set(xlabel="length of a gap (pixels)")
    first.legend()
    middle = slice(SIDE // 4, -SIDE // 4)
    slopes = jax.grad(loss)(seen(4.0, 16.0, 1.0), label)
    signed(third, slopes[middle, middle], "derivative, at a gap")
    outline(third, label[middle, middle])


def rmi(figure):
    """Value over the shift of a certain prediction, and over the margin of a right one."""
    left, right = figure.subplots(1, 2)
    label, shifts, margins = disc(0.1), jnp.arange(-30.0, 31.0), jnp.linspace(0.1, 6, 60)
    for loss, colour, name in ((MEAN, PALE, "cross_entropy"), (of_object(losses.rmi), BLUE, "rmi")):
        values = jax.lax.map(lambda x, f=loss: f(jnp.where(disc(0.1, x), 3.0, -3.0), label), shifts)
        left.plot(shifts, values, color=colour, label=name)
        value = jax.value_and_grad(lambda m, f=loss: f(jnp.where(label, m, -m), label))
        right.plot(margins, jax.lax.map(value, margins)[0], color=colour)
    left.set(xlabel="shift of the prediction (pixels)", ylabel="value (nats)")
    right.set(xlabel="margin of a right prediction (nats)", ylabel="value (nats)")
    figure.legend(loc="outside upper center", ncols=2)


# Between predictions.


def knowledge_distillation(figure):
    """Value and derivative over the student's margin, for a teacher's margin of 2."""
    left, right = figure.subplots(1, 2)
    logits = jnp.stack([MARGINS, np.zeros_like(MARGINS)], -1)
    teacher = jnp.broadcast_to(jnp.array([2.0, 0.0]), logits.shape)
    for temperature, colour, style in ((1.0, LIGHT_BLUE, "--"), (4.0, BLUE, "-")):
        loss = of(losses.knowledge_distillation, temperature=temperature, reduce=None)
        values, pull = jax.vjp(lambda z, loss=loss: loss(z, teacher), logits)
        left.plot(MARGINS, values, style, color=colour, label=f"temperature {temperature:g}")
        right.plot(MARGINS, pull(jnp.ones_like(values))[0][:, 0], style, color=colour)
    for axes in (left, right):
        axes.axvline(2, color="#444444", linewidth=0.8, linestyle=":")
        axes.set(xlabel="logit margin of the student (nats)", xlim=(-6, 6), xticks=range(-6, 7, 2))
    left.plot([], [], ":", color="#444444", linewidth=0.8, label="the teacher's margin")
    left.set(ylabel="value (nats)")
    right.set(ylabel="derivative in its logit")
    figure.legend(loc="outside upper center", ncols=3)


def channel_distillation(figure):
    """One class along a line of pixels: both softmaxes, and the derivative at each pixel."""
    left, right = figure.subplots(1, 2)
    at = jnp.arange(60.0)
    teacher, student = (8 * jnp.exp(-jnp.square((at - x) / 6)) for x in (20, 34))
    left.plot(at, jax.nn.softmax(teacher / 4), color="#444444", label="teacher p")
    left.plot(at, jax.nn.softmax(student / 4), color=BLUE, label="student q")
    slopes = jax.grad(losses.channel_distillation)(student[None, :, None], teacher[None, :, None])
    right.axhline(0, color="#444444", linewidth=0.6)
    right.plot(at, slopes[0, :, 0], color=BLUE)
    for axes in (left, right):
        axes.set(xlabel="pixel along a line")
    left.set(ylabel="softmax over the pixels", ylim=(0, None))
    right.set(ylabel="derivative in its logit")
    figure.legend(loc="outside upper center", ncols=2)


def consistency(figure):
    """Value and derivative over the difference of two predictions."""
    left, right = figure.subplots(1, 2)
    differences = jnp.linspace(-12, 12, 481)
    zeros = jnp.zeros_like(differences)
    for middle, colour, style in ((0.0, BLUE, "-"), (3.0, ORANGE, "--")):
        one, other = (jnp.stack([middle + sign * differences / 2, zeros], -1) for sign in (1, -1))
        values, pull = jax.vjp(lambda z, o=other: losses.consistency([z, o], reduce=None), one)
        left.plot(differences, values, style, color=colour, label=f"of mean margin {middle:g}")
        right.plot(differences, pull(jnp.ones_like(values))[0][:, 0], style, color=colour)
    left.axhline(np.log(2), color=PALE, linewidth=1, label="log 2")
    for axes in (left, right):
        axes.set(xlabel="difference of the margins (nats)")
    left.set(ylabel="value (nats)")
    right.set(ylabel="derivative in one logit")
    figure.legend(loc="outside upper center", ncols=3)


def mutual_information(figure):
    """Value and derivative over the margin of two views of four pixels, half of each class."""
    left, right = figure.subplots(1, 2)
    one = jnp.array([1.0, 1.0, -1.0, -1.0])
    for other, colour, style, name in (
        (one, BLUE, "-", "views agree"),
        (jnp.array([1.0, -1.0, -1.0, -1.0]), ORANGE, "--", "at 3 of 4 pixels"),
    ):

        def value(margin, other=other):
            views = (jnp.stack([margin * x, jnp.zeros(4)], -1)[None] for x in (one, other))
            return losses.mutual_information(*views)

        values, slopes = jax.lax.map(jax.value_and_grad(value), MARGINS)
        left.plot(MARGINS, values, style, color=colour, label=name)
        right.plot(MARGINS, slopes, style, color=colour)
    left.axhline(-np.log(2), color=PALE, linewidth=1, label="-log 2")
    for axes in (left, right):
        axes.set(xlabel="margin in both views (nats)", xlim=(-6, 6), xticks=range(-6, 7, 2))
    left.set(ylabel="value (nats)", ylim=(-0.75, 0.03))
    right.set(ylabel="derivative in the margin")
    figure.legend(loc="outside upper center", ncols=3)


def marginal_kl(figure):
    """Value and derivative over the predicted share of a class that has a fifth of the labels."""
    left, right = figure.subplots(1, 2)
    label = jnp.array([0, 0, 0, 0, 1])
    shares = jnp.linspace(0.01, 0.99, 197)
    margins = jnp.log(shares) - jnp.log1p(-shares)
    for loss, colour in ((losses.cross_entropy, PALE), (losses.marginal_kl, BLUE)):
        value = lambda m, loss=loss: of_object(loss)(jnp.full(5, m), label)  # noqa: E731
        values, slopes = jax.vmap(jax.value_and_grad(value))(margins)
        left.plot(shares, values, color=colour, label=loss.__name__)
        right.plot(shares, slopes, color=colour)
    for axes in (left, right):
        axes.axvline(0.2, color="#444444", linewidth=0.8, linestyle=":")
        axes.set(xlabel="predicted share, alike at all pixels", xlim=(0, 1))
    left.plot([], [], ":", color="#444444", linewidth=0.8, label="labelled share")
    left.set(ylabel="value (nats)", ylim=(0, 2))
    right.set(ylabel="derivative in all margins")
    figure.legend(loc="outside upper center", ncols=3)


# Labels.


def smooth(figure):
    """One-hot labels smoothed, and the margin of a prediction that is the smoothed label."""
    left, right = figure.subplots(1, 2)
    for k, (share, colour) in enumerate(((0.0, "#444444"), (0.1, BLUE), (0.4, LIGHT_BLUE))):
        p = labels.smooth(jnp.array(1), 4, label_smoothing=share)
        left.bar(np.arange(4) + 0.25 * (k - 1), p, 0.22, color=colour, label=f"{share:g}")
    left.legend(title="label_smoothing", title_fontsize=8.5)
    shares = np.geomspace(1e-3, 1, 200)
    for classes, colour in ((2, BLUE), (19, ORANGE), (150, "#444444")):
        p = [labels.smooth(jnp.array(1), classes, label_smoothing=float(e)) for e in shares]
        margins = [float(jnp.log(x[1] / x[0])) for x in p]
        right.plot(shares, margins, color=colour, label=f"{classes} classes")
    right.legend()
    left.set(xlabel="class, of 4", ylabel="p", xticks=range(4))
    right.set(xlabel="label_smoothing", ylabel="margin at the optimum (nats)", xscale="log")


def spatially_varying(figure):
    """What becomes of the labels of two objects."""
    label = scene()[0][::4, ::4]
    panels = figure.subplots(1, 3)
    show(panels[0], label, "labels")
    for axes, size, sigma in ((panels[1], 3, 1.0), (panels[2], 7, 2.0)):
        p = labels.spatially_varying(label.astype(jnp.int32), 2, size=size, sigma=sigma)
        show(axes, p[..., 1], f"size {size}, sigma {sigma:g}", limits=(0, 1))


def from_raters(figure):
    """Three that agree roughly and one that does not, in votes and by STAPLE."""
    raters = jnp.stack([disc(0.1), disc(0.12, 4.0), disc(0.09, -4.0), disc(0.2, 24.0)])
    panels = figure.subplots(1, 3)
    show(panels[0], jnp.zeros((SIDE, SIDE)), "four raters")
    for rater in raters:
        outline(panels[0], rater)
    for axes, method in zip(panels[1:], ("votes", "staple"), strict=True):
        p = labels.from_raters(raters.astype(jnp.int32), 2, method=method)
        show(axes, p[..., 1], f'"{method}"', limits=(0, 1))


def answer(loss, yes, **options):
    """A sigmoid loss as one of two classes, of which the first is yes."""

    def value(logits, labels, reduce):
        margins = logits[:, :1] - logits[:, 1:]
        return loss(margins, jnp.full(margins.shape, yes), reduce=reduce, **options)[:, 0]

    return value


PICTURES = {
    "modes": modes,
    "vanishing": vanishing,
    "cross_entropy": pixel(
        hard(losses.cross_entropy),
        hard(of(losses.cross_entropy, label_smoothing=0.1), "smoothing 0.1", style="--"),
        soft(losses.cross_entropy),
        reference=None,
    ),
    "kl_divergence": pixel(
        hard(losses.kl_divergence),
        hard(of(losses.kl_divergence, label_smoothing=0.1), "smoothing 0.1", style="--"),
        soft(losses.kl_divergence),
    ),
    "relative_entropy": pixel(
        hard(losses.relative_entropy, "hard label, smoothing 0.1"),
        hard(of(losses.relative_entropy, label_smoothing=0.01), "smoothing 0.01", style="--"),
        soft(of(losses.relative_entropy, label_smoothing=0.0)),
        slopes=(-1.5, None),
    ),
    "jeffreys": pixel(
        hard(losses.jeffreys, "hard label, smoothing 0.1"),
        hard(of(losses.jeffreys, label_smoothing=0.01), "smoothing 0.01", style="--"),
        soft(of(losses.jeffreys, label_smoothing=0.0)),
        slopes=(-2.2, None),
    ),
    "jensen_shannon": pixel(
        hard(losses.jensen_shannon),
        hard(of(losses.jensen_shannon, weight=0.9, scaled=True), "scaled, weight 0.9", style="--"),
        soft(losses.jensen_shannon),
        top=1.6,
    ),
    "alpha_divergence": pixel(
        hard(losses.alpha_divergence, "hard label, alpha 0.5"),
        hard(of(losses.alpha_divergence, alpha=0.9), "alpha 0.9", style="--"),
        soft(losses.alpha_divergence),
    ),
    "renyi_divergence": pixel(
        hard(losses.renyi_divergence, "hard label"),
        soft(losses.renyi_divergence, "label (0.7, 0.3), order 2"),
        soft(of(losses.renyi_divergence, order=0.5), "order 0.5", style="--"),
    ),
    "tsallis_divergence": pixel(
        hard(of(losses.tsallis_divergence, order=0.5), "hard label, order 0.5"),
        hard(of(losses.tsallis_divergence, order=1.5), "order 1.5", style="--"),
        soft(of(losses.tsallis_divergence, order=0.5)),
    ),
    "total_variation": pixel(
        hard(losses.total_variation), soft(losses.total_variation), unit="", top=1.6
    ),
    "hellinger": pixel(hard(losses.hellinger), soft(losses.hellinger), unit="", top=1.6),
    "chi_squared": pixel(
        hard(losses.chi_squared), soft(losses.chi_squared), unit="", slopes=(-3.2, 1.2)
    ),
    "brier": pixel(hard(losses.brier), soft(losses.brier), unit="", top=2.6),
    "f_divergence": pixel(
        hard(of(losses.f_divergence, f=triangular), "$f(u) = (u - 1)^2 / (u + 1)$, hard label"),
        soft(of(losses.f_divergence, f=triangular)),
        unit="",
        top=1.6,
    ),
    "focal": pixel(
        hard(losses.focal, "hard label, gamma 2"),
        hard(of(losses.focal, gamma=0.5), "gamma 0.5", style="--"),
        soft(losses.focal),
    ),
    "poly1": pixel(hard(losses.poly1), soft(losses.poly1)),
    "generalized_cross_entropy": pixel(
        hard(losses.generalized_cross_entropy, "hard label, q 0.7"),
        hard(of(losses.generalized_cross_entropy, q=0.3), "q 0.3", style="--"),
        soft(losses.generalized_cross_entropy),
        unit="",
    ),
    "symmetric_cross_entropy": pixel(
        hard(losses.symmetric_cross_entropy), soft(losses.symmetric_cross_entropy)
    ),
    "logit_adjusted": pixel(
        hard(of(losses.logit_adjusted, prior=(0.1, 0.9)), "true class has the prior 0.1"),
        hard(of(losses.logit_adjusted, prior=(0.9, 0.1)), "prior 0.9", style="--"),
    ),
    "entropy": pixel(
        hard(without_labels(losses.entropy), "any label"),
        reference=None,
        top=0.8,
        slopes=(None, None),
        margin="logit margin of a class (nats)",
    ),
    "confidence_penalty": pixel(
        hard(without_labels(losses.confidence_penalty), "any label"),
        reference=None,
        top=0.8,
        slopes=(None, None),
        margin="logit margin of a class (nats)",
    ),
    "hard_pixels": hard_pixels,
    "overlaps": overlaps,
    "dice": overlap(DICE),
    "jaccard": overlap(of_object(losses.jaccard, class_weights=(0, 1))),
    "tversky": overlap(of_object(losses.tversky, class_weights=(0, 1))),
    "focal_tversky": overlap(of_object(losses.focal_tversky, class_weights=(0, 1))),
    "generalized_dice": overlap(of_object(losses.generalized_dice)),
    "mcc": overlap(of_object(losses.mcc)),
    "lovasz_softmax": overlap(of_object(losses.lovasz_softmax, class_weights=(0, 1))),
    "sigmoid_cross_entropy": pixel(
        hard(answer(losses.sigmoid_cross_entropy, 1), "label 1"),
        hard(answer(losses.sigmoid_cross_entropy, 1, pos_weight=3.0), "pos_weight 3", style="--"),
        hard(answer(losses.sigmoid_cross_entropy, 0), "label 0", ORANGE),
        reference=None,
        slopes=(-3.2, None),
        margin="logit (nats)",
    ),
    "sigmoid_focal": pixel(
        hard(answer(losses.sigmoid_focal, 1), "label 1"),
        hard(answer(losses.sigmoid_focal, 0), "label 0", ORANGE),
        hard(answer(losses.sigmoid_focal, 1, alpha=None), "label 1, alpha None", style="--"),
        margin="logit (nats)",
    ),
    "sigmoid_dice": overlap(of_question(losses.sigmoid_dice)),
    "sigmoid_tversky": overlap(of_question(losses.sigmoid_tversky)),
    "lovasz_hinge": overlap(of_question(losses.lovasz_hinge), certain=1.0),
    "boundary": distance(of_object(losses.boundary)),
    "hausdorff_dt": distance(of_object(losses.hausdorff_dt)),
    "knowledge_distillation": knowledge_distillation,
    "channel_distillation": channel_distillation,
    "consistency": consistency,
    "marginal_kl": marginal_kl,
    "upsampled": upsampled,
    "weighted_sum": weighted_sum,
    "deep_supervision": deep_supervision,
    "cldice": cldice,
    "rmi": rmi,
    "mutual_information": mutual_information,
    "labels.smooth": smooth,
    "labels.spatially_varying": spatially_varying,
    "labels.from_raters": from_raters,
}


def draw(name: str, out: pathlib.Path) -> None:
    """One picture, in few colours, for a small file."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(SIZE, dpi=DPI, layout="constrained")
        PICTURES[name](figure)
        buffer = io.BytesIO()
        figure.savefig(buffer)
    picture = Image.open(buffer).convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(out / f"{name}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="all without one")
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "losses"
    )
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for name in arguments.names or PICTURES:
        draw(name, arguments.out)


if __name__ == "__main__":
    main()
