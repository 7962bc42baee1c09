"""Scratch memory that is shorter than what kernels write: wrong in two files before, in one line now."""

from tests.backends import test_guard
from tests.museum.exhibit import Check, Mutant, check
from tests.museum.switch import Edit

KERNELS = "backends.numba_kernels"
WINOGRAD, FEW_TILES = f"{KERNELS}.convolution.winograd", f"{KERNELS}.convolution.few_tiles"
FEW_CHANNELS = f"{KERNELS}.convolution.few_channels"


def guards(layout: str) -> Check:
    return check(test_guard.test_kernels_stay_within_the_places_of_their_scratch, layout=layout)


MUTANTS = (
    Mutant(
        30,
        "products of a tile a row short",
        (Edit(f"{WINOGRAD}:forward_layout", "m=Rows(points,", "m=Rows(points - 1,"),),
        (guards("many tiles"),),
    ),
    Mutant(
        30,
        "transformed output gradients of one panel less",
        (
            Edit(
                f"{WINOGRAD}:gradient_layout",
                "block_of_vectors(outputs, block)",
                "block_of_vectors(outputs - 32, block)",
            ),
        ),
        (guards("many tiles"),),
    ),
    Mutant(
        30,
        "products of a thread's tiles not rounded up to eight",
        (Edit(f"{FEW_TILES}:forward_layout", "-(-tiles // ROWS) * ROWS * PANEL_BYTES", "tiles // ROWS * PANEL_BYTES"),),
        (guards("few tiles"),),
    ),
    Mutant(
        30,
        "a tap forgotten",
        (Edit(f"{FEW_CHANNELS}:outer_layout", "Rows(TAPS,", "Rows(TAPS - 1,"),),
        (guards("few channels"),),
    ),
    Mutant(
        30,
        "the bias in fewer vectors than are set to zero",
        (Edit(f"{KERNELS}.matmul:gradient_layout", "bias=panels * PANEL_BYTES", "bias=outputs // 2 * 4"),),
        (guards("product"),),
    ),
    Mutant(
        30,
        "scores of a key less",
        (Edit(f"{KERNELS}.attention:backward_layout", "scores = keys * STEP", "scores = (keys - 1) * STEP"),),
        (guards("attention"),),
    ),
    Mutant(
        30,
        "rows of half the channels",
        (Edit(f"{KERNELS}.normalization:layout_of", "(channels + WIDTH)", "(channels // 2)"),),
        (guards("normalisation"),),
    ),
)
