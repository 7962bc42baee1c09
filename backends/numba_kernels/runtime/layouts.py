"""Scratch memory of a kernel, cut into places: said once, where the kernel is launched; workers only read it.

A worker has no bounds to check, so it must not compute where its places begin: the launcher's size and the worker's
offsets would be two formulas that nobody keeps equal. Here both come from one `Layout`. In a plan, a place NAME is
NAME_at, its first byte counted from the scratch of the part, and where it has rows NAME_bytes, from row to row.
"""

from typing import NamedTuple

LINE_BYTES = 64
# Bytes behind each place: none, but tests put guards there
GAP = 0


class Rows(NamedTuple):
    """A place of `number` rows that hold `size` bytes each, and begin `size + apart` bytes from one another.

    apart: bytes that keep rows of a power of two from falling into one set of the cache, where they would drive each
    other out.
    """

    number: int
    size: int
    apart: int = LINE_BYTES


class Layout:
    """Places one behind the other, each at the beginning of a cache line.

    places: bytes of each by name, or its `Rows`. bytes: of all together, a multiple of a line. Raises ValueError for a
    negative size.
    """

    def __init__(self, **places: int | Rows) -> None:
        self.fields: dict[str, int] = {}
        self.bytes = 0
        # Where the gap behind each place begins
        self.gaps: list[int] = []
        for name, place in places.items():
            rows = place if isinstance(place, Rows) else Rows(1, place, 0)
            if min(rows) < 0:
                raise ValueError(f"{name} has a negative size: {place}")
            self.fields[f"{name}_at"] = self.bytes
            step = rows.size + rows.apart
            if isinstance(place, Rows):
                self.fields[f"{name}_bytes"] = step
            self.bytes += -(-rows.number * step // LINE_BYTES) * LINE_BYTES + GAP
            self.gaps.append(self.bytes - GAP)

    def at_least(self, bytes_: int) -> "Layout":
        """This layout, with unused bytes at the end up to `bytes_` in all."""
        self.bytes = max(self.bytes, bytes_)
        return self

    def floats(self, parts: int) -> tuple[int]:
        """The shape of a float32 array that holds the scratch of `parts` parts."""
        return (parts * self.bytes // 4,)
