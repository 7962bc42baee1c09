"""What a sum over ranks costs: a model of two numbers, its fit to measured times, and what it says of more ranks.

The model is the cost of Rabenseifner's algorithm, which MPICH takes for long arrays (Thakur, Rabenseifner & Gropp 2005,
"Optimization of Collective Communication Operations in MPICH"). K ranks halve the array log2 K times, so that each has
the sum of a part, and then double the parts as often. Each sends 2 (K - 1)/K of the array's bytes, and no algorithm
can do with fewer (Patarasuk & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations"). A
ring sends as many bytes in 2 (K - 1) messages instead of 2 log2 K.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Extrapolated to: ranks, and what connects them in Gbit/s
RANKS, GBITS = (8, 64, 512), (10, 100, 400)
# Seconds of a message between machines: an assumption, as for TCP; 18 of them are paid at 512 ranks
ASSUMED_LATENCY = 20e-6


@dataclass(frozen=True)
class Link:
    """What connects two ranks. latency: seconds of a message besides its bytes; bandwidth: bytes a second."""

    latency: float
    bandwidth: float

    def then(self, other: "Link") -> "Link":
        """Both in a row, each byte through one after the other."""
        return Link(self.latency + other.latency, 1 / (1 / self.bandwidth + 1 / other.bandwidth))


def coefficients(ranks: int, size: int) -> tuple[float, float]:
    """How many messages a rank sends in a sum of `size` bytes, one after the other, and how many bytes."""
    return 2 * math.ceil(math.log2(ranks)), 2 * (ranks - 1) / ranks * size


def seconds_of_sum(link: Link, ranks: int, size: int) -> float:
    """Seconds of a sum of `size` bytes: 2 ⌈log2 K⌉ latency + 2 (K - 1)/K size / bandwidth."""
    messages, moved = coefficients(ranks, size)
    return messages * link.latency + moved / link.bandwidth


def fit(ranks: int, measured: Sequence[tuple[int, float]]) -> Link:
    """The link of the least squared relative errors for (bytes, seconds) of at least two sizes."""
    # Each equation over its measured time: 1 KB counts as much as 100 MB
    matrix = np.array([[part / seconds for part in coefficients(ranks, size)] for size, seconds in measured])
    # Columns of like length: bytes are many, messages few
    lengths = np.linalg.norm(matrix, axis=0)
    latency, each = np.linalg.lstsq(matrix / lengths, np.ones(len(measured)))[0] / lengths
    return Link(float(latency), float(1 / each))


def weak_efficiency(one: float, step: float) -> float:
    """The efficiency of K ranks that take `step` seconds for K times the images that one takes `one` seconds for."""
    return one / step


def strong_efficiency(one: float, step: float, ranks: int) -> float:
    """The efficiency of K ranks that take `step` seconds for the images that one takes `one` seconds for."""
    return one / (ranks * step)


def extrapolated(own: Link, networks: dict[str, tuple[float, int]]) -> list[dict[str, Any]]:
    """A row for each network, link and number of ranks, every rank with a link of its own and as many images.

    own: fitted to the sums on this machine: what a processor does for each byte, by copies and additions. The link
    comes after it, as if neither went on during the other. networks: seconds of a step of one rank, and bytes of the
    gradient.
    """
    rows = []
    for network, (one, size) in networks.items():
        for gbit in GBITS:
            link = own.then(Link(ASSUMED_LATENCY, gbit * 1e9 / 8))
            for ranks in RANKS:
                exchange = seconds_of_sum(link, ranks, size)
                rows.append(
                    {
                        "network": network,
                        "Gbit/s": gbit,
                        "ranks": ranks,
                        "step ms": (one + exchange) * 1e3,
                        "sum ms": exchange * 1e3,
                        "efficiency": weak_efficiency(one, one + exchange),
                    }
                )
    return rows
