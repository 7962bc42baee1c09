"""What the network is told of time, samplers, and the weights that they use."""

from tests.backends import test_ops
from tests.museum import test_killers
from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.diffusion import test_process, test_schedules, test_spacing
from tests.tinyddpm.networks import test_unet
from tests.tinyddpm.samplers import test_ddpm_and_ddim, test_samplers
from tests.tinyddpm.training import test_optimizers
from tinyddpm import samplers

DDIM_STEPS = check(test_ddpm_and_ddim.test_ddim_is_equation_12, clip=True, spacing="trailing", steps=7)
DDPM_STEPS = check(test_ddpm_and_ddim.test_ddpm_is_algorithm_2, clip=True, variance="fixed_small", spacing="trailing")
SPACED = check(test_spacing.test_spaced_indices_are_those_of_the_paper)
SINUSOIDS = "backends.ops.embedding:sinusoidal_embedding"
SPACED_INDICES = "tinyddpm.diffusion.schedules:Schedule.spaced_indices"
DDPM, DDIM = "tinyddpm.samplers.ddpm:ddpm", "tinyddpm.samplers.ddim:ddim"

MUTANTS = (
    Mutant(
        9,
        "sampling tells t + 1",
        (Edit("tinyddpm.samplers.walk:Walk.output_and_v", "self.t(i)", "self.t(i) + 1"),),
        (
            check(
                test_samplers.test_a_state_is_yielded_after_each_step,
                sampler=samplers.ddim,
                spacing="trailing",
                steps=9,
            ),
            DDIM_STEPS,
        ),
    ),
    Mutant(
        11,
        "time by the row of the batch",
        (Edit(SINUSOIDS, "xp.astype(t, xp.float64)", "xp.arange(t.shape[0], dtype=xp.float64)"),),
        (
            check(test_ops.test_sinusoidal_embedding_depends_on_t_and_not_on_the_row),
            check(test_unet.TestTime().test_it_is_indexed_by_t_and_not_by_the_row, config=test_unet.CONFIGS[0]),
            check(test_unet.TestTime().test_one_t_serves_the_whole_batch, config=test_unet.CONFIGS[1]),
        ),
    ),
    Mutant(
        12,
        "sines and cosines exchanged",
        (Edit(SINUSOIDS, "if cos_first else", "if not cos_first else"),),
        (check(test_ops.test_sinusoidal_embedding_at_known_points),),
        passes=(check(test_ops.test_sinusoidal_embedding_depends_on_t_and_not_on_the_row),),
    ),
    Mutant(
        12,
        "half less one in the frequencies",
        (
            Edit(
                SINUSOIDS, "(-math.log(max_period) / (half - frequency_shift))", "(-math.log(max_period) / (half - 1))"
            ),
        ),
        (check(test_ops.test_sinusoidal_embedding_at_known_points),),
        passes=(check(test_ops.test_sinusoidal_embedding_depends_on_t_and_not_on_the_row),),
    ),
    Mutant(
        13,
        "wrong sign on eps",
        (Edit(DDIM, "* x0 + direction * eps", "* x0 - direction * eps"),),
        (DDIM_STEPS, check(test_ddpm_and_ddim.test_ddim_with_eta_1_is_ddpm_noise_for_noise, clip=False)),
    ),
    Mutant(
        13,
        "the first S steps for a stride",
        (Edit(SPACED_INDICES, "np.arange(steps) * (self.T // steps)", "np.arange(steps)"),),
        (SPACED,),
    ),
    Mutant(
        13,
        "last alpha_bar not 1",
        (
            Edit(
                "tinyddpm.diffusion.schedules:Schedule.alpha_bars_prev",
                "np.append(1.0, self.alpha_bars[:-1])",
                "np.append(self.alpha_bars[0], self.alpha_bars[:-1])",
            ),
        ),
        (
            DDIM_STEPS,
            check(test_samplers.test_the_last_x_is_the_last_x0, sampler=samplers.ddim, clip=True),
            check(test_schedules.test_every_table_matches_its_formula_in_decimals, case="linear 1000"),
        ),
    ),
    Mutant(
        13,
        "eps kept when x0 is clipped",
        (
            Edit(
                "tinyddpm.samplers.walk:Walk.predict",
                "self.chain.eps_from_x0(x, i, x0)",
                "self.chain.to_eps(x, i, output)",
            ),
        ),
        (DDIM_STEPS,),
        passes=(check(test_ddpm_and_ddim.test_ddim_is_equation_12, clip=False, spacing="trailing", steps=7),),
    ),
    Mutant(
        13,
        "eta of 1 by default",
        (Edit(DDIM, "eta: float = 0.0", "eta: float = 1.0"),),
        (check(test_samplers.test_ddim_draws_nothing_after_the_start_by_default),),
        passes=(check(test_ddpm_and_ddim.test_ddims_noise_is_that_of_equation_16, clip=True, eta=0.5),),
    ),
    Mutant(
        14,
        "mean from the unclipped x0",
        (
            Edit(
                DDPM,
                "else chain.posterior_mean(x0, x, i)",
                "else chain.mean_from_eps(x, i, chain.to_eps(x, i, output))",
            ),
        ),
        (
            DDPM_STEPS,
            check(test_samplers.test_clip_bounds_x0_and_only_clip_does, sampler=samplers.ddpm),
        ),
        passes=(
            check(
                test_samplers.test_clipped_and_unclipped_agree_where_nothing_clips,
                sampler=samplers.ddpm,
                name="cosine",
                prediction="eps",
            ),
        ),
    ),
    Mutant(
        14,
        "clipping that cannot be turned off",
        (Edit("tinyddpm.samplers.walk:Walk.x0", "if self.clip else x0", "if True else x0"),),
        (
            check(test_samplers.test_clip_bounds_x0_and_only_clip_does, sampler=samplers.ddim),
            check(test_ddpm_and_ddim.test_ddim_is_equation_12, clip=False, spacing="trailing", steps=7),
        ),
    ),
    Mutant(
        15,
        "log of the variance 0",
        (
            Edit(
                "tinyddpm.diffusion.schedules:Schedule.posterior_log_variance",
                "variance[1] if self.T > 1 else self.betas[0]",
                "0.0",
            ),
        ),
        (
            check(test_process.test_log_variances_of_the_shortest_chains_are_finite, variance="fixed_small", steps=2),
            check(test_schedules.test_posterior_variance_is_zero_at_first_and_its_log_that_of_the_second),
        ),
    ),
    Mutant(
        15,
        "noise added in the last step",
        (Edit("tinyddpm.samplers.walk:Walk.noise", "if i == 0 or (", "if ("),),
        (
            check(test_samplers.test_the_last_step_adds_no_noise, sampler=samplers.ddpm),
            check(test_samplers.test_the_last_x_is_the_last_x0, sampler=samplers.ddpm, clip=True),
        ),
    ),
    Mutant(
        16,
        "fewer steps with the betas of all",
        (
            Edit(
                "tinyddpm.diffusion.schedules:Schedule.respaced",
                "1.0 - alpha_bars / np.append(1.0, alpha_bars[:-1])",
                "self.betas[indices]",
            ),
        ),
        (
            DDPM_STEPS,
            check(test_spacing.test_respaced_twice_still_knows_the_first_timesteps),
            check(test_spacing.test_respaced_keeps_alpha_bar_at_the_steps_it_keeps),
        ),
        passes=(check(test_spacing.test_respaced_to_all_steps_is_the_schedule_itself), SPACED),
    ),
    Mutant(
        17,
        "sampling from the raw weights",
        (
            Edit(
                "tinyddpm.training.checkpoint:Checkpoint.sampling_model",
                "self.model if self.ema is None else self.model.with_params(self.ema.params)",
                "self.model",
            ),
        ),
        (check(test_killers.test_samples_are_drawn_from_the_averaged_weights),),
    ),
    Mutant(
        17,
        "average without warm up",
        (
            Edit(
                "tinyddpm.training.optimizers:EMA.decay_now",
                "min(self.decay, (1 + self.updates) / (10 + self.updates))",
                "self.decay",
            ),
        ),
        (
            check(test_optimizers.TestEMA().test_warm_up_then_the_decay_itself),
            check(test_optimizers.TestEMA().test_little_of_the_start_is_left_after_two_thousand_updates),
        ),
        passes=(check(test_optimizers.TestEMA().test_an_update_is_a_weighted_mean),),
    ),
)
