"""Writes the examples of any source as shards of records, from which training reads them faster:

    python -m jaxseg.data prepare --config=configs/mine.py --output=prepared

The splits of the config become a data set of tensorflow-datasets, in array_record files. Training
from it makes the same batches, bit for bit; the fields of the config that it takes are printed.
What was stored is kept as it was decoded, not as it reaches the device, so that sizes, channels,
classes and all else can still be chosen later.

Several processes write. Shards are whole or not there: when it is interrupted, the same command
goes on where it was. What can't be read stops it, whatever data.unreadable says, so that no example
changes its place; `python -m jaxseg.data inspect` lists it before. With --beam, the shards are
written under Apache Beam (pip install 'jaxseg[beam]'), on this machine or, with --beam_options,
wherever a runner of Beam runs that sees the same files.
"""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from ml_collections import config_flags
from rich.console import Console

import jaxseg.config
from jaxseg import cli, report, writing
from jaxseg.config import Data
from jaxseg.data.datasets import FEATURES, NAMES, Source, open_source
from jaxseg.data.files import DataError

ARGUMENTS = 0
SPLITS = ("train", "validation")
_SHARD_BYTES = 2**26  # of decoded examples, which are the most that an interruption costs a process
_PLAN = "preparation.json"
# What decides which examples there are, and what is stored of them.
_STORED = (
    *("name", "root", "image", "label", "listing", "split_by", "group"),
    *("masks", "classes", "colours", "label_map", "ignore_label", "train_split", "eval_split"),
)


class Shard(NamedTuple):
    """Examples that one process writes into one file, as any process on any machine can do it."""

    config: str  # as JSON
    split: str
    start: int
    stop: int
    path: str


def prepare(
    config: Data,
    output: str | os.PathLike,
    *,
    name: str | None = None,
    workers: int = 1,
    beam_options: tuple[str, ...] | None = None,
    show: bool = False,
) -> Data:
    """Writes both splits of a config below `output`; the config that reads them from there.

    With `beam_options`, even none, under Apache Beam, and else in so many processes.
    """
    name = name or _usual_name(config)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(
            f"the name {name!r} can't be that of a data set; give one of small letters, digits "
            "and underscores that begins with a letter, as in --name=streets"
        )
    if name == "folder":
        raise DataError(
            "the name 'folder' is what data.name calls files as they are; give another, as in "
            "--name=my_folder"
        )
    if config.train_split == config.eval_split:
        raise DataError(
            f"data.train_split and data.eval_split are both {config.train_split!r}, but what is "
            "trained must not be scored; give them different splits"
        )
    if name in tfds.list_builders(with_community_datasets=False):
        raise DataError(
            f"the name {name!r} is that of a data set of tensorflow-datasets, which would be read "
            f"instead; give another, as in --name=my_{name}"
        )
    if config.root and config.name == "folder":
        config = dataclasses.replace(config, root=os.path.abspath(config.root))
    output = os.path.abspath(output)
    builder = Prepared(name, config, data_dir=output, workers=workers, show=show)
    kept = builder.data_path / _PLAN
    if builder.data_path.exists():
        if not kept.exists() or json.loads(kept.read_text()) != builder.plan:
            raise DataError(
                f"{builder.data_path} holds other data; choose another --output or --name, or "
                "remove it"
            )
    else:
        options = {}
        if beam_options is not None:
            options = _beam(beam_options, workers)
        # tfds says on it that it downloads.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_dir=builder.begun,
                download_config=tfds.download.DownloadConfig(**options),
            )
        # And what tfds began, and was killed before it could remove it.
        for left in (builder.begun, *builder.data_path.parent.glob("incomplete.*")):
            shutil.rmtree(left)
    return prepared(config, name, output)


def prepared(config: Data, name: str, output: str) -> Data:
    """The config that reads what `prepare` wrote.

    >>> found = prepared(Data(name="folder", image="images", masks="panoptic"), "mine", "out")
    >>> found.name, found.root, found.train_split, found.image, found.masks
    ('mine', 'out', 'train', 'image', 'classes')
    """
    train, evaluation = SPLITS
    image, label, *_ = FEATURES
    return dataclasses.replace(
        config,
        **{"name": name, "root": output, "image": image, "label": label},
        **{"train_split": train, "eval_split": evaluation},
        **{"listing": "", "split_by": "order", "group": ""},
        # The source has looked up the classes of the segments.
        masks="classes" if config.masks == "panoptic" else config.masks,
    )


with tfds.core.registered.skip_registration():  # it has a name only when it has examples

    class Prepared(tfds.core.dataset_builder.FileReaderBuilder):
        """A data set of the examples of a source, in their order.

        The builders of tfds begin anew when they are interrupted, and without Beam they write
        one shard after the other. So this one writes its shards into a directory that stays, and
        moves them to where tfds wants them when all are there.
        """

        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, name: str, config: Data, *, data_dir: str, workers: int, show: bool):
            self.name = name
            self._config, self._workers, self._show = config, workers, show
            given = zip(SPLITS, (config.train_split, config.eval_split), strict=True)
            self._sources = {key: open_source(config, split) for key, split in given}
            super().__init__(data_dir=data_dir, file_format="array_record")
            self.begun = pathlib.Path(data_dir) / f"{name}.begun"

        @functools.cached_property
        def plan(self) -> dict[str, Any]:
            """What is to be written, by which an interrupted work is known again."""
            values = dataclasses.asdict(self._config)
            parts = {}
            for key, source in self._sources.items():
                digest = hashlib.sha256()
                for index in range(len(source)):
                    digest.update(f"{source.version(index)}\n".encode(errors="surrogateescape"))
                parts[key] = {"examples": len(source), "sha256": digest.hexdigest()}
            stored = {key: values[key] for key in _STORED}
            return json.loads(json.dumps({"data": stored, "splits": parts}))

        def shards(self) -> Iterator[Shard]:
            """All shards; how many does not depend on who writes them."""
            text = _to_json(self._config)
            for key, split in zip(SPLITS, _splits(self._config), strict=True):
                source = self._sources[key]
                count = max(1, _SHARD_BYTES // sum(x.nbytes for x in source[0][:2]))
                number = -(-len(source) // count)
                count = -(-len(source) // number)
                template = self._get_filename_template(key).replace(data_dir=self.begun)
                for index in range(number):
                    path = template.sharded_filepath(shard_index=index, num_shards=number)
                    start = index * count
                    stop = min(start + count, len(source))
                    yield Shard(text, split, start, stop, os.fspath(path))

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{self._config.name} {self._config.root}, as jaxseg prepared it.",
                features=_features(self._sources["train"]),
            )

        def _download_and_prepare(self, dl_manager, download_config):
            self.begun.mkdir(parents=True, exist_ok=True)
            plan = self.begun / _PLAN
            if not plan.exists():
                with writing.whole(plan) as fresh:
                    fresh.write_text(json.dumps(self.plan, indent=2) + "\n")
            elif json.loads(plan.read_text()) != self.plan:
                raise DataError(
                    f"{self.begun} holds shards of other data, or of files that have changed "
                    "since; remove it to begin anew"
                )
            shards = list(self.shards())
            if download_config.beam_options is not None:
                _write_with_beam(shards, download_config)
            else:
                _write_in_processes(shards, self._workers, show=self._show)
            infos, names = {key: ([], []) for key in SPLITS}, {}
            of_split = dict(zip(_splits(self._config), SPLITS, strict=True))
            for shard in shards:
                key = of_split[shard.split]
                source, (lengths, sizes) = self._sources[key], infos[key]
                told = [source.name(index) for index in range(shard.start, shard.stop)]
                names[os.path.basename(shard.path)] = told
                lengths.append(shard.stop - shard.start)
                sizes.append(os.path.getsize(shard.path))
                os.replace(shard.path, os.path.join(self._data_dir, os.path.basename(shard.path)))
            pathlib.Path(self._data_dir, NAMES).write_text(json.dumps(names))
            os.replace(plan, os.path.join(self._data_dir, _PLAN))
            self.info.set_splits(
                tfds.core.SplitDict(
                    [
                        tfds.core.SplitInfo(
                            name=key,
                            shard_lengths=lengths,
                            num_bytes=sum(sizes),
                            filename_template=self._get_filename_template(key),
                        )
                        for key, (lengths, sizes) in infos.items()
                    ]
                )
            )


def write(shard: Shard) -> None:
    """Writes a shard, unless it is there."""
    if os.path.exists(shard.path):
        return
    source = _open(shard.config, shard.split)
    # Of the first split, as all shards have the features of one data set.
    features = _features(_open(shard.config, _from_json(shard.config).train_split))
    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

    def records():
        for index in range(shard.start, shard.stop):
            encoded = features.encode_example(_stored(source, index, features))
            # Not as features.serialize_example does it, whose bytes differ from process to process.
            yield index, serializer.get_tf_example(encoded).SerializeToString(deterministic=True)

    adapters = tfds.core.file_adapters
    adapter = adapters.ADAPTER_FOR_FORMAT[adapters.FileFormat.ARRAY_RECORD]
    try:
        with writing.whole(shard.path) as fresh:
            adapter.write_examples(fresh, records())
    except RuntimeError as error:  # what array_record raises where a file can't be written
        raise DataError(
            f"{shard.path} can't be written ({str(error).partition(';')[0]}); mend that, and the "
            "same command goes on"
        ) from error


def _write_in_processes(shards: list[Shard], workers: int, *, show: bool) -> None:
    def shown(done):
        return report.progress(done, len(shards), "shards") if show else done

    if workers == 1:
        collections.deque(shown(map(write, shards)), 0)
        return
    # Not forked, since this process has threads.
    pool = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(shards)),
        multiprocessing.get_context("spawn"),
        initializer=_begin,
    )
    try:
        futures = [pool.submit(write, shard) for shard in shards]
        for future in shown(concurrent.futures.as_completed(futures)):
            future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        raise DataError(
            "a process that wrote shards was killed, perhaps for want of memory; the same command "
            "goes on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a process that writes does first: it ends its shard at Ctrl-C, and ends with its parent.

    However that ends: the pool's own processes would wait for one that was killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_with_beam(shards: list[Shard], config: tfds.download.DownloadConfig) -> None:
    import apache_beam  # an optional package

    with apache_beam.Pipeline(runner=config.beam_runner, options=config.beam_options) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create([tuple(shard) for shard in shards])
            | apache_beam.Reshuffle()  # else they would all be one worker's
            | apache_beam.MapTuple(_write)
        )
    for shard in shards:
        write(shard)  # what data kept from being written, to say so


def _write(*shard) -> None:
    # Beam would tell what is wrong with data in hundreds of lines.
    with contextlib.suppress(DataError):
        write(Shard(*shard))


def _beam(options: Sequence[str], workers: int) -> dict[str, Any]:
    """The fields of tfds's DownloadConfig that are Beam's."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise DataError(
            f"--beam needs a package that is missing ({error}); pip install 'jaxseg[beam]'"
        ) from error
    if not any("runner" in option for option in options):
        local = "--runner=FnApiRunner", "--direct_running_mode=multi_processing"
        options = (*options, *local, f"--direct_num_workers={workers}")
    return {"beam_options": PipelineOptions(list(options))}


def _features(source: Source) -> tfds.features.FeaturesDict:
    """The features of a source's examples, whose arrays have as many axes as those of its first.

    Bytes, since the types of files may differ where the config says which values are 0 and 1; of
    uint8 they are the values. And not as PNG: records are compressed, and PNG is slow to decode.
    """

    def values(array):
        return tfds.features.Tensor(shape=(None,) * array.ndim, dtype=np.uint8, encoding="bytes")

    text = tfds.features.Text()
    spacing = tfds.features.Tensor(shape=(None,), dtype=np.float64)
    image, mask, _ = source[0]
    kinds = (values(image), values(mask), text, text, spacing, text)
    return tfds.features.FeaturesDict(dict(zip(FEATURES, kinds, strict=True)))


def _stored(source: Source, index: int, features: tfds.features.FeaturesDict) -> dict[str, Any]:
    """An example in the form of the features."""
    name = source.name(index)
    *arrays, spacing = source[index]
    arrays = [np.ascontiguousarray(array) for array in arrays]
    for what, array in zip(("image", "mask"), arrays, strict=True):
        if array.ndim != len(features[what].shape):
            raise DataError(
                f"{name}: the {what} is {array.dtype}{list(array.shape)}, but that of the first "
                f"example has {len(features[what].shape)} axes; all must have as many"
            )
    stored = (
        *(array.view(np.uint8) for array in arrays),
        *(array.dtype.str for array in arrays),
        np.array(spacing or (), np.float64),
        name,
    )
    return dict(zip(FEATURES, stored, strict=True))


def _splits(config: Data) -> tuple[str, str]:
    return config.train_split, config.eval_split


def _to_json(config: Data) -> str:
    return json.dumps(dataclasses.asdict(config))


def _from_json(text: str) -> Data:
    return jaxseg.config.from_dict(json.loads(text), Data)


@functools.lru_cache(maxsize=4)
def _open(config: str, split: str) -> Source:
    return open_source(_from_json(config), split)


def _usual_name(config: Data) -> str:
    """The name of the folder, in letters that are allowed."""
    told = pathlib.Path(config.root).resolve().name if config.name == "folder" else config.name
    name = re.sub(r"[^a-z0-9]+", "_", told.lower()).strip("_")
    return name if re.match("[a-z]", name) else f"data_{name}"


def define_flags() -> None:
    config_flags.DEFINE_config_file(
        "config",
        jaxseg.config.__file__,
        "A file whose get_config() returns a jaxseg.config.Config. [the embedded demo]",
    )
    flags.DEFINE_string("output", None, "The directory that the data set goes into.")
    flags.DEFINE_string("name", None, "What it is called. [as the folder]")
    flags.DEFINE_integer("workers", os.cpu_count(), "Processes that write.")
    flags.DEFINE_bool("beam", False, "Write under Apache Beam.")
    flags.DEFINE_list(
        "beam_options", [], "Of its pipeline, such as --runner=DataflowRunner. [of this machine]"
    )


def main() -> None:
    args = flags.FLAGS
    if not args.output:
        cli.fail("--output is missing; name the directory that the data set goes into")
    if args.beam_options and not args.beam:
        cli.fail("--beam_options goes with --beam")
    if args.workers < 1:
        cli.fail(f"--workers is {args.workers}, but must be at least 1")
    with cli.work():
        config = jaxseg.config.from_dict(dataclasses.asdict(args.config))
        if config.data.unreadable == "skip":
            print(
                'prepare stops at what can\'t be read, also with data.unreadable="skip"; '
                "python -m jaxseg.data inspect lists it before",
                file=sys.stderr,
            )
        try:
            found = prepare(
                config.data,
                args.output,
                name=args.name,
                workers=args.workers,
                beam_options=tuple(args.beam_options) if args.beam else None,
                show=True,
            )
        except KeyboardInterrupt:
            cli.fail("stopped; the same command goes on where it was", code=1)
    console = Console(soft_wrap=True, highlight=False)
    builder = tfds.core.read_only_builder.builder_from_files(found.name, data_dir=found.root)
    for split in builder.info.splits.values():
        console.print(
            f"{split.name}: {split.num_examples} examples in {split.num_bytes / 1e6:.1f} MB, "
            f"shards: {split.num_shards}"
        )
    changes = [
        f"--config.data.{field}={getattr(found, field)}"
        for field in _STORED
        if getattr(found, field) != getattr(config.data, field)
    ]
    console.print(f"{builder.data_path}", markup=False)
    console.print("To train from it, give the config these fields:", markup=False)
    console.print(shlex.join(changes), markup=False)
