"""What a run is made of: typed data, without behaviour. The defaults are the embedded demo run.

A page in configs/ has a function `get_config()` that returns a `Config`; any field can be replaced
on the command line, as in `--config.optim.learning_rate=3e-4`.
"""

import dataclasses
import json
import os
import pathlib
import typing

from jaxseg import writing


@dataclasses.dataclass(slots=True)  # so that a misspelled field is an error
class Data:
    """Where images and masks come from, and the form they reach the device in."""

    name: str = "jaxseg_nuclei"  # a tensorflow-datasets name, or "folder"
    root: str = ""  # the folder, or where tfds keeps prepared data ("": its own default)
    train_split: str = "train"  # like "train", "train[:80%]", or of five parts "[-1/5]" and "[1/5]"
    eval_split: str = "validation"
    image: str = "image"  # the feature, or the directory below root ({split} is filled in)
    label: str = "segmentation_mask"  # likewise for the masks; of a folder also a COCO JSON file
    listing: str = ""  # of a folder: a text file with the names of the split, or a CSV file
    split_by: str = "order"  # of names; or "hash", by which no file moves when others are added
    group: str = ""  # a pattern; files whose names match it alike (a patient's) stay together
    masks: str = "classes"  # what they hold: see jaxseg.data.targets
    classes: tuple[str, ...] = ("background", "nucleus")  # in the order of their indices
    colours: tuple[tuple[int, int, int], ...] = ()  # of the classes, where masks are RGB images
    label_map: tuple[tuple[int, int], ...] = ()  # (mask value, class) pairs; () keeps values
    ignore_label: int = 255  # pixels of this value do not count
    border: int = 1  # pixels from another object or the background, where masks="borders"
    channels: int = 1  # of the images: 1 is grey, 3 is RGB
    bits: int = 8  # of a channel on its way to the device, 8 or 16
    value_range: tuple[float, ...] = ()  # stored values that become 0 and 1; () is that of the type
    value_percentiles: tuple[float, ...] = ()  # or these of each image, such as (0.5, 99.5)
    spacing: tuple[float, ...] = ()  # of pixels, as NIfTI says it; volumes are resampled to it
    image_size: tuple[int, ...] = (128, 128)  # larger images are scaled down, then all are padded
    patch_size: tuple[int, ...] = ()  # trains on parts of this size, cut from images in full size
    foreground: float = 0.0  # the share of these parts around a pixel that is not class 0
    mean: tuple[float, ...] = ()  # of each channel in 0..1; () standardises every image by itself
    std: tuple[float, ...] = ()
    threads: int = 4  # that read and decode
    unreadable: str = "stop"  # at an example that can't be read; or "skip" it, and say so
    cache: str = ""  # a directory for decoded examples, which are then decoded once
    unlabelled: str = ""  # images for the teacher: a tfds split, or a folder below root
    unlabelled_share: float = 0.5  # of each batch, taken from these


@dataclasses.dataclass(slots=True)
class Augment:
    """Random changes of the training images, on the device."""

    crop_size: tuple[int, ...] = ()  # () keeps the size
    flip_horizontal: bool = True
    flip_vertical: bool = True
    flip_depth: bool = False  # of volumes, along their first axis
    rotate90: bool = True  # a random multiple of 90 degrees, in the plane of the last two axes
    rotate: float = 0.0  # at most this many degrees either way; of volumes about each axis
    scale: tuple[float, float] = (1.0, 1.0)  # a random magnification
    shear: float = 0.0  # at most this many degrees either way
    translate: float = 0.0  # at most this share of each side, either way
    elastic: float = 0.0  # standard deviation of the displacement of control points, in pixels
    elastic_spacing: int = 32  # pixels from one control point to the next
    brightness: float = 0.1  # added, at most this many standard deviations either way
    contrast: float = 0.1  # a factor of at most 1 plus or minus this
    saturation: float = 0.0  # likewise; of RGB images
    hue: float = 0.0  # at most this share of the colour circle either way; of RGB images
    gamma: float = 0.0  # an exponent between 1 / (1 + this) and 1 + this, of values in 0..1
    noise: float = 0.0  # Gaussian, at most this many standard deviations
    blur: float = 0.0  # Gaussian, of a width of at most this many pixels
    cutout: float = 0.0  # a box of at most this share of each side becomes 0
    cutmix: float = 0.0  # the probability that a rectangle is another image's
    classmix: float = 0.0  # the probability that half of the classes of another image are pasted
    copy_paste: float = 0.0  # the probability that what is not class 0 of another image is pasted
    mosaic: float = 0.0  # the probability that the quarters are of four images


@dataclasses.dataclass(slots=True)
class Model:
    """The U-Net."""

    widths: tuple[int, ...] = (16, 32, 64)  # channels of each level, finest first
    norm: str = "batch"  # or "group"
    resolutions: int = 1  # at which logits are trained, weighted 1, 1/2, 1/4, ...; 1 is the finest
    dropout: float = 0.0
    dtype: str = "float32"  # of the computation, or "bfloat16"; parameters are float32
    remat: bool = False  # computes each block again for its gradient, rather than to keep it
    window: tuple[int, ...] = ()  # evaluates larger images in such windows, a quarter overlapping


@dataclasses.dataclass(slots=True)
class Optim:
    """The optimizer and its schedule. docs/training.md says which to take."""

    name: str = "adam"  # or "adamw", "rmsprop", "sgd", "lion", "muon", "adafactor", "schedule_free"
    learning_rate: float = 3e-3
    rates: tuple[tuple[str, float], ...] = ()  # factors by name: (("down*", 0.1),); 0 freezes
    schedule: str = "cosine"  # after the warm-up; or "polynomial", "one_cycle", "constant"
    warmup_steps: int = 20
    final_share: float = 0.0  # of the learning rate, at the last step, unless "constant"
    power: float = 0.9  # of "polynomial"; 1 is a straight line
    weight_decay: float = 0.0  # decoupled, on kernels only
    momentum: float = 0.9  # of rmsprop and sgd; the average's share in schedule_free
    clip_norm: float = 1.0  # of the global gradient; 0 does not clip
    ema_decay: float = 0.0  # of the model's moving average, which is then evaluated; 0: none


@dataclasses.dataclass(slots=True)
class Teacher:
    """Whom the model follows besides the masks, also in images that have none."""

    workdir: str = ""  # a run, whose best checkpoint teaches; "" is the model's moving average
    loss: tuple = ()  # terms as those of loss, between model and teacher; () is no teacher
    confidence: float = 0.0  # probability of the teacher's class from which a pixel counts


@dataclasses.dataclass(slots=True)
class Config:
    """One run."""

    seed: int = 0
    steps: int = 120
    # An integer; ml_collections has no flags of several types.
    batch_size: object = 8  # over all devices and hosts; "auto": as many as fit, found once
    parts: int = 1  # of a device's images, taken one after another to save memory
    eval_batch_size: int = 4
    eval_every: int = 30  # steps; the checkpoint written then can become the best one
    checkpoint_every: int = 30  # steps
    keep_latest: int = 2  # checkpoints, besides the best one
    log_every: int = 10  # steps
    pictures: int = 4  # images of the evaluation split that are drawn
    parallel: str = "pmap"  # or "shard_map", "fsdp" (splits the state), "spatial" (images)
    not_finite: str = "stop"  # at such a loss; or "skip" its batch, from the last checkpoint on
    disk_full: str = "stop"  # or "go_on" without the checkpoints that it has no room for
    # Terms (name, weight) or (name, weight, {"option": value}) from jaxseg.losses.
    loss: tuple = (("cross_entropy", 1.0), ("relative_entropy", 0.5))
    metrics: tuple[str, ...] = ()  # also scored at evaluations; evaluate --help lists them
    best: str = "val/mean_iou"  # the score of metrics.jsonl that chooses the best checkpoint
    patience: int = 0  # evaluations without a better score, after which the run ends; 0: never
    loggers: tuple[str, ...] = ("tensorboard",)  # besides metrics.jsonl; "csv", "wandb", "mlflow"
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    model: Model = dataclasses.field(default_factory=Model)
    optim: Optim = dataclasses.field(default_factory=Optim)
    init_from: str = ""  # a workdir, from whose best checkpoint the parameters begin
    teacher: Teacher = dataclasses.field(default_factory=Teacher)


def get_config() -> Config:
    """The embedded demo run, in the form of a page of configs/."""
    return Config()


def from_dict(values: dict, kind: type = Config, prefix: str = "") -> typing.Any:
    """The config whose `dataclasses.asdict` these values are, also after a way through JSON.

    Raises ValueError for a field that does not exist or has a value of another type.
    """
    types = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{prefix or 'the config'} is {values!r}, but must be an object of fields")
    unknown = values.keys() - types.keys()
    if unknown:
        raise ValueError(
            f"the config has {', '.join(prefix + name for name in sorted(unknown))}, which this "
            "version of jaxseg does not know; read it with the version that wrote it"
        )
    fields = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            fields[name] = from_dict(value, types[name], f"{prefix}{name}.")
        else:
            fields[name] = _typed(value, types[name], f"{prefix}{name} is {value!r}")
    return kind(**fields)


def anchored(config: Config) -> Config:
    """The config with absolute paths, so that it means the same from any directory."""

    def absolute(path):
        if not path or "://" in str(path):
            return path
        return os.path.abspath(os.path.expanduser(path))

    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=absolute(config.data.root)),
        init_from=absolute(config.init_from),
        teacher=dataclasses.replace(config.teacher, workdir=absolute(config.teacher.workdir)),
    )


def write(path: pathlib.Path, config: Config) -> None:
    """Keeps a config as JSON: a whole file, or the one that was there before."""
    with writing.whole(path) as fresh:
        fresh.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def read(path: pathlib.Path) -> Config:
    """The config that a run keeps in its workdir."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(
            f"{path} is not JSON ({error}); delete it if the run's config is given otherwise"
        ) from error
    try:
        return from_dict(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _typed(value: typing.Any, kind: typing.Any, what: str) -> typing.Any:
    """The value as the type asked for: lists become tuples, integers floats; else ValueError."""
    if kind is object:
        return value
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        if not arguments:
            return tuple(_typed(x, type(x) if type(x) is not list else tuple, what) for x in value)
        if arguments[-1] is not ... and value and len(value) != len(arguments):
            raise ValueError(f"{what}, but must have {len(arguments)} values")
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_typed(x, k, what) for x, k in zip(value, each, strict=False))
    if origin is float and type(value) is int:
        return float(value)
    if type(value) is not origin:
        raise ValueError(f"{what}, but must be of type {getattr(kind, '__name__', kind)}")
    return value
