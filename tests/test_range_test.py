"""The range test trains as a run does, ends where it diverges, and finds the steepest fall."""

import csv
import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_train import Run, arguments, make_config, one_error_line, records

from jaxseg import range_test
from jaxseg.range_test import RangeTest, smooth
from jaxseg.train import train

TINY = {"batch_size": 8, "pictures": 0, "data.image_size": (16, 16), "model.widths": (2, 4)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


def test_smooth():
    """The weighted mean of what was so far, by numpy."""
    losses = np.random.default_rng(0).normal(size=9)
    found = smooth(losses, 4)
    for count in range(1, 10):
        weights = 0.75 ** np.arange(count)[::-1]
        assert found[count - 1] == pytest.approx(np.average(losses[:count], weights=weights))
    assert smooth(losses, 1) == losses.tolist()


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_steepest(noise):
    """Of a logistic fall, and a rise far above it, the middle of the fall or a little later."""
    rates = np.geomspace(1e-7, 10, 400)
    losses = 1 - 0.8 / (1 + (1e-3 / rates) ** 0.8) + (rates / 2) ** 4
    losses += noise * np.random.default_rng(0).normal(size=400)
    reach = 20
    found = RangeTest(1.0, rates.tolist(), losses.tolist(), smooth(losses, reach), True, reach)
    # The mean is of losses that are `reach` steps old, more or less: 0.4 of a decade.
    assert 1e-3 <= found.steepest() <= 1e-3 * 10**0.8
    assert 0.1 < found.least() < 3


def test_no_fall():
    assert RangeTest(1.0, (0.1, 1.0), (1.0, 2.0), (1.0, 2.0), True, 1).steepest() is None
    assert RangeTest(1.0, (0.1, 1.0), (1.5, 2.0), (1.5, 2.0), True, 1).steepest() is None


def test_trains_as_a_run_does(root, tmp_path):
    """At rates that are all but equal, its losses are those of a run of this constant rate."""
    config = make_config(
        root,
        **TINY | {"steps": 6, "eval_every": 6, "optim.schedule": "constant"},
        **{"optim.warmup_steps": 0, "optim.learning_rate": 0.01},
    )
    train(config, tmp_path / "run", console=Console(file=io.StringIO()))
    wanted = [x["loss"] for x in records(tmp_path / "run") if "loss" in x]
    found = range_test.run(config, lowest=0.01, highest=0.01 * (1 + 1e-6), steps=5)
    assert not found.diverged
    assert found.start == wanted[0]
    np.testing.assert_allclose(found.losses, wanted[1:], rtol=1e-4)
    assert abs(wanted[-1] - wanted[0]) > 0.01


def test_diverges(root, tmp_path):
    """It ends there, and what it leaves shows the rates until then."""
    config = make_config(root, **TINY | {"optim.name": "sgd", "optim.clip_norm": 0.0})
    found = range_test.run(config, lowest=1e-4, highest=1e30, steps=18)
    assert found.diverged
    assert 1 < len(found.rates) < 18
    np.testing.assert_allclose(found.rates, 1e-4 * 100.0 ** np.arange(len(found.rates)), rtol=1e-9)
    assert all(np.isfinite(found.losses))
    range_test.write(tmp_path / "out", found)
    with (tmp_path / "out" / "range_test.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["learning_rate", "loss", "smoothed"]
    values = np.array(rows, np.float64).T
    np.testing.assert_array_equal(values, (found.rates, found.losses, found.smoothed))
    with Image.open(tmp_path / "out" / "range_test.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(10**6)}
    assert {(0x44, 0x72, 0xA8), (255, 255, 255)} <= colours


def test_command(root, tmp_path):
    """Ends with an option to copy, or with one line that says what is wrong."""
    args = [*arguments(root, **TINY), f"--output={tmp_path / 'found'}", "--lowest=1e-3"]
    with Run(tmp_path / "out", *args, "--highest=1", "--steps=20", command="range_test") as run:
        code, stdout, stderr = run.wait()
    assert code == 0, stderr
    option, _, rate = stdout.splitlines()[-1].partition("=")
    assert option == "--config.optim.learning_rate"
    assert 1e-3 <= float(rate) <= 1
    assert (tmp_path / "found" / "range_test.png").is_file()
    for wrong, words in (("--highest=1e-4", "positive and rising"), ("--steps=1", "--steps is 1")):
        with Run(tmp_path / "bad", *args, wrong, command="range_test") as run:
            code, _, stderr = run.wait()
        assert code == 2
        assert words in one_error_line(stderr)
