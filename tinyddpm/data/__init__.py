"""Image data: named sets and folders of images as uint8 arrays, and the batches that training draws."""

from tinyddpm.data.batches import Batches
from tinyddpm.data.dataset import Dataset
from tinyddpm.data.named import LICENCES, NAMES, SPLITS, absolute, load
from tinyddpm.data.pixels import to_uint8, to_unit

__all__ = ["LICENCES", "NAMES", "SPLITS", "Batches", "Dataset", "absolute", "load", "to_uint8", "to_unit"]
