"""Learned variances, the variational bound, timesteps drawn by their losses, min-SNR weights."""

from tests.museum.exhibit import Mutant, check
from tests.museum.mutants.cuda_kernels import equals
from tests.museum.mutants.gradients import adjoint
from tests.museum.switch import Edit, SourceEdit
from tests.tinyddpm.diffusion import test_learned_variance
from tests.tinyddpm.evaluation import test_likelihood
from tests.tinyddpm.samplers import test_learned_variances
from tests.tinyddpm.training import test_importance

OPERATION = "backends.ops.bound"
ROWS = "tinyddpm.diffusion.bound:bound_steps"
WEIGHING = "tinyddpm.diffusion.process:Diffusion.weights_and_bound"
LIKELIHOOD = "tinyddpm.evaluation.likelihood"
IMPORTANCE = "tinyddpm.training.importance:Importance"
REMEMBERING = "tinyddpm.training.trainer:Trainer.remember"

BY_HAND = check(
    test_learned_variance.test_the_bound_is_that_of_the_posterior,
    prediction="v",
    schedule=test_learned_variance.SCHEDULE,
)
HYBRID = check(
    test_learned_variance.test_of_the_hybrid_loss_the_mean_learns_by_the_squared_error_alone_and_v_by_the_bound,
    prediction="eps",
)
BETWEEN = check(test_learned_variance.test_variances_lie_between_the_tables_of_the_chain_that_is_walked)
MIN_SNR = check(
    test_learned_variance.test_min_snr_weights_are_of_the_error_of_x0_whatever_is_predicted,
    gamma=5.0,
)
SHORTENED = check(test_learned_variances.test_variances_may_differ_from_pixel_to_pixel)
EXPECTATION = check(test_learned_variance.test_images_drawn_often_weigh_less_so_that_the_expectation_stays)
FLOOR = check(test_likelihood.test_what_a_perfect_network_still_pays)
PRIOR = check(test_likelihood.test_the_prior_is_the_divergence_from_a_standard_normal_law)
STRATA = check(test_likelihood.test_strata_give_the_exact_bound_on_average)
COLOURS = check(
    test_likelihood.test_an_image_of_three_equal_channels_pays_as_much_a_dimension_as_one_of_them,
    variance="learned",
)
ON_DEVICE = equals("vlb_loss")
REMEMBERED, REMEMBERED_OF_TWO = (
    check(test_importance.test_a_trainer_remembers_each_images_term_by_its_timestep, accumulate=count)
    for count in (1, 2)
)

MUTANTS = (
    Mutant(
        44,
        "mean of the hybrid loss not detached",
        (
            Edit(f"{OPERATION}:vlb_loss", "(real_part(xp, r) if hybrid else r)", "r"),
            Edit(f"{OPERATION}:vlb_loss_backward", "if not hybrid:", "if True:"),
        ),
        (HYBRID,),
        passes=(adjoint("vlb_loss"),),  # the gradient is right, of another loss
    ),
    Mutant(44, "lambda forgotten", (Edit(WEIGHING, "objective.LAMBDA", "1.0"),), (HYBRID,), passes=(BY_HAND,)),
    Mutant(
        44,
        "the bound not scaled to all its steps",
        (Edit(WEIGHING, "bound = part * self.schedule.T * ", "bound = part * "),),
        (BY_HAND,),
        passes=(HYBRID,),
    ),
    Mutant(
        44,
        "v taken to go from 0 to 1",
        (
            Edit(f"{OPERATION}:log_variance_of", "0.5 * (v + 1.0)", "v"),
            Edit("tinyddpm.diffusion.process:Diffusion.log_variance", "(v + 1.0) * (0.5 * ", "v * (1.0 * "),
        ),
        (BY_HAND, BETWEEN),
        passes=(HYBRID,),
    ),
    Mutant(
        44,
        "variances interpolated instead of their logs",
        (
            Edit(
                "tinyddpm.diffusion.process:Diffusion.log_variance",
                "low + (v + 1.0) * (0.5 * (high - low))",
                "np.log(0.5 * ((1.0 - v) * np.exp(low) + (1.0 + v) * np.exp(high)))",
            ),
        ),
        (BETWEEN,),
    ),
    Mutant(
        44,
        "variances of all steps in a walk of few",
        (
            Edit(
                "tinyddpm.samplers.ddpm:ddpm",
                "chain.log_variance(i, v)",
                "(diffusion.log_variance(walk.t(i), v) if v is not None else chain.log_variance(i))",
            ),
        ),
        (SHORTENED, check(test_learned_variances.test_v_of_minus_1_is_fixed_small_and_of_1_is_beta, steps=7)),
        passes=(check(test_learned_variances.test_v_of_minus_1_is_fixed_small_and_of_1_is_beta, steps=None),),
    ),
    Mutant(
        44,
        "guidance of variances",
        (Edit("tinyddpm.samplers.guidance:Guided.__call__", "conditional[..., channels:]", "guided[..., channels:]"),),
        (check(test_learned_variances.test_guidance_leaves_the_variances_as_they_are_with_labels),),
    ),
    Mutant(
        45,
        "black and white no wider than greys",
        (
            Edit(
                f"{OPERATION}:decoder_cell",
                "xp.astype((x0 < EDGE) & (x0 > -EDGE), x0.dtype)",
                "1.0 + 0.0 * x0",
            ),
        ),
        (BY_HAND, FLOOR),
    ),
    Mutant(45, "the first step a divergence too", (Edit(ROWS, "t == 0", "t < 0"),), (BY_HAND, FLOOR)),
    Mutant(
        45,
        "nats called bits",
        (
            Edit(f"{OPERATION}:vlb_loss", "(BITS * bound)", "bound"),
            Edit(f"{OPERATION}:vlb_loss_backward", "(each * BITS) * bound", "each * bound"),
            Edit(f"{LIKELIHOOD}:prior_bits", " / math.log(2)", ""),
        ),
        (BY_HAND, PRIOR, FLOOR),
        passes=(adjoint("vlb_loss"), STRATA),
    ),
    Mutant(
        45,
        "bits of a pixel called those of a dimension",
        (
            Edit(f"{LIKELIHOOD}:bits", "False)[0][1:]", "False)[0][1:] * x0.shape[-1]"),
            Edit(f"{LIKELIHOOD}:prior_bits", "return np.mean(", "return x0.shape[-1] * np.mean("),
        ),
        (COLOURS,),
        passes=(FLOOR, PRIOR),
    ),
    Mutant(45, "prior left out", (Edit(f"{LIKELIHOOD}:Bound.each", "self.prior + ", ""),), (STRATA,)),
    Mutant(
        45,
        "floor without the prior",
        (Edit(f"{LIKELIHOOD}:floor_of", "decoder + prior_bits(diffusion, x0)", "decoder"),),
        (FLOOR,),
        passes=(STRATA,),
    ),
    Mutant(
        45,
        "a timestep of many counted as one",
        (Edit(f"{LIKELIHOOD}:Bound.each", "self.terms @ self.sizes", "np.sum(self.terms, axis=1)"),),
        (STRATA,),
    ),
    Mutant(
        46,
        "importance weights not normalised",
        (
            Edit(
                "tinyddpm.diffusion.process:Diffusion.draw",
                "1.0 / (self.schedule.T * chances[t])",
                "1.0 / chances[t]",
            ),
        ),
        (EXPECTATION,),
    ),
    Mutant(
        46,
        "timesteps drawn by chances and weighed alike",
        (
            Edit(
                "tinyddpm.diffusion.process:Diffusion.draw",
                "1.0 if chances is None else 1.0 / (self.schedule.T * chances[t])",
                "1.0",
            ),
        ),
        (EXPECTATION,),
    ),
    Mutant(
        46,
        "chances before every timestep has its ten",
        (Edit(f"{IMPORTANCE}.chances", "np.any(", "np.all("),),
        (check(test_importance.test_all_chances_are_equal_until_each_timestep_has_its_ten),),
    ),
    Mutant(
        46,
        "root of the mean instead of the mean square",
        (Edit(f"{IMPORTANCE}.chances", "self.losses**2", "self.losses"),),
        (check(test_importance.test_then_they_are_as_the_root_of_the_mean_square_and_a_thousandth_uniform),),
    ),
    Mutant(
        46,
        "the newest loss forgotten instead of the oldest",
        (Edit(f"{IMPORTANCE}.note", "self.losses[index, 1:]", "self.losses[index, :-1]"),),
        (check(test_importance.test_the_oldest_loss_is_forgotten_and_images_of_one_timestep_count_each),),
    ),
    Mutant(
        46,
        "losses remembered by the row of the batch",
        (Edit(REMEMBERING, "gather((indices,", "gather((np.arange(n) % len(self.importance.counts),"),),
        (REMEMBERED,),
    ),
    Mutant(
        46,
        "losses remembered with the weight of their draw",
        (Edit(REMEMBERING, " / bound[:, -1]", ""),),
        (REMEMBERED,),
    ),
    Mutant(
        46,
        "losses of the first batch remembered for all",
        (Edit(REMEMBERING, "losses = losses[n:]", "pass"),),
        (REMEMBERED_OF_TWO,),
        passes=(REMEMBERED,),
    ),
    Mutant(
        47,
        "weights of x0 for eps",
        (Edit("tinyddpm.diffusion.process:Diffusion.min_snr_weights", '"eps": snr', '"eps": 1.0'),),
        (MIN_SNR,),
    ),
    Mutant(
        47,
        "weights of eps for v",
        (Edit("tinyddpm.diffusion.process:Diffusion.min_snr_weights", '"v": snr + 1.0', '"v": snr'),),
        (MIN_SNR,),
    ),
    Mutant(
        47,
        "gamma the least instead of the most",
        (Edit("tinyddpm.diffusion.process:Diffusion.min_snr_weights", "np.minimum(", "np.maximum("),),
        (MIN_SNR,),
    ),
    Mutant(
        47,
        "the bound weighed by the noise as well",
        (
            Edit(
                WEIGHING,
                "objective.LAMBDA) * share",
                "objective.LAMBDA) * share * (1.0 if weights is None else weights)",
            ),
        ),
        (check(test_learned_variance.test_min_snr_weighs_the_squared_error_of_the_hybrid_loss_and_not_the_bound),),
        passes=(HYBRID,),
    ),
    Mutant(
        44,
        "on the device the mean not detached",
        (SourceEdit("bound.cu", "if (!hybrid) dr +=", "dr +="),),
        (ON_DEVICE,),
    ),
    Mutant(
        45,
        "on the device black and white no wider than greys",
        (SourceEdit("bound.cu", "constexpr float EDGE = 0.999f;", "constexpr float EDGE = 1.001f;"),),
        (ON_DEVICE,),
    ),
    Mutant(
        45,
        "on the device nats called bits",
        (SourceEdit("bound.cu", "BITS = 1.4426950408889634", "BITS = 1"),),
        (ON_DEVICE,),
    ),
)
