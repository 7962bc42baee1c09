"""How CUDA kernels are launched, and what graphs replay."""

from backends.cupy_kernels.normalization import MOST_IMAGES
from tests.backends import (
    test_cupy,
    test_cupy_convolution,
    test_cupy_graphs,
    test_cupy_launch,
    test_cupy_noise,
    test_cupy_normalization,
    test_cupy_optimizer,
    test_cupy_products,
)
from tests.museum.exhibit import Check, Fixture, Mutant, check, emulated
from tests.museum.switch import Edit, SourceEdit

KERNELS = "backends.cupy_kernels"
GRAPHS, ARENA = f"{KERNELS}.runtime.graphs", f"{KERNELS}.runtime.arena"
EXACT = emulated("fp32")
EVERY_PRODUCT = check(test_cupy_products.test_every_instance_of_a_product, backend=EXACT)
SMALL_CHUNKS = Fixture("fp32", test_cupy_graphs.with_small_chunks)
ANYWHERE = check(test_cupy_products.test_arrays_may_begin_anywhere, backend=EXACT)

TO_THE_BIT = check(test_cupy_graphs.test_equals_the_function_to_the_bit, backend=SMALL_CHUNKS)
TOLD_APART = check(test_cupy_graphs.test_programs_are_told_apart_by_function_shape_and_dtype, backend=SMALL_CHUNKS)
RESULTS_STAY = check(test_cupy_graphs.test_results_are_the_caller_s, backend=SMALL_CHUNKS)


def equals(name: str) -> Check:
    return check(test_cupy.test_override_equals_the_reference, backend=EXACT, name=name)


def in_turn(**which: str) -> Check:
    return check(test_cupy_products.test_each_array_in_turn_may_begin_anywhere, backend=EXACT, **which)


def wherever(name: str) -> Check:
    return check(test_cupy.test_override_takes_each_array_wherever_it_begins, backend=EXACT, name=name)


def not_captured(what: str) -> Check:
    return check(test_cupy_graphs.test_what_cannot_be_captured_is_called, backend=SMALL_CHUNKS, what=what)


MUTANTS = (
    Mutant(
        35,
        "three of four parities without a block",
        (
            Edit(
                f"{KERNELS}.convolution:Convolution.convolve",
                "panel), 1, len(geometry.phases))",
                "panel), 1, 1)",
            ),
        ),
        (check(test_cupy_convolution.test_every_tile, backend=EXACT, which="stride of two"),),
    ),
    Mutant(
        35,
        "a grid rounded down",
        (
            Edit(
                f"{KERNELS}.normalization:Normalization.through_norm",
                "(ceil(sums, WARPS),)",
                "(max(1, sums // WARPS),)",
            ),
        ),
        (equals("group_norm"),),
    ),
    Mutant(
        35,
        "lines as long as the image is high",
        (Edit(f"{KERNELS}.resampling:over_squares", "small.shape[2] * row", "small.shape[1] * row"),),
        (equals("average_pool"),),
    ),
    Mutant(
        35,
        "16 bytes at once by the address of the first array alone",
        (Edit(f"{KERNELS}.runtime.launch:vectors", "for a in (x, *others)", "for a in (x,)"),),
        (
            check(test_cupy_launch.test_vectors_are_as_wide_as_length_and_addresses_allow, backend=EXACT),
            wherever("concat_channels"),
        ),
    ),
    Mutant(
        35,
        "16 bytes at once by the address of the parameters alone",
        (Edit(f"{KERNELS}.optimizer:adam", "wide(*flat)", "wide(params)"),),
        (wherever("adam"),),
        passes=(check(test_cupy_optimizer.test_any_length_at_any_address, backend=EXACT, count=4099, first=1),),
    ),
    Mutant(
        35,
        "16 bytes at once by the address of one factor alone",
        (Edit(f"{KERNELS}.matmul:Matmul.multiply_transposed", "(rows, columns), x, dy)", "(rows, columns), x)"),),
        (in_turn(name="linear", which="dy"),),
        passes=(ANYWHERE,),
    ),
    Mutant(
        35,
        "16 bytes at once of an output's gradient that was not asked",
        (Edit(f"{KERNELS}.attention:Attention.attend_backward", "*inputs, dy), of.record()", "*inputs), of.record()"),),
        (in_turn(name="attention", which="dy"),),
        passes=(ANYWHERE,),
    ),
    Mutant(
        35,
        "dropout of an array wherever it begins",
        (Edit(f"{KERNELS}.noise:fits_dropout", " and x.data.ptr % 16 == 0", ""),),
        (check(test_cupy_noise.test_dropout_of_an_array_at_any_address, backend=EXACT, begin=1),),
    ),
    Mutant(
        35,
        "pairs of outputs stored by the address of the output alone",
        (
            Edit(
                f"{KERNELS}.convolution:Convolution.convolve",
                "for a in (y, y2, added.residual, added.residual2)",
                "for a in (y, y2)",
            ),
        ),
        (check(test_cupy_convolution.test_each_array_in_turn_may_begin_anywhere, exact=EXACT, which="residual"),),
        passes=(check(test_cupy_convolution.test_views_that_begin_anywhere, exact=EXACT, offset=1),),
    ),
    Mutant(
        35,
        "16 bytes of what a gradient is added to by the other arrays' addresses",
        (Edit(f"{KERNELS}.normalization:Normalization.through_norm", "(*dy, *out, mask, more)", "(*dy, *out, mask)"),),
        (check(test_cupy_normalization.test_each_array_in_turn_may_begin_anywhere, backend=EXACT, which=7),),
    ),
    Mutant(
        35,
        "more images than a grid has room for",
        (Edit(f"{KERNELS}.normalization:fits_group_norm", " and x.shape[0] <= MOST_IMAGES", ""),),
        (
            check(
                test_cupy_normalization.test_guards_know_how_many_images_a_grid_has_room_for,
                backend=EXACT,
                images=MOST_IMAGES + 1,
                fit=False,
            ),
        ),
    ),
    Mutant(
        35,
        "slices of an image overwritten while a tap before reads them",
        (Edit(f"{KERNELS}.tuning:fit_conv", "ceil(tile.stages - 1, t) + 1", "ceil(tile.stages - 1, t)"),),
        (check(test_cupy_convolution.test_every_tile, backend=EXACT, which="products"),),
    ),
    Mutant(
        35,
        "shared memory for a slice less than is on its way",
        (Edit(f"{KERNELS}.matmul:shared_bytes", "tile.stages * (of_a + of_b)", "(tile.stages - 1) * (of_a + of_b)"),),
        (EVERY_PRODUCT,),
    ),
    Mutant(
        35,
        "gradients of keys and values in each other's place",
        (Edit(f"{KERNELS}.attention:Attention.attend_backward", "*out[1:], record", "*out[:0:-1], record"),),
        (equals("attention"),),
    ),
    Mutant(
        35,
        "shares of a product written to one place",
        (
            Edit(
                f"{KERNELS}.matmul:Matmul.multiply_transposed",
                "partial[dweight.size :], both)",
                "partial[dweight.size :])",
            ),
        ),
        (EVERY_PRODUCT,),
    ),
    Mutant(
        35,
        "a float of Python passed in eight bytes",
        (Edit(f"{KERNELS}.runtime.launch:as_argument", "np.float32(a) if type(a) is float else a", "a"),),
        (equals("average_pool"),),
        noticed_by=(TypeError,),
    ),
    Mutant(
        36,
        "inputs of the first replay for all",
        (Edit(f"{GRAPHS}:Program.run", "place[...] = given", "place = given"),),
        (TO_THE_BIT, RESULTS_STAY),
    ),
    Mutant(
        36,
        "a graph found by shape without the dtype",
        (Edit(f"{GRAPHS}:Recorder.run", "(a.shape, a.dtype.str)", "a.shape"),),
        (TOLD_APART,),
    ),
    Mutant(
        36,
        "a graph found by dtype without the shape",
        (Edit(f"{GRAPHS}:Recorder.run", "(a.shape, a.dtype.str)", "a.dtype.str"),),
        (TOLD_APART,),
    ),
    Mutant(
        36,
        "one function's graph launched for another",
        (Edit(f"{GRAPHS}:Recorder.run", "key = (name, *", "key = (None, *"),),
        (TOLD_APART,),
    ),
    Mutant(
        36,
        "a graph of operations that have been replaced since",
        (Edit(f"{GRAPHS}:Recorder.run", "self.programs.clear()", "pass"),),
        (check(test_cupy_graphs.test_operations_that_are_replaced_later_count_from_then_on, backend=SMALL_CHUNKS),),
        passes=(TO_THE_BIT,),
    ),
    Mutant(
        36,
        "a result that the next replay overwrites",
        (Edit(f"{GRAPHS}:Recorder.run", "return self.copy(program.output)", "return program.output"),),
        (RESULTS_STAY,),
    ),
    Mutant(
        36,
        "a graph on a stream that nobody waits for",
        (Edit(f"{GRAPHS}:Program.run", "self.graph.launch()", "self.graph.launch(self.stream)"),),
        (TO_THE_BIT, RESULTS_STAY),
    ),
    Mutant(
        36,
        "arrays from elsewhere captured",
        (Edit(f"{GRAPHS}:Capture.check", "if ARENA.holds(address) or", "if True or ARENA.holds(address) or"),),
        (not_captured("use an array from elsewhere"),),
    ),
    Mutant(
        36,
        "a place of the arena given out twice",
        (Edit(f"{ARENA}:Chunk.take", "[(begin + size, end)] if end - begin > size else []", "[(begin, end)]"),),
        (check(test_cupy_graphs.test_an_arena_joins_what_is_given_back, backend=SMALL_CHUNKS), TO_THE_BIT),
    ),
    Mutant(
        36,
        "memory of a graph given back while it is free",
        (Edit(f"{ARENA}:Arena.keep", "chunk.in_graphs = True", "pass"),),
        (
            check(
                test_cupy_graphs.test_memory_of_what_cannot_be_captured_goes_back_but_that_of_graphs_stays,
                backend=SMALL_CHUNKS,
            ),
        ),
    ),
    Mutant(
        36,
        "random numbers of the captured step",
        (SourceEdit("noise.cu", "steps ? (uint32_t)*steps : step}", "step}"),),
        (check(test_cupy_noise.test_a_graph_draws_other_numbers_at_each_step_and_place, backend=EXACT),),
    ),
    Mutant(
        42,
        "the place of the first replay for all",
        (SourceEdit("noise.cu", "firsts ? *firsts : first", "first"),),
        (check(test_cupy_noise.test_a_graph_draws_other_numbers_at_each_step_and_place, backend=EXACT),),
    ),
)
