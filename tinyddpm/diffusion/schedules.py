"""Variance schedules and every table derived from them, in float64.

Code index t in 0 … T-1 is the paper's t + 1: `betas[0]` is the paper's beta_1, and `alpha_bars_prev[0]`,
the paper's alpha_bar_0, is 1.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinyddpm.checks import as_floats, check_choice, check_flag, check_number, check_whole, told
from tinyddpm.errors import InputError

SPACINGS = ("leading", "trailing", "linspace", "karras")
NAMES = ("linear", "cosine", "quadratic", "sigmoid", "log_snr")
# For betas outside (0, 1), by the constructors' own arguments
REMEDIES = dict.fromkeys(("linear", "quadratic"), "lower beta_end or use more steps") | dict.fromkeys(
    ("cosine", "sigmoid"), "lower max_beta"
)

# Above this much remaining signal, the chain's end is visibly not noise: the samplers start from pure noise
LARGEST_FINAL_ALPHA_BAR = 1e-2

# From this much noise over signal up, an image is noise to samplers: exp(5.1), where the authors of DPM-Solver cut the
# cosine schedule (`numerical_clip_alpha`): https://github.com/LuChengTHU/dpm-solver/blob/main/dpm_solver_pytorch.py
ALL_NOISE = 164.0

# Karras et al. 2022, eq. 5
RHO = 7


@dataclass(frozen=True, eq=False)
class Schedule:
    """The variances beta_t of the forward process and what follows from them.

    betas: (T,) float64 in (0, 1); the last may be 1, after which no signal is left (zero terminal SNR).
    timesteps: (T,) the value that the network is given at each index: 0 … T-1, or for a respaced schedule the indices
    of the original, ascending. name: for messages and files. Raises InputError for other betas, and for timesteps that
    are not whole or not ascending.
    """

    betas: np.ndarray
    timesteps: np.ndarray
    name: str = "custom"

    def __post_init__(self) -> None:
        betas = as_floats("betas", self.betas, "float64")
        timesteps = np.asarray(self.timesteps)
        if betas.ndim != 1 or betas.size == 0 or timesteps.shape != betas.shape:
            raise InputError(
                f"a schedule needs betas and timesteps of one shape (T,), got {betas.shape} and {timesteps.shape}"
            )
        sound = (betas > 0) & (betas < 1)
        # The formulas of REMEDIES give 1 by mistake alone
        sound[-1] |= betas[-1] == 1 and self.name not in REMEDIES
        if not np.all(sound):
            worst = betas[~sound][0]
            remedy = REMEDIES.get(self.name, "give betas between these")
            raise InputError(f"every beta must lie in (0, 1), got {worst}; {remedy}")
        if timesteps.dtype.kind not in "iu" or timesteps[0] < 0 or not np.all(timesteps[1:] > timesteps[:-1]):
            raise InputError(f"timesteps must be whole numbers from 0 up, ascending, got {told(self.timesteps)}")
        if not isinstance(self.name, str):
            raise InputError(f"a schedule's name must be a text, got {told(self.name)}")
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "timesteps", timesteps.astype(np.int64))
        if self.name != "custom" and self.alpha_bars[-1] > LARGEST_FINAL_ALPHA_BAR:
            warnings.warn(
                f"the {self.name} schedule of {self.T} steps ends at alpha_bar = {self.alpha_bars[-1]:.3g}, so its "
                "last state is not noise, from which sampling starts; use more timesteps or another schedule",
                stacklevel=5,
            )

    # The constructors

    @classmethod
    def linear(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True
    ) -> "Schedule":
        """Betas evenly spaced (Ho et al. 2020, section 4), the ends given for T = 1000.

        With rescale they are multiplied by 1000 / T, so that any T ends in noise, as in Nichol & Dhariwal's code;
        without it, T < 1000 keeps much of the image at the end, and a warning says so:
        https://github.com/openai/improved-diffusion/blob/1bc7bbb/improved_diffusion/gaussian_diffusion.py
        Raises InputError for steps below 1, or so few that a beta is 1 or more, and for ends outside (0, 1).
        """
        steps = check_whole("steps", steps)
        beta_start, beta_end, rescale = _checked_ends(beta_start, beta_end, rescale)
        factor = 1000 / steps if rescale else 1.0
        return cls._named("linear", np.linspace(factor * beta_start, factor * beta_end, steps))

    @classmethod
    def quadratic(
        cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True
    ) -> "Schedule":
        """Square roots of the betas evenly spaced, the ends as for `linear`: "quad" of Ho et al.'s `get_beta_schedule`.

        https://github.com/hojonathanho/diffusion/blob/1e0dceb3b3495bbe19116a5e1b3596cd0706c543/diffusion_tf/diffusion_utils_2.py
        """
        steps = check_whole("steps", steps)
        beta_start, beta_end, rescale = _checked_ends(beta_start, beta_end, rescale)
        factor = 1000 / steps if rescale else 1.0
        roots = np.linspace((factor * beta_start) ** 0.5, (factor * beta_end) ** 0.5, steps)
        return cls._named("quadratic", roots**2)

    @classmethod
    def cosine(cls, steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> "Schedule":
        """alpha_bar as a squared cosine (Nichol & Dhariwal 2021, eq. 17), beta clipped at max_beta from above.

        beta_t = 1 - f(t) / f(t - 1), f(t) = cos^2((t / T + s) / (1 + s) pi / 2), t = 1 … T. Raises InputError unless
        s >= 0 and 0 < max_beta < 1.
        """
        steps = check_whole("steps", steps)
        s = check_number("s", s, 0, float("inf"), high_open=True)
        max_beta = check_number("max_beta", max_beta, 0, 1, low_open=True, high_open=True)
        return cls._named("cosine", _betas_of(lambda u: np.cos((u + s) / (1 + s) * np.pi / 2) ** 2, steps, max_beta))

    @classmethod
    def sigmoid(
        cls, steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
    ) -> "Schedule":
        """alpha_bar as a falling sigmoid (Jabri, Fleet & Chen 2023, algorithm 1; Chen 2023), beta clipped above.

        Raises InputError unless start < end, tau > 0 and 0 < max_beta < 1.
        """
        steps, infinity = check_whole("steps", steps), float("inf")
        start = check_number("start", start, -infinity, infinity, low_open=True, high_open=True)
        end = check_number("end", end, -infinity, infinity, low_open=True, high_open=True)
        tau = check_number("tau", tau, -infinity, infinity, low_open=True, high_open=True)
        max_beta = check_number("max_beta", max_beta, 0, 1, low_open=True, high_open=True)
        if not (start < end and tau > 0):
            raise InputError(f"a sigmoid schedule needs start < end and tau > 0, got {start}, {end} and {tau}")

        def alpha_bar(u: np.ndarray) -> np.ndarray:
            low, high = (1 / (1 + np.exp(-edge / tau)) for edge in (start, end))
            return (high - 1 / (1 + np.exp(-(u * (end - start) + start) / tau))) / (high - low)

        return cls._named("sigmoid", _betas_of(alpha_bar, steps, max_beta))

    @classmethod
    def log_snr(cls, steps: int = 1000, high: float = 10.0, low: float = -10.0) -> "Schedule":
        """log SNR falling evenly from high to low, alpha_bar its sigmoid (Kingma et al. 2021, section 3.2).

        A schedule in continuous time u = t / T, so that fewer steps are the same chain respaced, to rounding. The ends
        are about those of `linear`; a likelihood in bits asks for less noise at the start, such as high = 13.3.
        Raises InputError unless low < high.
        """
        times, high, low = _times_and_ends(steps, high, low)
        return cls._named("log_snr", _betas_of_log_snr(high + times * (low - high)))

    @classmethod
    def shifted_cosine(
        cls, steps: int = 1000, shift: float = 1.0, high: float = 15.0, low: float = -15.0
    ) -> "Schedule":
        """log SNR as -2 log tan(pi u / 2) + 2 log(shift), u = t / T (Hoogeboom et al. 2023, section 3.1).

        The cosine, its log SNR cut to high … low, shifted: larger images need more noise, and for d x d pixels, d > 64,
        shift is 64 / d; 1 is the plain cosine. Raises InputError unless low < high and shift > 0.
        """
        shift = check_number("shift", shift, 0, float("inf"), low_open=True, high_open=True)
        times, high, low = _times_and_ends(steps, high, low)
        first, last = np.arctan(np.exp(-0.5 * np.array([high, low])))
        cosine = -2 * np.log(np.tan(first + times * (last - first)))
        return cls._named("shifted_cosine", _betas_of_log_snr(cosine + 2 * np.log(shift)))

    @classmethod
    def from_betas(cls, betas: np.ndarray) -> "Schedule":
        """A schedule of any betas: (T,) in (0, 1), the last at most 1. Raises InputError for others."""
        betas = as_floats("betas", betas, "float64")
        return cls(betas, np.arange(betas.size))

    @classmethod
    def by_name(cls, name: str, steps: int = 1000, zero_terminal_snr: bool = False) -> "Schedule":
        """The schedule of that name (one of NAMES) at its default ends, `rescaled_to_zero_terminal_snr` if asked.

        Raises InputError for another name.
        """
        check_choice("schedule", name, NAMES)
        made = getattr(cls, name)(steps)
        return made.rescaled_to_zero_terminal_snr() if check_flag("zero_terminal_snr", zero_terminal_snr) else made

    @classmethod
    def _named(cls, name: str, betas: np.ndarray) -> "Schedule":
        return cls(betas, np.arange(betas.size), name)

    # The tables, all (T,) float64

    @property
    def T(self) -> int:
        """Number of steps."""
        return self.betas.size

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether no signal is left at the end: the last alpha_bar is 0."""
        return bool(self.alpha_bars[-1] == 0)

    @cached_property
    def alphas(self) -> np.ndarray:
        """alpha_t = 1 - beta_t."""
        return 1.0 - self.betas

    @cached_property
    def alpha_bars(self) -> np.ndarray:
        """alpha_bar_t, the product of alpha_1 … alpha_t (Ho et al. 2020, above eq. 4)."""
        return np.cumprod(self.alphas)

    @cached_property
    def alpha_bars_prev(self) -> np.ndarray:
        """alpha_bar_{t-1}; 1 at the first step."""
        return np.append(1.0, self.alpha_bars[:-1])

    @cached_property
    def sqrt_alpha_bars(self) -> np.ndarray:
        """The signal's coefficient in x_t (Ho et al. 2020, eq. 4)."""
        return np.sqrt(self.alpha_bars)

    @cached_property
    def sqrt_one_minus_alpha_bars(self) -> np.ndarray:
        """The noise's coefficient in x_t (Ho et al. 2020, eq. 4)."""
        return np.sqrt(1.0 - self.alpha_bars)

    @cached_property
    def posterior_variance(self) -> np.ndarray:
        """beta~_t, the variance of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7); 0 at the first step."""
        return self.betas * (1.0 - self.alpha_bars_prev) / (1.0 - self.alpha_bars)

    @cached_property
    def posterior_log_variance(self) -> np.ndarray:
        """log beta~_t; the first step, log 0, takes the value of the second (of beta itself where T = 1)."""
        variance = self.posterior_variance.copy()
        variance[0] = variance[1] if self.T > 1 else self.betas[0]
        return np.log(variance)

    @cached_property
    def posterior_mean_x0(self) -> np.ndarray:
        """Coefficient of x_0 in the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        return np.sqrt(self.alpha_bars_prev) * self.betas / (1.0 - self.alpha_bars)

    @cached_property
    def posterior_mean_xt(self) -> np.ndarray:
        """Coefficient of x_t in the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
        return np.sqrt(self.alphas) * (1.0 - self.alpha_bars_prev) / (1.0 - self.alpha_bars)

    @cached_property
    def snr(self) -> np.ndarray:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), of variances in x_t (Kingma et al. 2021, eq. 2)."""
        return self.alpha_bars / (1.0 - self.alpha_bars)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """Noise over signal, sqrt((1 - alpha_bar) / alpha_bar): sigma of Karras et al. 2022; inf where no signal is."""
        with np.errstate(divide="ignore"):
            return self.sqrt_one_minus_alpha_bars / self.sqrt_alpha_bars

    # Other chains made of this one

    def rescaled_to_zero_terminal_snr(self) -> "Schedule":
        """sqrt(alpha_bar) shifted and scaled so that the last is 0 and the first stays (Lin et al. 2024, algorithm 1).

        The chain then ends in the pure noise from which sampling starts: with `Diffusion(prediction="v")` or "x0",
        and trailing spacing. Raises InputError for a single step.
        """
        if self.T == 1:
            raise InputError("zero terminal SNR needs a schedule of at least 2 steps, got 1")
        roots = self.sqrt_alpha_bars
        alpha_bars = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        betas = 1.0 - alpha_bars / np.append(1.0, alpha_bars[:-1])
        name = self.name if self.name == "custom" else f"{self.name} of zero terminal SNR"
        return Schedule(betas, self.timesteps, name)

    def spaced_indices(self, steps: int, spacing: str = "trailing") -> np.ndarray:
        """Which of the T indices a shortened chain visits, ascending (Lin et al. 2024, table 2).

        leading: 0, k, 2k … with k = T // steps (never reaches T-1); trailing: T-1 and evenly down from it;
        linspace: both ends; karras: dense where there is little noise, see `karras_indices`. One step is T-1 by any
        spacing, for sampling starts from noise: by the formulas of leading and linspace it would be 0, where there is
        next to none. Raises InputError for another spacing or steps outside 1 … T.
        """
        check_choice("spacing", spacing, SPACINGS)
        steps = check_whole("steps", steps, 1, self.T, "the schedule's length")
        if steps == 1:
            return np.array([self.T - 1])
        if spacing == "leading":
            return np.arange(steps) * (self.T // steps)
        if spacing == "karras":
            return self.karras_indices(steps)
        if spacing == "trailing":
            return np.round(self.T - np.arange(steps) * (self.T / steps)).astype(np.int64)[::-1] - 1
        return np.round(np.linspace(0, self.T - 1, steps)).astype(np.int64)

    def karras_indices(self, steps: int) -> np.ndarray:
        """Indices, ascending, whose `sigmas` are evenly spaced in sigma^(1/7) (Karras et al. 2022, eq. 5).

        From the last sigma, but at most ALL_NOISE, to the first. Each is the nearest that the schedule has, in log
        sigma, as networks know those alone (Karras et al. round too, in appendix C.3.4); where indices would repeat,
        their neighbours are taken, those above first.
        """
        first, last = self.sigmas[0], np.clip(ALL_NOISE, self.sigmas[0], self.sigmas[-1])
        wanted = np.linspace(first ** (1 / RHO), last ** (1 / RHO), steps) ** RHO
        nearest = np.round(np.interp(np.log(wanted), np.log(self.sigmas), np.arange(self.T))).astype(np.int64)
        number = np.arange(steps)
        distinct = np.maximum.accumulate(nearest - number) + number
        return np.minimum(distinct, max(nearest[-1], steps - 1) + 1 - steps + number)

    def respaced(self, steps: int, spacing: str = "trailing") -> "Schedule":
        """The chain over fewer of this schedule's steps, with the betas that keep its alpha_bar there.

        beta'_i = 1 - alpha_bar_{s_i} / alpha_bar_{s_{i-1}} (Nichol & Dhariwal 2021, section 4).
        `timesteps` of the result are what the network is given. All T steps are the schedule itself, to the bit.
        Raises InputError as `spaced_indices`.
        """
        indices = self.spaced_indices(steps, spacing)
        if len(indices) == self.T:
            return self
        alpha_bars = self.alpha_bars[indices]
        return Schedule(1.0 - alpha_bars / np.append(1.0, alpha_bars[:-1]), self.timesteps[indices])


def _checked_ends(beta_start: Any, beta_end: Any, rescale: Any) -> tuple[float, float, bool]:
    """The ends and whether they are rescaled. Raises InputError for ends outside (0, 1), and for what is no flag."""
    start = check_number("beta_start", beta_start, 0, 1, low_open=True, high_open=True)
    end = check_number("beta_end", beta_end, 0, 1, low_open=True, high_open=True)
    return start, end, check_flag("rescale", rescale)


def _betas_of(alpha_bar: Callable[[np.ndarray], np.ndarray], steps: int, max_beta: float) -> np.ndarray:
    """Betas that give alpha_bar(t / T) for t = 0 … T, clipped from above only: small betas are meant."""
    values = alpha_bar(np.arange(steps + 1) / steps)
    return np.minimum(1.0 - values[1:] / values[:-1], max_beta)


def _times_and_ends(steps: Any, high: Any, low: Any) -> tuple[np.ndarray, float, float]:
    """t / T for t = 1 … T, and the ends of a log SNR. Raises InputError for steps below 1, and unless low < high."""
    steps, infinity = check_whole("steps", steps), float("inf")
    high = check_number("high", high, -infinity, infinity, low_open=True, high_open=True)
    low = check_number("low", low, -infinity, infinity, low_open=True, high_open=True)
    if not low < high:
        raise InputError(f"a schedule in log SNR needs low < high, got {low} and {high}")
    return np.arange(1, steps + 1) / steps, high, low


def _betas_of_log_snr(values: np.ndarray) -> np.ndarray:
    """Betas that give alpha_bar = sigmoid(values), (T,): 1 - sigmoid(b) / sigmoid(a), without cancellation."""
    # alpha_bar_0 = 1 has no end of SNR
    return -np.expm1(np.diff(values, prepend=np.inf)) / (1 + np.exp(values))
