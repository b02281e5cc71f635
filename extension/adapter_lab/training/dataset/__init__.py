"""Training folders: from images and captions on disk to batches, caches and a report."""

from adapter_lab.training.dataset.cache import CachedLatents, CachedText, FillReport, KeptText, LatentCache, TextCache
from adapter_lab.training.dataset.dataset import Dataset
from adapter_lab.training.dataset.images import PictureError
from adapter_lab.training.dataset.pixels import load_pixels, prefetch, stack_masks
from adapter_lab.training.dataset.report import DatasetReport
from adapter_lab.training.dataset.samples import Batch, Item, Sample
from adapter_lab.training.dataset.scan import largest_resolution, scan

__all__ = [
    "scan",
    "largest_resolution",
    "Dataset",
    "DatasetReport",
    "Item",
    "Sample",
    "Batch",
    "load_pixels",
    "prefetch",
    "stack_masks",
    "LatentCache",
    "TextCache",
    "CachedLatents",
    "CachedText",
    "FillReport",
    "KeptText",
    "PictureError",
]
