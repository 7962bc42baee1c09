"""Shares of a batch, and batches of a drawing, that must not depend on how the whole is cut."""

from tests.backends import test_numba, test_philox
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.museum.test_killers import in_a_folder
from tests.tinyddpm.diffusion import test_shares
from tests.tinyddpm.networks import test_layers
from tests.tinyddpm.reporting import test_series
from tests.tinyddpm.samplers import test_walk

WALK = check(test_walk.test_noise_goes_by_the_number_of_the_image, size=(7, 5, 3), parts=(1, 5))
SHARES = check(
    test_shares.test_shares_add_up_to_the_batch, config="unet", backend="numpy", recompute=False, shares=(2, 5)
)
SIMPLE = check(
    test_shares.test_shares_add_up_to_the_batch, config="simple", backend="numpy", recompute=False, shares=(2, 5)
)
DRAWN = check(test_shares.test_what_is_drawn_for_a_share_is_the_batchs)
FAR = check(test_philox.test_positions_beyond_32_bits_count_on_in_the_second_word_of_the_counter)
SERIES = "tinyddpm.reporting.series:Series"


def resumed(folder: object) -> None:
    """A series that is ended after one batch goes on."""
    test_series.test_what_was_interrupted_goes_on(folder, name="out.npz", batches=1)  # type: ignore[arg-type]


def with_other_settings(folder: object) -> None:
    """A series that is ended after one batch, and given another seed."""
    test_series.test_other_settings_are_refused_in_one_line(folder, "out.npz", {"seed": 8}, "seed 8, not 7")  # type: ignore[arg-type]


MUTANTS = (
    Mutant(
        42,
        "the start of samples by the row of the batch",
        (Edit("tinyddpm.samplers.walk:Walk.__init__", "0, first=self.first)", "0)"),),
        (WALK, check(test_walk.test_no_start_and_no_steps_noise_are_drawn_twice)),
    ),
    Mutant(
        42,
        "the noise of a sampler's steps by the row of the batch",
        (Edit("tinyddpm.samplers.walk:Walk.noise", "dtype=x.dtype, first=self.first", "dtype=x.dtype"),),
        (WALK, check(test_walk.test_no_start_and_no_steps_noise_are_drawn_twice)),
    ),
    Mutant(
        42,
        "training noise by the row of the share",
        (Edit("tinyddpm.diffusion.objective:noise_like", "dtype=x0.dtype, first=first", "dtype=x0.dtype"),),
        (SHARES, SIMPLE),
    ),
    Mutant(
        42,
        "timesteps by the row of the share",
        (Edit("tinyddpm.diffusion.objective:random_timesteps", "dtype=np.float64, first=first", "dtype=np.float64"),),
        (SHARES, DRAWN),
    ),
    Mutant(
        42,
        "labels dropped by the row of the share",
        (Edit("tinyddpm.diffusion.objective:drop_labels", "dtype=np.float64, first=first", "dtype=np.float64"),),
        (SHARES, DRAWN),
    ),
    Mutant(
        42,
        "masks of dropout by the row of the share",
        (Edit("tinyddpm.networks.layers:Dropout.mask", "dtype=dtype, first=key.first", "dtype=dtype"),),
        (SHARES, check(test_layers.TestDropout().test_the_mask_that_a_block_multiplies_by_is_the_same, key=(5, 7, 3))),
    ),
    Mutant(
        42,
        "dropout's place forgotten in backward",
        (Edit("backends.ops.dropout:dropout", "real_part(xp, x).dtype, first)", "real_part(xp, x).dtype, 0)"),),
        (SIMPLE,),
    ),
    Mutant(
        42,
        "rows counted in whole blocks of four numbers",
        (Edit("backends.ops.philox:cut", "skipped = start % 4", "skipped = 0"),),
        (
            WALK,
            check(test_philox.test_parts_drawn_apart_make_the_whole),
            FAR,
        ),
    ),
    Mutant(
        42,
        "places cut to 32 bits",
        (Edit("backends.ops.philox:words", "block >> 32,", "block & 0,"),),
        (FAR,),
        passes=(WALK,),
    ),
    Mutant(
        42,
        "a kernel that draws from the beginning",
        (Edit("backends.numba_kernels.functions:draw", "first * row_size(shape)", "0"),),
        (check(test_numba.test_override_equals_the_reference, name="random_normal"),),
    ),
    Mutant(
        42,
        "a resumed drawing that begins with the first images again",
        (
            Edit(
                f"{SERIES}.draw",
                "self.drawing.states(*batches[self.ranks.rank])",
                "self.drawing.states(batches[0][0] - missing[0][0], batches[0][1])",
            ),
        ),
        (check(in_a_folder, function=resumed),),
    ),
    Mutant(
        42,
        "a drawing of other settings gone on with",
        (Edit(f"{SERIES}.begin", "begun is not None and not self.overwrite", "False"),),
        (check(in_a_folder, function=with_other_settings),),
    ),
)
