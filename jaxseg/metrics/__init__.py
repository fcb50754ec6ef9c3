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
from jaxseg.metrics.surfaces import (
    SurfaceDistances,
    average_surface_distance,
    boundary_iou,
    hausdorff,
    hausdorff_95,
    normalized_surface_dice,
    surface_distances,
)

__all__ = [
    "Confusion",
    "SurfaceDistances",
    "accuracy",
    "average_surface_distance",
    "boundary_iou",
    "confusion_matrix",
    "dice",
    "f_beta",
    "frequency_weighted_iou",
    "hausdorff",
    "hausdorff_95",
    "iou",
    "kappa",
    "mcc",
    "mean_iou",
    "normalized_surface_dice",
    "precision",
    "recall",
    "surface_distances",
    "worst",
]
