"""The options of diffusers' `DDPMScheduler` and `DDIMScheduler` and what they are in a `Diffusion`."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from tinyddpm.diffusers_format.folder import COMPONENTS
from tinyddpm.diffusers_format.options import Options
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError

# What an option that a file leaves out means to diffusers, of either class: a scheduler made from the other's config
# keeps the other's options too
DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
    "variance_type": "fixed_small",
    "set_alpha_to_one": True,
}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
# Standard deviation as exp(log(variance) / 2) is the same number
VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned",
}


def read_diffusion(given: dict[str, Any]) -> Diffusion:
    """The same diffusion. Raises InputError, naming option and value, where there is none."""
    kind = given.get("_class_name")
    if kind not in COMPONENTS["scheduler"]:
        raise InputError(f"unsupported scheduler {kind!r}: only {' or '.join(COMPONENTS['scheduler'])} can be read")
    options = Options(kind, given, DEFAULTS)
    options.flag("clip_sample")
    options.only("clip_sample_range", 1)
    options.only("thresholding", False)
    options.only("steps_offset", 0)
    if kind == "DDIMScheduler":
        options.only("set_alpha_to_one", True)
    schedule = read_schedule(options)
    if options.flag("rescale_betas_zero_snr"):
        schedule = schedule.rescaled_to_zero_terminal_snr()
    return Diffusion(
        schedule,
        prediction=PREDICTIONS[options.only("prediction_type", *PREDICTIONS)],
        variance=VARIANCES[options.only("variance_type", *VARIANCES)],
    )


def read_schedule(options: Options) -> Schedule:
    """The schedule, in float64; diffusers rounds its betas to float32."""
    steps = options.whole("num_train_timesteps")
    if options["trained_betas"] is not None:
        betas = options.several("trained_betas")
        if len(betas) != steps or not all(isinstance(beta, float | int) for beta in betas):
            raise InputError(
                f"unsupported {options.kind} option trained_betas, {len(betas)} values: it must list one number for "
                f"each of num_train_timesteps={steps}"
            )
        return Schedule.from_betas(np.array(betas, np.float64))
    # The sigmoid of the betas is GeoDiff's (Xu et al. 2022), not that of `Schedule.sigmoid`
    known = ["linear", "scaled_linear", "squaredcos_cap_v2"] + ["sigmoid"] * (options.kind == "DDPMScheduler")
    name = options.only("beta_schedule", *known)
    start, end = options.number("beta_start"), options.number("beta_end")
    if name == "squaredcos_cap_v2":
        return Schedule.cosine(steps)
    if not 0 < start < 1 or not 0 < end < 1:
        options.refuse("beta_start" if not 0 < start < 1 else "beta_end", "it must lie between 0 and 1")
    if name == "sigmoid":
        return Schedule.from_betas(start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps))))
    return (Schedule.linear if name == "linear" else Schedule.quadratic)(steps, start, end, rescale=False)


def write_diffusion(diffusion: Diffusion) -> dict[str, Any]:
    """The scheduler/scheduler_config.json of a DDPMScheduler. Raises InputError for a shortened schedule."""
    schedule = diffusion.schedule
    if not np.array_equal(schedule.timesteps, np.arange(schedule.T)):
        raise InputError(
            f"DDPMScheduler cannot express a schedule shortened to {schedule.T} steps; save the whole schedule and "
            "shorten it when sampling"
        )
    return {
        "_class_name": "DDPMScheduler",
        **{name: value for name, value in DEFAULTS.items() if name != "set_alpha_to_one"},
        "num_train_timesteps": schedule.T,
        **write_betas(schedule),
        "prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == diffusion.prediction),
        "variance_type": "learned_range" if diffusion.learned else diffusion.variance,
        # Trailing is our samplers' own; but at its last step, where t > 0, DDPMScheduler adds noise of variance
        # beta, which for fixed_small alone is nothing
        "timestep_spacing": "trailing" if diffusion.variance == "fixed_small" else "leading",
    }


def write_betas(schedule: Schedule) -> dict[str, Any]:
    """The options that give exactly these betas: a formula of diffusers' where one does, else the betas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for options, made in formulas(schedule):
            made = made.rescaled_to_zero_terminal_snr() if schedule.zero_terminal_snr else made
            if np.array_equal(made.betas, schedule.betas):
                return {**options, "rescale_betas_zero_snr": schedule.zero_terminal_snr}
    return {"trained_betas": schedule.betas.tolist()}


def formulas(schedule: Schedule) -> Iterator[tuple[dict[str, Any], Schedule]]:
    """The schedules of diffusers' formulas that this one may be, or be rescaled from, and their options."""
    T, first, last = schedule.T, float(schedule.betas[0]), float(schedule.betas[-1])
    if last < 1:
        # Squares of square roots are off by a last bit
        rounded = float(f"{first:.15g}"), float(f"{last:.15g}")
        ends = {"linear": [(first, last)], "scaled_linear": [rounded]}
    else:
        # Rescaling hides the ends: those that `Schedule` has by default
        usual = [(factor * 1e-4, factor * 0.02) for factor in (1000 / T, 1.0) if factor * 0.02 < 1]
        ends = {"linear": usual, "scaled_linear": usual}
    for name, pairs in ends.items():
        for start, end in pairs:
            constructor = Schedule.linear if name == "linear" else Schedule.quadratic
            options = {"beta_schedule": name, "beta_start": start, "beta_end": end}
            yield options, constructor(T, start, end, rescale=False)
    yield {"beta_schedule": "squaredcos_cap_v2"}, Schedule.cosine(T)
