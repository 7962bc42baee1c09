"""Samplers of the probability flow: each step against the formulas of its paper, worked in their own variables."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from tinyddpm import samplers
from tinyddpm.diffusion.mixture import three_blobs
from tinyddpm.diffusion.process import PREDICTIONS, Diffusion
from tinyddpm.diffusion.schedules import ALL_NOISE, SPACINGS, Schedule
from tinyddpm.samplers import SAMPLERS

FLOW = ["euler", "heun", "dpm_solver", "pndm"]
# Whose last image is not all noise
SCHEDULE = Schedule.quadratic(200)
SHAPE = (3, 2, 3, 1)
BLOBS = three_blobs()


def wild(x: np.ndarray, t: int, labels: Any = None) -> np.ndarray:
    """A network far from any truth, whose x0 leave [-1, 1]."""
    return np.sin(3 * x) + 0.3 * math.cos(t) * x


def x_start(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


class ByHand:
    """The papers' variables: z = x / sqrt(alpha_bar), sigma, and the denoised image D(z; sigma) that wild predicts."""

    def __init__(self, schedule: Schedule, steps: int, spacing: str, clip: bool) -> None:
        kept = schedule.spaced_indices(steps, spacing)[::-1]
        self.t, self.clip = kept.tolist(), clip
        self.alpha_bars = [*schedule.alpha_bars[kept].tolist(), 1.0]
        self.sigmas = [math.sqrt((1 - ab) / ab) for ab in self.alpha_bars]

    def denoised(self, z: np.ndarray, n: int) -> np.ndarray:
        x0 = z - self.sigmas[n] * wild(z * math.sqrt(self.alpha_bars[n]), self.t[n])
        return np.clip(x0, -1, 1) if self.clip else x0

    def slope(self, z: np.ndarray, n: int) -> np.ndarray:
        """dz / dsigma (Karras et al. 2022, eq. 3)."""
        return (z - self.denoised(z, n)) / self.sigmas[n]

    def images(self, name: str, x: np.ndarray) -> list[np.ndarray]:
        z = x / math.sqrt(self.alpha_bars[0])
        zs = getattr(self, name)(z)
        return [z * math.sqrt(ab) for z, ab in zip(zs, self.alpha_bars[1:], strict=True)]

    def euler(self, z: np.ndarray) -> list[np.ndarray]:
        zs = []
        for n in range(len(self.t)):
            z = z + (self.sigmas[n + 1] - self.sigmas[n]) * self.slope(z, n)
            zs.append(z)
        return zs

    def heun(self, z: np.ndarray) -> list[np.ndarray]:
        """Karras et al. 2022, algorithm 1."""
        zs = []
        for n in range(len(self.t)):
            step, d = self.sigmas[n + 1] - self.sigmas[n], self.slope(z, n)
            ahead = z + step * d
            z = z + step * (0.5 * d + 0.5 * self.slope(ahead, n + 1)) if self.sigmas[n + 1] > 0 else ahead
            zs.append(z)
        return zs

    def dpm_solver(self, z: np.ndarray) -> list[np.ndarray]:
        """Lu et al. 2022, "DPM-Solver++", algorithm 2, with x in place of z; its last step by eq. 4 of DDIM."""
        zs, x, before = [], z * math.sqrt(self.alpha_bars[0]), None
        for n in range(len(self.t)):
            here, there = self.alpha_bars[n], self.alpha_bars[n + 1]
            model = D = self.denoised(x / math.sqrt(here), n)
            if there == 1:
                zs.append(D)
                break
            h = math.log(self.sigmas[n] / self.sigmas[n + 1])
            if n > 0:
                r = math.log(self.sigmas[n - 1] / self.sigmas[n]) / h
                D = (1 + 1 / (2 * r)) * model - 1 / (2 * r) * before
            x = math.sqrt((1 - there) / (1 - here)) * x - math.sqrt(there) * math.expm1(-h) * D
            before = model
            zs.append(x / math.sqrt(there))
        return zs

    def pndm(self, z: np.ndarray) -> list[np.ndarray]:
        """Liu et al. 2022: eq. 9 takes x along a noise, which eq. 12 makes of the last four."""
        zs, x, es = [], z * math.sqrt(self.alpha_bars[0]), []

        def transfer(x: np.ndarray, e: np.ndarray, n: int) -> np.ndarray:
            here, there = self.alpha_bars[n], self.alpha_bars[n + 1]
            below = math.sqrt(here) * (math.sqrt((1 - there) * here) + math.sqrt((1 - here) * there))
            return math.sqrt(there / here) * x - (there - here) / below * e

        for n in range(len(self.t)):
            es = [*es, self.slope(x / math.sqrt(self.alpha_bars[n]), n)][-4:]
            e = es[0]
            if len(es) == 1 and n + 1 < len(self.t):
                ahead = transfer(x, e, n)
                e = (e + self.slope(ahead / math.sqrt(self.alpha_bars[n + 1]), n + 1)) / 2
            elif len(es) == 2:
                e = (3 * es[1] - es[0]) / 2
            elif len(es) == 3:
                e = (23 * es[2] - 16 * es[1] + 5 * es[0]) / 12
            elif len(es) == 4:
                e = (55 * es[3] - 59 * es[2] + 37 * es[1] - 9 * es[0]) / 24
            x = transfer(x, e, n)
            zs.append(x / math.sqrt(self.alpha_bars[n + 1]))
        return zs


@pytest.mark.equation(
    "Song, Meng & Ermon 2021, eq. 14",
    "Karras et al. 2022, algorithm 1",
    'Lu et al. 2022, "DPM-Solver++", algorithm 2',
    "Liu et al. 2022, eq. 9",
    "Liu et al. 2022, eq. 12",
)
@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 9, 200])
def test_each_step_is_that_of_the_paper(name, clip, spacing, steps):
    assert SCHEDULE.sigmas[-1] < ALL_NOISE
    states = SAMPLERS[name](wild, Diffusion(SCHEDULE), SHAPE, steps=steps, x_T=x_start(), clip=clip, spacing=spacing)
    by_hand = ByHand(SCHEDULE, steps, spacing, clip).images(name, x_start())
    for state, expected in zip(states, by_hand, strict=True):
        # Unclipped, this network leaves all bounds
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(state.x / scale, expected / scale, atol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_euler_is_ddim(prediction, clip):
    options = {"steps": 9, "x_T": x_start(), "clip": clip, "spacing": "karras"}
    diffusion = Diffusion(Schedule.cosine(100), prediction=prediction)
    pairs = zip(
        samplers.euler(wild, diffusion, SHAPE, **options), samplers.ddim(wild, diffusion, SHAPE, **options), strict=True
    )
    for euler, ddim in pairs:
        np.testing.assert_allclose(euler.x, ddim.x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["heun", "pndm"])
@pytest.mark.parametrize("steps", [3, 10, 50])
def test_steps_out_of_noise_alone_are_eulers(name, steps):
    # The cosine schedule starts with sigma = 20,000: the mean of two slopes would move images by thousands
    schedule = Schedule.cosine(1000)
    diffusion, x_T = Diffusion(schedule), x_start((50, 2, 2, 1))
    options = {"steps": steps, "x_T": x_T, "clip": False}
    first, second = itertools.islice(SAMPLERS[name](BLOBS.model(schedule), diffusion, x_T.shape, **options), 2)
    euler, euler_second = itertools.islice(samplers.euler(BLOBS.model(schedule), diffusion, x_T.shape, **options), 2)
    np.testing.assert_allclose(first.x, euler.x, atol=1e-12)
    assert np.abs(second.x - euler_second.x).max() > 1e-4


def error(name: str, schedule: Schedule, steps: int, spacing: str = "trailing", prediction: str = "v") -> float:
    """Root mean square error of the images of the perfect network, by the exact flow from where the walk starts."""
    x_T = x_start((50, 2, 2, 1))
    diffusion = Diffusion(schedule, prediction=prediction)
    options = {"steps": steps, "x_T": x_T, "clip": False, "spacing": spacing}
    x = samplers.last(SAMPLERS[name](BLOBS.model(schedule, prediction), diffusion, x_T.shape, **options)).x
    exact = BLOBS.flow(x_T, float(schedule.respaced(steps, spacing).alpha_bars[-1]))
    return float(np.sqrt(np.mean((x - exact) ** 2)))


@pytest.mark.parametrize("name", ["heun", "dpm_solver", "pndm"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_second_order_is_nearer_to_the_exact_flow_in_fifty_steps(name, spacing, schedule):
    schedule = Schedule.by_name(schedule)
    assert error(name, schedule, 50, spacing) < 0.8 * error("euler", schedule, 50, spacing)


@pytest.mark.parametrize("name", ["heun", "dpm_solver"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_karras_spacing_takes_second_order_further(name, schedule):
    # Where the flow bends, little noise is left
    schedule = Schedule.by_name(schedule)
    assert error(name, schedule, 50, "karras") < 0.6 * error(name, schedule, 50, "trailing")


@pytest.mark.parametrize("name", FLOW)
def test_nothing_is_kept_from_one_walk_to_the_next(name):
    """Neither from one that is over, nor from one that is under way."""

    def walk(seed: int) -> Any:
        return SAMPLERS[name](wild, Diffusion(SCHEDULE), SHAPE, steps=7, x_T=x_start(seed=seed))

    alone = [[state.x for state in walk(seed)] for seed in (0, 1)]
    again = [state.x for state in walk(0)]
    np.testing.assert_array_equal(again, alone[0])
    for number, (one, other) in enumerate(zip(walk(0), walk(1), strict=True)):
        np.testing.assert_array_equal(one.x, alone[0][number])
        np.testing.assert_array_equal(other.x, alone[1][number])


@pytest.mark.parametrize("name", FLOW)
def test_the_first_images_do_not_depend_on_how_many_are_drawn(name):
    options = {"steps": 6, "seed": 2, "first": 16}
    few, many = (samplers.last(SAMPLERS[name](wild, Diffusion(SCHEDULE), (n, 2, 3, 1), **options)).x for n in (1, 16))
    np.testing.assert_array_equal(few, many[:1])
    other = samplers.last(SAMPLERS[name](wild, Diffusion(SCHEDULE), (1, 2, 3, 1), **options | {"first": 32})).x
    assert np.any(few != other)


@pytest.mark.parametrize("name", FLOW)
def test_nothing_is_drawn_after_the_start(name):
    # The seed decides where it starts, and nothing else
    given = [samplers.last(SAMPLERS[name](wild, Diffusion(SCHEDULE), SHAPE, x_T=x_start(), seed=n)).x for n in (5, 6)]
    np.testing.assert_array_equal(*given)


@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize(
    ("steps", "spacing"), [*((steps, spacing) for steps in (5, 50) for spacing in SPACINGS), (1000, "trailing")]
)
def test_float32_loses_next_to_nothing(name, steps, spacing):
    """Though where the cosine schedule starts, x / sqrt(alpha_bar) is 20,000 times the image."""
    schedule, x_T = Schedule.cosine(1000), x_start((20, 2, 2, 1))
    images = [
        samplers.last(
            SAMPLERS[name](
                BLOBS.model(schedule, "v"),
                Diffusion(schedule, prediction="v"),
                x_T.shape,
                steps=steps,
                spacing=spacing,
                x_T=x_T.astype(dtype),
            )
        ).x
        for dtype in ("float32", "float64")
    ]
    assert images[0].dtype == np.float32
    # One image may fall to the other side of a divide
    assert np.quantile(np.abs(images[0] - images[1]), 0.9) < 1e-5
