"""The four kinds of 3x3 convolutions: plain, halving with either padding, and after nearest x2 up-sampling.

Forward, input gradient and weight gradient of all four are one machine: an `Algorithm` says where in the input a tile
of the output reads, and the transforms do the rest. An input gradient is a convolution of the output's gradient, by an
algorithm of its own; the weight gradient uses the forward's, transposed.
"""

from typing import Any, NamedTuple

from backends.numba_kernels.convolution import algorithms
from backends.numba_kernels.convolution.algorithms import Algorithm
from backends.numba_kernels.convolution.tiles import TileKernels


class Kind:
    """A convolution whose output pixel i reads the input pixels stride * i - before … + 2, of an image that is doubled
    `up` times; forward, backward: algorithms of the forward pass and the weight gradient, and of the input gradient.
    """

    def __init__(
        self, name: str, forward: Algorithm, backward: Algorithm, stride: int = 1, before: int = 1, up: int = 0
    ) -> None:
        self.name, self.stride, self.before, self.up = name, stride, before, up
        self.tiles, self.back_tiles = TileKernels(forward), TileKernels(backward)


PLAIN = Kind("plain", algorithms.CONV, algorithms.CONV_DX)
# Stride 2, a row and a column of zeros after the last pixel only, or all around
HALVE_PAD_AFTER = Kind("halve, pad after", algorithms.DOWN0, algorithms.DOWN_DX0, stride=2, before=0)
HALVE_PAD_AROUND = Kind("halve, pad around", algorithms.DOWN1, algorithms.DOWN_DX1, stride=2)
UP = Kind("up", algorithms.UP, algorithms.UP_DX, up=1)
KINDS = (PLAIN, HALVE_PAD_AFTER, HALVE_PAD_AROUND, UP)


class Sizes(NamedTuple):
    """What a plan of a convolution depends on: shapes without their last axis, and channels.

    second: channels of a second tensor that the outputs' last channels go to.
    """

    images: tuple[int, ...]
    channels: int
    results: tuple[int, ...]
    outputs: int
    second: int = 0


def geometry(algorithm: Algorithm, sizes: Sizes) -> dict[str, Any]:
    """Where tiles are: fields of a plan that all workers by tiles share."""
    (n, height_in, width_in), (_, height_out, width_out) = sizes.images, sizes.results
    side = algorithm.outputs
    return dict(
        N=n,
        height_in=height_in,
        width_in=width_in,
        # A tile's first input pixel is step_in * tile - offset_in, its first output pixel step_out * tile
        step_in=algorithm.step_in,
        offset_in=algorithm.offset,
        height_out=height_out,
        width_out=width_out,
        step_out=side,
        down=(height_out + side - 1) // side,
        across=(width_out + side - 1) // side,
        points=algorithm.points**2,
    )
