"""The embedded data set: nuclei in one fluorescence microscopy image, as tiles."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

TILE = 128
TRAIN_COLUMNS = 384  # of 512; the rest, the image's right quarter, is for validation


class Builder(tfds.core.GeneratorBasedBuilder):
    """Twelve training and four validation tiles of 128x128, disjoint parts of one image."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(TILE, TILE, 1)),
                    "segmentation_mask": tfds.features.Image(
                        shape=(TILE, TILE, 1), use_colormap=True, doc="0 background, 1 nucleus"
                    ),
                }
            ),
            supervised_keys=("image", "segmentation_mask"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(0, TRAIN_COLUMNS),
            "validation": self._generate_examples(TRAIN_COLUMNS, 512),
        }

    def _generate_examples(self, left, right):
        with np.load(pathlib.Path(__file__).parent / "nuclei_512.npz") as arrays:
            image, mask = arrays["image"], (arrays["instances"] > 0).astype(np.uint8)
        for row in range(0, len(image), TILE):
            for column in range(left, right, TILE):
                tile = np.s_[row : row + TILE, column : column + TILE]
                # PIL images, because tfds encodes arrays with TensorFlow.
                yield (
                    f"row{row}_column{column}",
                    {
                        "image": Image.fromarray(image[tile]),
                        "segmentation_mask": Image.fromarray(mask[tile]),
                    },
                )
