"""The fast convolutions of the Numba backend."""

from tests.backends import test_algorithms, test_numba
from tests.museum import test_killers
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit

ALGORITHMS, TILES = "backends.numba_kernels.convolution.algorithms", "backends.numba_kernels.convolution.tiles"

CONVOLUTION = check(test_numba.test_convolution_with_every_part_of_a_tile_at_its_edges, way="many tiles", height=6)
DEFINITION = check(test_algorithms.test_algorithm_equals_its_definition, name="CONV", seed=0)
TRANSPOSE = check(test_algorithms.test_adjoints_are_transposes, name="CONV", seed=0)

MUTANTS = (
    Mutant(
        28,
        "a sign in the transform of the input",
        (Edit(f"{ALGORITHMS}:b43", "(d5 - (P3**2 + Q3**2) * d3)", "(d5 + (P3**2 + Q3**2) * d3)"),),
        (CONVOLUTION, DEFINITION),
    ),
    Mutant(
        28,
        "a sign in the transform of the output",
        (Edit(f"{ALGORITHMS}:a43", "d + Q3 * d2 + m5", "d + Q3 * d2 - m5"),),
        (CONVOLUTION, DEFINITION),
    ),
    Mutant(
        28,
        "a sign in the transform of the weights",
        (Edit(f"{ALGORITHMS}:g43", "ends2 + Q3 * w1", "ends2 - Q3 * w1"),),
        (CONVOLUTION, DEFINITION),
    ),
    Mutant(
        28,
        "a sign in the transform of output gradients",
        (Edit(f"{ALGORITHMS}:a43_adjoint", "even2 - 1 / Q3 * odd2", "1 / Q3 * odd2 - even2"),),
        (CONVOLUTION, TRANSPOSE),
        passes=(DEFINITION,),
    ),
    Mutant(
        28,
        "a sign in the transform of weight gradients",
        (Edit(f"{ALGORITHMS}:g43_adjoint", "u1 - u2", "u2 - u1"),),
        (CONVOLUTION, TRANSPOSE),
        passes=(DEFINITION,),
    ),
    Mutant(
        28,
        "tiles that stick out at the bottom left out",
        (
            Edit(
                "backends.numba_kernels.convolution.kinds:_geometry",
                "down=(height_out + side - 1) // side",
                "down=height_out // side",
            ),
        ),
        (CONVOLUTION,),
        passes=(DEFINITION, TRANSPOSE),
    ),
    Mutant(
        28,
        "a tile at the right edge written one pixel short",
        (
            Edit(
                f"{TILES}:output_tile",
                "i0, j0, height, width, row_bytes, col_bytes, corner)",
                "i0, j0, height, builder.sub(width, const(1)), row_bytes, col_bytes, corner)",
            ),
        ),
        (CONVOLUTION,),
        passes=(DEFINITION, TRANSPOSE),
    ),
    Mutant(
        28,
        "weights transformed once and for all",
        (
            Edit(
                "backends.numba_kernels.convolution.kinds:transformed_weights",
                "return u",
                "return vars(tiles).setdefault(str(w.shape), u)",
            ),
        ),
        (
            check(test_numba.test_weights_that_change_in_place_count_at_once, name="conv2d", way="many tiles"),
            check(test_killers.test_predictions_between_training_steps_are_those_of_the_weights_of_the_moment),
        ),
        passes=(DEFINITION, TRANSPOSE),
    ),
)
