"""The commands that score runs and masks, compare them, and fit a temperature, from end to end."""

import base64
import csv
import functools
import html.parser
import io
import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import ndimage, optimize, special
from test_train import FORKS, Run, enter, make_config, of_two, one_error_line

from jaxseg import data, evaluate, parallel, pictures, scorecard, scores, temperature
from jaxseg.config import Config, Data, Model
from jaxseg.scores import METRICS, Evaluation
from jaxseg.train import train

CLASSES = ("back<ground", "[nucleus]", "$\\b$ cell")
CLASS_FLAG = f"--classes={','.join(CLASSES)}"
SHAPES = {
    "<b>&": (20, 24),
    'comma, "quote"': (70, 40),
    "all ignored": (9, 9),
    "one pixel": (1, 1),
    "right": (30, 17),
    "wrong": (12, 12),
    "[bold]": (64, 64),
}


def run(output, *args, command="evaluate", devices=8, code=0):
    """What a command printed, which ends with a code."""
    with Run(output, *args, command=command, devices=devices) as process:
        found, stdout, stderr = process.wait()
    assert found == code, stderr
    return stdout if code == 0 else one_error_line(stderr)


def save(path, values, spacing=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if spacing:
        volume = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]), dtype=values.dtype)
        nibabel.save(volume, path)
    else:
        Image.fromarray(values).save(path)


def blobs(seed, shape, number=3):
    noise = np.random.default_rng(seed).normal(size=(number, *shape))
    return ndimage.gaussian_filter(noise, (0, *(3,) * len(shape))).argmax(0).astype(np.uint8)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """Folders of labels and of two predictions, with what they hold {name: (preds, labels)}."""
    root, values = tmp_path_factory.mktemp("masks"), {}
    for seed, (name, shape) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(seed)
        labels, other = blobs(seed, shape), blobs(100 + seed, shape)
        preds = np.where(rng.random(shape) < 0.2, other, labels).astype(np.uint8)
        worse = np.where(rng.random(shape) < 0.6, other, labels).astype(np.uint8)
        if name == "right":
            preds = labels
        if name == "wrong":
            preds = (labels + 1) % np.uint8(3)
        labels = np.where(rng.random(shape) < 0.1, np.uint8(255), labels)
        if name == "all ignored":
            labels[:] = 255
        for side, mask in (("preds", preds), ("labels", labels), ("worse", worse)):
            save(root / side / f"{name}.png", mask)
        values[name] = preds, labels
    return root, {name: values[name] for name in sorted(values)}


def flags_of(masks, preds="preds"):
    return f"--preds={masks[0] / preds}", f"--labels={masks[0] / 'labels'}", CLASS_FLAG


@pytest.fixture(scope="module")
def scored(masks, tmp_path_factory):
    """Where all scores of the masks are, and what was printed."""
    output = tmp_path_factory.mktemp("scored") / "report"
    metrics = f"--metrics={','.join(scores.CLASSES)}"
    printed = run(output.parent, *flags_of(masks), metrics, f"--output={output}")
    return output, printed


def counts(preds, labels, number=3):
    where = labels != 255
    index = number * labels[where].astype(int) + preds[where]
    return np.bincount(index, minlength=number**2).reshape(number, number)


def iou(confusion):
    with np.errstate(invalid="ignore"):
        return np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))


def read_csv(path):
    """The names of the images, and the columns by their names."""
    with path.open(newline="") as file:
        head, *rows = csv.reader(file)
    names, *columns = zip(*rows, strict=True)
    assert head[0] == "image"
    found = [np.array([float(x) if x else np.nan for x in column]) for column in columns]
    return list(names), dict(zip(head[1:], found, strict=True))


def mean(values):
    return np.mean(values[~np.isnan(values)])


def test_summary_of_masks(masks, scored):
    """The confusion matrix is that of numpy, and the scores follow from it."""
    summary = json.loads((scored[0] / "summary.json").read_text())
    total = sum(counts(*x) for x in masks[1].values())
    assert summary["confusion"] == total.tolist()
    assert summary["images"] == len(SHAPES)
    assert summary["classes"] == list(CLASSES)
    assert summary["preds"] == str(masks[0] / "preds")
    assert summary["labels"] == str(masks[0] / "labels")
    assert summary["bootstrap_samples"] == 1000
    found = summary["metrics"]
    assert list(found) == list(scores.CLASSES)
    assert found["accuracy"]["value"] == np.trace(total) / total.sum()
    assert found["mean_iou"]["value"] == pytest.approx(iou(total).mean(), rel=1e-14)
    assert list(found["mean_iou"]["classes"]) == list(CLASSES)
    assert list(found["mean_iou"]["classes"].values()) == iou(total).tolist()
    for name, entry in found.items():
        assert entry["low"] < entry["value"] < entry["high"]
        assert entry["higher_is_better"] == METRICS[name].higher_is_better
        assert entry["what"] == METRICS[name].what


def test_images_of_masks(masks, scored):
    """A row an image, in the order of their names; empty where nothing counts."""
    names, columns = read_csv(scored[0] / "images.csv")
    assert names == list(masks[1])
    tables = [counts(*x) for x in masks[1].values()]
    with np.errstate(invalid="ignore"):
        wanted = [np.trace(x) / x.sum() for x in tables]
    np.testing.assert_allclose(columns["accuracy"], wanted, rtol=1e-15)
    np.testing.assert_allclose(
        columns["mean_iou"], list(map(mean_of, map(iou, tables))), rtol=1e-14
    )
    for index, name in enumerate(CLASSES):
        np.testing.assert_array_equal(columns[f"iou/{name}"], [iou(x)[index] for x in tables])
    assert columns["accuracy"][names.index("right")] == 1
    assert columns["accuracy"][names.index("wrong")] == 0
    assert columns["hausdorff"][names.index("right")] == 0
    for values in columns.values():
        assert np.isnan(values[names.index("all ignored")])


def mean_of(values):
    return mean(values) if (~np.isnan(values)).any() else np.nan


def test_summary_agrees_with_images(scored):
    """The means over images and the worst of them are those of the rows."""
    _, columns = read_csv(scored[0] / "images.csv")
    found = json.loads((scored[0] / "summary.json").read_text())["metrics"]
    for name, entry in found.items():
        values = columns[name]
        assert entry["mean_over_images"] == pytest.approx(mean(values), rel=1e-14)
        worst = np.nanmin if entry["higher_is_better"] else np.nanmax
        assert entry["worst_5_percent"] == worst(values)  # of 6 images it is one
        if "classes" in entry:
            cells = [columns[f"{name.removeprefix('mean_')}/{x}"] for x in CLASSES]
            assert entry["mean_over_images_and_classes"] == pytest.approx(
                mean(np.array(cells)), rel=1e-14
            )


def test_summary_for_people(scored):
    """As Markdown and on the terminal, with the names as they are."""
    directory, printed = scored
    found = json.loads((directory / "summary.json").read_text())["metrics"]
    text = (directory / "summary.md").read_text()
    for name, entry in found.items():
        low, value, high = (f"{entry[x]:.4f}" for x in ("low", "value", "high"))
        assert f"| {name} | {value} | {low} | {high} |" in text
    assert re.search(rf"accuracy +│ +{found['accuracy']['value']:.4f} ", printed)
    summary = json.loads((directory / "summary.json").read_text())
    screen = Console(file=io.StringIO(), width=300)
    screen.print(*scorecard.tables(summary, "[b]title"))
    assert "[b]title" in screen.file.getvalue()
    for name in CLASSES:
        assert f"| {name} | " in text
        assert f"│ {name} " in screen.file.getvalue()
    assert printed.splitlines()[-4:] == [str(directory / name) for name in scorecard.FILES]
    assert sorted(x.name for x in directory.iterdir()) == sorted(scorecard.FILES)


class Page(html.parser.HTMLParser):
    """What a page consists of; raises unless every element that is opened is closed."""

    EMPTY = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *x) for x in attrs]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *x) for x in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def pictures(self):
        found = []
        for tag, name, value in self.attributes:
            if (tag, name) == ("img", "src"):
                head, _, content = value.partition(",")
                assert head == "data:image/png;base64"
                found.append(Image.open(io.BytesIO(base64.b64decode(content, validate=True))))
                found[-1].load()
        return found


def read_page(path):
    """The page of a report, which refers to nothing outside itself."""
    text = path.read_text()
    page = Page(text)
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "<script" not in text
    return page


def test_report_of_masks(masks, scored):
    """One page that stands alone, with the worst and the best images, and names as they are."""
    page = read_page(scored[0] / "report.html")
    names, columns = read_csv(scored[0] / "images.csv")
    scored_names = [x for x in names if x != "all ignored"]
    order = sorted(scored_names, key=lambda x: columns["mean_iou"][names.index(x)])
    shown = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert shown == [*order[:3], *order[:-4:-1]]
    captions = [x for x in page.texts if ": mean_iou " in x]
    values = [f"{columns['mean_iou'][names.index(x)]:.4f}" for x in shown]
    assert captions == [f"{x}: mean_iou {y}" for x, y in zip(shown, values, strict=True)]
    for name in CLASSES:
        assert name in page.texts
    sizes = [picture.size for picture in page.pictures()]
    assert len(sizes) == 6
    for name, (width, height) in zip(shown, sizes, strict=True):
        rows, columns = SHAPES[name]
        enlarged = -(-192 // min(rows, columns))
        scale = min(1, 2048 / (3 * (columns * enlarged + 4)))
        assert width == pytest.approx(3 * (columns * enlarged + 4) * scale, abs=1)
        assert height == pytest.approx((rows * enlarged + 18) * scale, abs=1)
    assert page.tags.count("svg") == 2  # the histogram and the confusion


SAME = ("summary.json", "images.csv", "summary.md")


def contents(directory):
    return {name: (directory / name).read_bytes() for name in SAME}


def test_masks_on_one_device_in_other_batches(masks, scored, tmp_path):
    """Every byte of the summary and the rows is the same."""
    metrics = f"--metrics={','.join(scores.CLASSES)}"
    args = *flags_of(masks), metrics, "--batch_size=3", f"--output={tmp_path / 'report'}"
    run(tmp_path, *args, devices=1)
    assert contents(tmp_path / "report") == contents(scored[0])


NUMBERS = ("value", "low", "high", "mean_over_images", "worst_5_percent")


def assert_part(directory, whole, near=None):
    """Of the same metrics the same scores, of the data set and of images; or near ones."""
    found, wanted = (json.loads((x / "summary.json").read_text()) for x in (directory, whole))
    names, columns = read_csv(directory / "images.csv")
    wanted_names, wanted_columns = read_csv(whole / "images.csv")
    assert names == wanted_names
    assert found["confusion"] == wanted["confusion"]
    for name, entry in found["metrics"].items():
        exact = near is None or METRICS[name].statistic == "confusion"
        other = wanted["metrics"][name]
        for key in NUMBERS:
            assert entry[key] == (other[key] if exact else pytest.approx(other[key], **near))
    for name, values in columns.items():
        exact = near is None or name not in METRICS or METRICS[name].statistic == "confusion"
        same = {"rtol": 0} if exact else {"rtol": near["rel"], "atol": near["abs"]}
        np.testing.assert_allclose(values, wanted_columns[name], **same)


def test_masks_by_two_processes(masks, scored, tmp_path):
    """The same numbers; and one process speaks for both."""
    args = *flags_of(masks), "--metrics=mean_iou,accuracy", f"--output={tmp_path / 'report'}"
    found = of_two(*args, command="evaluate")
    for _, errors, code in found:
        assert code == 0, errors
    assert_part(tmp_path / "report", scored[0])
    assert "mean_iou" in found[0][0]
    assert [x for x in found[1][0].splitlines() if not x.startswith("[Gloo]")] == []


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """Folders of labelled and predicted segments, with the number of those that match."""
    root, expected = tmp_path_factory.mktemp("segments"), {}
    for seed, shape in enumerate([(40, 50), (30, 70), (20, 20)]):
        labels, _ = ndimage.label(blobs(seed, shape, 2))
        rng = np.random.default_rng(seed)
        ids = np.append(0, rng.permutation(1000)[: labels.max()] + 1)
        preds = ids[labels]
        if seed < 2:
            preds = np.roll(preds, 2, 1)
            preds[preds == ids[1]] = 0
        save(root / "labels" / f"{seed}.png", labels.astype(np.uint16))
        save(root / "preds" / f"{seed}.png", preds.astype(np.uint16))
        expected[str(seed)] = objects(preds, labels)
    return root, expected


def objects(preds, labels):
    """The numbers of objects that match, and of those that are labelled and predicted."""
    ids = [np.setdiff1d(x, [0]) for x in (labels, preds)]
    matched = 0
    for label in ids[0]:
        inside = labels == label
        for pred in np.setdiff1d(preds[inside], [0]):
            matched += np.sum(inside & (preds == pred)) > np.sum(inside | (preds == pred)) / 2
    return np.array([matched, len(ids[0]), len(ids[1])])


def object_f1(numbers):
    return 2 * numbers[0] / (numbers[1] + numbers[2])


def test_segments(segments, tmp_path):
    """Objects are those of numpy, ids may be any, and the report shows them."""
    root, expected = segments
    args = f"--preds={root / 'preds'}", f"--labels={root / 'labels'}", "--segments"
    run(tmp_path, *args, f"--output={tmp_path / 'report'}")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    wanted = object_f1(sum(expected.values()))
    assert 0.2 < wanted < 1
    assert summary["metrics"]["object_f1"]["value"] == pytest.approx(wanted, rel=1e-15)
    assert summary["confusion"] is None
    assert summary["classes"] == []
    names, columns = read_csv(tmp_path / "report" / "images.csv")
    assert names == list(expected)
    np.testing.assert_allclose(columns["object_f1"], list(map(object_f1, expected.values())))
    assert columns["object_f1"][2] == 1
    assert columns["variation_of_information"][2] == 0
    assert len(read_page(tmp_path / "report" / "report.html").pictures()) == 2
    run(tmp_path, *args, f"--output={tmp_path / 'one'}", "--batch_size=1", devices=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "report")


def test_volumes(tmp_path):
    """Distances have the units of the header, however the axes differ."""
    spacing, preds, labels = (4.0, 1.0, 0.5), *np.zeros((2, 12, 14, 16), np.int16)
    labels[3:6, 4:9, 2:13] = 1
    preds[4:7, 4:9, 2:13] = 1  # one slice further
    save(tmp_path / "labels" / "a.nii.gz", labels, spacing)
    save(tmp_path / "preds" / "a.nii", preds, spacing)
    sides = f"--preds={tmp_path / 'preds'}", f"--labels={tmp_path / 'labels'}"
    args = *sides, "--classes=outside,inside", "--tolerance=3.9", f"--output={tmp_path / 'report'}"
    run(tmp_path, *args, "--metrics=hausdorff,normalized_surface_dice,mean_iou,hausdorff_95")
    found = json.loads((tmp_path / "report" / "summary.json").read_text())["metrics"]
    assert found["hausdorff"]["classes"]["inside"] == 4.0
    assert found["mean_iou"]["classes"]["inside"] == 2 / 4
    cross = ndimage.generate_binary_structure(3, 1)
    surfaces = [x & ~ndimage.binary_erosion(x, cross) for x in (preds == 1, labels == 1)]
    far = [
        ndimage.distance_transform_edt(~a, sampling=spacing)[b]
        for a, b in (surfaces, surfaces[::-1])
    ]
    near = np.mean(np.concatenate(far) <= 3.9)
    assert 0.2 < near < 0.9
    assert found["normalized_surface_dice"]["classes"]["inside"] == pytest.approx(near, rel=1e-6)
    wanted = max(np.percentile(x, 95) for x in far)
    assert found["hausdorff_95"]["classes"]["inside"] == pytest.approx(wanted, rel=1e-6)
    assert len(read_page(tmp_path / "report" / "report.html").pictures()) == 2


OPTIONS = {
    "data.name": "folder",
    "data.label": "mask",
    "data.classes": ("back", "nucleus", "cell", "nowhere"),
    "data.train_split": "[:8]",
    "data.eval_split": "[8:]",
    "steps": 10,
    "eval_every": 10,
    "checkpoint_every": 10,
    "pictures": 0,
    "optim.ema_decay": 0.0,
    "augment.rotate": 0.0,
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Two tiny runs on the same images, of which the first learns more."""
    root = tmp_path_factory.mktemp("runs")
    for index in range(13):
        rng, labels = np.random.default_rng(index), blobs(index, (32, 28))
        image = (60 * labels + rng.integers(0, 120, labels.shape)).astype(np.uint8)
        ignored = np.where(rng.random(labels.shape) < 0.1, 255, labels).astype(np.uint8)
        save(root / "data" / "image" / f"{index:02}.png", image)
        save(
            root / "data" / "mask" / f"{index:02}.png", ignored if index != 9 else 0 * labels + 255
        )
    for name, rate in (("a", 1e-2), ("b", 1e-5)):
        config = make_config(root / "data", **OPTIONS, **{"optim.learning_rate": rate})
        train(config, root / name, console=Console(file=io.StringIO()))
    return root / "a", root / "b"


@pytest.fixture
def workdir(workdirs, tmp_path):
    """A copy of the first run."""
    shutil.copytree(workdirs[0], tmp_path / "run")
    return tmp_path / "run"


ALL = f"--metrics={','.join((*scores.CLASSES, *scores.PROBABILITIES))}"


@pytest.fixture(scope="module")
def scored_run(workdirs, tmp_path_factory):
    """What a run's score by all metrics printed, and where it is."""
    printed = run(tmp_path_factory.mktemp("scored"), f"--workdir={workdirs[0]}", ALL)
    return workdirs[0] / "evaluation" / "_8_", printed


def predictions(workdir, **options):
    """Probabilities, labels and `where` of each image, by the model alone."""
    found = evaluate.open_run(workdir)
    runner = parallel.make_runner("pmap")
    evaluator = evaluate.Evaluator(found.config, found.model, runner, **options)
    return list(evaluator.examples(found.state, range(len(evaluator.source))))


def test_run_by_all_metrics(scored_run, workdirs):
    """In the workdir by the name of the split; the model's own probabilities give the scores."""
    directory, printed = scored_run
    assert "Best checkpoint: step 10" in printed
    summary = json.loads((directory / "summary.json").read_text())
    facts = {"run": str(workdirs[0]), "step": 10, "split": "[8:]", "temperature": 1.0}
    facts["temperature_fitted_to"] = None
    assert {name: summary[name] for name in facts} == facts
    assert summary["images"] == 5
    found = {name: entry["value"] for name, entry in summary["metrics"].items()}
    assert list(found) == [*scores.CLASSES, *scores.PROBABILITIES]
    examples = predictions(workdirs[0])
    probs = np.concatenate([x[3][x[2]] for x in examples]).astype(np.float64)
    labels = np.concatenate([x[1][x[2]] for x in examples])
    total = counts(probs.argmax(-1), labels, 4)
    assert summary["confusion"] == total.tolist()
    assert total[3].sum() == 0
    assert found["accuracy"] == np.trace(total) / total.sum()
    own = probs[np.arange(len(labels)), labels]
    assert found["negative_log_likelihood"] == pytest.approx(-np.log(own).mean(), rel=1e-5)
    squares = np.sum(np.square(probs - np.eye(4)[labels]), -1)
    assert found["brier"] == pytest.approx(squares.mean(), rel=1e-5)
    line = json.loads((workdirs[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert found["loss"] == line["val/loss"]
    assert found["mean_iou"] == line["val/mean_iou"]
    page = read_page(directory / "report.html")
    assert len(page.pictures()) == 4  # of 5 images one has no score
    assert all(x.width > 4 * 192 for x in page.pictures())  # with image and entropy


SOME = "--metrics=mean_iou,negative_log_likelihood,brier,expected_calibration_error"
ROUNDED = {"rel": 1e-5, "abs": 1e-6}  # the model may round otherwise in batches of another size


def test_run_on_one_device(scored_run, workdirs, tmp_path):
    """Counts are the same."""
    run(tmp_path, f"--workdir={workdirs[0]}", SOME, f"--output={tmp_path / 'one'}", devices=1)
    assert_part(tmp_path / "one", scored_run[0], ROUNDED)


@pytest.mark.exhaustive
def test_run_by_two_processes(scored_run, workdirs, tmp_path):
    args = f"--workdir={workdirs[0]}", SOME, f"--output={tmp_path / 'two'}"
    for _, errors, code in of_two(*args, command="evaluate"):
        assert code == 0, errors
    assert_part(tmp_path / "two", scored_run[0], ROUNDED)


def test_compare_runs(workdirs, tmp_path):
    """By the usual metrics: the one that has learned is better."""
    args = "--compare", *workdirs, f"--output={tmp_path / 'c'}", "--bootstrap=199"
    printed = run(tmp_path, *args)
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert (found["A"], found["B"]) == tuple(map(str, workdirs))
    first, second = (
        evaluate.Evaluator(x.config, x.model, parallel.make_runner("pmap")).scores(x.state)
        for x in map(evaluate.open_run, workdirs)
    )
    entry = found["metrics"]["mean_iou"]
    assert entry["first"] == first["val/mean_iou"]
    assert entry["second"] == second["val/mean_iou"]
    assert entry["difference"] == entry["first"] - entry["second"] > 0
    assert entry["low"] <= entry["difference"] <= entry["high"]
    assert found["metrics"]["loss"]["difference"] < 0
    assert re.search(r"loss .*│ undecided │", printed)  # by 5 images
    assert found["metrics"]["loss"]["p_value"] >= 2**-4
    assert str(tmp_path / "c" / "comparison.md") == printed.splitlines()[-1]
    text = (tmp_path / "c" / "comparison.md").read_text()
    assert f"| mean_iou | {entry['first']:.4f} | {entry['second']:.4f} |" in text


def test_compare_folders(masks, tmp_path):
    """Either way of naming two; the same twice is undecided."""
    sides = [masks[0] / "worse", masks[0] / "preds"]
    common = f"--labels={masks[0] / 'labels'}", CLASS_FLAG, "--metrics=accuracy"
    args = *common, f"--compare={sides[0]}", f"--compare={sides[1]}", f"--output={tmp_path / 'c'}"
    run(tmp_path / "out", *args)
    entry = json.loads((tmp_path / "c" / "comparison.json").read_text())["metrics"]["accuracy"]
    total = sum(counts(*x) for x in masks[1].values())
    assert entry["second"] == np.trace(total) / total.sum()
    assert entry["difference"] < 0
    assert "| B |" in (tmp_path / "c" / "comparison.md").read_text()
    same = "--compare", sides[0], sides[0], "--bootstrap=9", f"--output={tmp_path / 'same'}"
    assert "undecided" in run(tmp_path / "out", *common, *same)
    entry = json.loads((tmp_path / "same" / "comparison.json").read_text())["metrics"]["accuracy"]
    assert (entry["difference"], entry["p_value"]) == (0, 1)


FOLDERS = ("--preds={masks}/preds", "--labels={masks}/labels")
BAD = {
    "nothing": ([], "--workdir of a run, --preds with --labels, or --compare A B says what"),
    "labels alone": (["--labels={masks}/labels", "--classes=a,b,c"], "--workdir of a run, --preds"),
    "two of them": (["--workdir={run}", *FOLDERS], "not --workdir and --preds; give one of them"),
    "preds alone": (["--preds={masks}/preds"], "--labels is missing"),
    "labels of a run": (["--workdir={run}", "--labels={masks}/labels"], "a run has its own labels"),
    "no classes": (FOLDERS, "--classes is missing; name the classes in the order"),
    "a class twice": ([*FOLDERS, "--classes=a,b,a"], "--classes has a name twice"),
    "classes of segments": ([*FOLDERS, "--segments", "--classes=a,b"], "--segments goes with"),
    "segments of a run": (["--workdir={run}", "--segments"], "--segments goes with --labels"),
    "one to compare": (["--compare", "{run}"], "--compare needs two runs"),
    "one and a flag": (
        ["--compare", "{masks}/preds", "--labels={masks}/labels", "--classes=a"],
        "--compare needs two runs, or with --labels two folders",
    ),
    "three to compare": (["--compare={run}"] * 3, "--compare needs two runs"),
    "three after one name": (["--compare", *["{run}"] * 3], "unexpected argument"),
    "bootstrap": (["--workdir={run}", "--bootstrap=-1"], "--bootstrap and --tolerance must be"),
    "tolerance": (["--workdir={run}", "--tolerance=nan"], "--bootstrap and --tolerance must be"),
    "batch size": ([*FOLDERS, "--classes=a,b,c", "--batch_size=0"], "--batch_size at least 1"),
    "misspelled": (["--workdir={run}", "--metrics=mean_iuo"], "did you mean mean_iou"),
    "unlike any": (["--workdir={run}", "--metrics=xyzzy"], "choose from mean_iou, mean_dice"),
    "of a run": (
        [*FOLDERS, "--classes=a,b,c", "--metrics=accuracy,brier"],
        "'brier', which class masks can't be scored by; choose from mean_iou",
    ),
    "of segments": (
        ["--workdir={run}", "--metrics=object_f1"],
        "'object_f1', which a run can't be scored by",
    ),
    "of classes": (
        [*FOLDERS, "--segments", "--metrics=mean_iou"],
        "'mean_iou', which segments can't be scored by; choose from object_f1",
    ),
    "values beyond the classes": (
        [*FOLDERS, "--classes=a,b"],
        r"\.png: mask value 2 \(\d+ pixels\) is none of the 2 classes",
    ),
    "an ignored class": (
        [*FOLDERS, "--classes=a,b,c", "--ignore_label=1"],
        "ignore_label is 1, which is also the index of one of the 3 classes",
    ),
    "no folder": (
        ["--preds={masks}/none", "--labels={masks}/labels", "--classes=a"],
        "masks.*/none, which is not a directory of masks",
    ),
    "no run": (["--workdir={masks}"], "config.json does not exist, so .* is not the directory"),
    "split": (["--workdir={run}", "--split=[90:]"], "90"),
    "other images": (
        ["--compare", "{masks}/preds", "{masks}/few", "--labels={masks}/labels", "--classes=a,b,c"],
        "few",
    ),
}


def enter_each(commands, output):
    """What a child does with some commands: each in a fork of its own, which is soon there."""
    for name, args in commands.items():
        folder = output / name
        folder.mkdir()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                enter("evaluate", args, folder, 8)
            except SystemExit as stop:
                code = stop.code
            finally:
                os._exit(code)
        (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


@pytest.fixture(scope="module")
def refused(masks, workdirs, tmp_path_factory):
    """The folder where each of the bad commands has left its output."""
    output = tmp_path_factory.mktemp("refused")
    few = masks[0] / "few"
    few.mkdir()
    shutil.copy(masks[0] / "preds" / "right.png", few)
    commands = {
        kind: [x.format(masks=masks[0], run=workdirs[0]) for x in args]
        + ([] if kind == "three after one name" else [f"--output={output / kind / 'report'}"])
        for kind, (args, _) in BAD.items()
    }
    process = FORKS.Process(target=enter_each, args=(commands, output), daemon=True)
    process.start()
    process.join(200)
    assert process.exitcode == 0
    return output


@pytest.mark.parametrize("kind", BAD)
def test_bad_arguments(kind, refused):
    """One line and exit code 2, without a traceback, and without a report."""
    line = one_error_line((refused / kind / "stderr").read_text())
    assert re.search(BAD[kind][1], line), line
    assert (refused / kind / "code").read_text() == "2"
    assert not (refused / kind / "report").exists()


def test_other_images_are_not_compared(workdirs, tmp_path):
    """Runs of other data are no pairs."""
    other = other_run(workdirs, tmp_path, lambda x: x["data"].update(eval_split="[9:]"))
    line = run(tmp_path / "out", "--compare", workdirs[0], other, code=2)
    assert "were not scored on the same images and classes (5 and 4 images)" in line


def other_run(workdirs, tmp_path, change):
    """A copy of the second run whose config is said to be another."""
    other = tmp_path / "other"
    shutil.copytree(workdirs[1], other)
    config = json.loads((other / "config.json").read_text())
    change(config)
    (other / "config.json").write_text(json.dumps(config))
    return other


def test_other_pixels_are_not_compared(workdirs, tmp_path):
    """Where images are scaled otherwise, distances are in other units."""
    other = other_run(workdirs, tmp_path, lambda x: x["data"].update(image_size=[8, 8]))
    line = run(tmp_path / "out", "--compare", workdirs[0], other, code=2)
    assert "data.image_size (32, 32)" in line
    assert "(8, 8)" in line
    assert "not of the same pixels" in line


def test_other_losses_are_not_compared(workdirs, tmp_path):
    """The loss is left out of the usual metrics, and refused where it is asked for."""
    other = other_run(workdirs, tmp_path, lambda x: x.update(loss=[["cross_entropy", 1.0]]))
    args = "--compare", workdirs[0], other, "--bootstrap=9", f"--output={tmp_path / 'c'}"
    line = run(tmp_path / "out", *args, "--metrics=mean_iou,loss", code=2)
    assert "different losses" in line
    printed = run(tmp_path / "more", *args)
    assert "mean_iou" in printed
    assert not re.search(r"\bloss\b", printed)


def test_flat_images_are_drawn(tmp_path):
    """One row of thousands of pixels is neither enlarged beyond measure nor scaled to nothing."""
    labels = np.zeros((1, 6000), np.uint8)
    labels[0, ::7] = 1
    for place in ("preds", "labels"):
        save(tmp_path / place / "a.png", labels)
    places = [f"--{x}={tmp_path / x}" for x in ("preds", "labels")]
    run(tmp_path / "out", *places, "--classes=a,b", f"--output={tmp_path / 'report'}")
    assert (tmp_path / "report" / "report.html").is_file()


# Scorecards of odd evaluations.


def of_hits(hits, pixels=100):
    """An evaluation of images with so many right pixels."""
    confusion = np.zeros((len(hits), 2, 2), np.int32)
    confusion[:, 0, 0], confusion[:, 0, 1] = hits, np.subtract(pixels, hits)
    names = tuple(map(str, range(len(hits))))
    return Evaluation(names, ("a", "b"), ("accuracy",), {"confusion": confusion})


def examples(indices):
    for _ in indices:
        yield None, *np.zeros((1, 4, 4), int), np.ones((4, 4), bool), np.ones((4, 4), int), None


@pytest.mark.parametrize(
    ("hits", "pixels", "worst", "best"),
    [
        ([50], 100, ["0"], ["0"]),
        ([50, 50, 50], 100, ["0"], ["2"]),
        ([0, 0], 0, [], []),
        ([3, 1, 2, 5, 4, 6, 7], 7, ["1", "2", "0"], ["6", "5", "3"]),
        ([10**6, 10**6 + 1], 3 * 10**8, ["0"], ["1"]),
    ],
)
@pytest.mark.parametrize("samples", [0, 10])
def test_scorecards_of_few_images(hits, pixels, worst, best, samples, tmp_path):
    """One image, equal ones, and none that has a score."""
    found = of_hits(hits, pixels)
    summary = scorecard.summary(found, {"preds": "x"}, samples=samples)
    scorecard.write(tmp_path, found, summary, "title", examples)
    page = read_page(tmp_path / "report.html")
    shown = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert shown == worst + best
    entry = json.loads((tmp_path / "summary.json").read_text())["metrics"]["accuracy"]
    assert entry["value"] == (sum(hits) / pixels / len(hits) if pixels else None)
    assert (entry["low"] is None) == (samples == 0 or pixels == 0 or len(hits) == 1)
    Console(file=io.StringIO()).print(*scorecard.tables(summary, "title"))


def test_scores_that_differ_by_rounding(tmp_path):
    """Have a histogram, too, though there is no room for bins between them."""
    found = of_hits([1, 1])._replace(metrics=("brier",), classes=())
    values = np.array([[2 / 3, 1.0], [np.nextafter(2 / 3, 1), 1.0]])
    found = found._replace(statistics={"brier": values})
    summary = scorecard.summary(found, {}, samples=0)
    maps = np.zeros((4, 4), int), np.ones((4, 4), bool), np.ones((4, 4), int)
    scorecard.write(tmp_path, found, summary, "title", lambda indices: [maps for _ in indices])
    assert len(read_page(tmp_path / "report.html").pictures()) == 2


# Volumes, and the votes of several annotators.


class Voted:
    """Volumes of 16 bits that three annotators have labelled, of pixels that are not cubes."""

    SPACING = (2.0, 1.0, 0.5)
    SHAPES = ((4, 6, 8), (3, 5, 8), (4, 6, 8))

    def __len__(self):
        return len(self.SHAPES)

    def __getitem__(self, index):
        shape = self.SHAPES[index]
        votes = np.stack([blobs(10 * index + k, shape) for k in (0, 0, 1)])
        votes[2, 0, 0, 0] = 255
        if index == 1:
            votes[:, 0, 1:3] = 255
        noise = np.random.default_rng(index).integers(0, 10_000, shape)
        image = (20_000 * votes.astype(np.int64).mean(0) % 60_000 + noise).astype(np.uint16)
        return data.Example(image[..., None], votes, self.SPACING)

    def name(self, index):
        return f"volume {index}"


@pytest.fixture(scope="module")
def voted():
    """An evaluator of a model of volumes, a state, and what that predicts of each volume."""
    config = Config(
        pictures=2,
        loss=(("cross_entropy", 1.0), ("brier", 0.5)),
        data=Data(
            name="folder",
            masks="votes",
            classes=("a", "b", "c"),
            bits=16,
            image_size=(4, 6, 8),
            spacing=Voted.SPACING,
        ),
        model=Model(widths=(4, 4), norm="group"),
    )
    names = (*evaluate.TRAINING, "average_surface_distance", "negative_log_likelihood", "brier")
    names = (*names, "kl_divergence", "expected_calibration_error")
    model = evaluate.make_model(config)
    state = jax.jit(evaluate.make_init(config, model))()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_source", lambda *_: Voted())
        runner = parallel.make_runner("pmap")
        evaluator = evaluate.Evaluator(config, model, runner, names=names)
    return evaluator, runner.place(state)


def test_volumes_of_several_annotators(voted):
    """Losses take the shares of the votes; what needs one class takes that with most, or first."""
    evaluator, state = voted
    source = evaluator.source
    examples = list(evaluator.examples(state, range(len(source))))
    wanted = {name: [] for name in ("nll", "brier", "kl", "right", "distances")}
    confusion = np.zeros((3, 3), int)
    for index, (image, amounts, where, probs) in enumerate(examples):
        stored, votes, spacing = source[index]
        inside = tuple(map(slice, votes.shape[1:]))
        np.testing.assert_array_equal(image[inside], stored)
        numbers = np.stack([(votes == c).sum(0) for c in range(3)], -1)
        np.testing.assert_array_equal(amounts[inside], numbers)
        np.testing.assert_array_equal(where[inside], numbers.any(-1))
        assert where.sum() == numbers.any(-1).sum() > 100
        counts_here = numbers.any(-1)
        q = probs[inside][counts_here].astype(np.float64)
        p = numbers[counts_here] / numbers[counts_here].sum(-1, keepdims=True)
        wanted["nll"].append(-special.xlogy(p, q).sum(-1))
        wanted["brier"].append(((p - q) ** 2).sum(-1))
        wanted["kl"].append(special.rel_entr(p, q).sum(-1))
        labels, preds = numbers.argmax(-1), probs[inside].argmax(-1)
        wanted["right"].append((labels == preds)[counts_here])
        np.add.at(confusion, (labels[counts_here], preds[counts_here]), 1)
        masks = [[(x == c) & counts_here for x in (preds, labels)] for c in range(3)]
        wanted["distances"].append([surface_distance(*pair, spacing) for pair in masks])
    found = evaluator.evaluation(state)
    scored = found.scores()
    pixels = {name: np.concatenate(x) for name, x in wanted.items()}
    for name, key in (
        *(("negative_log_likelihood", "nll"), ("brier", "brier"), ("kl_divergence", "kl")),
        ("accuracy", "right"),
    ):
        assert scored[name] == pytest.approx(pixels[key].mean(), rel=1e-5), name
    assert scored["loss"] == pytest.approx(np.mean(pixels["nll"] + pixels["brier"] / 2), rel=1e-5)
    np.testing.assert_array_equal(found.statistics["confusion"].sum(0), confusion)
    by_class = found.by_class()["average_surface_distance"]
    np.testing.assert_allclose(by_class, np.nanmean(wanted["distances"], 0), rtol=1e-5)
    assert set(evaluator.scores(state)) >= {"val/loss", "val/loss/brier", "val/loss/cross_entropy"}


def surface_distance(a, b, spacing):
    """The mean over both surfaces; the diagonal where one has none."""
    if not (a.any() and b.any()):
        return np.linalg.norm(np.multiply(a.shape, spacing)) if a.any() or b.any() else np.nan
    cross = ndimage.generate_binary_structure(3, 1)
    surfaces = [x & ~ndimage.binary_erosion(x, cross) for x in (a, b)]
    to_a, to_b = (ndimage.distance_transform_edt(~x, sampling=spacing) for x in surfaces)
    return np.mean([*to_b[surfaces[0]], *to_a[surfaces[1]]])


def test_pictures_of_volumes_of_several_annotators(voted, tmp_path):
    """While training, and of the best and the worst in the report."""
    evaluator, state = voted
    classes = evaluator.config.data.classes
    shown = [pictures.panels(*x, classes) for x in evaluator.examples(state, (0, 2))]
    np.testing.assert_array_equal(evaluator.picture(state), pictures.sheet(shown, classes))
    found = evaluator.evaluation(state)
    examples = functools.partial(evaluator.compared, state)
    scorecard.write(tmp_path, found, scorecard.summary(found, {}, samples=0), "volumes", examples)
    assert len(read_page(tmp_path / "report.html").pictures()) == 2


# The temperature.


def drawn(seed, shape, wanted):
    """Logits, and labels drawn from the softmax of them over a temperature."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, shape).astype(np.float32)
    noise = rng.gumbel(size=shape)
    return logits, (logits / wanted + noise).argmax(-1)


def slope(logits, labels, sharpness):
    """The derivative in float64."""
    logits = logits.astype(np.float64)
    own = np.take_along_axis(logits, labels[..., None], -1)
    return np.sum(special.softmax(sharpness * logits, -1) * (logits - own))


@pytest.mark.parametrize("wanted", [0.05, 0.7, 1.0, 2.5, 40.0])
def test_fit_recovers_the_temperature(wanted):
    """That labels were drawn at, within 4 standard errors; exactly the root of the slopes."""
    logits, labels = drawn(0, (300, 200, 4), wanted)
    found = temperature.fit(functools.partial(temperature.slopes, logits, labels))
    root = optimize.brentq(functools.partial(slope, logits, labels), 1e-2, 1e2, xtol=1e-12)
    assert found == pytest.approx(1 / root, rel=1e-5)
    scaled = logits.astype(np.float64) / wanted
    probs = special.softmax(scaled, -1)
    information = np.sum(probs * scaled**2) - np.sum(np.sum(probs * scaled, -1) ** 2)
    assert abs(found / wanted - 1) < 4 / np.sqrt(information)


def test_slopes_of_label_distributions():
    """The logits' mean by the model less that by the labels; a class that is ruled out has none."""
    logits, labels = drawn(3, (20, 30, 3), 1.5)
    shares = np.random.default_rng(1).dirichlet((1.0, 1.0, 1.0), labels.shape)
    sharpness = np.array([0.1, 1.0, 3.0], np.float32)
    probs = special.softmax(sharpness[:, None, None, None] * logits.astype(np.float64), -1)
    wanted = np.sum((probs - shares) * logits, (1, 2, 3))
    np.testing.assert_allclose(temperature.slopes(logits, shares, sharpness), wanted, rtol=1e-4)
    hot = np.eye(3, dtype=np.float32)[labels % 2]
    ruled_out = np.where(np.arange(3) == 2, -np.inf, logits)
    wanted = [slope(logits[..., :2], labels % 2, x) for x in sharpness]
    np.testing.assert_allclose(temperature.slopes(ruled_out, hot, sharpness), wanted, rtol=1e-4)


def test_slopes_are_the_derivative():
    """Of the sum of the pixels that count, in whatever parts; labels that don't may be any."""
    logits, labels = drawn(1, (20, 30, 5), 1.5)
    where = np.random.default_rng(0).random(labels.shape) < 0.6
    sharpness = np.array([0.01, 0.5, 1.0, 3.0, 100.0], np.float32)
    wanted = [slope(logits[where], labels[where], x) for x in sharpness]
    labels = np.where(where, labels, 255)
    found = temperature.slopes(logits, labels, sharpness, where=where)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    parts = [
        temperature.slopes(*(x[i] for x in (logits, labels)), sharpness, where=where[i])
        for i in (np.s_[:7], np.s_[7:])
    ]
    np.testing.assert_allclose(sum(parts), wanted, rtol=1e-4)
    compiled = jax.jit(temperature.slopes)(logits, labels, sharpness, where=where)
    np.testing.assert_allclose(compiled, wanted, rtol=1e-4)

    def likelihood(s):
        probs = jax.nn.log_softmax(s * logits[where])
        return -jnp.sum(jnp.take_along_axis(probs, labels[where][:, None], -1))

    np.testing.assert_allclose(found[2], jax.grad(likelihood)(1.0), rtol=1e-4)


def test_what_has_no_temperature():
    logits, labels = drawn(2, (50, 50, 3), 1.0)
    right = logits.argmax(-1)
    ruled_out = np.where(np.arange(3) == (labels[..., None] + 1) % 3, -np.inf, logits)
    assert 0.01 < temperature.fit(functools.partial(temperature.slopes, ruled_out, labels)) < 100
    for found, match in [
        ((logits, right), "below 0.01: the model has next to no error on this split"),
        ((logits, logits.argmin(-1)), "above 100: the model knows less of this split"),
        ((logits * np.inf, right), "the logits are not finite"),
        ((np.where(logits > 0, np.nan, logits), labels), "the logits are not finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            temperature.fit(functools.partial(temperature.slopes, *found))


def test_fitted_run(workdir, scored_run, tmp_path):
    """Kept in the workdir; evaluation then has a better likelihood, and the same classes."""
    printed = run(tmp_path / "fit", f"--workdir={workdir}", command="temperature")
    fitted = json.loads((workdir / "temperature.json").read_text())
    assert (fitted["step"], fitted["split"], fitted["images"]) == (10, "[8:]", 5)
    assert f"temperature {fitted['temperature']:.4f}, fitted to step 10 on 5 images" in printed
    assert str(workdir / "temperature.json") == printed.splitlines()[-1]
    assert not list(workdir.glob("*.tmp"))

    logits, labels, where = logits_of(workdir)
    root = optimize.brentq(functools.partial(slope, logits[where], labels[where]), 1e-2, 1e2)
    assert fitted["temperature"] == pytest.approx(1 / root, rel=1e-4)

    printed = run(tmp_path / "again", f"--workdir={workdir}", SOME)
    assert "The temperature was fitted to [8:], so that scores of probabilities" in printed
    summary = json.loads((workdir / "evaluation" / "_8_" / "summary.json").read_text())
    before = json.loads((scored_run[0] / "summary.json").read_text())
    assert summary["temperature"] == fitted["temperature"] != 1
    assert summary["temperature_fitted_to"] == "[8:]"
    assert summary["confusion"] == before["confusion"]
    for name in ("negative_log_likelihood", "expected_calibration_error"):
        # Of programs for other metrics, which may round the model's logits otherwise.
        for when, found in (("before", before), ("after", summary)):
            value = found["metrics"][name]["value"]
            assert fitted[when][name] == pytest.approx(value, rel=1e-6)
    likelihood = "negative_log_likelihood"
    assert fitted["after"][likelihood] < fitted["before"][likelihood]
    assert summary["metrics"]["mean_iou"] == before["metrics"]["mean_iou"]

    options = "--metrics=accuracy", "--views=flips", f"--output={tmp_path / 'flips' / 'scores'}"
    printed = run(tmp_path / "flips", f"--workdir={workdir}", *options)
    assert "The temperature was fitted with --views=none and is not used here; python -m" in printed
    summary = json.loads((tmp_path / "flips" / "scores" / "summary.json").read_text())
    assert (summary["temperature"], summary["temperature_fitted_to"]) == (1.0, None)


def test_the_temperature_of_views(workdir):
    """It is that of the means over them, and counts for no others."""
    found = temperature.fit_run(workdir, views="flips")
    logits, labels, where = logits_of(workdir, views="flips")
    root = optimize.brentq(functools.partial(slope, logits[where], labels[where]), 1e-2, 1e2)
    assert found.temperature == pytest.approx(1 / root, rel=1e-4)
    assert found.after["negative_log_likelihood"] < found.before["negative_log_likelihood"]
    kept = evaluate.open_run(workdir)
    assert kept.with_views("flips") is kept
    assert kept.temperature == found.temperature != 1
    assert (kept.with_views("none").temperature, kept.with_views("none").fitted_to) == (1, None)


def logits_of(workdir, **options):
    """Of all images, up to a constant of each pixel."""
    found = predictions(workdir, **options)
    _, labels, where, probs = (np.stack(x) for x in zip(*found, strict=True))
    return np.log(probs.astype(np.float64)), labels.astype(int), where


def test_the_temperature_is_that_of_a_step(workdir):
    """One that was fitted to another checkpoint does not count, and one that is damaged is said."""
    path = workdir / "temperature.json"
    for step, wanted in ((10, 2.5), (9, 1.0)):
        path.write_text(json.dumps({"temperature": 2.5, "step": step, "split": "x"}))
        assert evaluate.open_run(workdir).temperature == wanted
    for text in ("", "[]", "{}", '{"temperature": 1.5}', '{"temperature": "x", "step": 10}', "\0"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"temperature\.json is damaged .*; remove it, or fit"):
            evaluate.open_run(workdir)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ([], "--workdir is missing; give the directory of a run"),
        (["--workdir={tmp}/none"], "config.json does not exist, so"),
        (["--workdir={run}", "--split=[90:]"], "90"),
    ],
)
def test_temperature_bad_arguments(args, match, workdirs, tmp_path):
    args = [x.format(tmp=tmp_path, run=workdirs[0]) for x in args]
    assert match in run(tmp_path / "out", *args, command="temperature", code=2)


def test_a_damaged_temperature_is_one_line(workdir, tmp_path):
    (workdir / "temperature.json").write_text("{")
    line = run(tmp_path / "out", f"--workdir={workdir}", code=2)
    assert "temperature.json is damaged" in line


# Real data.


def moved(mask, by):
    return np.roll(mask, by, (0, 1))


@pytest.mark.exhaustive
def test_camvid(shared_data, tmp_path):
    """Labels that are moved by some pixels, against numpy's confusion matrix."""
    labels = shared_data / "camvid" / "valannot"
    total = np.zeros((11, 11), int)
    for path in sorted(labels.iterdir()):
        mask = np.asarray(Image.open(path))
        preds = moved(np.where(mask == 11, 0, mask), (3, -5)).astype(np.uint8)
        save(tmp_path / "preds" / path.name, preds)
        where = mask != 11
        index = 11 * mask[where].astype(int) + preds[where]
        total += np.bincount(index, minlength=121).reshape(11, 11)
    args = f"--preds={tmp_path / 'preds'}", f"--labels={labels}", "--ignore_label=11"
    run(tmp_path, *args, f"--classes={','.join('abcdefghijk')}", f"--output={tmp_path / 'report'}")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["confusion"] == total.tolist()
    assert summary["metrics"]["mean_iou"]["value"] == pytest.approx(iou(total).mean(), rel=1e-14)
    assert summary["images"] == len(list(labels.iterdir()))


@pytest.mark.exhaustive
def test_dsb2018(shared_data, tmp_path):
    """Nuclei that are eroded, merged or missed, in images of all sizes, by other ids."""
    sizes, total = {}, np.zeros(3, int)
    for path in sorted((shared_data / "dsb2018" / "labels").iterdir()):
        with Image.open(path) as picture:
            sizes.setdefault(picture.size, []).append(path)
    chosen = [path for paths in sizes.values() for path in paths[:4]]
    assert len(sizes) > 4
    for path in chosen:
        labels = np.asarray(Image.open(path)).astype(int)
        inner = ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)
        ids = np.random.default_rng(len(chosen)).permutation(labels.max() + 1)
        ids = np.append(0, 1 + ids[1:])
        preds = np.where(inner, ids[labels], 0)
        preds[labels % 7 == 3] = 0
        save(tmp_path / "preds" / path.name, preds.astype(np.uint16))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / path.name).symlink_to(path)
        total += objects(preds, labels)
    args = f"--preds={tmp_path / 'preds'}", f"--labels={tmp_path / 'labels'}", "--segments"
    run(tmp_path, *args, f"--output={tmp_path / 'report'}", "--metrics=object_f1")
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert found["images"] == len(chosen)
    assert found["metrics"]["object_f1"]["value"] == pytest.approx(object_f1(total), rel=1e-15)
    assert 0.3 < object_f1(total) < 0.95
