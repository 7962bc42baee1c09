"""The order in which training sees a data set: a pure function of the seed and the step."""

import numpy as np

from tinyddpm.checks import check_flag, check_kind, check_whole
from tinyddpm.data.dataset import Dataset
from tinyddpm.data.pixels import to_unit
from tinyddpm.errors import InputError


class Batches:
    """Shuffled batches of a data set, addressed by step.

    The epochs form one endless stream: epoch e is the permutation `default_rng([seed, e]).permutation(N)`,
    and step s takes the positions s·B … (s+1)·B - 1 of the stream. A batch may therefore begin in one epoch
    and end in the next (or, if it is larger than the set, in a later one), and every image is used exactly
    once per epoch. Nothing depends on which steps were read before: a resumed run needs only its step.

    dataset: at least one image; batch_size: at least 1; seed: a non-negative integer.
    flip: mirror images left-right with probability 1/2, drawn for each (seed, epoch, position): in epoch e
    those at the positions where `default_rng([seed, e, 1]).random(N) < 0.5`.
    Raises InputError for other values.
    """

    def __init__(self, dataset: Dataset, batch_size: int, seed: int, flip: bool = False) -> None:
        check_kind("dataset", dataset, Dataset, "data.load('digits') or data.Dataset('mine', images)")
        if len(dataset) == 0:
            raise InputError(f"{dataset.name} has no images; batches need at least one")
        self.dataset = dataset
        self.batch_size = check_whole("batch_size", batch_size)
        self.seed = check_whole("seed", seed, 0)
        self.flip = check_flag("flip", flip)
        # Only spares drawing the same epoch's order again for each of its batches.
        self._latest: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every image has been seen at least once: N / batch_size, rounded up."""
        return -(-len(self.dataset) // self.batch_size)

    def at(self, step: int, rows: slice | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """The batch of a step: x0 (B, H, W, C) float32 in [-1, 1], and labels (B,) int64 or None.

        step: 0, 1, 2, …; raises InputError for others. rows: the part of the batch that is wanted, by default all.
        """
        begin, stop, _ = (rows or slice(None)).indices(self.batch_size)
        first = check_whole("step", step, 0) * self.batch_size
        count = len(self.dataset)
        chosen, mirrored, first, end = [], [], first + begin, first + stop
        while first < end:
            epoch, position = divmod(first, count)
            last = min(count, position + end - first)
            order, coins = self._epoch(epoch)
            chosen.append(order[position:last])
            mirrored.append(coins[position:last])
            first += last - position
        index = np.concatenate(chosen)
        x0 = to_unit(self.dataset.images[index])
        if self.flip:
            mirror = np.concatenate(mirrored)
            x0[mirror] = x0[mirror, :, ::-1]
        labels = None if self.dataset.labels is None else self.dataset.labels[index]
        return x0, labels

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        latest = self._latest
        if latest is None or latest[0] != epoch:
            count = len(self.dataset)
            order = np.random.default_rng([self.seed, epoch]).permutation(count)
            # Not [seed, epoch, 0]: NumPy pads keys with zeros, so that is the permutation's own stream.
            coins = np.random.default_rng([self.seed, epoch, 1]).random(count) < 0.5
            latest = self._latest = (epoch, order, coins)
        return latest[1], latest[2]
