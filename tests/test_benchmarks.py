"""What benchmarks/turns.py makes of what its contestants say, a run of ours alone, and plans."""

import contextlib
import importlib
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def turns(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("turns")


@pytest.fixture
def contestants(turns, monkeypatch):
    """Stand for processes: what each says at first, and the seconds of its turns."""
    said = {}

    class Contestant:
        def __init__(self, who, problem):
            first, self._seconds = said[who]
            common = {"first_seconds": 2.0, "parameters": 7, "flops": None, "device": "cpu"}
            self.first = first if "skipped" in first else common | first

        def turn(self):
            return {"seconds": self._seconds.pop(0), "megabytes": 10.0 + len(self._seconds)}

        def end(self):
            pass

    monkeypatch.setattr(turns, "Contestant", Contestant)
    return said


def problem(turns, **options):
    fields = {"what": "training", "images": 4, "side": 8, "classes": 3, "widths": [4]}
    return turns.Problem(**fields | {"dtype": "float32", "device": "cpu"} | options)


def test_rows_are_medians_and_their_ratios(turns, contestants):
    contestants["jaxseg"] = {"found": [1.5] * 3}, [9.0] * 3 + [0.3, 0.2, 0.1]
    contestants["torch"] = {"found": [1.5] * 3, "flops": 8e9}, [9.0] * 3 + [0.4, 0.4, 5.0]
    contestants["monai"] = {"found": [7.0] * 3, "flops": 1e9}, [9.0] * 3 + [0.1, 0.1, 0.1]
    contestants["torch-channels-last"] = {"found": [1.5] * 3}, [9.0] * 3 + [0.25, 0.25, 0.25]
    contestants["torch-compile"] = {"skipped": "no compiler"}, []
    names = ["jaxseg", "torch", "monai", "torch-channels-last", "torch-compile"]
    rows = turns.measure(problem(turns), names, 3, peak=0.1)
    ours, *_, compiled = rows
    assert [row["contestant"] for row in rows] == names
    assert [row["milliseconds"] for row in rows[:3]] == pytest.approx([200, 400, 100])
    assert [row["to_eager"] for row in rows[:3]] == pytest.approx([2, 1, 4])
    assert [row["to_best"] for row in rows[:3]] == pytest.approx([1.25, 0.625, 2.5])
    assert [row["images_per_second"] for row in rows[:3]] == pytest.approx([20, 10, 40])
    # Ours has the layers of torch.
    assert [row["flops"] for row in rows[:3]] == [8e9, 8e9, 1e9]
    assert [row["share_of_peak"] for row in rows[:3]] == pytest.approx([0.4, 0.2, 0.1])
    assert ours["megabytes"] == 12.0  # turns that do not count took 13 to 15
    assert compiled == {"contestant": "torch-compile", "skipped": "no compiler"}
    columns = len(turns.COLUMNS) + 1
    assert {turns.line("4x8", row).count("|") for row in rows} == {columns}
    assert "| 200 | 2.00 | 1.25 | 20 | 12 | 2.0 | 1.5 | 7 | 8 | 40.0% |" in turns.line("4x8", ours)
    assert "skipped: no compiler" in turns.line("4x8", compiled)


def test_memory_is_kept_in_the_process_of_one_of_pytorch(turns):
    """As ours keeps it: what is taken again faults no more."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another allocator")
    script = """if True:
        import resource, numpy as np
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            np.ones(20_000_000, np.float32)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""
    for environment, again in ((turns.ENVIRONMENTS["torch-keeping-memory"], False), ({}, True)):
        command, environment = [sys.executable, "-c", script], os.environ | environment
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert (int(said.stdout.split()[1]) > 100) == again


def test_reports_say_which_code_they_are_of(turns):
    facts = importlib.import_module("machine").facts(["jaxseg"])
    assert facts["python"] == platform.python_version()
    if facts["commit"] is None:
        pytest.skip("no repository")
    assert re.fullmatch(r"[0-9a-f]{7,}(, changed)?", facts["commit"])


LOGITS = {"what": "inference"}


@pytest.mark.parametrize(
    ("options", "close", "apart"),
    [
        ({}, [1.500001, 1.301, 1.1], [1.5001, 1.3, 1.1]),
        ({}, [1.5, 1.3, 1.101], [1.5, 1.3, 1.5]),  # a step that changes nothing
        ({"dtype": "bfloat16"}, [1.51, 1.33, 1.1], [1.53, 1.3, 1.1]),
        ({"device": "cuda"}, [1.51, 1.3, 1.13], [1.5, 1.3, 1.2]),
        (LOGITS, [1.5001, 1.3, 1.1], [1.3, 1.5, 1.1]),  # of other classes
        (LOGITS | {"device": "cuda"}, [1.55, 1.3, 1.1], [1.6, 1.3, 1.1]),
    ],
)
def test_those_of_one_model_must_agree(
    turns, contestants, options, close, apart, monkeypatch, tmp_path
):
    """Where they do not it is an error, but what was measured is kept."""
    options = {"what": "training", "dtype": "float32", "device": "cpu"} | options
    output = tmp_path / "turns.json"
    command = f"x --contestants=jaxseg,torch --cases=4x8 --repeats=1 --output={output}"
    others = [f"--{name}={options[name]}" for name in ("dtype", "device")]
    monkeypatch.setattr(sys, "argv", [*command.split(), *others])
    for found, agrees in ((close, True), (apart, False)):
        contestants["jaxseg"] = {"found": [1.5, 1.3, 1.1]}, [1.0] * 4
        contestants["torch"] = {"found": found}, [1.0] * 4
        says = pytest.raises(ValueError, match=r"torch finds \[.*\], but jaxseg \[1.5, 1.3, 1.1\]")
        with contextlib.nullcontext() if agrees else says:
            turns.main(options["what"], "third loss", "A step.")
        assert [row["found"] for row in json.loads(output.read_text())["rows"]][1] == found
        output.unlink()


def test_weights_of_pytorch_have_its_order(turns):
    """Whatever that of the arrays is which they come from."""
    pytest.importorskip("torch")
    tensor = importlib.import_module("torch_unet").tensor
    kernel = np.arange(24.0).reshape(2, 3, 4)
    found = tensor(kernel.transpose(2, 1, 0))
    assert found.is_contiguous()
    np.testing.assert_array_equal(found.numpy(), kernel.transpose(2, 1, 0))


def test_a_contestant_that_ends_is_an_error(turns, monkeypatch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""print('{"found": 1}', flush=True); input(); raise SystemExit(3)""")
    monkeypatch.setattr("contestants.__file__", str(script))
    contestant = turns.Contestant("jaxseg", problem(turns))
    assert contestant.first == {"found": 1}
    with pytest.raises(RuntimeError, match="jaxseg has ended with code 3"):
        contestant.turn()
    contestant.end()


@pytest.mark.exhaustive
def test_ours_alone(turns, monkeypatch, tmp_path, capfd):
    """On as many devices as it takes, and on one, which must agree."""
    output = tmp_path / "training.json"
    options = "--cases=2x8 --widths=2,4 --repeats=1 --contestants=jaxseg,jaxseg-one-device,monai"
    monkeypatch.setattr(sys, "argv", ["training.py", *options.split(), f"--output={output}"])
    turns.main("training", "third loss", "A step.")
    report = json.loads(output.read_text())
    ours, ours_twice, monai = report["rows"]
    widths_2 = 9 * (3 * 2 + 2 * 2) + 2 * 4 + 9 * (4 * 2 + 2 * 2) + 2 * 4  # kernels, normalisation
    widths_4 = 9 * (2 * 4 + 4 * 4) + 2 * 8 + 4 * 8 + 8  # and the upsampling with its biases
    assert ours["parameters"] == ours_twice["parameters"] == widths_2 + widths_4 + 2 * 3 + 3
    assert ours["found"][0] == pytest.approx(ours_twice["found"][0], rel=1e-5)
    assert ours["found"][2] < ours["found"][0]
    assert ours["to_eager"] is ours["to_best"] is None
    assert "skipped" in monai or monai["parameters"] > 0
    assert report["versions"]["jaxseg"]
    assert capfd.readouterr().out.count("\n| 2x8 | ") == 3


PLAN = """
%fused (p: bf16[2,8,8,16]) -> bf16[2,8,8,16] {
  %p = bf16[2,8,8,16]{3,2,1,0} parameter(0)
  ROOT %maximum.1 = bf16[2,8,8,16]{3,2,1,0} maximum(%p, %p)
}

ENTRY %main.1 (x: f32[2,8,8,4], k: f32[16,3,3,4]) -> (bf16[2,8,8,16], pred[2,8]) {
  %x = f32[2,8,8,4]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %k.1 = f32[16,3,3,4]{3,2,1,0} parameter(1)
  %cudnn-conv.2 = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k.1), \
window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  %get-tuple-element.3 = bf16[2,8,8,16]{3,2,1,0} get-tuple-element(%cudnn-conv.2), index=0
  %some_fusion = (bf16[2,8,8,16]{3,2,1,0}, /*index=1*/pred[2,8]{1,0}) \
fusion(%get-tuple-element.3), kind=kLoop, calls=%fused
  ROOT %tuple.5 = (bf16[2,8,8,16]{3,2,1,0}, pred[2,8]{1,0}) tuple(%some_fusion)
}
""".replace("\\\n", "")


def test_kernels_of_a_plan(turns):
    """Two: what they read and write, and the products of the one that is a convolution."""
    planned = importlib.import_module("planned")
    pixels = 2 * 8 * 8
    read, written, kernel = pixels * 4 * 4, pixels * 16 * 2, 16 * 9 * 4
    assert planned.kernels(PLAN) == [
        ("cudnn-conv.2", read + kernel * 4 + written, 2 * pixels * kernel),
        ("some_fusion", written + written + 16, 0),
    ]


def test_a_compiled_program_has_kernels(turns):
    planned = importlib.import_module("planned")
    add = jax.jit(lambda x: jnp.sin(x) + 1).lower(jnp.zeros((5, 7))).compile()
    (kernel,) = planned.kernels(add.as_text())
    assert (kernel.bytes, kernel.flops) == (2 * 4 * 35, 0)
