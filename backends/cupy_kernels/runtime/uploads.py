"""Batches and numbers on their way to a graph: copied from pinned memory while the graph before it runs.

An ordinary copy from the host waits until the device is done with all that it was given before. So what a call hands in
goes to pinned memory, from there to the device on a stream of its own, and in the order of the current stream to where
the graph reads it. Two slots take turns: one is filled while the other is on its way. The host waits only for the copy
of the call before last, so that it is never more than two calls ahead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.cupy_kernels.runtime.launch import ceil

# Kernels load 16 bytes at once
UNIT = 16


class Slot:
    """Pinned memory of the host, and memory of the device that it is copied to."""

    def __init__(self, xp: Any, size: int) -> None:
        self.host = np.frombuffer(xp.cuda.alloc_pinned_memory(size), np.uint8, size)
        self.device = xp.empty(size, np.uint8)
        # When the copy has left the host, and when the graph's memory has it
        self.arrived, self.taken = (xp.cuda.Event(disable_timing=True) for _ in range(2))


class Uploads:
    """Host arrays of certain shapes and types, which a graph finds in `arrays`, all in one piece of device memory."""

    def __init__(self, xp: Any, like: Sequence[np.ndarray]) -> None:
        """Allocates `arrays` by the current allocator."""
        self.xp = xp
        sizes = [ceil(max(a.nbytes, 1), UNIT) * UNIT for a in like]
        begins = np.cumsum([0, *sizes]).tolist()
        self.place = xp.empty(begins[-1], np.uint8)
        self.arrays = self.parts(self.place, begins, like)
        with xp.cuda.using_allocator(xp.get_default_memory_pool().malloc):
            self.slots = [Slot(xp, begins[-1]) for _ in range(2)]
        self.written = [self.parts(slot.host, begins, like) for slot in self.slots]
        self.stream, self.turn = xp.cuda.Stream(non_blocking=True), 0

    def parts(self, flat: Any, begins: list[int], like: Sequence[np.ndarray]) -> list[Any]:
        """The bytes cut into arrays of those shapes and types."""
        return [
            flat[begin : begin + a.nbytes].view(a.dtype).reshape(a.shape)
            for begin, a in zip(begins[:-1], like, strict=True)
        ]

    def send(self, given: Sequence[np.ndarray]) -> None:
        """Puts these into `arrays`, in the order of the current stream. Returns before they have arrived."""
        slot, written, self.turn = self.slots[self.turn], self.written[self.turn], 1 - self.turn
        slot.arrived.synchronize()
        for place, a in zip(written, given, strict=True):
            place[...] = a
        self.stream.wait_event(slot.taken)
        slot.device.set(slot.host, stream=self.stream)
        slot.arrived.record(self.stream)
        current = self.xp.cuda.get_current_stream()
        current.wait_event(slot.arrived)
        self.place[...] = slot.device
        slot.taken.record(current)
