"""Samplers of the probability flow, their spacing, and dynamic thresholding."""

from typing import Any

from tests.museum.exhibit import Check, Mutant, check
from tests.museum.switch import Edit
from tests.tinyddpm.diffusion import test_spacing
from tests.tinyddpm.samplers import test_flow_samplers, test_orders, test_threshold

KARRAS = "tinyddpm.diffusion.schedules:Schedule.karras_indices"
HEUN, PNDM = "tinyddpm.samplers.heun:heun", "tinyddpm.samplers.pndm:pndm"
SOLVER = "tinyddpm.samplers.dpm_solver:dpm_solver"
THRESHOLD = "tinyddpm.samplers.threshold:thresholded"


def steps(name: str, **options: Any) -> Check:
    """Each step by hand."""
    cases = {"name": name, "clip": True, "spacing": "karras", "steps": 9} | options
    return check(test_flow_samplers.test_each_step_is_that_of_the_paper, **cases)


def order(name: str) -> Check:
    return check(test_orders.test_errors_fall_at_the_order_in_theory, sampler=name)


def nearest(name: str, number: int) -> Check:
    return check(test_spacing.test_karras_indices_are_the_nearest_that_do_not_repeat, name=name, steps=number)


MUTANTS = (
    Mutant(
        38,
        "steps in t where the formula has log snr",
        (Edit(SOLVER, "-np.log(chain.schedule.sigmas)", "-1.0 * chain.schedule.timesteps"),),
        (steps("dpm_solver"), steps("dpm_solver", spacing="trailing")),
    ),
    Mutant(
        38,
        "the ratio of two steps upside down",
        (Edit(SOLVER, "0.5 * h / h_before", "0.5 * h_before / h"),),
        (steps("dpm_solver"), steps("dpm_solver", clip=False)),
        # Whose steps are all the same in log snr
        passes=(order("dpm_solver"),),
    ),
    Mutant(
        38,
        "second order in the last step",
        (Edit(SOLVER, "x0_before is not None and i > 0", "x0_before is not None"),),
        (steps("dpm_solver"), steps("dpm_solver", steps=2)),
    ),
    Mutant(
        38,
        "first order in all steps",
        (Edit(SOLVER, "x0_before is not None and i > 0", "False"),),
        (steps("dpm_solver"), order("dpm_solver")),
        passes=(steps("dpm_solver", steps=2),),
    ),
    Mutant(
        38,
        "history kept across a restart",
        (
            Edit(PNDM, "slopes: list[Array] = []", "slopes: list[Array] = WEIGHTS.get(0, [])"),
            Edit(PNDM, "slopes = [eps, *slopes[:3]]", "slopes = WEIGHTS[0] = [eps, *slopes[:3]]"),
        ),
        (check(test_flow_samplers.test_nothing_is_kept_from_one_walk_to_the_next, name="pndm"),),
    ),
    Mutant(
        38,
        "a first step without a second slope",
        (Edit(PNDM, "len(slopes) == 1 and i > 0", "False"),),
        (steps("pndm"), steps("pndm", clip=False, steps=2)),
        passes=(order("pndm"),),
    ),
    Mutant(
        38,
        "a warm up that counts evaluations",
        (
            Edit(
                PNDM,
                "slope = 0.5 * (eps + eps_ahead)",
                "slope, slopes = 0.5 * (eps + eps_ahead), [eps_ahead, *slopes]",
            ),
        ),
        (steps("pndm"), steps("pndm", steps=3)),
        passes=(steps("pndm", steps=1),),
    ),
    Mutant(
        38,
        "slopes from the oldest",
        (Edit(PNDM, "zip(WEIGHTS[len(slopes)], slopes, strict=True)", "zip(WEIGHTS[len(slopes)], slopes[::-1])"),),
        (steps("pndm"), order("pndm")),
    ),
    Mutant(
        38,
        "the slope ahead at the time of the slope here",
        (Edit(HEUN, "walk.predict(x, i - 1)", "walk.predict(x, i)"),),
        (steps("heun"), order("heun")),
    ),
    Mutant(
        38,
        "second order out of noise alone",
        (Edit("tinyddpm.samplers.walk:Walk.in_noise", "> ALL_NOISE", "> 1e9"),),
        tuple(
            check(test_flow_samplers.test_steps_out_of_noise_alone_are_eulers, name=name, steps=10)
            for name in ("heun", "pndm")
        ),
        passes=(steps("heun"), steps("pndm"), order("heun")),
    ),
    Mutant(
        39,
        "spacing of the noise instead of noise over signal",
        (Edit(KARRAS, "np.log(self.sigmas)", "np.log(self.sqrt_one_minus_alpha_bars)"),),
        (nearest("linear", 10), nearest("cosine", 20)),
    ),
    Mutant(
        39,
        "indices that repeat",
        (Edit(KARRAS, "np.maximum.accumulate(nearest - number) + number", "nearest"),),
        (nearest("linear", 100), nearest("cosine", 100)),
        passes=(nearest("linear", 50),),
    ),
    Mutant(
        39,
        "indices pushed up into noise alone",
        (Edit(KARRAS, "max(nearest[-1], steps - 1) + 1 - steps", "self.T - steps"),),
        (nearest("cosine", 50), nearest("sigmoid", 10)),
        passes=(nearest("linear", 50),),
    ),
    Mutant(
        39,
        "from where all is noise",
        (Edit(KARRAS, "np.clip(ALL_NOISE, self.sigmas[0], self.sigmas[-1])", "self.sigmas[-1]"),),
        (nearest("cosine", 10), nearest("sigmoid", 10)),
        passes=(nearest("linear", 10),),
    ),
    Mutant(
        40,
        "a quantile of the batch",
        (Edit(THRESHOLD, "(x0.shape[0], -1)", "(1, -1)"),),
        (
            check(test_threshold.test_each_image_is_fitted_by_its_own_quantile),
            check(test_threshold.test_an_image_in_range_stays_as_it_is_whatever_is_beside_it),
            check(test_threshold.test_images_do_not_depend_on_those_beside_them),
        ),
    ),
    Mutant(
        40,
        "images in range stretched",
        (Edit(THRESHOLD, "1.0, None", "0.0, None"),),
        (
            check(test_threshold.test_each_image_is_fitted_by_its_own_quantile),
            check(test_threshold.test_an_image_in_range_stays_as_it_is_whatever_is_beside_it),
        ),
    ),
    Mutant(
        40,
        "clipping for shrinking",
        (Edit(THRESHOLD, "x0 / xp.reshape(s, (-1, 1, 1, 1))", "x0"),),
        (
            check(test_threshold.test_each_image_is_fitted_by_its_own_quantile),
            check(test_threshold.test_an_image_in_range_stays_as_it_is_whatever_is_beside_it),
        ),
    ),
)
