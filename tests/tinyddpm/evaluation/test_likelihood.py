"""The bound in bits per dimension: against the closed form of a Gaussian, its strata, its floor, the command's."""

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import backends
from tests.tinyddpm.tiny_runs import QUICK, SIMPLE_OPTIONS, invoke, succeed
from tinyddpm import data
from tinyddpm.data import Dataset
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.evaluation import likelihood

SCHEDULE = Schedule.linear(60)
S2, MEAN = 0.3**2, 0.1


class Denoiser:
    """The exact eps of data N(MEAN, S2) in each pixel, which with `learned` says v = `v` as well."""

    def __init__(self, schedule: Schedule = SCHEDULE, v: float | None = None) -> None:
        self.backend, self.dtype, self.schedule, self.v = backends.get("numpy"), "float64", schedule, v
        self.config = SimpleNamespace(learned_variance=v is not None, num_classes=None)

    def __call__(self, x: Any, t: Any, labels: Any = None) -> Any:
        ab = self.schedule.alpha_bars[np.searchsorted(self.schedule.timesteps, t)].reshape(-1, 1, 1, 1)
        eps = np.sqrt(1 - ab) * (x - np.sqrt(ab) * MEAN) / (ab * S2 + 1 - ab)
        return eps if self.v is None else np.concatenate([eps, np.full_like(x, self.v)], axis=-1)


def random_bytes(n: int = 6, seed: int = 0) -> Dataset:
    images = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1)).astype(np.uint8)
    return Dataset("random", images, None, None)


def nats_by_formula(s: Schedule, t: int, d: np.ndarray, variance: float) -> np.ndarray:
    """KL of two normal laws whose means differ by d."""
    tilde = s.betas[t] * (1 - s.alpha_bars[t - 1]) / (1 - s.alpha_bars[t])
    return 0.5 * (math.log(variance / tilde) + (tilde + d**2) / variance - 1)


@pytest.mark.parametrize(("variance", "v"), [("fixed_small", None), ("fixed_large", None), ("learned", 0.4)])
def test_each_term_is_that_of_the_closed_form(variance: str, v: float | None) -> None:
    s, diffusion = SCHEDULE, Diffusion(SCHEDULE, variance=variance)
    x0 = data.to_unit(random_bytes().images).astype(np.float64)
    noise = np.random.default_rng(1).standard_normal(x0.shape)
    for t in (0, 1, 2, 17, 59):
        found = likelihood.term_bits(Denoiser(v=v), diffusion, x0, np.full(6, t), noise, clip=False)
        ab, beta = s.alpha_bars[t], s.betas[t]
        x_t = np.sqrt(ab) * x0 + np.sqrt(1 - ab) * noise
        # E[x0 | x_t] of the normal law
        gain = np.sqrt(ab) * S2 / (ab * S2 + 1 - ab)
        off = x0 - (MEAN + gain * (x_t - np.sqrt(ab) * MEAN))
        tilde = s.posterior_variance[max(t, 1)]
        sigma2 = {"fixed_small": tilde, "fixed_large": beta if t else tilde, "learned": tilde**0.3 * beta**0.7}[
            variance
        ]
        if t == 0:
            law = stats.norm(x0 - off, np.sqrt(sigma2))
            upper, lower = law.cdf(x0 + 1 / 255), law.cdf(x0 - 1 / 255)
            p = np.where(x0 == -1, upper, np.where(x0 == 1, law.sf(x0 - 1 / 255), upper - lower))
            nats = -np.log(p)
        else:
            by_x0 = np.sqrt(s.alpha_bars[t - 1]) * beta / (1 - ab)
            nats = nats_by_formula(s, t, by_x0 * off, sigma2)
        np.testing.assert_allclose(found, nats.mean(axis=(1, 2, 3)) / np.log(2), rtol=1e-6)


def test_the_expected_terms_of_a_gaussian_are_known_and_met() -> None:
    # E d^2 over data and noise is by_x0^2 times the variance of x0 given x_t
    s, diffusion = SCHEDULE, Diffusion(SCHEDULE, variance="fixed_large")
    rng = np.random.default_rng(2)
    x0 = MEAN + math.sqrt(S2) * rng.standard_normal((400, 8, 8, 1))
    for t in (1, 5, 30, 59):
        found = likelihood.term_bits(
            Denoiser(), diffusion, x0, np.full(400, t), rng.standard_normal(x0.shape), clip=False
        )
        ab = s.alpha_bars[t]
        by_x0, left = np.sqrt(s.alpha_bars[t - 1]) * s.betas[t] / (1 - ab), S2 * (1 - ab) / (ab * S2 + 1 - ab)
        tilde = s.posterior_variance[t]
        nats = 0.5 * (math.log(s.betas[t] / tilde) + (tilde + by_x0**2 * left) / s.betas[t] - 1)
        assert found.mean() == pytest.approx(nats / math.log(2), rel=0.05)


def test_the_prior_is_the_divergence_from_a_standard_normal_law() -> None:
    x0, ab = data.to_unit(random_bytes().images), SCHEDULE.alpha_bars[-1]
    nats = 0.5 * (ab * x0**2 + (1 - ab) - 1 - np.log(1 - ab))
    wanted = nats.mean(axis=(1, 2, 3)) / np.log(2)
    np.testing.assert_allclose(likelihood.prior_bits(Diffusion(SCHEDULE), x0), wanted, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 40, 60, 61])
def test_strata_hold_each_timestep_once_and_the_decoder_alone(count: int) -> None:
    sizes = likelihood.strata_of(60, count)
    assert sizes.sum() == 60
    assert sizes[0] == 1
    assert np.all(sizes >= 1)
    assert np.all(np.diff(sizes[:-1]) >= -1)
    assert len(sizes) == 60 or count < 60


def test_strata_give_the_exact_bound_on_average() -> None:
    diffusion, images = Diffusion(SCHEDULE), random_bytes(300)
    exact, some = (likelihood.bound(Denoiser(), diffusion, images, 300, count) for count in (60, 12))
    assert exact.terms.shape == (300, 60)
    assert some.terms.shape[1] < 13
    assert some.total == pytest.approx(exact.total, abs=4 * math.hypot(some.error, exact.error))
    assert sum(exact.parts.values()) == pytest.approx(exact.total, rel=1e-12)
    assert exact.floor < exact.total
    assert some.error > 0
    for bound in (exact, some):
        assert bound.ledger[0][:2] == (0, 0)
        assert bound.ledger[-1][1] == 59


def test_what_a_perfect_network_still_pays() -> None:
    # A white or black pixel's cell is open to one side, a grey one's to none
    images = np.array([-1.0, 1.0, 0.0, 3 / 255]).reshape(4, 1, 1, 1)
    for variance in ("fixed_small", "learned"):
        sigma = math.sqrt(SCHEDULE.posterior_variance[1])
        edge, inner = stats.norm.cdf(1 / 255 / sigma), 2 * stats.norm.cdf(1 / 255 / sigma) - 1
        diffusion = Diffusion(SCHEDULE, variance=variance)
        wanted = -(2 * np.log2(edge) + 2 * np.log2(inner)) / 4 + likelihood.prior_bits(diffusion, images).mean()
        assert likelihood.floor_of(diffusion, images) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("variance", ["fixed_large", "learned"])
def test_an_image_of_three_equal_channels_pays_as_much_a_dimension_as_one_of_them(variance: str) -> None:
    diffusion, x0 = Diffusion(SCHEDULE, variance=variance), data.to_unit(random_bytes().images).astype(np.float64)
    noise, t = np.random.default_rng(3).standard_normal(x0.shape), np.array([0, 0, 1, 7, 30, 59])
    model, thrice = Denoiser(v=0.4 if variance == "learned" else None), lambda a: np.repeat(a, 3, axis=-1)
    of_all, of_one = (
        likelihood.term_bits(model, diffusion, each(x0), t, each(noise)) for each in (thrice, lambda a: a)
    )
    np.testing.assert_allclose(of_all, of_one, rtol=1e-12)
    for measure in (likelihood.prior_bits, likelihood.floor_of):
        np.testing.assert_allclose(measure(diffusion, thrice(x0)), measure(diffusion, x0), rtol=1e-12)


@pytest.mark.skipif("TINYDDPM_DATA" not in os.environ, reason="TINYDDPM_DATA names no folder with mnist")
@pytest.mark.parametrize(("schedule", "floor"), [("linear", 0.66), ("cosine", 0.40)])
def test_the_floor_of_mnist_at_its_own_size(schedule: str, floor: float) -> None:
    images = data.to_unit(data.load("mnist", split="test").images[:2000])
    assert images.shape[1:3] == (28, 28)
    assert likelihood.floor_of(Diffusion(Schedule.by_name(schedule, 1000)), images) == pytest.approx(floor, abs=0.015)


def test_refusals() -> None:
    with pytest.raises(InputError, match="images must be a whole number"):
        likelihood.bound(Denoiser(), Diffusion(SCHEDULE), random_bytes(), images=0)
    with pytest.raises(InputError, match="does not go with a network of learned_variance=False"):
        likelihood.bound(Denoiser(), Diffusion(SCHEDULE, variance="learned"), random_bytes())


def test_the_command_prints_draws_and_writes_it(tmp_path: Path) -> None:
    run, picture = tmp_path / "run", tmp_path / "ledger.png"
    succeed("train", *SIMPLE_OPTIONS, *QUICK, "--variance", "learned", "--steps", 1, "--out", run)
    brief = ["evaluate", run, "-n", 1, "--steps", 1, "--levels", 1, "--backend", "numpy"]
    out = succeed(*brief, "--bits", "--bits-images", 4, "--bits-terms", 5, "--ledger", picture)
    line = next(line for line in out.splitlines() if "bits per dimension" in line)
    seen = json.loads(succeed(*brief, "--bits", "--bits-images", 4, "--bits-terms", 5, "--json"))["bits"]
    assert f"at most {seen['total']:.4f} ± {seen['error']:.4f} bits per dimension on 4 images" in line
    assert seen["prior"] + seen["between"] + seen["decoder"] == pytest.approx(seen["total"])
    assert line.endswith(f"would still pay {seen['floor']:.4f}")
    assert (seen["ledger"][0]["first"], seen["ledger"][-1]["last"]) == (0, 49)
    with Image.open(picture) as image:
        assert image.size[0] > 500
    assert "--ledger draws what --bits measures" in invoke(*brief, "--ledger", picture).stderr
