"""The chain's tables, its timesteps and its data."""

from tests.museum.exhibit import Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.data import test_pixels
from tests.tinyddpm.diffusion import test_objective, test_schedules, test_zero_terminal_snr
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError

COSINE = "tinyddpm.diffusion.schedules:Schedule.cosine"
RESCALED = "tinyddpm.diffusion.schedules:Schedule.rescaled_to_zero_terminal_snr"

MUTANTS = (
    Mutant(
        7,
        "cosine off by one",
        (
            Edit(
                "tinyddpm.diffusion.schedules:_betas_of",
                "np.arange(steps + 1) / steps",
                "np.linspace(0, 1, steps + 2)[:-1]",
            ),
        ),
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
                "tinyddpm.diffusion.schedules:_betas_of",
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
                "tinyddpm.diffusion.schedules:Schedule.linear",
                "1000 / steps if rescale else 1.0",
                "1.0",
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
        (Edit("tinyddpm.diffusion.schedules:Schedule.__post_init__", "> LARGEST_FINAL_ALPHA_BAR", "> 1"),),
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
                "tinyddpm.diffusion.schedules:Schedule.alpha_bars",
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
                "tinyddpm.diffusion.process:Diffusion.draw",
                "self.schedule.timesteps[t]",
                "self.schedule.timesteps[t] + 1",
            ),
        ),
        (check(test_objective.test_training_tells_the_network_the_timesteps_that_sampling_will),),
    ),
    Mutant(
        9,
        "t of 0 never trained",
        (
            Edit(
                "tinyddpm.diffusion.objective:random_timesteps",
                "(u * T)",
                "(1 + u * (T - 1))",
            ),
        ),
        (
            check(test_objective.test_timesteps_are_uniform_from_the_first_to_the_last),
            check(test_objective.test_timesteps_of_a_chain_of_one_are_zero),
        ),
    ),
    Mutant(
        41,
        "alpha_bar scaled without being shifted to zero",
        (Edit(RESCALED, "(roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])", "roots"),),
        (
            check(test_zero_terminal_snr.test_roots_of_alpha_bar_are_shifted_to_zero_and_scaled_to_the_first),
            check(
                test_zero_terminal_snr.test_every_table_is_finite_and_the_last_step_leads_from_noise_alone,
                name="cosine",
            ),
        ),
    ),
    Mutant(
        41,
        "shifted, but the first alpha_bar not kept",
        (Edit(RESCALED, "* roots[0] / (roots[0] - roots[-1])", ""),),
        (check(test_zero_terminal_snr.test_roots_of_alpha_bar_are_shifted_to_zero_and_scaled_to_the_first),),
        passes=(
            check(
                test_zero_terminal_snr.test_every_table_is_finite_and_the_last_step_leads_from_noise_alone,
                name="cosine",
            ),
        ),
    ),
    Mutant(
        41,
        "eps accepted where alpha_bar is 0",
        (Edit("tinyddpm.diffusion.process:Diffusion.__post_init__", "self.schedule.zero_terminal_snr", "False"),),
        (check(test_zero_terminal_snr.test_eps_is_refused_in_one_line),),
    ),
    Mutant(
        41,
        "ancestral steps by way of eps",
        (Edit("tinyddpm.samplers.ddpm:ddpm", 'chain.prediction == "eps" and not walk.clip', "not walk.clip"),),
        (
            check(
                test_zero_terminal_snr.test_ancestral_sampling_gives_the_mixture_from_pure_noise,
                prediction="v",
                variance="fixed_small",
                clip=False,
            ),
        ),
        passes=(
            check(
                test_zero_terminal_snr.test_ancestral_sampling_gives_the_mixture_from_pure_noise,
                prediction="v",
                variance="fixed_small",
                clip=True,
            ),
        ),
        noticed_by=(InputError, AssertionError),
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
)
