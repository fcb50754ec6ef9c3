"""What an evaluation leaves for people and programs to read."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import rich.table
from PIL import Image
from rich.text import Text

from jaxseg import metrics, pictures, scores
from jaxseg.scores import METRICS, Difference, Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILES = ("summary.json", "summary.md", "images.csv", "report.html")
_PICTURES = 3  # of the best and of the worst images each
_LARGEST = 512  # pixels of a picture's side in the report


def summary(found: Evaluation, facts: Mapping[str, Any], *, samples: int) -> dict[str, Any]:
    """All scores as plain data: of the data set with intervals, of images and of classes.

    `facts` say what was scored. A score that is defined for nothing is None.
    """
    whole, images = found.scores(), found.by_image()
    classes, cells = found.by_class(), found.by_image_and_class()
    bounds = scores.intervals(found, samples) if samples else {}
    listed = {}
    for name in found.metrics:
        sign = 1 if METRICS[name].higher_is_better else -1
        entry = {
            "value": whole[name],
            "low": bounds.get(name, (math.nan,) * 2)[0],
            "high": bounds.get(name, (math.nan,) * 2)[1],
            "higher_is_better": METRICS[name].higher_is_better,
            "what": METRICS[name].what,
            "mean_over_images": _mean(images[name]),
            "worst_5_percent": sign * metrics.worst(sign * images[name], 0.05),
        }
        if name in classes:
            entry["mean_over_images_and_classes"] = _mean(cells[name])
            entry["classes"] = dict(zip(found.classes, classes[name].tolist(), strict=True))
        listed[name] = entry
    counts = found.statistics.get("confusion")
    return _plain(
        {
            **facts,
            "images": len(found.images),
            "bootstrap_samples": samples,
            "metrics": listed,
            "classes": list(found.classes),
            "confusion": None if counts is None else counts.sum(0, dtype=np.int64).tolist(),
        }
    )


_HEAD = ("metric", "value", "95 % low", "95 % high", "mean of images", "worst 5 %")
_COMPARED = ("metric", "A", "B", "A - B", "95 % low", "95 % high", "p-value", "better")


def tables(found: Mapping[str, Any], title: str) -> list[rich.table.Table]:
    """The summary for a terminal: the scores, and those of the classes if there are some."""
    titles = (title, "")
    return [table(x, *content) for x, content in zip(titles, _contents(found), strict=False)]


def comparison(
    differences: Mapping[str, Difference], sides: Sequence[str], images: int
) -> rich.table.Table:
    """Differences for a terminal."""
    rows = [(name, *_compared(name, found)) for name, found in differences.items()]
    return table(f"A = {sides[0]}, B = {sides[1]}, on the same {images} images", _COMPARED, rows)


def write(
    directory: pathlib.Path,
    found: Evaluation,
    summary: Mapping[str, Any],
    title: str,
    examples: Callable,
) -> None:
    """Writes all `FILES`. `examples(indices)` gives what `pictures.comparison` draws of images."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (directory / "summary.md").write_text(_markdown(summary, title))
    with (directory / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(_rows(found))
    (directory / "report.html").write_text(_html(found, summary, title, examples))


def write_comparison(
    directory: pathlib.Path, differences: Mapping[str, Difference], sides: Sequence[str]
) -> pathlib.Path:
    """Writes the differences as JSON and Markdown; the path of the latter."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {name: found._asdict() for name, found in differences.items()}
    plain = _plain({"A": str(sides[0]), "B": str(sides[1]), "metrics": values})
    (directory / "comparison.json").write_text(json.dumps(plain, indent=2) + "\n")
    rows = [(name, *_compared(name, found)) for name, found in differences.items()]
    path = directory / "comparison.md"
    path.write_text(f"A is {sides[0]}, B is {sides[1]}.\n\n{markdown_table(_COMPARED, rows)}")
    return path


def number(value: float | None) -> str:
    """A score for a person to read."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.5g}"


def _plain(value: Any) -> Any:
    """The value as JSON has it, with None for NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(np.mean(values)) if values.size else math.nan


def _cells(entry: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("value", "low", "high", "mean_over_images", "worst_5_percent")
    return tuple(number(entry[name]) for name in names)


def _of_one_class(metric: str) -> str:
    return metric.removeprefix("mean_")


def _by_class(found: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The scores of the classes, by the metrics that have some."""
    entries = found["metrics"].items()
    return {_of_one_class(name): x["classes"] for name, x in entries if "classes" in x}


def _contents(found: Mapping[str, Any]) -> list[tuple[Sequence[str], list[Sequence[str]]]]:
    """The head and the rows of each table: the scores, and those of the classes if there are."""
    contents = [(_HEAD, [(name, *_cells(entry)) for name, entry in found["metrics"].items()])]
    if by_class := _by_class(found):
        rows = [
            (label, *(number(values[label]) for values in by_class.values()))
            for label in found["classes"]
        ]
        contents.append((("class", *by_class), rows))
    return contents


def _compared(name: str, found: Difference) -> tuple[str, ...]:
    better = "A" if (found.difference > 0) == METRICS[name].higher_is_better else "B"
    return (
        *(number(found.first), number(found.second), number(found.difference)),
        *(number(found.low), number(found.high), number(found.p_value)),
        better if found.p_value < scores.SIGNIFICANT else "undecided",
    )


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> rich.table.Table:
    """A table for a terminal, of which the first column is words and the others are numbers."""
    # As Text, since in a str brackets would be markup.
    drawn = rich.table.Table(title=Text(title), title_justify="left")
    for index, name in enumerate(head):
        drawn.add_column(Text(name), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _rows(found: Evaluation) -> list[list]:
    """A row for each image: its scores, and those of its classes; empty where undefined."""
    images, cells = found.by_image(), found.by_image_and_class()
    columns = dict(images)
    for name, values in cells.items():
        for index, label in enumerate(found.classes):
            columns[f"{_of_one_class(name)}/{label}"] = values[:, index]
    rows = [
        [image, *("" if math.isnan(x) else repr(float(x)) for x in values)]
        for image, *values in zip(found.images, *columns.values(), strict=True)
    ]
    return [["image", *columns], *rows]


def _markdown(found: Mapping[str, Any], title: str) -> str:
    drawn = "\n".join(markdown_table(head, rows) for head, rows in _contents(found))
    return f"# {title}\n\n{found['images']} images.\n\n{drawn}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ([str(x).replace("|", "\\|") for x in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _html(found: Evaluation, summary: Mapping[str, Any], title: str, examples: Callable) -> str:
    """One page that needs nothing else: scores, curves, and the best and worst images."""
    main = found.metrics[0]
    values = found.by_image()[main]
    order = np.argsort(values if METRICS[main].higher_is_better else -values, kind="stable")
    order = [int(i) for i in order if not np.isnan(values[i])]
    count = min(_PICTURES, len(order) // 2) or min(1, len(order))
    chosen = {"Worst images": order[:count], "Best images": order[::-1][:count]}
    shown = {
        heading: [
            {
                "name": found.images[index],
                "score": f"{main} {number(values[index])}",
                "picture": _data(
                    pictures.comparison(*example, max(len(found.classes), 2))
                    if found.classes
                    else pictures.segments(*example)
                ),
            }
            for index, example in zip(indices, examples(indices), strict=True)
        ]
        for heading, indices in chosen.items()
    }
    hidden = ("metrics", "classes", "confusion")
    template = resources.files("jaxseg").joinpath("scorecard.html").read_text()
    return (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            title=title,
            facts={key: value for key, value in summary.items() if key not in hidden},
            head=_HEAD,
            metrics=[
                (name, METRICS[name].what, _cells(x)) for name, x in summary["metrics"].items()
            ],
            by_class=_by_class(summary),
            classes=list(zip(found.classes, _colours(found.classes), strict=True)),
            number=number,
            charts=_charts(found, summary, values, main),
            shown=shown,
        )
    )


def _colours(classes: Sequence[str]) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in pictures.palette(max(len(classes), 1))][
        : len(classes)
    ]


def _data(picture: np.ndarray) -> str:
    """A picture as the address of itself."""
    image = Image.fromarray(picture)
    scale = min(1.0, 4 * _LARGEST / image.width)
    image = image.resize([max(1, round(side * scale)) for side in image.size])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _charts(
    found: Evaluation, summary: Mapping[str, Any], values: np.ndarray, main: str
) -> list[tuple[str, str]]:
    """The caption and the SVG of each chart."""
    charts = [(f"Images by {main}", _histogram(values, main))]
    if summary["confusion"] is not None:
        counts = np.array(summary["confusion"])
        caption = "Confusion: where the pixels of each labelled class went"
        charts.append((caption, _confusion(counts, found.classes)))
    if "calibration" in found.statistics:
        sums = found.statistics["calibration"].sum(0)
        charts.append(("Reliability: accuracy of what is predicted with a confidence", _bins(sums)))
    if "confidence" in found.statistics:
        sums = found.statistics["confidence"].sum(0)
        caption = "Risk and coverage: errors among the most confident pixels"
        charts.append((caption, _risk(sums)))
    return charts


def _figure(width: float, height: float):
    from matplotlib.figure import Figure  # slow to import, and not needed to train

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _histogram(values: np.ndarray, name: str) -> str:
    figure, axes = _figure(4.5, 3.2)
    # Rounded, since between neighbouring numbers there is no room for bins.
    values = values[~np.isnan(values)].astype(np.float32).astype(np.float64)
    axes.hist(values, bins=20, color="#4472a8")
    axes.set(xlabel=name, ylabel="images")
    return _svg(figure)


def _confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Shares of each row; with numbers where there is room for them."""
    side = min(10.0, 2.6 + 0.42 * len(classes))
    figure, axes = _figure(side, side)
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90, parse_math=False)
    axes.set_yticks(places, classes, parse_math=False)
    axes.set(xlabel="prediction", ylabel="label")
    if len(classes) <= 20:
        for row, column in np.ndindex(*shares.shape):
            share = shares[row, column]
            if not np.isnan(share) and share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return _svg(figure)


def _bins(sums: np.ndarray) -> str:
    confidence, accuracy, share = metrics.reliability_curve(scores.reliability(sums))
    figure, axes = _figure(4.5, 4.2)
    width = 1 / len(share)
    middles = (np.arange(len(share)) + 0.5) * width
    axes.bar(middles, share, width=0.95 * width, color="#c9d7e8", label="share of the pixels")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    there = share > 0
    axes.plot(confidence[there], accuracy[there], "o-", color="#4472a8", label="accuracy")
    error = metrics.expected_calibration_error(scores.reliability(sums))
    axes.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1), title=f"expected error {error:.4f}")
    axes.legend()
    return _svg(figure)


def _risk(sums: np.ndarray) -> str:
    coverage, risk = metrics.risk_coverage(scores.detection(sums))
    figure, axes = _figure(4.5, 3.4)
    axes.plot(coverage, risk, color="#4472a8")
    axes.set(xlabel="share of the pixels, most confident first", ylabel="share that is wrong")
    axes.set(xlim=(0, 1), ylim=(0, None))
    return _svg(figure)
