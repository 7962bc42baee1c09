"""The CUDA kernels, one family after the other: what a GPU would get wrong, now and then or for some sizes alone."""

import pytest

from tests.backends import (
    test_cupy,
    test_cupy_convolution,
    test_cupy_launch,
    test_cupy_noise,
    test_cupy_normalization,
    test_cupy_optimizer,
    test_cupy_products,
)
from tests.museum.exhibit import Check, Fixture, Mutant, check, emulated
from tests.museum.switch import SourceEdit

EXACT = emulated("fp32")
PATCH = Fixture("monkeypatch", pytest.MonkeyPatch.context)
TILE = check(test_cupy_convolution.test_every_tile, backend=EXACT, which="several images")
TILE_CHECKED = check(test_cupy_convolution.test_no_tile_makes_a_mistake_that_luck_hides, which="several images")
RESIDUAL_BLOCK = check(test_cupy_convolution.test_residual_block, backend=EXACT)
ANYWHERE = check(test_cupy_products.test_arrays_may_begin_anywhere, backend=EXACT)
STEEP_SCORES = check(test_cupy_products.test_scores_that_no_exponential_holds, backend=EXACT)
EITHER_CTX = check(test_cupy_products.test_either_backward_takes_the_ctx_of_either, backend=EXACT)
FAR_FROM_ZERO = check(
    test_cupy_normalization.test_statistics_of_numbers_far_from_zero, backend=EXACT, count=132, monkeypatch=PATCH
)

# Weights as the kernel of the queries' gradients computes them, which scales them next
WITHOUT_OTHERS = "return other + j < s.keys ? __expf(score * s.scale - of_row[half]) : 0.f;"
WITH_OTHERS = "return __expf(score * s.scale - of_row[half]);"
QUERIES_GO_ON = """
    });
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int j = 0; j < OTHERS / 8; j++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          p.sum"""


def equals(name: str) -> Check:
    return check(test_cupy.test_override_equals_the_reference, backend=EXACT, name=name)


def makes_no_mistake(name: str) -> Check:
    return check(test_cupy.test_override_makes_no_mistake_that_luck_hides, backend=EXACT, name=name)


MUTANTS = (
    Mutant(
        31,
        "convolution without the barrier before weights are overwritten",
        # Fast warps read what others have not copied yet, or copy over what slow ones still read
        (
            SourceEdit(
                "convolution.cu",
                "__syncthreads();           // all has, and nobody reads any more what is overwritten next",
                "",
            ),
        ),
        (TILE_CHECKED,),
    ),
    Mutant(
        31,
        "weight gradient one copy ahead of what has arrived",
        (SourceEdit("conv_weight_gradient.cu", "wait_group<STAGES - 2>()", "wait_group<STAGES - 1>()"),),
        (TILE_CHECKED,),
    ),
    Mutant(
        31,
        "attention weights overwritten while the warp reads them",
        (SourceEdit("attention.cu", "__syncwarp();  // the warp has read its weights", ""),),
        (ANYWHERE,),
        passes=(EITHER_CTX,),
    ),
    Mutant(
        31,
        "sums over pixels read before all rows have written theirs",
        (SourceEdit("elementwise.cu", "__syncthreads();\n  if (row == 0 &&", "if (row == 0 &&"),),
        (makes_no_mistake("add_shift"),),
    ),
    Mutant(
        31,
        "rows of a normalisation joined without a barrier",
        (SourceEdit("normalization.cu", "__syncthreads();\n    if (at.row + half < n)", "if (at.row + half < n)"),),
        (makes_no_mistake("group_norm"),),
    ),
    Mutant(
        31,
        "sums of warps added before all are there",
        (SourceEdit("sums.cuh", "__syncthreads();\n  if (t == 0)\n", "if (t == 0)\n"),),
        (check(test_cupy_optimizer.test_any_length_at_any_address, backend=EXACT, count=4099, first=0),),
    ),
    Mutant(
        31,
        "factors of adam read before they are written",
        (SourceEdit("optimizer.cu", "__syncthreads();\n  const Factors f", "const Factors f"),),
        (check(test_cupy_optimizer.test_any_length_at_any_address, backend=EXACT, count=3, first=0),),
    ),
    Mutant(
        33,
        "matrices of a fragment in each other's place",
        (
            SourceEdit(
                "tile.cuh",
                "(lane >> 4) * 8 + (lane & 7)) * LDB + (lane >> 3 & 1) * WIDE<In>",
                "(lane >> 3 & 1) * 8 + (lane & 7)) * LDB + (lane >> 4) * WIDE<In>",
            ),
        ),
        (STEEP_SCORES,),
    ),
    Mutant(
        33,
        "depths and columns of an operand's fragments exchanged",
        (SourceEdit("fragments.cuh", "raw[e >> 1][unit][e & 1] = both[e]", "raw[e & 1][unit][e >> 1] = both[e]"),),
        (TILE,),
    ),
    Mutant(
        33,
        "pixels of one operand two by two",
        (
            SourceEdit(
                "conv_weight_gradient.cu",
                "rows[d + unit * 8 + (lane & 3) + e * 4]",
                "rows[d + unit * 8 + (lane & 3) * 2 + e]",
            ),
        ),
        (TILE,),
    ),
    Mutant(
        33,
        "pixels behind a tile's end taken for its first",
        (
            SourceEdit(
                "conv_weight_gradient.cu",
                "p < pixels ? pack(at.image, at.row, at.column) : -1",
                "pack(at.image, at.row, at.column)",
            ),
        ),
        (check(test_cupy_convolution.test_every_tile, backend=EXACT, which="narrow"),),
        passes=(TILE,),
    ),
    Mutant(
        33,
        "keys behind the end with a weight",
        (
            # Three kernels say so, of which this one goes on with the next line
            SourceEdit("attention.cu", f"{WITHOUT_OTHERS}{QUERIES_GO_ON}", f"{WITH_OTHERS}{QUERIES_GO_ON}"),
        ),
        (check(test_cupy_products.test_scores_far_below_zero, backend=EXACT),),
        passes=(EITHER_CTX,),
    ),
    Mutant(
        33,
        "a share of the depth that does not end",
        (SourceEdit("matmul.cu", "end = min(s.depth, begin + s.share)", "end = s.depth"),),
        (check(test_cupy_products.test_every_instance_of_a_product, backend=EXACT),),
    ),
    Mutant(
        33,
        "four random numbers stored where one is left",
        (
            SourceEdit(
                "noise.cu",
                "count - first >= 4) {\n      for (int i = 0; i < 4 / WIDTH; i++) part[i].store",
                "count - first >= 1) {\n      for (int i = 0; i < 4 / WIDTH; i++) part[i].store",
            ),
        ),
        (check(test_cupy_noise.test_shapes_without_a_whole_block, backend=EXACT, shape=(5,)),),
    ),
    Mutant(
        33,
        "halves of Philox's products in each other's place",
        (
            SourceEdit(
                "noise.cu",
                "c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1",
                "c0 = high0 ^ c1 ^ k0, c1 = low1, c2 = high1 ^ c3 ^ k1",
            ),
        ),
        (check(test_cupy_noise.test_masks_are_the_reference_s, backend=EXACT),),
    ),
    Mutant(
        33,
        "a label one too large read from behind the table",
        (SourceEdit("embedding.cu", "row < rows", "row <= rows"),),
        (check(test_cupy_optimizer.test_a_label_that_the_table_has_not_gives_nan, backend=EXACT),),
    ),
    Mutant(
        33,
        "the last chunk of a loss as long as the others",
        (SourceEdit("losses.cu", "end = min(begin + CHUNK, count)", "end = begin + CHUNK"),),
        (
            check(
                test_cupy_optimizer.test_losses_of_many_chunks_and_a_cotangent_on_the_device, backend=EXACT, kind="mse"
            ),
        ),
    ),
    Mutant(
        33,
        "a thread that takes one vector, however many there are",
        (SourceEdit("types.cuh", "i += gridDim.x * blockDim.x", "i += (count)"),),
        (check(test_cupy_launch.test_threads_of_a_small_grid_walk_over_the_array, backend=EXACT),),
    ),
    Mutant(
        33,
        "the right half of a square missed",
        (SourceEdit("resampling.cu", "v.store(to + (2 * line + row) * N)", "v.store(to + 2 * line * N)"),),
        (equals("upsample_nearest"),),
    ),
    Mutant(
        34,
        "the first image's time shift for all",
        (SourceEdit("convolution.cu", "shift + (long long)at.image * outputs", "shift"),),
        (RESIDUAL_BLOCK,),
    ),
    Mutant(
        34,
        "a residual lost where outputs are stored one by one",
        (SourceEdit("convolution.cu", "if (more) {", "if (more && N > 1) {"),),
        (check(test_cupy_convolution.test_gradients_from_elsewhere_are_added, exact=EXACT),),
    ),
    Mutant(
        34,
        "sums of attention not made smaller when a larger score comes",
        (
            SourceEdit(
                "attention.cu",
                "sum.sum[0][j][half * 2] *= factor[half], sum.sum[0][j][half * 2 + 1] *= factor[half];",
                "continue;",
            ),
        ),
        (STEEP_SCORES,),
    ),
    Mutant(
        34,
        "gradient of queries without the softmax's row sum",
        (SourceEdit("attention.cu", "(dp.sum[0][j][half * 2 + e] - slope[half])", "dp.sum[0][j][half * 2 + e]"),),
        (EITHER_CTX,),
    ),
    Mutant(
        34,
        "moments joined without the distance of their means",
        (SourceEdit("normalization.cuh", " + gap * gap * a.count * share", ""),),
        (FAR_FROM_ZERO,),
    ),
    Mutant(
        34,
        "the first image's gradient of gamma",
        (SourceEdit("normalization.cu", "i < s.images * s.chunks()", "i < s.chunks()"),),
        (equals("group_norm"),),
    ),
    Mutant(
        34,
        "second moments of adam not corrected for their beginning at zero",
        (SourceEdit("optimizer.cu", "(float)(1 / (1 - pow(rates.beta2, n.step)))", "1.f"),),
        (check(test_cupy_optimizer.test_a_graph_reads_step_rate_scale_and_decay_anew, backend=EXACT),),
    ),
)
