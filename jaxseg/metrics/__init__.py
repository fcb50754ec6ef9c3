"""Scores: counted on the device in integers, divided on the host in float64."""

from jaxseg.metrics.confusion import confusion_matrix, iou, mean_iou, pixel_accuracy

__all__ = ["confusion_matrix", "iou", "mean_iou", "pixel_accuracy"]
