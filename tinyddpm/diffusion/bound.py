"""What each timestep says of the variational bound: the rows that the operation `vlb_loss` reads."""

import numpy as np

from tinyddpm.diffusion.schedules import Schedule


def bound_steps(
    schedule: Schedule,
    prediction: str,
    t: np.ndarray,
    simple: np.ndarray | float,
    bound: np.ndarray | float,
    high: np.ndarray | None = None,
) -> np.ndarray:
    """(N, 6) float64, a row for each t (N,), its columns STEPS of `backends.ops.bound`.

    simple, bound: (N,) or one for all, the weights of the prediction's squared error and of the term L_t. high: (N,),
    the log-variance that v = 1 stands for, by default log beta_t (Nichol & Dhariwal 2021, eq. 15).
    """
    low, high = schedule.posterior_log_variance[t], np.log(schedule.betas[t]) if high is None else high
    return np.stack(np.broadcast_arrays(mean_gap(schedule, prediction)[t], low, high, t == 0, simple, bound), axis=1)


def mean_gap(schedule: Schedule, prediction: str) -> np.ndarray:
    """(T,): by what the posterior's mean exceeds the reverse step's, over the prediction less its target.

    The mean goes with x0 (Ho et al. 2020, eq. 7), and x0 against eps (eq. 15) and v (Salimans & Ho 2022, section 4).
    """
    by_x0 = schedule.posterior_mean_x0
    if prediction == "x0":
        return -by_x0
    by_v = schedule.sqrt_one_minus_alpha_bars * by_x0
    return by_v if prediction == "v" else by_v / schedule.sqrt_alpha_bars
