"""Metrics: counted on the device in integers, divided once on the host in float64."""

from jaxseg.metrics.confusion import (
    Confusion,
    accuracy,
    confusion_matrix,
    dice,
    f_beta,
    frequency_weighted_iou,
    iou,
    kappa,
    mcc,
    mean_iou,
    precision,
    recall,
    worst,
)

__all__ = [
    "Confusion",
    "accuracy",
    "confusion_matrix",
    "dice",
    "f_beta",
    "frequency_weighted_iou",
    "iou",
    "kappa",
    "mcc",
    "mean_iou",
    "precision",
    "recall",
    "worst",
]
