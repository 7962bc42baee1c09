"""Mistakes that a suite lets pass where one of its arguments is the same in all tests."""

from tests.backends import test_numba, test_numpy, test_recording
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.museum.test_killers import in_a_folder
from tests.tinyddpm import test_recording as test_networks
from tests.tinyddpm.data import test_batches, test_folder
from tests.tinyddpm.networks import test_layers
from tests.tinyddpm.training import test_optimizers, test_run_folder

RECORDER = "backends.numba_kernels.runtime.recording:Recorder.run"
ADAM = test_optimizers.TestAdam()
DROPOUT = test_layers.TestDropout()
RECORDED_AS = "tinyddpm.diffusion.process:Diffusion.recorded_as"
NUMBA = "backends.numba_backend:NumbaBackend"

MUTANTS = (
    Mutant(
        32,
        "variance as E[x^2] - E[x]^2",
        (
            Edit(
                "backends.numpy_kernels.normalization:statistics",
                "sum_products(centred, centred, channels), groups, pixels)",
                "sum_products(rows, rows, channels), groups, pixels) - mean * mean",
            ),
        ),
        (check(test_numpy.test_numbers_far_from_zero_are_normalised),),
        noticed_by=(AssertionError,),
    ),
    Mutant(
        32,
        "a recording for any delta of the loss",
        (Edit("tinyddpm.networks.model:Model.learn", '("training", loss)', '("training", loss.name)'),),
        (check(test_networks.test_losses_are_told_apart_by_their_numbers_too),),
    ),
    Mutant(
        32,
        "a recording for any number of threads",
        (Edit(RECORDER, "key = (name, threads(), ", "key = (name, "),),
        (check(test_recording.test_numbers_of_threads_are_told_apart),),
    ),
    Mutant(
        32,
        "a recording for inputs of any dtype",
        (Edit(RECORDER, "(a.shape, a.dtype)", "a.shape"),),
        (check(test_recording.test_dtypes_of_inputs_are_told_apart),),
    ),
    Mutant(
        32,
        "Adam without the gradient's scale",
        (Edit("tinyddpm.training.optimizers:Adam.step", "grads if scale == 1.0 else grads * scale", "grads"),),
        (check(ADAM.test_scale_multiplies_the_gradient, averaged=False),),
    ),
    Mutant(
        32,
        "rows of a log read on after a broken one",
        (
            Edit(
                "tinyddpm.training.run_folder:read_metrics",
                "except (ValueError, TypeError):\n            break",
                "except (ValueError, TypeError):\n            continue",
            ),
        ),
        (check(in_a_folder, function=test_run_folder.TestResume().test_rows_after_a_line_that_is_none_are_not_read),),
    ),
    Mutant(
        32,
        "a bilinear filter for that of Lanczos",
        (Edit("tinyddpm.data.resize:fit", "Image.Resampling.LANCZOS", "Image.Resampling.BILINEAR"),),
        (check(in_a_folder, function=test_folder.test_shrinking_keeps_edges_sharp_by_the_filter_of_lanczos),),
    ),
    Mutant(
        32,
        "a loss whose slope at NaN is zero",
        (
            Edit(
                "backends.numba_kernels.losses:loss_worker",
                "np.float32(0) * r",
                "np.float32(0)",
            ),
        ),
        (check(test_numba.test_what_is_not_a_number_spreads_through_losses, name="numba", loss="l1_loss"),),
    ),
    Mutant(
        32,
        "half of the seed",
        (
            Edit(
                "tinyddpm.data.batches:Batches._epoch",
                "order = np.random.default_rng([self.seed, ",
                "order = np.random.default_rng([self.seed % 2**32, ",
            ),
        ),
        (check(test_batches.test_all_digits_of_a_seed_count),),
    ),
    Mutant(
        32,
        "squares of a norm in float32",
        (
            Edit(
                "backends.numba_kernels.optimizer:squares_worker",
                "partial[k] = sum_of_squares(x, k * CHUNK, min(k * CHUNK + CHUNK, plan.count))",
                "total = np.float32(0)\n        for i in range(k * CHUNK, min(k * CHUNK + CHUNK, plan.count)):\n"
                "            total += x[i] * x[i]\n        partial[k] = total",
            ),
        ),
        (check(test_numba.test_a_norm_whose_squares_float32_cannot_hold),),
    ),
    *(
        Mutant(
            32,
            f"one eps for every {name.replace('_', ' ')}",
            (Edit(f"{NUMBA}.{name}", f"groups, eps, {silu})", f"groups, 1e-5, {silu})"),),
            (check(test_numba.test_override_equals_the_reference, name=name),),
        )
        for name, silu in (("group_norm", False), ("norm_conv2d", True), ("norm_attention", False))
    ),
    Mutant(
        32,
        "the optimiser's own lr where an average is updated too",
        (Edit("tinyddpm.training.optimizers:Adam.step", "self.steps, lr, scale", "self.steps, self.lr, scale"),),
        (check(ADAM.test_lr_of_one_step_replaces_the_optimisers_own_for_that_step, averaged=True),),
    ),
    Mutant(
        32,
        "one seed for the masks of all runs",
        (Edit("tinyddpm.networks.layers:Dropout.mask", "self.rate, key.seed", "self.rate, 0"),),
        (check(DROPOUT.test_the_mask_that_a_block_multiplies_by_is_the_same, key=(5, 7)),),
    ),
    Mutant(
        32,
        "a recorded step for any rates of the optimiser",
        (Edit("tinyddpm.training.trainer:Trainer.launch", ", config, optimizer.rates)", ", config)"),),
        (check(test_networks.test_steps_of_a_trainer_are_told_apart_by_all_that_no_array_holds),),
    ),
    Mutant(
        32,
        "a recorded step for any delta of the loss",
        (Edit(RECORDED_AS, "self.huber_delta, ", ""),),
        (
            check(test_networks.test_steps_of_a_trainer_are_told_apart_by_all_that_no_array_holds),
            check(test_networks.test_so_are_training_steps_without_a_trainer),
        ),
    ),
    Mutant(
        32,
        "a recorded step for any seed",
        (Edit(RECORDED_AS, "self.huber_delta, seed,", "self.huber_delta,"),),
        (check(test_networks.test_so_are_training_steps_without_a_trainer),),
    ),
)
