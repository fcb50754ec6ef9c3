"""Images a second of augmentation beside augmax and kornia, all in one run.

    python benchmarks/augment.py --sizes 256,512

All do the same work on the same images: RGB and a mask, as decoded, to normalised float32 and a
mask. They take turns, so that what else the machine does meets each alike; the ratio is the median
over the turns of their time to ours. README.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

# jax needs cores on which torch's idle threads would spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import augmax
import jax
import jax.numpy as jnp
import kornia.augmentation as ka
import machine
import numpy as np
import torch
from losses import take_turns

from jaxseg import Batch
from jaxseg.config import Augment
from jaxseg.data import augment

OURS = "jaxseg"
PACKAGES = ("jaxseg", "jax", "jaxlib", "numpy", "augmax", "kornia", "torch")
BATCH, CLASSES = 16, 21
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What each case changes at random; that it is cut to 3/4 of each side, and normalised, goes without
# saying.
CASES = {
    "crop": "flip, crop",
    "affine": "flip, rotation, scale, crop",
    "light": "flip, rotation, scale, crop, brightness, contrast",
    "elastic": "flip, rotation, scale, crop, elastic, brightness, contrast",
}


def ours(case: str, size: int) -> Augment:
    """A standard deviation of brightness is about 0.2 of the others."""
    changes = CASES[case].split(", ")
    return Augment(
        crop_size=(size, size),
        flip_vertical=False,
        rotate90=False,
        rotate=30.0 if "rotation" in changes else 0.0,
        scale=(0.8, 1.25) if "scale" in changes else (1.0, 1.0),
        elastic=5.0 if "elastic" in changes else 0.0,
        brightness=0.5 if "brightness" in changes else 0.0,
        contrast=0.2 if "contrast" in changes else 0.0,
    )


def of_augmax(case: str, size: int) -> augmax.Chain:
    changes = CASES[case].split(", ")
    crop = augmax.RandomCrop(size)
    if "scale" in changes:
        crop = augmax.RandomSizedCrop(size, zoom_range=(0.8, 1.25), prevent_underzoom=False)
    return augmax.Chain(
        augmax.ByteToFloat(),
        augmax.HorizontalFlip(),
        *([augmax.Rotate(30)] if "rotation" in changes else []),
        *([augmax.Warp(5, 32)] if "elastic" in changes else []),
        crop,
        *([augmax.RandomBrightness((-0.1, 0.1), p=1.0)] if "brightness" in changes else []),
        *([augmax.RandomContrast((-0.2, 0.2), p=1.0)] if "contrast" in changes else []),
        augmax.Normalize(jnp.array(MEAN), jnp.array(STD)),
        input_types=[augmax.InputType.IMAGE, augmax.InputType.MASK],
    )


def of_kornia(case: str, size: int) -> ka.AugmentationSequential:
    changes = CASES[case].split(", ")
    light = {
        name: (0.8, 1.2) if name == "contrast" else (0.9, 1.1)
        for name in ("brightness", "contrast")
        if name in changes
    }
    elastic = {"kernel_size": (63, 63), "sigma": (16.0, 16.0), "alpha": (1.0, 1.0), "p": 1.0}
    return ka.AugmentationSequential(
        ka.RandomHorizontalFlip(),
        *([ka.RandomAffine(30.0, scale=(0.8, 1.25), p=1.0)] if "rotation" in changes else []),
        *([ka.RandomElasticTransform(**elastic)] if "elastic" in changes else []),
        ka.RandomCrop((size, size)),
        *([ka.ColorJiggle(**light, p=1.0)] if light else []),
        ka.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        data_keys=["input", "mask"],
    )


def contestants(case: str, size: int) -> dict[str, tuple[Callable, Callable]]:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (BATCH, size // 16, size // 16, 3), np.uint8)
    images = np.repeat(np.repeat(coarse, 16, 1), 16, 2)
    images ^= random.integers(0, 16, images.shape, np.uint8)
    labels = np.repeat(np.repeat(coarse[..., 0] % CLASSES, 16, 1), 16, 2)
    cut = 3 * size // 4

    batch = Batch(*map(jnp.asarray, (images, labels, np.ones(labels.shape, bool))))
    change = jax.jit(partial(augment, config=ours(case, cut), mean=MEAN, std=STD))
    chain = jax.jit(jax.vmap(of_augmax(case, cut)))
    splits = jax.jit(lambda seed: jax.random.split(jax.random.key(seed), BATCH))
    seeds = iter(range(10**9))

    module = of_kornia(case, cut)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    of_torch = torch.from_numpy(images).movedim(-1, 1).contiguous().to(device)
    masks = torch.from_numpy(labels)[:, None].to(device)

    def by_kornia():
        with torch.inference_mode():
            return module(of_torch.float() / 255, masks.float())

    def wait_for_torch(_):
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        OURS: (lambda: change(batch, splits(next(seeds))), jax.block_until_ready),
        "augmax": (
            lambda: chain(splits(next(seeds)), [batch.images, batch.labels]),
            jax.block_until_ready,
        ),
        "kornia": (by_kornia, wait_for_torch),
    }


def main() -> None:
    device = jax.devices()[0]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    slug = device.device_kind.lower().replace(" ", "-")
    results = Path(__file__).parent / "results" / f"augment-{slug}.json"
    parser.add_argument(
        "--sizes", type=lambda text: [*map(int, text.split(","))], default=[256, 512]
    )
    parser.add_argument(
        "--cases", type=lambda text: text.split(","), default=[*CASES], help=",".join(CASES)
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=results)
    args = parser.parse_args()
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"no such cases: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    warnings.simplefilter("ignore")
    report = {
        "device": device.device_kind,
        **machine.facts(PACKAGES),
        "repeats": args.repeats,
        "rows": [],
    }
    print(f"{device.device_kind}, {report['machine']}, load {report['load'][0]:.1f}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        for case in args.cases:
            seconds = take_turns(contestants(case, size), args.repeats, 0.2)
            line = f"{size:5} {case:10}{BATCH / statistics.median(seconds[OURS]):8.0f} images/s"
            for who, times in seconds.items():
                ratios = [x / y for x, y in zip(times, seconds[OURS], strict=True)]
                row = {
                    "size": size,
                    "case": case,
                    "contestant": who,
                    "images_per_second": BATCH / statistics.median(times),
                    "to_ours": statistics.median(ratios),
                }
                report["rows"].append(row)
                line += f"  {who} {row['to_ours']:.2f}" if who != OURS else ""
            print(line, flush=True)
            args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
