"""Computes the tables of kl-and-relative-entropy.md with jaxseg's losses and writes them into it.

python docs/kl_tables.py [PAGE]
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import re
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses

# The classes of a pixel, as if they lay on a line.
LINE = np.linspace(-6, 6, 121)


def two_modes() -> np.ndarray:
    """A distribution over the line with 0.65 about -2 and 0.35 about 2."""
    p = sum(
        share / width * np.exp(-0.5 * ((LINE - middle) / width) ** 2)
        for share, middle, width in ((0.65, -2, 0.6), (0.35, 2, 0.9))
    )
    return p / p.sum()


def fitted(loss: Callable) -> list[tuple[float, float, np.ndarray]]:
    """The middles and widths of Gaussians over the line that are minima of a loss, and logits.

    By search over all on a grid, the least first.
    """
    middles, widths = np.linspace(-3, 3, 301), np.linspace(0.3, 3.3, 151)
    at = (LINE[None, None] - middles[:, None, None]) / widths[None, :, None]
    logits = -0.5 * at**2
    p = np.broadcast_to(two_modes(), logits.shape)
    values = np.asarray(loss(logits, p, reduce=None))
    around = np.lib.stride_tricks.sliding_window_view(values, (3, 3)).min((2, 3))
    minima = np.argwhere(values[1:-1, 1:-1] == around) + 1
    minima = sorted(minima, key=lambda at: values[*at])
    return [(middles[i], widths[j], logits[i, j]) for i, j in minima]


def fits() -> Iterable[list[str]]:
    yield ["fitted by", "mean", "width", "$`D(p\\Vert q)`$", "$`D(q\\Vert p)`$", "within ±0.5"]
    p, between = two_modes(), abs(LINE) < 0.5
    mean = p @ LINE
    width = np.sqrt(p @ (LINE - mean) ** 2)
    yield ["(the label p itself)", f"{mean:.2f}", f"{width:.2f}", "0", "0", f"{p @ between:.3f}"]
    reverse = functools.partial(losses.relative_entropy, label_smoothing=0.0)
    for name, loss in {
        "kl_divergence": losses.kl_divergence,
        "jensen_shannon": losses.jensen_shannon,
        "relative_entropy": reverse,
    }.items():
        for number, (middle, width, logits) in enumerate(fitted(loss)):
            both = losses.kl_divergence(logits, p), reverse(logits, p)
            q = jax.nn.softmax(logits)
            numbers = f"{middle:.2f} {width:.2f} {both[0]:.3f} {both[1]:.3f} {q @ between:.3f}"
            yield [f"`{name}`" + ", another minimum" * (number > 0), *numbers.split()]


RATED = {
    "`cross_entropy`": losses.cross_entropy,
    "`cross_entropy`, smoothing 0.1": functools.partial(losses.cross_entropy, label_smoothing=0.1),
    "`hellinger`": losses.hellinger,
    "`relative_entropy`, 0.1": losses.relative_entropy,
    "`relative_entropy`, 0.01": functools.partial(losses.relative_entropy, label_smoothing=0.01),
    "`jensen_shannon`": losses.jensen_shannon,
    "`total_variation`": losses.total_variation,
}


def agreed(loss: Callable, shares: np.ndarray) -> np.ndarray:
    """The prediction with the least mean loss where so many labels say one class, the rest another.

    By search over all margins up to 12, since not all losses have one minimum.
    """
    margins = np.linspace(-12, 12, 24001)
    logits = np.stack([margins, np.zeros_like(margins)], -1)
    yes, no = (
        loss(logits, np.full(margins.shape, label, np.int32), reduce=None) for label in (0, 1)
    )
    means = shares[:, None] * yes[None] + (1 - shares[:, None]) * no[None]
    return 1 / (1 + np.exp(-margins[np.argmin(means, 1)]))


def raters() -> Iterable[list[str]]:
    shares = np.array([0.6, 0.7, 0.8, 0.9, 0.99])
    yield ["share of the labels", *map("{:g}".format, shares)]
    for name, loss in RATED.items():
        yield [name, *map("{:.3f}".format, agreed(loss, shares))]


def scales() -> Iterable[list[str]]:
    classes = (2, 19, 150)
    yield ["e", *(f"{what}, C = {c}" for c in classes for what in ("A", "most"))]
    for e in (0.5, 0.2, 0.1, 0.01, 1e-3, 1e-7):
        cells = []
        for c in classes:
            # The values of predictions certain of the true class and of another differ by A.
            logits = 1e4 * np.eye(c)[:2]
            loss = functools.partial(losses.relative_entropy, label_smoothing=e, reduce=None)
            right, wrong = loss(logits, np.zeros(2, np.int32))
            cells += [f"{wrong - right:.2f}", f"{1 - e + e / c:.4f}"]
        yield [f"{e:g}", *cells]


SLOPES = {
    "`cross_entropy`": losses.cross_entropy,
    "`kl_divergence`": losses.kl_divergence,
    "`kl_divergence`, smoothing 0.1": functools.partial(losses.kl_divergence, label_smoothing=0.1),
    "`relative_entropy`, 0.1": losses.relative_entropy,
    "`jeffreys`, 0.1": losses.jeffreys,
    "`jensen_shannon`": losses.jensen_shannon,
    "`hellinger`": losses.hellinger,
    "`total_variation`": losses.total_variation,
    "`brier`": losses.brier,
    "`focal`": losses.focal,
}


def slope(loss: Callable, margins: np.ndarray) -> jax.Array:
    """The derivative in the true class's logit, for two classes."""
    logits = jnp.stack([jnp.asarray(margins), jnp.zeros(len(margins))], -1)
    labels = jnp.zeros(len(margins), jnp.int32)
    return jax.grad(lambda z: loss(z, labels, reduce=None).sum())(logits)[:, 0]


def slopes() -> Iterable[list[str]]:
    margins = np.array([-20.0, -10, -5, -2, 0, 2, 5, 10, 20])
    yield ["margin", *(f"{margin:g}" for margin in margins)]
    for name, loss in SLOPES.items():
        yield [name, *(f"{x:.2g}" for x in slope(loss, margins))]


TABLES = {"fits": fits, "raters": raters, "scales": scales, "slopes": slopes}


def markdown(rows: Iterable[list[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    page = pathlib.Path(__file__).parent / "kl-and-relative-entropy.md"
    parser.add_argument("page", nargs="?", type=pathlib.Path, default=page)
    page = parser.parse_args().page
    jax.config.update("jax_enable_x64", True)
    text = page.read_text()
    for name, table in TABLES.items():
        marked = re.compile(rf"<!-- {name} -->\n.*?<!-- end -->", re.S)
        written = f"<!-- {name} -->\n\n{markdown(table())}\n\n<!-- end -->"
        text, number = marked.subn(lambda _, written=written: written, text)
        if number != 1:
            raise ValueError(f"{page} has {number} places for the table {name}, but must have 1")
    page.write_text(text)


if __name__ == "__main__":
    main()
