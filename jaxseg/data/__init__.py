"""Batches from tensorflow-datasets and folders, addressed by the step."""

from jaxseg.data.augment import augment
from jaxseg.data.datasets import Example, Source, open_source
from jaxseg.data.files import DataError
from jaxseg.data.masks import MaskFolders, MaskGroup
from jaxseg.data.normalise import normalise
from jaxseg.data.pipeline import (
    batches,
    collate,
    empty_batch,
    eval_positions,
    example_spec,
    make_loader,
    train_positions,
)
from jaxseg.data.unlabelled import Training, open_training, unlabelled_rows
from jaxseg.data.views import views

__all__ = [
    "DataError",
    "Example",
    "MaskFolders",
    "MaskGroup",
    "Source",
    "Training",
    "augment",
    "batches",
    "collate",
    "empty_batch",
    "eval_positions",
    "example_spec",
    "make_loader",
    "normalise",
    "open_source",
    "open_training",
    "train_positions",
    "unlabelled_rows",
    "views",
]
