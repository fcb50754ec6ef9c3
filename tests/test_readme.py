"""The README's examples run as they stand there."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]


def blocks(language):
    """The README's code blocks of a language; .ci/run runs those in bash."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_there_are_examples():
    assert [len(blocks(language)) for language in ("bash", "sh", "python")] == [2, 2, 2]


@pytest.mark.parametrize("source", blocks("python"))
def test_python(source):
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.exhaustive
def test_commands(tmp_path):
    """On a small folder of images where the README says that one's own data are."""
    for kind, colours in (("images", 256), ("masks", 2)):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for index in range(5):
            array = np.random.default_rng(index).integers(0, colours, (16, 16), np.uint8)
            Image.fromarray(array).save(tmp_path / "data" / kind / f"{index}.png")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(tmp_path / "data" / "masks", tmp_path / "masks")

    def run(command, *more):
        program, *args = shlex.split(command)
        assert program == "python"
        done = subprocess.run(
            [sys.executable, *args, *more], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = (line for block in blocks("sh") for line in block.splitlines())
    new, inspect, train, *evaluate = lines
    run(new)
    assert re.search(r"images +│ 4 +│ 1 ", run(inspect))
    run(train, *(f"--config.{x}" for x in ("steps=2", "optim.warmup_steps=1", "model.widths=(4,)")))
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "2").is_dir()
    shutil.copytree(tmp_path / "runs" / "mine", tmp_path / "runs" / "other")
    own, masks, both = map(run, evaluate)
    assert "hausdorff_95" in own
    assert re.search(r"mean_iou +│ +1.0000 ", masks)
    assert "undecided" in both
