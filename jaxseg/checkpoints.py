"""Checkpoints that survive what happens to them. The only file that imports orbax."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging as standard_logging
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from jaxseg import names, parallel

SCORE = "val/mean_iou"  # the best checkpoint has the highest, unless another is asked for
_SCORES = "scores"  # the checksum of the scores, beside those of the arrays


class CheckpointError(ValueError):
    """Checkpoints that can't be used, said in one line."""


class FullDiskError(OSError):
    """A checkpoint that the disk has no room for."""


def disk_is_full(error: BaseException) -> bool:
    """Whether there was no room to write; tensorstore says so only in words.

    >>> disk_is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    full = (errno.ENOSPC, errno.EDQUOT)
    words = tuple(map(os.strerror, full))
    return getattr(error, "errno", None) in full or any(x in str(error) for x in words)


class Checkpoints:
    """The checkpoints of one run: the latest few, and the best by the validation score `best`.

    Written in the background and visible only when complete. Each array has a checksum, since
    orbax restores flipped bits silently. `restore_latest` falls back to the newest checkpoint that
    is whole, and moves damaged ones aside.

    A full disk is a FullDiskError, at the latest of `close`. With `on_full_disk`, `save` and
    `settle` tell it that instead, and go without the checkpoint.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_latest: int = 1,
        best: str = SCORE,
        higher_is_better: bool = True,
        on_full_disk: Callable[[str], None] | None = None,
    ):
        self._directory = pathlib.Path(directory).absolute()
        self._keep_latest = keep_latest
        self._best, self._sign = best, 1 if higher_is_better else -1
        self._on_full_disk = on_full_disk

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        for step in self._steps_with_wrong_scores():  # orbax would fail at them, or believe them
            raise CheckpointError(
                f"checkpoint {step} in {self._directory} is damaged (its scores or their checksum "
                "are missing or wrong); resume the training to replace it"
            )
        _silence_stragglers()
        policies = checkpoint_managers
        keep = policies.AnyPreservationPolicy(
            [
                policies.LatestN(self._keep_latest),
                policies.BestN(
                    get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            # Without best_fn, orbax does not write the metrics that the policy reads.
            best_fn=self._score,
            preservation_policy=keep,
            create=False,
        )
        try:
            return ocp.CheckpointManager(
                self._directory, options=options, item_names=("state", "checksums")
            )
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{self._directory} holds no checkpoints; name the directory of a run that has some"
            ) from error

    def save(self, step: int, state: Any, scores: dict[str, float] | None = None) -> None:
        """Starts to write the state of a step, with its validation scores if it was evaluated.

        It replaces one of the same step, which was saved before it had been.
        """
        arrays = _flatten(parallel.on_host(state))
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        scores = scores or {}  # None would make orbax warn
        checksums[_SCORES] = _checksum_of_scores(scores)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays), checksums=ocp.args.JsonSave(checksums)
        )
        for _ in range(2):  # again if it was the one before that had no room
            try:
                with self._writing():
                    if step in self._manager.all_steps():
                        self._manager.delete(step)
                    self._manager.save(step, args=items, metrics=scores, force=True)
                break
            except FullDiskError as error:
                self._do_without(error)

    def restore_latest(self, template: Any) -> tuple[int, Any] | None:
        """The step and state of the newest whole checkpoint, or None if there never was one.

        Damaged ones that are newer are moved to `damaged/` beside the checkpoints.
        """
        damaged = self._steps_with_wrong_scores()
        for step in damaged:
            logging.error(
                "Checkpoint %d is damaged: its scores or their checksum are missing or wrong", step
            )
            self._set_aside(step)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                state = self._read(step, template)
            except _DamageError as damage:
                logging.error("Checkpoint %d is damaged: %s", step, damage)
                self._set_aside(step)
            else:
                return step, state
        if steps or damaged:
            raise CheckpointError(
                f"none of the checkpoints in {self._directory} is whole; they were moved to "
                f"{self._directory.parent / 'damaged'}. Start again to train from the first step"
            )
        return None

    def restore_best(self, template: Any) -> tuple[int, Any]:
        """The step and state with the best validation score, or the latest if none was scored.

        A damaged one is named and passed over.
        """
        steps = sorted(self._manager.all_steps(), key=self._rank, reverse=True)
        for step in steps:
            try:
                return step, self._read(step, template)
            except _DamageError as damage:
                logging.error("Checkpoint %d is damaged: %s", step, damage)
        if steps:
            raise CheckpointError(f"none of the checkpoints in {self._directory} is whole")
        raise CheckpointError(f"{self._directory} holds no checkpoints; train first")

    def restore(self, step: int, template: Any) -> Any:
        """The state of a step."""
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{self._directory} does not hold checkpoint {step} any more")
        try:
            return self._read(step, template)
        except _DamageError as damage:
            raise CheckpointError(f"{self.path(step)} is damaged: {damage}") from damage

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        scored = [step for step in self._manager.all_steps() if self.scores(step)]
        return max(scored, key=self._rank, default=None)

    def _rank(self, step: int) -> tuple[float, int]:
        return self._score(self.scores(step) or {}), step

    def _score(self, scores: dict[str, float | None]) -> float:
        score = scores.get(self._best)
        return float("-inf") if score is None else self._sign * score

    def scores(self, step: int) -> dict[str, float] | None:
        """The validation scores saved with a step, if it was evaluated."""
        return self._manager.metrics(step)

    def path(self, step: int) -> pathlib.Path:
        return self._directory / str(step)

    def wait(self) -> None:
        """Returns when everything saved so far is safe on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def settle(self) -> None:
        """Returns when nothing is being written any more."""
        try:
            self.wait()
        except FullDiskError as error:
            self._do_without(error)

    def _do_without(self, error: FullDiskError) -> None:
        if self._on_full_disk is None:
            raise error
        self._on_full_disk(error.strerror)

    def close(self) -> None:
        if "_manager" in vars(self):
            with self._writing():
                self._manager.close()
            vars(self).pop("_manager", None)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A block in which it may come out that there was no room, even for what is older."""
        try:
            yield
        except Exception as error:
            if not disk_is_full(error):
                raise
            # The manager has lost count of what is on disk, and says the same again as it closes.
            with contextlib.suppress(Exception):
                vars(self).pop("_manager").close()
            for part in self._directory.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(part, ignore_errors=True)
            whole = sorted(int(x.name) for x in self._directory.iterdir() if x.name.isdigit())
            last = f"the last good one is {self.path(whole[-1])}" if whole else "there is none yet"
            raise FullDiskError(
                errno.ENOSPC, f"the disk is full, so that a checkpoint can't be saved; {last}"
            ) from error

    def _read(self, step: int, template: Any) -> Any:
        try:
            read = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(), checksums=ocp.args.JsonRestore()
                ),
            )
            arrays, checksums = read["state"], read["checksums"]
        except Exception as error:  # whatever a broken file makes of its reader
            raise _DamageError(
                " ".join(f"{type(error).__name__}: {error}".split())[:300]
            ) from error
        if arrays.keys() | {_SCORES} != checksums.keys():
            raise _DamageError("its arrays are not those that were saved")
        for name, array in arrays.items():
            if _checksum(array) != checksums[name]:
                raise _DamageError(f"{name} has a wrong checksum")
        wanted = {name: (x.shape, x.dtype) for name, x in _flatten(template).items()}
        found = {name: (x.shape, x.dtype) for name, x in arrays.items()}
        if wanted != found:
            name = next(n for n in wanted | found if wanted.get(n) != found.get(n))
            raise CheckpointError(
                f"checkpoint {step} in {self._directory} has {name} as {found.get(name)}, but the "
                f"config needs {wanted.get(name)}; restore it with the config it was trained with"
            )
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _set_aside(self, step: int) -> None:
        parallel.wait_for_all(f"read checkpoint {step}")
        self.close()
        if parallel.is_primary():
            aside = self._directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            target = aside / str(step)
            if target.exists():
                shutil.rmtree(target)
            self.path(step).rename(target)
        parallel.wait_for_all(f"moved checkpoint {step}")

    def _steps_with_wrong_scores(self) -> list[int]:
        wrong = []
        for folder in self._directory.glob("[0-9]*"):
            if not folder.name.isdigit():
                continue
            try:
                scores = json.loads((folder / "metrics" / "metrics").read_text())
                checksums = json.loads((folder / "checksums" / "metadata").read_text())
                whole = checksums[_SCORES] == _checksum_of_scores(scores)
            except (OSError, ValueError, LookupError, TypeError):
                whole = False
            if not whole:
                wrong.append(int(folder.name))
        return sorted(wrong)


class _DamageError(Exception):
    """A checkpoint that is not as it was saved."""


@functools.cache  # so that one hook serves any number of calls
def _silence_stragglers() -> None:
    """Keeps what orbax was still doing from burying the message under its tracebacks.

    Its other reads and writes go on after the first has failed, and find the event loop closed;
    and each thread that an error passes through logs it before it is raised.
    """
    before = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    standard_logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    logging.get_absl_logger().addFilter(
        lambda record: not (record.exc_info and disk_is_full(record.exc_info[1]))
    )


def _flatten(tree: Any) -> dict[str, Any]:
    """The arrays of a tree under readable names, such as `params.down0.conv0.kernel`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {names.dotted(path): x for path, x in leaves}


def _checksum_of_scores(scores: dict[str, float | None]) -> int:
    return zlib.crc32(json.dumps(scores, sort_keys=True).encode())


def _checksum(array: np.ndarray) -> int:
    array = np.ascontiguousarray(array)
    return zlib.crc32(f"{array.dtype}{array.shape}".encode(), zlib.crc32(array.tobytes()))
