"""Images a second of reading, decoding and batching, beside torch's DataLoader and tf.data.

    python benchmarks/input.py --sizes 256,1024

All read the same files, JPEG or PNG with PNG masks, in turns in one run, into batches of uint8
images and class indices: `read`. With `augment`, images are also flipped, rotated, scaled, cropped
and changed in light: by albumentations in the workers of torch, by the ops of TensorFlow in those
of tf.data, and by `jaxseg.data.augment` on the device, which here are the same cores. `cached` is
ours with `data.cache`; `decoding` is OpenCV alone. README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations
import cv2
import grain
import jax
import machine
import numpy as np
import tensorflow as tf
import torch

from jaxseg import data
from jaxseg.config import Augment, Data

BATCH, FILES, WORKERS = 16, 64, os.cpu_count()
CLASSES = 11
PACKAGES = ("jaxseg", "jax", "torch", "albumentations", "tensorflow-cpu", "opencv-python-headless")


def write_files(root: pathlib.Path, size: int, kind: str) -> None:
    """Images as detailed as photographs are: noise of all scales, with regions as masks."""
    random = np.random.default_rng(0)
    for place in ("images", "masks"):
        (root / place).mkdir(parents=True)
    for index in range(FILES):
        image, mask = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.float32)
        for side in (4, 16, 64, 256):
            # As in photographs, the power falls with the square of the frequency.
            noise = random.normal(size=(side, side, 3)).astype(np.float32) * 100 / side**0.5
            image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + 128, 0, 255).astype(np.uint8)
        mask = cv2.resize(
            random.integers(0, CLASSES, (8, 8)).astype(np.uint8), (size, size), interpolation=0
        )
        options = [cv2.IMWRITE_JPEG_QUALITY, 90] if kind == "jpg" else []
        cv2.imwrite(str(root / "images" / f"{index:03}.{kind}"), image, options)
        cv2.imwrite(str(root / "masks" / f"{index:03}.png"), mask)


def ours(root: pathlib.Path, size: int, *, augment: bool, cache: str = "") -> Iterator:
    config = Data(
        name="folder",
        root=str(root),
        image="images",
        label="masks",
        classes=tuple(map(str, range(CLASSES))),
        channels=3,
        image_size=(size, size),
        threads=WORKERS,
        cache=cache,
    )
    source = data.open_source(config, "[:]")
    positions = data.train_positions(len(source), batch_size=BATCH, seed=0)
    batches = data.batches(source, positions, config)
    if not augment:
        return batches
    crop = (7 * size // 8,) * 2
    change = Augment(
        crop_size=crop,
        flip_horizontal=True,
        flip_vertical=False,
        rotate90=False,
        rotate=15.0,
        scale=(0.8, 1.25),
        brightness=0.2,
        contrast=0.2,
    )
    step = jax.jit(functools.partial(data.augment, config=change))

    def augmented():
        for number, batch in enumerate(batches):
            keys = jax.random.split(jax.random.key(number), BATCH)
            yield jax.block_until_ready(step(batch, keys))

    return augmented()


def decoding(root: pathlib.Path) -> Iterator:
    """OpenCV decodes as many files in as many threads, and nothing is made of them."""
    images, masks = (sorted((root / x).iterdir()) for x in ("images", "masks"))

    def decode(batch):
        for index in range(batch * BATCH, (batch + 1) * BATCH):
            for paths, how in ((images, cv2.IMREAD_COLOR_RGB), (masks, cv2.IMREAD_GRAYSCALE)):
                cv2.imdecode(np.fromfile(paths[index % FILES], np.uint8), how)
        return batch

    options = grain.ReadOptions(num_threads=WORKERS, prefetch_buffer_size=2 * WORKERS)
    return iter(grain.MapDataset.range(2**40).map(decode).to_iter_dataset(options))


class Files(torch.utils.data.Dataset):
    """Images and masks by OpenCV, as is usual."""

    def __init__(self, root: pathlib.Path, transform: albumentations.Compose | None):
        self._images, self._masks = (sorted((root / x).iterdir()) for x in ("images", "masks"))
        self._transform = transform

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        image = cv2.cvtColor(cv2.imread(str(self._images[index])), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(self._masks[index]), cv2.IMREAD_UNCHANGED)
        if self._transform is not None:
            both = self._transform(image=image, mask=mask)
            image, mask = both["image"], both["mask"]
        return torch.from_numpy(image), torch.from_numpy(mask)


def of_torch(root: pathlib.Path, size: int, *, augment: bool) -> Iterator:
    crop = 7 * size // 8
    transform = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(rotate=(-15, 15), scale=(0.8, 1.25), p=1.0),
            albumentations.RandomCrop(crop, crop),
            albumentations.RandomBrightnessContrast(0.2, 0.2, p=1.0),
        ]
    )
    loader = torch.utils.data.DataLoader(
        Files(root, transform if augment else None),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
    )

    def forever():
        while True:
            yield from loader

    return forever()


def of_tensorflow(root: pathlib.Path, size: int, *, augment: bool) -> Iterator:
    images, masks = (sorted(map(str, (root / x).iterdir())) for x in ("images", "masks"))
    jpeg = images[0].endswith("jpg")
    crop = 7 * size // 8

    def read(image, mask):
        decode = tf.io.decode_jpeg if jpeg else tf.io.decode_png
        image = decode(tf.io.read_file(image), channels=3)
        mask = tf.io.decode_png(tf.io.read_file(mask), channels=1)
        if not augment:
            return image, mask[..., 0]
        angle = tf.random.uniform((), -1, 1) * np.pi / 12
        scale = tf.random.uniform((), 0.8, 1.25) * tf.where(tf.random.uniform(()) < 0.5, -1.0, 1.0)
        cosine, sine = tf.cos(angle) / tf.abs(scale), tf.sin(angle) / tf.abs(scale)
        flip, centre = tf.sign(scale), (size - 1) / 2
        row = tf.stack(
            [
                *(cosine * flip, -sine, centre - centre * (cosine * flip - sine)),
                *(sine * flip, cosine, centre - centre * (sine * flip + cosine)),
                *(0.0, 0.0),
            ]
        )
        place = tf.random.uniform((2,), 0, size - crop + 1, tf.int32)

        def warp(x, how):
            x = tf.raw_ops.ImageProjectiveTransformV3(
                images=x[None],
                transforms=row[None],
                output_shape=[size, size],
                fill_value=0.0,
                interpolation=how,
                fill_mode="CONSTANT",
            )[0]
            return tf.slice(x, [place[0], place[1], 0], [crop, crop, -1])

        image = warp(tf.cast(image, tf.float32), "BILINEAR")
        image = tf.image.random_brightness(image, 0.2 * 255)
        image = tf.image.random_contrast(image, 0.8, 1.2)
        return image, warp(mask, "NEAREST")[..., 0]

    dataset = tf.data.Dataset.from_tensor_slices((images, masks)).shuffle(FILES).repeat()
    dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE).as_numpy_iterator())


def take_turns(
    contestants: dict[str, Callable[[], Iterator]], batches: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds for so many batches, one contestant after the other, `repeats` times.

    Each is started anew for its turn, or its workers would go on in the turns of others; the clock
    starts after two batches.
    """
    seconds = {who: [] for who in contestants}
    for _ in range(repeats):
        for who, start in contestants.items():
            iterator = start()
            for _ in range(2):
                next(iterator)
            begun = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            seconds[who].append(time.perf_counter() - begun)
            del iterator
            time.sleep(0.5)  # until its workers have ended
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    results = pathlib.Path(__file__).parent / "results" / "input-cpu.json"
    parser.add_argument(
        "--sizes", type=lambda text: [int(x) for x in text.split(",")], default=[256, 1024]
    )
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=["jpg", "png"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=pathlib.Path, default=results)
    args = parser.parse_args()
    report = {
        **machine.facts(PACKAGES),
        "repeats": args.repeats,
        "rows": [],
    }
    print(f"{report['machine']}, load {report['load'][0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            for kind in args.kinds:
                root = pathlib.Path(folder) / f"{size}-{kind}"
                write_files(root, size, kind)
                for what in ("read", "augment"):
                    options = {"augment": what == "augment"}
                    cached = functools.partial(ours, root, size, cache=f"{root}-cache", **options)
                    contestants = {
                        "jaxseg": functools.partial(ours, root, size, **options),
                        "jaxseg, cached": cached,
                        "torch": functools.partial(of_torch, root, size, **options),
                        "tf.data": functools.partial(of_tensorflow, root, size, **options),
                    }
                    if what == "read":
                        contestants["decoding"] = functools.partial(decoding, root)
                    batches = 4 if size > 512 else 24
                    seconds = take_turns(contestants, batches, args.repeats)
                    line = f"{size:5} {kind} {what:8}"
                    for who, times in seconds.items():
                        pairs = zip(times, seconds["jaxseg"], strict=True)
                        row = {
                            "size": size,
                            "kind": kind,
                            "what": what,
                            "contestant": who,
                            "images_per_second": batches * BATCH / statistics.median(times),
                            "to_ours": statistics.median(x / y for x, y in pairs),
                        }
                        report["rows"].append(row)
                        line += f"  {who} {row['images_per_second']:.0f}/s"
                        line += "" if who == "jaxseg" else f" ({row['to_ours']:.2f})"
                    print(line, flush=True)
                    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
