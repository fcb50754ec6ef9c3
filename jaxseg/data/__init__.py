"""Batches from tensorflow-datasets and folders, addressed by the step."""

from jaxseg.data.augment import augment, normalise
from jaxseg.data.datasets import DataError, Example, Source, open_source
from jaxseg.data.pipeline import batches, eval_positions, train_positions

__all__ = [
    "DataError",
    "Example",
    "Source",
    "augment",
    "batches",
    "eval_positions",
    "normalise",
    "open_source",
    "train_positions",
]
