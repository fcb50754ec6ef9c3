"""From an index to a batch: every batch is a function of its step, on any number of hosts."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import cv2
import grain
import jax
import numpy as np

from jaxseg import memory, writing
from jaxseg.batch import Batch
from jaxseg.config import Data
from jaxseg.data import targets
from jaxseg.data.datasets import Example, Source
from jaxseg.data.files import DataError
from jaxseg.data.targets import Target

if TYPE_CHECKING:
    from jaxtyping import Int64, Num

    Load = Callable[..., Batch]

_ALIGN = 64  # bytes
_PLACES = 2**13  # of the foreground that patches are taken around, of an image
_CACHE_FORMAT = 2  # to be changed with whatever changes what an example is decoded to
_MAPPED = 2**14  # files; the system allows four times as many
_ENDLESS = 2**48  # steps; grain wants a number
_WHOLE = -1  # the draw of an image that is not for training


class Positions:
    """What a host reads at each step: `positions[step]`, int64 `[rows, 2]`.

    A row is the index of an example and its draw: a number that no other of 2^32 rows has, and that
    the patch of the example follows from, or -1 for the whole. A host's share is a block of rows of
    the global batch, so the global batch is the same for any number of hosts.
    """

    def __init__(self, steps: int, rows: Callable[[int], Int64[np.ndarray, "rows 2"]]):
        self._steps, self._rows = steps, rows

    def __len__(self):
        return self._steps

    def __getitem__(self, step):
        if not 0 <= step < self._steps:
            raise IndexError(f"step {step} is not among the {self._steps}")
        return self._rows(step)


def train_positions(
    length: int,
    *,
    batch_size: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    unlabelled: tuple[int, int] = (0, 0),
) -> Positions:
    """All examples in a new order in each epoch, without end; a batch may reach into the next one.

    `unlabelled` is the number of examples that follow these without labels, and how many of them
    are in each batch, as its last rows; they have orders and epochs of their own.

    >>> positions = train_positions(3, batch_size=3, seed=0)
    >>> sorted(positions[10**9][:, 0].tolist())
    [0, 1, 2]
    """
    local = batch_size // hosts
    first_draw = int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1) << 32

    others, share = unlabelled
    pools = (length, batch_size - share, 0), (others, share, length)

    @functools.lru_cache(maxsize=8)
    def order(pool, epoch):
        return np.random.default_rng((seed, epoch, *[1] * pool)).permutation(pools[pool][0])

    def index(step, row):
        pool = int(row >= batch_size - share)
        count, part, first = pools[pool]
        epoch, place = divmod(step * part + row - pool * pools[0][1], count)
        return first + order(pool, epoch)[place]

    def rows(step):
        own = host * local + np.arange(local)
        indices = [index(step, row) for row in own.tolist()]
        return np.stack([np.array(indices), first_draw + (step * batch_size + own) % 2**32], -1)

    return Positions(_ENDLESS, rows)


def eval_positions(length: int, *, batch_size: int, host: int = 0, hosts: int = 1) -> Positions:
    """Each example once, in order; indices past the end fill up the last batch.

    >>> eval_positions(3, batch_size=2)[1].tolist()
    [[2, -1], [3, -1]]
    """
    local = batch_size // hosts

    def rows(step):
        indices = step * batch_size + host * local + np.arange(local)
        return np.stack([indices, np.full(local, _WHOLE)], -1)

    return Positions(-(-length // batch_size), rows)


def batches(
    source: Source,
    positions: Positions,
    config: Data,
    *,
    start: int = 0,
    stop: int | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> Iterator[Batch]:
    """Reads the batches of the steps from `start` to `stop`, in threads and ahead of their use.

    Indices past the end of the source become images that don't count; `on_skip` is told, in a
    thread, what could not be read, where data.unreadable is "skip".
    """
    memory.keep()
    load = make_loader(source, config, on_skip=on_skip)
    specs = _specs(config)

    def gather(rows):
        batch = _empty(specs[rows[0, 1] != _WHOLE], len(rows))
        for row, *example in zip(rows.tolist(), *batch, strict=True):
            load(*row, Batch(*example))
        return batch

    dataset = grain.MapDataset.source(positions)[start:stop].map(gather)
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=2 * config.threads)
    return iter(dataset.to_iter_dataset(options))


def collate(examples: Iterable[Batch]) -> Batch:
    """Stacks examples, as a loader gives them, to a batch."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *examples)


def example_spec(config: Data, *, training: bool) -> Batch:
    """The shapes and types of an example, without the axis of the batch.

    >>> spec = example_spec(Data(), training=False)
    >>> spec.images.shape, spec.labels.dtype.name
    ((128, 128, 1), 'uint8')
    """
    _check(config)
    size = config.patch_size if training and config.patch_size else config.image_size
    classes = (len(config.classes),) if targets.is_soft(config) else ()
    return Batch(
        images=jax.ShapeDtypeStruct((*size, config.channels), _image_dtype(config)),
        labels=jax.ShapeDtypeStruct((*size, *classes), targets.label_dtype(config)),
        where=jax.ShapeDtypeStruct(tuple(size), np.bool_),
        sizes=jax.ShapeDtypeStruct((len(size),), np.int32),
    )


def empty_batch(config: Data, rows: int, *, training: bool) -> Batch:
    """A batch of so many rows in which nothing counts, as large as one of examples.

    >>> empty_batch(Data(), 2, training=False).images.shape
    (2, 128, 128, 1)
    """
    spec = example_spec(config, training=training)
    return jax.tree.map(lambda x: np.zeros((rows, *x.shape), x.dtype), spec)


def make_loader(
    source: Source, config: Data, *, on_skip: Callable[[str], None] | None = None
) -> Load:
    """Makes `load(index, draw=-1, example=None)`: an example of fixed size, labels checked.

    A draw of at least 0 is one for training, whose patch it decides. What is read is written over
    `example`, where that is given, such as a row of a batch.
    """
    specs = _specs(config)
    decode = _make_decode(source, config)
    if config.cache:
        decode = _cached(decode, source, config)
    skipped = set()

    def read(index, draw):
        """What is in the example, or None if nothing of it counts."""
        if index >= len(source):
            return None
        try:
            decoded = decode(index)
            training = draw != _WHOLE
            if training and config.patch_size:
                decoded = _cut(decoded, draw, config)
            _fits(decoded, specs[training].where.shape, source.name(index))
        except DataError as error:
            skipped.add(index)
            if config.unreadable == "stop" or len(skipped) == len(source):
                raise  # what is wrong with all of them is no matter of a file
            if on_skip is not None:
                on_skip(str(error))
            return None
        return decoded

    def load(index, draw=_WHOLE, example=None):
        decoded = read(index, draw)
        if example is None:
            example = _empty(specs[draw != _WHOLE])
        if decoded is None or decoded.target.where.shape != example.where.shape:
            for array in example:
                array.fill(0)
        if decoded is not None:
            labels, where = decoded.target
            inside = tuple(slice(side) for side in where.shape)
            example.images[inside] = decoded.image
            example.labels[inside], example.where[inside] = labels, where
            example.sizes[:] = where.shape
        return example

    return load


def _specs(config: Data) -> dict[bool, Batch]:
    """The specs of examples, by whether they are for training."""
    return {training: example_spec(config, training=training) for training in (False, True)}


def _empty(spec: Batch, *rows: int) -> Batch:
    return jax.tree.map(lambda x: np.empty((*rows, *x.shape), x.dtype), spec)


class _Decoded(NamedTuple):
    """An example in the form of the config, but for its size."""

    image: Num[np.ndarray, "*pixels channels"]
    target: Target
    foreground: Int64[np.ndarray, " places"]  # some pixels of other classes than 0, if asked for


def _check(config: Data) -> None:
    rank = len(config.image_size)
    if rank not in (2, 3) or min(config.image_size) < 1:
        raise DataError(
            f"data.image_size is {config.image_size}, but must be (height, width), or (depth, "
            "height, width) of volumes"
        )
    for name in ("threads", "channels"):
        if getattr(config, name) < 1:
            raise DataError(f"data.{name} is {getattr(config, name)}, but must be at least 1")
    for name in ("mean", "std", "value_range"):
        if not all(map(math.isfinite, getattr(config, name))):
            raise DataError(f"data.{name} is {getattr(config, name)}, but must be finite")
    for pair in config.label_map:
        if not all(-(2**63) <= x < 2**63 for x in pair):
            raise DataError(f"data.label_map has {pair}, but numbers must fit into 64 bits")
    if not config.classes or len(set(config.classes)) < len(config.classes):
        raise DataError(
            f"data.classes is {config.classes}, but must be one name or more, no two alike"
        )
    if config.bits not in (8, 16):
        raise DataError(f"data.bits is {config.bits}, but must be 8 or 16")
    if config.unreadable not in ("stop", "skip"):
        raise DataError(f'data.unreadable is {config.unreadable!r}, but must be "stop" or "skip"')
    if not 0.0 <= config.foreground <= 1.0:
        raise DataError(f"data.foreground is {config.foreground}, but must be a share in 0..1")
    for name in ("value_range", "value_percentiles"):
        values = getattr(config, name)
        if values and (len(values) != 2 or not values[0] < values[1]):
            raise DataError(f"data.{name} is {values}, but must be (lowest, highest)")
    if config.value_percentiles and not (
        0 <= config.value_percentiles[0] < config.value_percentiles[1] <= 100
    ):
        raise DataError(f"data.value_percentiles is {config.value_percentiles}; they are 0 to 100")
    if config.value_range and config.value_percentiles:
        raise DataError("data.value_range and data.value_percentiles are both set; choose one")
    for name in ("patch_size", "spacing"):
        values = getattr(config, name)
        if values and (len(values) != rank or not all(x > 0 for x in values)):
            raise DataError(
                f"data.{name} is {values}, but must have {rank} positive numbers, as many as "
                "data.image_size"
            )


def _image_dtype(config: Data) -> np.dtype:
    return np.dtype(np.uint16 if config.bits == 16 else np.uint8)


def _make_decode(source: Source, config: Data) -> Callable[[int], _Decoded]:
    """Makes the function that reads an example and brings it into the form of the config."""
    make_target = targets.make_target(config)

    def decode(index):
        name = source.name(index)
        example = source[index]
        if example.mask is None:
            return _unlabelled(example, config, name)
        pixels = targets.pixels_of(example.mask, config)
        if example.image.shape[:-1] != pixels:
            raise DataError(
                f"{name}: the image is {_size(example.image.shape[:-1])}, but its mask "
                f"{_size(pixels)}; they must be of one size"
            )
        image = _channels(_values(example.image, config, name), config.channels, name)
        mask, size = example.mask, _new_size(pixels, example, config, name)
        # Borders are those of objects as they are seen, or small ones would lose theirs.
        if size != pixels and config.masks in targets.OF_OBJECTS:
            mask = _nearest(mask, size)
        target = make_target(mask, name)
        if size != pixels:
            image, target = _interpolated(image, size), _resized(target, size, config)
        return _Decoded(image, target, _foreground(target, config))

    return decode


def _unlabelled(example: Example, config: Data, name: str) -> _Decoded:
    """An image of which no pixel counts, in the form of the config."""
    pixels = example.image.shape[:-1]
    image = _channels(_values(example.image, config, name), config.channels, name)
    size = _new_size(pixels, example, config, name)
    if size != pixels:
        image = _interpolated(image, size)
    spec = example_spec(config, training=False).labels
    labels = np.zeros((*size, *spec.shape[len(size) :]), spec.dtype)
    target = Target(labels, np.zeros(size, bool))
    return _Decoded(image, target, _foreground(target, config))


def _cached(
    decode: Callable[[int], _Decoded], source: Source, config: Data
) -> Callable[[int], _Decoded]:
    """Keeps what is decoded in memory-mapped files, by what was stored and the config.

    Files are written whole or not at all, so that threads, processes and runs may share them.
    """
    directory = pathlib.Path(config.cache)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"data.cache is {config.cache}, which can't be a directory ({error.strerror}); name "
            "another"
        ) from error
    # Not of the fields that change nothing of what is decoded.
    plain = {"cache": "", "threads": 0, "unreadable": "", "mean": (), "std": ()}
    plain |= {"unlabelled": "", "unlabelled_share": 0.0}
    fields = repr(dataclasses.replace(config, **plain, train_split="", eval_split=""))
    key = f"{_CACHE_FORMAT} {fields}"
    mapped = functools.lru_cache(_MAPPED)(_unpacked)

    def read(index):
        try:
            version = source.version(index)
        except OSError as error:
            raise DataError(f"{source.name(index)} can't be read ({error})") from error
        named = f"{key} {version}".encode(errors="surrogateescape")
        path = directory / hashlib.sha256(named).hexdigest()[:40]
        try:
            image, labels, where, foreground = mapped(path)
        except (OSError, ValueError, TypeError):  # not there, or not whole
            found = decode(index)
            with writing.whole(path) as fresh, fresh.open("wb") as file:
                _pack(file, (found.image, *found.target, found.foreground))
            return found
        return _Decoded(image, Target(labels, where), foreground)

    return read


def _pack(file: BinaryIO, arrays: Sequence[np.ndarray]) -> None:
    """Writes arrays one after the other, behind a line that says their types and shapes."""
    header = json.dumps([[x.dtype.str, x.shape] for x in arrays]).encode()
    file.write(header.ljust(_ALIGN * (len(header) // _ALIGN + 1) - 1) + b"\n")
    for array in arrays:
        file.write(array.tobytes() + bytes(-array.nbytes % _ALIGN))


def _unpacked(path: pathlib.Path) -> list[np.ndarray]:
    """The arrays of a file, mapped into memory; ValueError unless it has all of them."""
    content = np.asarray(np.memmap(path, np.uint8, "r"))
    line = bytes(content[:1024]).split(b"\n")[0]
    place, arrays = len(line) + 1, []
    for dtype, shape in json.loads(line):
        size = math.prod(shape) * np.dtype(dtype).itemsize
        arrays.append(content[place : place + size].view(dtype).reshape(shape))
        place += size + -size % _ALIGN
    if place != len(content):
        raise ValueError(f"{path} has {len(content)} bytes, not {place}")
    return arrays


def _cut(decoded: _Decoded, draw: int, config: Data) -> _Decoded:
    """The patch of this draw: anywhere, or with a pixel of the foreground somewhere in it."""
    rng = np.random.default_rng(draw)
    labels, where = decoded.target
    shape = decoded.image.shape[:-1]
    around, found = None, decoded.foreground
    if rng.random() < config.foreground and found.size:
        around = np.unravel_index(found[rng.integers(found.size)], shape)
    starts = []
    for axis, (side, size) in enumerate(zip(shape, config.patch_size, strict=True)):
        low, high = 0, max(side - size, 0)
        if around is not None:
            low, high = max(low, around[axis] - size + 1), min(high, around[axis])
        starts.append(rng.integers(low, high + 1))
    patch = tuple(slice(a, a + b) for a, b in zip(starts, config.patch_size, strict=True))
    return _Decoded(decoded.image[patch], Target(labels[patch], where[patch]), found)


def _foreground(target: Target, config: Data) -> Int64[np.ndarray, " places"]:
    """Pixels of another class than 0, for anyone, evenly spread over all of them."""
    if not (config.patch_size and config.foreground):
        return np.zeros(0, np.int64)
    labels, where = target
    found = np.flatnonzero(
        where & (labels[..., 1:].any(-1) if targets.is_soft(config) else labels > 0)
    )
    if found.size <= _PLACES:
        return found
    return found[np.linspace(0, found.size - 1, _PLACES).astype(np.int64)]


def _fits(decoded: _Decoded, size: Sequence[int], name: str) -> None:
    shape = decoded.image.shape[:-1]
    if any(side > most for side, most in zip(shape, size, strict=True)):
        raise DataError(
            f"{name}: the image is {_size(shape)}, larger than data.image_size {_size(size)}, and "
            "with data.patch_size or data.spacing images are not scaled down; raise data.image_size"
        )


def _values(image: np.ndarray, config: Data, name: str) -> np.ndarray:
    """The image in the type that reaches the device, whose range is 0..1."""
    dtype = _image_dtype(config)
    if config.value_percentiles:
        finite = image if image.dtype.kind != "f" else image[np.isfinite(image)]
        if not finite.size:
            raise DataError(f"{name}: the image has no finite value")
        low, high = np.percentile(finite, config.value_percentiles)
    elif config.value_range:
        low, high = config.value_range
    elif image.dtype == dtype:
        return image
    elif image.dtype == np.uint8:
        return image.astype(np.uint16) * 257
    else:
        wider = "data.bits=16, " if image.dtype == np.uint16 else ""
        raise DataError(
            f"{name}: the image is {image.dtype}, but must be {dtype}; convert it, or set {wider}"
            "data.value_range or data.value_percentiles to say which values become 0 and 1"
        )
    scale = np.iinfo(dtype).max
    # As float64 where float32 would not tell all values apart.
    wide = np.float32 if image.dtype.itemsize <= 2 or image.dtype == np.float32 else np.float64
    with np.errstate(invalid="ignore"):
        shares = (image.astype(wide) - wide(low)) / wide(max(high - low, 1e-30))
    # What is not a number becomes the least.
    return (np.clip(np.nan_to_num(shares, nan=0.0), 0, 1) * scale + 0.5).astype(dtype)


def _channels(image: np.ndarray, channels: int, name: str) -> np.ndarray:
    """The image with the channels asked for: grey and RGB are converted, alpha is dropped."""
    found = image.shape[-1]
    if found == channels:
        return image
    if channels == 1 and found in (3, 4) and image.ndim == 3:
        return cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_RGB2GRAY)[..., None]
    if channels == 3 and found in (1, 4):
        return np.repeat(image, 3, -1) if found == 1 else image[..., :3]
    raise DataError(
        f"{name}: the image has {found} channels, but data.channels is {channels}; set "
        f"--config.data.channels={found}"
    )


def _new_size(shape: tuple[int, ...], example: Example, config: Data, name: str) -> tuple[int, ...]:
    """The sides of an image when its pixels are as far apart as asked for, and it fits.

    Images are never scaled up to fit, and not at all where training sees patches of them in full
    size, or where distances are asked for: evaluation then has to see them as they are, too.
    """
    if config.spacing:
        if example.spacing is None:
            raise DataError(
                f"{name}: data.spacing is {config.spacing}, but the files don't say the spacing of "
                "their pixels; give NIfTI files, or leave data.spacing out"
            )
        pairs = zip(shape, example.spacing, config.spacing, strict=True)
        return tuple(max(1, round(side * a / b)) for side, a, b in pairs)
    scale = min(a / b for a, b in zip(config.image_size, shape, strict=True))
    if config.patch_size or scale >= 1:
        return shape
    return tuple(max(1, round(side * scale)) for side in shape)


def _resized(target: Target, size: Sequence[int], config: Data) -> Target:
    """Labels in another size: averages of shares, classes by the nearest pixel."""
    labels, where = target
    if where.shape == tuple(size):
        return target
    if not targets.is_soft(config):
        return Target(_nearest(labels, size), _nearest(where, size))
    total = labels.sum(-1, keepdims=True, dtype=np.float32)
    shares = _interpolated(labels / np.where(total > 0, total, 1), size)
    # Bytes hold shares in 255ths.
    labels = np.rint(255 * shares).astype(np.uint8) if labels.dtype == np.uint8 else shares
    return Target(labels, labels.any(-1))


def _interpolated(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Averages of what each pixel covers where it shrinks, and linear between pixels elsewhere."""
    if len(size) == 2:
        shrinks = any(a < b for a, b in zip(size, image.shape, strict=False))
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        # OpenCV averages at most four channels at once.
        parts = (image[..., i : i + 4] for i in range(0, image.shape[-1], 4))
        parts = [cv2.resize(x, size[::-1], interpolation=how).reshape(*size, -1) for x in parts]
        return np.concatenate(parts, -1)
    import scipy.ndimage  # slow to import, and seldom needed

    factors = [*(a / b for a, b in zip(size, image.shape, strict=False)), 1]
    # As wide as a pixel of the result, so that no detail is lost between pixels.
    widths = [max(0.0, (1 / factor - 1) / 2) for factor in factors]
    smooth = scipy.ndimage.gaussian_filter(image.astype(np.float32), widths, mode="nearest")
    found = scipy.ndimage.zoom(smooth, factors, order=1, mode="nearest", grid_mode=True)
    return found if image.dtype.kind == "f" else (found + 0.5).astype(image.dtype)


def _nearest(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The label of the nearest pixel, by the centres of pixels, as averages are."""
    for axis, (new, old) in enumerate(zip(size, labels.shape, strict=True)):
        labels = labels.take((2 * np.arange(new) + 1) * old // (2 * new), axis)
    return labels


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
