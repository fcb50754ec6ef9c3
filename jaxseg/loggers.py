"""Where the curves of a run go, besides `metrics.jsonl`.

A logger has `scalars(step, values)`, `picture(step, sheet)` and `close()`. When a run is resumed,
it is first given what `metrics.jsonl` has kept, by `again(step, values)`, and takes what it lacks:
so it has all there is, also where it was added later or a kill came between the two, and nothing
twice.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image

from jaxseg import writing
from jaxseg.board import Board
from jaxseg.config import Config

_PARAMETERS = 100  # that MLflow takes at a time


def check(names: Sequence[str]) -> None:
    """Raises ValueError for a logger that does not exist or is not installed."""
    for name in names:
        if name not in _MAKERS:
            raise ValueError(
                f"loggers has {name!r}, but must be of {', '.join(map(repr, _MAKERS))}; "
                "metrics.jsonl is always written"
            )
        if name in ("wandb", "mlflow"):
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:  # a directory of this name is no package
                raise ValueError(
                    f"loggers has {name!r}, which is not installed; pip install 'jaxseg[{name}]'"
                )
    if len(set(names)) < len(names):
        raise ValueError(f"loggers is {', '.join(map(repr, names))}, but must name each once")


def make(config: Config, workdir: pathlib.Path, start: int) -> Iterator:
    """The loggers of a run that begins or goes on after step `start`, one after the other."""
    return (_MAKERS[name](config, workdir, start) for name in config.loggers)


class TensorBoard:
    """Event files in `tensorboard/`; what is of later steps than the start is hidden."""

    def __init__(self, config: Config, workdir: pathlib.Path, start: int):
        directory = workdir / "tensorboard"
        self._is_new = not directory.is_dir()
        self._board = Board(directory, purge_step=start + 1)

    def again(self, step: int, values: dict[str, float | None]) -> None:
        if self._is_new:
            self.scalars(step, values)

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        for name, value in _present(values).items():
            self._board.add_scalar(name, value, step)
        self._board.flush()  # or a kill would lose what metrics.jsonl has

    def picture(self, step: int, sheet: np.ndarray) -> None:
        self._board.add_image("validation", sheet, step)

    def close(self) -> None:
        self._board.close()


class Csv:
    """`metrics.csv`: a row for each line of `metrics.jsonl`, a column for each name."""

    def __init__(self, config: Config, workdir: pathlib.Path, start: int):
        self._path = workdir / "metrics.csv"
        self._path.write_text("")  # it is written anew from metrics.jsonl
        self._fields = []

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        row = {"step": step, **values}
        new = [name for name in row if name not in self._fields]
        if new:
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self._fields += new
            with (
                writing.whole(self._path) as fresh,
                fresh.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, self._fields)
                writer.writeheader()
                writer.writerows(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._fields).writerow(row)

    again = scalars

    def picture(self, step: int, sheet: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


class WeightsAndBiases:
    """A run of Weights & Biases, the same one whenever the workdir is resumed.

    Its steps can't be taken back, and a step is sent whole, when the next one comes: what `wandb`
    has of a step that is trained again stays. How far it has come is what the server says, and
    offline what `wandb.json` has.
    """

    def __init__(self, config: Config, workdir: pathlib.Path, start: int):
        import wandb

        self._image = wandb.Image
        self._path = workdir / "wandb.json"
        kept = _kept(self._path)
        self._id, sent = kept.get("id", secrets.token_hex(4)), kept.get("step", 0)
        self._keep(sent)
        offline = wandb.setup().settings.mode == "offline"
        try:
            self._run = wandb.init(
                id=self._id,
                resume=None if offline else "allow",  # or it would warn
                name=os.environ.get("WANDB_NAME", workdir.name),
                dir=str(workdir),
                config=dataclasses.asdict(config),
            )
        except wandb.Error as error:
            raise ValueError(f"Weights & Biases can't be used: {error}") from error
        self._sent = self._run.starting_step - 1 if self._run.resumed else sent
        self._step, self._row = self._sent, {}

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        self._add(step, _present(values))

    again = scalars

    def picture(self, step: int, sheet: np.ndarray) -> None:
        self._add(step, {"validation": self._image(sheet)})

    def close(self) -> None:
        self._send()
        self._run.finish()

    def _add(self, step: int, values: dict) -> None:
        if step <= self._sent:
            return
        if step != self._step:
            self._send()
        self._step, self._row = step, {**self._row, **values}

    def _send(self) -> None:
        if self._row:
            self._run.log(self._row, step=self._step, commit=True)
            self._sent, self._row = self._step, {}
            self._keep(self._sent)

    def _keep(self, step: int) -> None:
        with writing.whole(self._path) as fresh:
            fresh.write_text(json.dumps({"id": self._id, "step": step}) + "\n")


class MLflow:
    """A run of MLflow, the same one whenever the workdir is resumed, which `mlflow.json` names.

    A value that the run has of a step stays, as MLflow can't take it back. If the server fails, the
    training goes on without it, and what is missing is logged when it is resumed. Pictures may be
    kept elsewhere: a store that takes none costs these alone.
    """

    def __init__(self, config: Config, workdir: pathlib.Path, start: int):
        import mlflow

        self._mlflow, self._failed = mlflow, set()
        path = workdir / "mlflow.json"
        try:
            self._client = mlflow.MlflowClient()
            self._run = self._kept(path) or self._created(path, config, workdir.name)
            self._client.update_run(self._run, status="RUNNING")
            names = self._client.get_run(self._run).data.metrics
            self._has = {
                (name, metric.step)
                for name in names
                for metric in self._client.get_metric_history(self._run, name)
            }
        except mlflow.MlflowException as error:
            raise ValueError(f"MLflow can't be used: {error}") from error

    def _kept(self, path: pathlib.Path) -> str | None:
        """The run that the workdir has, if the store that is in use has it, too."""
        run = _kept(path).get("run_id")
        if run is None:
            return None
        try:
            self._client.get_run(run)
        except self._mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run

    def _created(self, path: pathlib.Path, config: Config, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        found = self._client.get_experiment_by_name(experiment)
        where = found.experiment_id if found else self._client.create_experiment(experiment)
        name = os.environ.get("MLFLOW_RUN_NAME", name)
        run = self._client.create_run(where, run_name=name).info.run_id
        fields = _flat(dataclasses.asdict(config))
        parameters = [self._mlflow.entities.Param(*field) for field in fields.items()]
        for first in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(run, params=parameters[first : first + _PARAMETERS])
        with writing.whole(path) as fresh:
            fresh.write_text(json.dumps({"run_id": run}) + "\n")
        return run

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        named = {re.sub(r"[^\w\-. /]", "_", name): x for name, x in _present(values).items()}
        new = {name: x for name, x in named.items() if (name, step) not in self._has}
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(name, x, now, step) for name, x in new.items()]
        if metrics and self._tried("curves", self._client.log_batch, self._run, metrics):
            self._has.update((name, step) for name in new)

    again = scalars

    def picture(self, step: int, sheet: np.ndarray) -> None:
        file = f"pictures/step_{step:07d}.png"
        self._tried("pictures", self._client.log_image, self._run, Image.fromarray(sheet), file)

    def close(self) -> None:
        self._tried("curves", self._client.set_terminated, self._run)

    def _tried(self, what: str, call: Callable, *arguments) -> bool:
        """Whether a call did not fail; after one that did, none is made of what it is about."""
        if what in self._failed:
            return False
        try:
            call(*arguments)
        except (self._mlflow.MlflowException, OSError) as error:
            self._failed.add(what)
            missing = {
                "curves": "what is missing is logged when the run is resumed",
                "pictures": "pictures/ of the workdir has them",
            }
            print(
                f"MLflow has failed, and the run goes on without {what} there: "
                f"{' '.join(str(error).split())}; {missing[what]}",
                file=sys.stderr,
                flush=True,
            )
            return False
        return True


_MAKERS = {"tensorboard": TensorBoard, "csv": Csv, "wandb": WeightsAndBiases, "mlflow": MLflow}


def _kept(path: pathlib.Path) -> dict:
    """What a logger keeps in the workdir, if it does."""
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to log to a new run") from error


def _present(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _flat(values: dict, prefix: str = "") -> dict[str, str]:
    """Nested fields under names such as `optim.learning_rate`."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = str(value)
    return found
