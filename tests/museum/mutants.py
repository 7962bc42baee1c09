"""The exhibits: the mistakes of `pitfalls`, each as a small change of our source, and the tests that must notice."""

from tests.backends import test_gradients, test_ops
from tests.museum import blind, test_killers
from tests.museum.exhibit import Check, Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm import (
    test_diffusion,
    test_model_inputs,
    test_optimizers,
    test_samplers,
    test_schedules,
    test_unet,
)
from tests.tinyddpm.data import test_pixels
from tinyddpm import samplers
from tinyddpm.errors import InputError
from tinyddpm.schedules import Schedule
from tinyddpm.unet import UNetConfig


def adjoint(operation: str) -> Check:
    return check(test_gradients.test_backward_is_the_adjoint_of_the_derivative, name=operation)


UNET_GRADIENTS = check(test_unet.test_unet_gradients_are_exact)
RESUME = check(test_killers.test_interrupted_and_resumed_training_is_the_same_to_the_bit)
DDIM_STEPS = check(test_samplers.test_ddim_is_equation_12, clip=True, spacing="trailing", steps=7)
DDPM_STEPS = check(test_samplers.test_ddpm_is_algorithm_2, clip=True, variance="fixed_small", spacing="trailing")
SPACED = check(test_schedules.test_spaced_indices_are_those_of_the_paper)

GROUP_NORM = "backends.ops.normalization:group_norm"
GROUP_NORM_BACKWARD = "backends.ops.normalization:group_norm_backward"
ATTENTION_BACKWARD = "backends.ops.attention:attention_backward"
SINUSOIDS = "backends.ops.embedding:sinusoidal_embedding"
COSINE = "tinyddpm.schedules:Schedule.cosine"
SPACED_INDICES = "tinyddpm.schedules:Schedule.spaced_indices"
DDPM, DDIM = "tinyddpm.samplers:ddpm", "tinyddpm.samplers:ddim"
RESUMING = "tinyddpm.runs:Run.resume"
STEP_GRADIENTS = "tinyddpm.train:Trainer.loss_and_gradients"

MUTANTS = (
    # Gradients
    Mutant(
        1,
        "dropped term that ones do not show",
        (Edit(GROUP_NORM_BACKWARD, "- normal * group_mean(xp, dnormal * normal)", ""),),
        (adjoint("group_norm"), UNET_GRADIENTS),
        passes=(check(blind.cotangent_of_ones),),
    ),
    Mutant(
        2,
        "normalised x overwritten before backward",
        (
            Edit(
                GROUP_NORM,
                "return normal * gamma + beta, NormContext(x,",
                "y = normal * gamma + beta\n    return y, NormContext(y,",
            ),
            Edit(GROUP_NORM_BACKWARD, "normal = (xp.reshape(x, shape) - mean) * rstd", "normal = xp.reshape(x, shape)"),
        ),
        (adjoint("group_norm"), adjoint("group_norm_silu"), UNET_GRADIENTS),
        passes=(check(blind.group_norm_gradient_at_its_initial_parameters),),
    ),
    Mutant(
        3,
        "gradients under another key",
        (
            Edit(
                "tinyddpm.parameters:Slot.write",
                "gradients[self.name][...] =",
                'gradients.setdefault(self.name.replace("time.", "time_embedding."), gradient)[...] =',
            ),
        ),
        (UNET_GRADIENTS, check(test_unet.test_simple_unet_gradients_are_exact)),
        passes=(check(blind.backward_runs_and_something_learns),),
    ),
    Mutant(
        4,
        "gradient in the wrong places",
        (
            Edit(
                "backends.ops.linear:linear_backward",
                "xp.sum(drows, axis=0) if",
                "xp.roll(xp.sum(drows, axis=0), 1) if",
            ),
        ),
        (adjoint("linear"), UNET_GRADIENTS),
        passes=(check(blind.shapes_only), check(blind.signed_sum)),
    ),
    Mutant(
        5,
        "group norm without the mean",
        (Edit(GROUP_NORM_BACKWARD, "- group_mean(xp, dnormal)", ""),),
        (adjoint("group_norm"), UNET_GRADIENTS),
    ),
    Mutant(
        5,
        "attention without the row sum",
        (Edit(ATTENTION_BACKWARD, " - xp.sum(dweights * weights, axis=-1, keepdims=True)", ""),),
        (adjoint("attention"), UNET_GRADIENTS),
    ),
    Mutant(
        6,
        "concatenation cut at the wrong channel",
        (Edit("backends.ops.resampling:concat_channels", "axis=-1), a.shape[-1]", "axis=-1), b.shape[-1]"),),
        (adjoint("concat_channels"),),
    ),
    Mutant(
        6,
        "skip's gradient added twice",
        (
            Edit(
                "tinyddpm.unet:UNet.backward",
                "dh, _ = add(dh, dskips.pop())\n            dh = level.resample",
                "dh, _ = add(dh, 2 * dskips.pop())\n            dh = level.resample",
            ),
        ),
        (UNET_GRADIENTS,),
    ),
    # Schedules and the forward process
    Mutant(
        7,
        "cosine off by one",
        (Edit("tinyddpm.schedules:_betas_of", "np.arange(steps + 1) / steps", "np.linspace(0, 1, steps + 2)[:-1]"),),
        (
            check(test_schedules.test_cosine_alpha_bar_is_the_paper_s_and_not_clipped_from_below),
            check(test_schedules.test_betas_match_the_formula, case="cosine 1000"),
        ),
    ),
    Mutant(
        7,
        "betas clipped from below",
        (
            Edit(
                "tinyddpm.schedules:_betas_of",
                "np.minimum(1.0 - values[1:] / values[:-1], max_beta)",
                "np.clip(1.0 - values[1:] / values[:-1], 0.01, max_beta)",
            ),
        ),
        (
            check(test_schedules.test_cosine_alpha_bar_is_the_paper_s_and_not_clipped_from_below),
            check(test_schedules.test_cosine_betas_are_clipped_at_the_top_only),
        ),
    ),
    Mutant(
        7,
        "max_beta of 0.99999",
        (Edit(COSINE, "max_beta: float = 0.999", "max_beta: float = 0.99999"),),
        (
            check(test_schedules.test_cosine_betas_are_clipped_at_the_top_only),
            check(test_schedules.test_betas_match_the_formula, case="cosine 1000"),
        ),
    ),
    Mutant(
        7,
        "max_beta of 1",
        (Edit(COSINE, "max_beta: float = 0.999", "max_beta: float = 1.0"),),
        (check(test_schedules.test_cosine_betas_are_clipped_at_the_top_only),),
        noticed_by=(InputError,),
    ),
    Mutant(
        8,
        "linear not rescaled",
        (
            Edit(
                "tinyddpm.schedules:Schedule.linear",
                "1000 / _checked_steps(steps) if rescale else 1.0",
                "_checked_steps(steps) / steps",
            ),
        ),
        (
            check(test_schedules.test_ends_are_rescaled_by_1000_over_the_steps, make=Schedule.linear, steps=300),
            check(test_schedules.test_betas_match_the_formula, case="linear 300"),
        ),
    ),
    Mutant(
        8,
        "no warning that the end is not noise",
        (Edit("tinyddpm.schedules:Schedule.__post_init__", "> LARGEST_FINAL_ALPHA_BAR", "> 1"),),
        (
            check(
                test_schedules.test_linear_that_is_not_rescaled_warns_that_it_does_not_end_in_noise, steps=50, end=0.60
            ),
        ),
    ),
    Mutant(
        9,
        "alpha_bar accumulated in float32",
        (
            Edit(
                "tinyddpm.schedules:Schedule.alpha_bars",
                "np.cumprod(self.alphas)",
                "np.cumprod(self.alphas, dtype=np.float32).astype(np.float64)",
            ),
        ),
        (
            check(test_schedules.test_every_table_matches_its_formula_in_decimals, case="linear 1000"),
            check(test_schedules.test_cosine_alpha_bar_is_the_paper_s_and_not_clipped_from_below),
        ),
    ),
    Mutant(
        9,
        "training tells t + 1",
        (
            Edit(
                "tinyddpm.diffusion:Diffusion.training_step",
                "self.schedule.timesteps[t]",
                "self.schedule.timesteps[t] + 1",
            ),
        ),
        (check(test_diffusion.test_training_tells_the_network_the_timesteps_that_sampling_will),),
    ),
    Mutant(
        9,
        "sampling tells t + 1",
        (Edit(DDIM, "model(x, t, labels=labels)", "model(x, t + 1, labels=labels)"),),
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
        9,
        "t of 0 never trained",
        (
            Edit(
                "tinyddpm.diffusion:Diffusion.timesteps",
                "(u * self.schedule.T)",
                "(1 + u * (self.schedule.T - 1))",
            ),
        ),
        (
            check(test_diffusion.test_timesteps_are_uniform_from_the_first_to_the_last),
            check(test_diffusion.test_timesteps_of_a_chain_of_one_are_zero),
        ),
    ),
    Mutant(
        10,
        "data in 0 to 1",
        (Edit("tinyddpm.data.pixels:to_unit", "/ np.float32(127.5) - np.float32(1)", "/ np.float32(255)"),),
        (check(test_pixels.test_range_and_spacing), check(test_pixels.test_round_trip_is_exact_for_every_byte)),
    ),
    Mutant(
        10,
        "data in 0 to 255",
        (Edit("tinyddpm.data.pixels:to_unit", " / np.float32(127.5) - np.float32(1)", ""),),
        (check(test_pixels.test_range_and_spacing), check(test_pixels.test_round_trip_is_exact_for_every_byte)),
    ),
    # Time embedding
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
    # Samplers
    Mutant(
        13,
        "wrong sign on eps",
        (Edit(DDIM, "* x0 + direction * eps", "* x0 - direction * eps"),),
        (DDIM_STEPS, check(test_samplers.test_ddim_with_eta_1_is_ddpm_noise_for_noise, clip=False)),
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
                "tinyddpm.schedules:Schedule.alpha_bars_prev",
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
                DDIM,
                "eps = chain.eps_from_x0(x, i, x0)",
                "eps = chain.to_eps(x, i, model(x, t, labels=labels))",
            ),
        ),
        (DDIM_STEPS,),
        passes=(check(test_samplers.test_ddim_is_equation_12, clip=False, spacing="trailing", steps=7),),
    ),
    Mutant(
        13,
        "eta of 1 by default",
        (Edit(DDIM, "eta: float = 0.0", "eta: float = 1.0"),),
        (check(test_samplers.test_ddim_draws_nothing_after_the_start_by_default),),
        passes=(check(test_samplers.test_ddims_noise_is_that_of_equation_16, clip=True, eta=0.5),),
    ),
    Mutant(
        14,
        "mean from the unclipped x0",
        (
            Edit(
                DDPM,
                "mean = chain.posterior_mean(x0, x, i)",
                "mean = chain.mean_from_eps(x, i, chain.to_eps(x, i, output))",
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
        (Edit("tinyddpm.samplers:clipped", "if clip else x0", "if True else x0"),),
        (
            check(test_samplers.test_clip_bounds_x0_and_only_clip_does, sampler=samplers.ddim),
            check(test_samplers.test_ddim_is_equation_12, clip=False, spacing="trailing", steps=7),
        ),
    ),
    Mutant(
        15,
        "log of the variance 0",
        (
            Edit(
                "tinyddpm.schedules:Schedule.posterior_log_variance",
                "variance[1] if self.T > 1 else self.betas[0]",
                "0.0",
            ),
        ),
        (
            check(test_diffusion.test_log_variances_of_the_shortest_chains_are_finite, variance="fixed_small", steps=2),
            check(test_schedules.test_posterior_variance_is_zero_at_first_and_its_log_that_of_the_second),
        ),
    ),
    Mutant(
        15,
        "noise added in the last step",
        (Edit("tinyddpm.samplers:step_noise", "if i == 0 or sigma == 0:", "if sigma == 0:"),),
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
                "tinyddpm.schedules:Schedule.respaced",
                "1.0 - alpha_bars / np.append(1.0, alpha_bars[:-1])",
                "self.betas[indices]",
            ),
        ),
        (
            DDPM_STEPS,
            check(test_schedules.test_respaced_twice_still_knows_the_first_timesteps),
            check(test_schedules.test_respaced_keeps_alpha_bar_at_the_steps_it_keeps),
        ),
        passes=(check(test_schedules.test_respaced_to_all_steps_is_the_schedule_itself), SPACED),
    ),
    Mutant(
        17,
        "sampling from the raw weights",
        (
            Edit(
                "tinyddpm.checkpoint:Checkpoint.sampling_model",
                "self.model if self.ema is None else self.model.sharing(self.ema.params)",
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
                "tinyddpm.optimizers:EMA.decay_now",
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
    # Shapes and config
    Mutant(
        18,
        "groups that do not divide taken by the operation",
        (Edit(GROUP_NORM, "if groups < 1 or channels % groups:", "if groups < 1:"),),
        (check(test_ops.test_group_norm_refuses_groups_that_do_not_divide, op=test_ops.group_norm, groups=4),),
    ),
    Mutant(
        18,
        "groups that do not divide taken by the config",
        (
            Edit(
                "tinyddpm.unet:check_unet_sizes",
                "if config.base_channels * mult % config.groups:",
                "if config.groups > config.base_channels * mult:",
            ),
        ),
        (
            check(
                test_model_inputs.test_fields_of_both_configs,
                kind=UNetConfig,
                fields={"groups": 5},
                parts=("groups=5", "32"),
            ),
        ),
    ),
    Mutant(
        18,
        "28 pixels halved three times",
        (Edit("tinyddpm.model:check_size", "side < factor or side % factor", "side < factor"),),
        (check(test_model_inputs.test_three_halvings_of_28_name_sizes_that_work, kind=UNetConfig),),
    ),
    Mutant(
        18,
        "odd sides pooled",
        (
            Edit(
                "backends.ops.resampling:average_pool",
                "if h % 2 or w % 2:",
                "x = x[:, : h - h % 2, : w - w % 2]\n    if 0:",
            ),
            Edit(
                "backends.ops.resampling:average_pool", "return xp.mean(", "n, h, w, c = x.shape\n    return xp.mean("
            ),
        ),
        (check(test_ops.test_average_pool_refuses_odd_sizes, h=3, w=4),),
        passes=(check(test_ops.test_average_pool_undoes_upsample_nearest),),
    ),
    Mutant(
        18,
        "height and width exchanged",
        (
            Edit(
                "backends.ops.resampling:upsample_nearest", "(n, 2 * h, 2 * w, c)), None", "(n, 2 * w, 2 * h, c)), None"
            ),
        ),
        (check(test_ops.test_average_pool_undoes_upsample_nearest),),
    ),
    Mutant(
        19,
        "attention by the down-sampling factor",
        (
            Edit(
                "tinyddpm.unet:UNetConfig.attends",
                "side in self.attention_resolutions",
                "min(self.size) // side in self.attention_resolutions",
            ),
        ),
        (check(test_unet.test_attention_stands_where_the_config_says),),
    ),
    # Training
    Mutant(20, "optimiser forgotten", (Edit(RESUMING, "checkpoint.optimizer,\n", "None,\n"),), (RESUME,)),
    Mutant(
        20,
        "steps of the optimiser forgotten",
        (Edit("tinyddpm.checkpoint:build", 'optimizer.steps = description["optimizer_steps"]', "optimizer.steps = 0"),),
        (RESUME,),
    ),
    Mutant(20, "average forgotten", (Edit(RESUMING, "checkpoint.ema,\n", "None,\n"),), (RESUME,)),
    Mutant(
        20,
        "updates of the average forgotten",
        (Edit("tinyddpm.checkpoint:build", 'checkpoint.ema.updates = description["ema"]["updates"]', "pass"),),
        (RESUME,),
    ),
    Mutant(20, "step forgotten", (Edit(RESUMING, "checkpoint.step,\n", "0,\n"),), (RESUME,)),
    Mutant(
        20,
        "order of the data forgotten",
        (
            Edit(
                STEP_GRADIENTS,
                "self.batches.at(number)",
                'self.batches.at(number - vars(self).setdefault("begun", number))',
            ),
        ),
        (RESUME,),
    ),
    Mutant(
        20,
        "noise forgotten",
        (Edit(STEP_GRADIENTS, "step=number,", 'step=number - vars(self).setdefault("begun", number),'),),
        (RESUME,),
    ),
    Mutant(
        21,
        "NaN trained on",
        (
            Edit(
                "tinyddpm.train:Trainer.take_step",
                "if not (math.isfinite(loss) and math.isfinite(float(norm))):",
                "if loss is None:",
            ),
        ),
        (
            check(test_killers.test_an_overflow_stops_training_with_its_operation_named),
            check(test_killers.test_nan_in_a_parameter_stops_training_with_its_name),
        ),
    ),
    Mutant(
        21,
        "NaN noticed after the update",
        (
            Edit(
                "tinyddpm.train:Trainer.take_step",
                "    if not (math.isfinite(loss)",
                "    self.optimizer.step(grads, config.lr)\n    if not (math.isfinite(loss)",
            ),
        ),
        (check(test_killers.test_an_overflow_stops_training_with_its_operation_named),),
    ),
    Mutant(
        21,
        "NaN saved over good checkpoints",
        (Edit("tinyddpm.runs:Run.checkpoint", "trainer.check_finite()", "pass"),),
        (check(test_killers.test_nan_is_not_saved_and_the_good_checkpoints_stay),),
    ),
    Mutant(
        23,
        "labels never dropped",
        (Edit("tinyddpm.diffusion:Diffusion.drop_labels", "np.where(u < self.label_dropout,", "np.where(u < 0,"),),
        (
            check(test_diffusion.test_the_asked_share_of_labels_is_dropped, share=0.7),
            check(
                test_diffusion.test_label_dropout_trains_the_unconditional_branch,
                share=0.5,
                unconditional=True,
                conditional=True,
            ),
        ),
    ),
)
