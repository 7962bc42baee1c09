"""Convolutions by warpgroups: what a GPU would get wrong, now and then or for some tiles alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from backends.cupy_kernels.tuning_hopper import PatchTile
from tests.backends import test_cupy_hopper
from tests.museum.exhibit import Check, Fixture, Mutant, check, emulated
from tests.museum.switch import SourceEdit

EXACT = emulated("fp32")
PATCH = Fixture("monkeypatch", pytest.MonkeyPatch.context)
FORWARD, BACKWARD = "convolution_hopper.cu", "conv_weight_gradient_hopper.cu"


@contextmanager
def nothing() -> Iterator[set[str]]:
    """What kernels ran, where nobody notes it: both, as far as a test asks."""
    yield {"convolve_patches", "weight_gradient_units"}


RAN = Fixture("ran", nothing)


def tile(*numbers: int) -> Check:
    return check(
        test_cupy_hopper.test_every_tile_of_patches, exact=EXACT, tile=PatchTile(*numbers), monkeypatch=PATCH, ran=RAN
    )


def shape(which: str) -> Check:
    return check(test_cupy_hopper.test_shapes, backend=EXACT, which=which, ran=RAN)


def checked(which: str) -> Check:
    return check(test_cupy_hopper.test_no_shape_makes_a_mistake_that_luck_hides, which=which)


MUTANTS = (
    Mutant(
        34,
        "shares of a slice added from another patch's place",
        # As a GPU showed: of all tiles only the one with both patches and shares was wrong
        (
            SourceEdit(
                FORWARD,
                "others[(((p - 1) * PATCHES + patch) * (BN / 2) + i) * 128 + thread % 128]",
                "others[(((p - 1) * PATCHES + patch) * (BN / 2) + i) * 128 + thread]",
            ),
        ),
        (tile(32, 2, 2, 1, 1),),
        (shape("many channels"),),
    ),
    Mutant(
        31,
        "cells not shown to the tensor cores",
        (SourceEdit(FORWARD, "    wait_products<0>();\n    publish();\n", "    wait_products<0>();\n"),),
        (checked("many channels"),),
        (shape("many channels"),),
    ),
    Mutant(
        31,
        "weights kept before they have arrived",
        (SourceEdit(FORWARD, "      wait_group<AHEAD - 1>();\n      keep", "      wait_group<AHEAD>();\n      keep"),),
        (shape("many channels"),),
    ),
    Mutant(
        31,
        "a slice overwritten while products read it",
        (SourceEdit(FORWARD, "memory + ((slice + 1) & 1) * slot_size", "memory + (slice & 1) * slot_size"),),
        (shape("many channels"),),
        (shape("one patch"),),
    ),
    Mutant(
        34,
        "columns of a stride of two in their order",
        (
            SourceEdit(
                FORWARD,
                "(step == 2 ? (column & 1) * half + (column >> 1) : column)",
                "column",
            ),
        ),
        (shape("stride of two"),),
        (shape("one patch"),),
    ),
    Mutant(
        34,
        "a last step with taps that there are not",
        (SourceEdit(FORWARD, "      if (TAPS > 1 && tap + i >= taps) break;\n", ""),),
        (shape("products"),),
        (shape("one patch"),),
    ),
    Mutant(
        31,
        "operands loaded while products still read those registers",
        (SourceEdit(BACKWARD, "wait_products<1>();  // the others", "wait_products<2>();  // the others"),),
        (shape("stride of two"),),
    ),
    Mutant(
        34,
        "the sum of one place of four of the bias",
        (SourceEdit(BACKWARD, "plane < PLANES; plane++) total", "plane < PLANES / 2; plane++) total"),),
        (shape("stride of two"),),
    ),
)
