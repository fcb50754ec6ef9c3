"""What loggers have after a run that was killed and resumed: all of metrics.jsonl, and once."""

import csv
import importlib.util
import io
import json
import re
import struct
import sys
import time
import types

import numpy as np
import pytest
from rich.console import Console
from test_train import board

from jaxseg import cli, loggers
from jaxseg.config import Config
from jaxseg.report import Report

SHEET = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
CLASS = "val/iou/a (b)"  # which TensorBoard and MLflow take as below


def needs(name):
    found = importlib.util.find_spec(name)
    missing = found is None or found.origin is None
    return pytest.mark.skipif(missing, reason=f"needs {name}: pip install 'jaxseg[{name}]'")


WANDB, MLFLOW = needs("wandb"), needs("mlflow")
# Of what these two do within.
LOUD = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No server, and no store but in the directory of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "nuclei")


def go_on(workdir, names, start, stop):
    """A report of the steps after `start`: a training line each, and scores at even ones."""
    workdir.mkdir(exist_ok=True)
    config = Config(loggers=names, steps=6)
    report = Report(workdir, Console(file=io.StringIO()), config, start)
    for step in range(start + 1, stop + 1):
        report.training(step, {"loss": 1 / step, "loss/dice": step}, None, None, 0.0)
        if step % 2 == 0:
            report.evaluation(step, {"val/mean_iou": step / 8, CLASS: step + 0.5})
            report.picture(step, SHEET)
    report.close()


def tidy(curves):
    return {(re.sub("[ ()]", "_", name), step): value for (name, step), value in curves.items()}


def expected(steps):
    """`{(name, step): value}`"""
    found = {}
    for step in range(1, steps + 1):
        found |= {("loss", step): 1 / step, ("loss/dice", step): step}
        if step % 2 == 0:
            found |= {("val/mean_iou", step): step / 8, (CLASS, step): step + 0.5}
    return tidy(found)


def csv_curves(workdir):
    found = {}
    with (workdir / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value:
                    assert (name, int(row["step"])) not in found
                    found[name, int(row["step"])] = float(value)
    return tidy(found)


def board_curves(workdir):
    return board(workdir)[0]


def logged(content):
    """The records of a log as LevelDB has it, after a header of 7 bytes."""
    place, data = 7, b""
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # of a block, in which no record begins
            place += 2**15 - place % 2**15
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or the last part
            yield data
            data = b""


def wandb_curves(workdir):
    """Of all parts of the run, which are one for each start, as `wandb sync` sends them."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # as at the end of a process
    found, ids = {}, set()
    for path in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
        for data in logged(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") != "history":
                continue
            items = {
                "/".join(x.nested_key) or x.key: json.loads(x.value_json)
                for x in record.history.item
            }
            step = record.history.step.num
            for name, value in items.items():
                if not name.startswith("_"):
                    assert (name, step) not in found
                    found[name, step] = value
    assert len(ids) == 1
    return tidy(
        {key: value for key, value in found.items() if not key[0].startswith("validation/")}
    )


def mlflow_run(workdir):
    from mlflow import MlflowClient

    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("nuclei").experiment_id])
    assert run.info.run_id == json.loads((workdir / "mlflow.json").read_text())["run_id"]
    return client, run


def mlflow_curves(workdir):
    client, run = mlflow_run(workdir)
    found = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            assert (name, metric.step) not in found
            found[name, metric.step] = metric.value
    return tidy(found)


LOGGERS = {
    "tensorboard": (board_curves, 1e-6),  # in float32
    "csv": (csv_curves, 0),
    "wandb": (wandb_curves, 0),
    "mlflow": (mlflow_curves, 0),
}
EACH = [
    "tensorboard",
    "csv",
    pytest.param("wandb", marks=[WANDB, *LOUD]),
    pytest.param("mlflow", marks=[MLFLOW, *LOUD]),
]


@pytest.mark.parametrize("name", EACH)
def test_curves(name, tmp_path):
    """After steps that were lost with a checkpoint, each value is there once."""
    curves, rel = LOGGERS[name]
    workdir = tmp_path / "run"
    go_on(workdir, (name,), 0, 5)
    assert curves(workdir) == pytest.approx(expected(5), rel=rel)
    for start in (3, 6):
        if name in ("tensorboard", "wandb"):
            time.sleep(1.1)  # they name a file after the second
        go_on(workdir, (name,), start, 6)
        assert curves(workdir) == pytest.approx(expected(6), rel=rel)


@pytest.mark.parametrize("name", EACH)
def test_added_later(name, tmp_path):
    """It has the curve from the beginning."""
    curves, rel = LOGGERS[name]
    workdir = tmp_path / "run"
    go_on(workdir, (), 0, 3)
    go_on(workdir, (name,), 3, 3)
    assert curves(workdir) == pytest.approx(expected(3), rel=rel)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_they_keep_is_damaged(name, tmp_path):
    path = tmp_path / f"{name}.json"
    assert loggers._kept(path) == {}
    for text in ("", "5", '"text"'):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^{path} is damaged .*; delete it to log to a new"):
            loggers._kept(path)


def test_damaged_lines_are_left_out(tmp_path):
    """What is no record, or no text, wherever it stands."""
    go_on(tmp_path / "run", ("csv",), 0, 3)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damages = [b"5\n", b'{"loss": 1.0}\n', b"\xff\xfe\n", b"\0\0\n", b'{"step": "1"}\n', b'{"st']
    path.write_bytes(b"".join(x + y for x, y in zip(damages, [*lines, b"", b""], strict=True)))
    go_on(tmp_path / "run", ("csv",), 3, 3)
    assert path.read_bytes() == b"".join(lines)
    assert csv_curves(tmp_path / "run") == expected(3)


@pytest.mark.parametrize("names", [("tensorboard", "csv"), ()])
def test_only_what_is_asked_for(names, tmp_path):
    go_on(tmp_path / "run", names, 0, 2)
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    files = {"tensorboard": "tensorboard", "csv": "metrics.csv"}
    assert kept == {"metrics.jsonl", "pictures", *(files[name] for name in names)}


def test_csv_columns(tmp_path):
    """A row for each line of metrics.jsonl; names that come later are columns to the right."""
    go_on(tmp_path / "run", ("csv",), 0, 2)
    speeds = "images_per_second,input_wait"
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines() == [
        f"step,loss,loss/dice,{speeds},val/mean_iou,{CLASS}",
        "1,1.0,1,,,,",
        "2,0.5,2,,,,",
        "2,,,,,0.25,2.5",
    ]


@MLFLOW
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_mlflow_run(tmp_path):
    """The config is its parameters, and pictures are artifacts."""
    go_on(tmp_path / "run", ("mlflow",), 0, 2)
    client, run = mlflow_run(tmp_path / "run")
    assert run.data.params["optim.learning_rate"] == str(Config().optim.learning_rate)
    assert run.data.params["loggers"] == "('mlflow',)"
    assert len(run.data.params) == len(list(cli.fields(Config)))
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    (picture,) = client.list_artifacts(run.info.run_id, "pictures")
    assert picture.path == "pictures/step_0000002.png"


class FakeMlflow:
    """As much of MLflow as a logger calls, whose store takes no pictures."""

    MlflowException = type("MlflowException", (Exception,), {})

    def __init__(self):
        self.entities = types.SimpleNamespace(Metric=lambda *x: x, Param=lambda *x: x)
        self.metrics, self.asked, self.ended = [], 0, False
        self.MlflowClient = lambda: self

    def create_run(self, experiment, run_name):
        data = types.SimpleNamespace(metrics={})
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="id"), data=data)

    def get_run(self, run):
        return self.create_run("", "")

    def get_experiment_by_name(self, name):
        return types.SimpleNamespace(experiment_id="0")

    def update_run(self, run, status):
        pass

    def log_batch(self, run, metrics=(), params=()):
        self.metrics += metrics

    def log_image(self, run, image, file):
        self.asked += 1
        raise OSError(30, "Read-only\nfile system")

    def set_terminated(self, run):
        self.ended = True


def test_mlflow_without_pictures(tmp_path, monkeypatch, capsys):
    """A store that takes none is asked once, and costs a line and no curve."""
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    go_on(tmp_path / "run", ("mlflow",), 0, 4)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "MLflow has failed, and the run goes on without pictures there"
    ]
    assert fake.asked == 1
    assert [step for name, _, _, step in fake.metrics if name == "val/mean_iou"] == [2, 4]
    assert fake.ended


class Recorder:
    """A logger that fails where it is told to."""

    def __init__(self, fails):
        self.fails, self.closed = fails, False

    def scalars(self, step, values):
        if "scalars" in self.fails:
            raise OSError("no scalars")

    again = scalars

    def close(self):
        self.closed = True
        if "close" in self.fails:
            raise OSError("no close")


@pytest.mark.parametrize("fails", ["make", "scalars", "close"])
def test_loggers_are_closed_whatever_fails(fails, tmp_path, monkeypatch):
    """All that were opened, and metrics.jsonl."""
    first, second = recorders = [Recorder(fails), Recorder(fails)]

    def make(config, workdir, start):
        yield first
        if fails == "make":
            raise OSError("no make")
        yield second

    monkeypatch.setattr(loggers, "make", make)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    with pytest.raises(OSError, match=f"no {fails}"):
        Report(tmp_path, Console(file=io.StringIO()), Config(), 1).close()
    assert [x.closed for x in recorders] == [True, fails != "make"]


@MLFLOW
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_mlflow_that_fails_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    """It is said once, and what is missing is logged at the next start."""
    import mlflow

    def fail(*_, **__):
        raise mlflow.MlflowException("no such host")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", fail)
        patch.setattr(loggers.MLflow, "_created", created_without_parameters)
        go_on(tmp_path / "run", ("mlflow",), 0, 3)
    assert capsys.readouterr().err.count("the run goes on without curves there: no such host") == 1
    assert mlflow_curves(tmp_path / "run") == {}
    go_on(tmp_path / "run", ("mlflow",), 3, 4)
    assert mlflow_curves(tmp_path / "run") == expected(4)


def created_without_parameters(self, path, config, name):
    run = self._client.create_run(self._client.create_experiment("nuclei")).info.run_id
    path.write_text(json.dumps({"run_id": run}))
    return run


def test_names_are_checked(monkeypatch):
    with pytest.raises(
        ValueError, match="loggers has 'comet', but must be of 'tensorboard', 'csv'"
    ):
        loggers.check(("csv", "comet"))
    with pytest.raises(ValueError, match="must name each once"):
        loggers.check(("csv", "csv"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loggers.check(("tensorboard", "csv"))
    for name in ("wandb", "mlflow"):
        with pytest.raises(ValueError, match=rf"not installed; pip install 'jaxseg\[{name}\]'"):
            loggers.check((name,))


def test_a_directory_is_no_package(tmp_path, monkeypatch):
    """The directory that Weights & Biases leaves is not taken for it."""
    (tmp_path / "elsewhere" / "wandb").mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path / "elsewhere")])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(ValueError, match="not installed"):
        loggers.check(("wandb",))
