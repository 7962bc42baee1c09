"""A batch computed in shares is the batch computed whole: what one process draws does not depend on the others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import backends
from tests.tinyddpm.tiny_runs import SIMPLE, UNET, build, scramble
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError

DIFFUSION = Diffusion(Schedule.cosine(50), label_dropout=0.5)
N, STEP, SEED = 7, 3, 2**40 + 1
ODD = replace(UNET, image_size=(5, 7), in_channels=3, channel_mults=(1,), attention_resolutions=())
CONFIGS = {
    "unet": replace(UNET, dropout=0.4),
    "images of 105 numbers": replace(ODD, dropout=0.4),
    "simple": replace(SIMPLE, dropout=0.4, num_classes=10),
}
SHARES = [(2, 5), (6, 1), (1, 3, 3)]


def batch(model: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x0 = rng.uniform(-1, 1, (N, *model.config.size, model.config.in_channels)).astype(dtype)
    return x0, rng.integers(0, 10, N)


def whole_and_in_shares(
    model: Any, shares: tuple[int, ...], dtype: str, diffusion: Diffusion = DIFFUSION, step: int = STEP
) -> tuple[tuple[float, np.ndarray], tuple[float, np.ndarray]]:
    """Loss and gradient, of the whole batch and of its shares, weighted by how many images each has."""
    x0, labels = batch(model, dtype)
    be = model.backend

    def learn(a: int, b: int) -> tuple[float, np.ndarray]:
        loss = diffusion.training_step(model, x0[a:b], labels=labels[a:b], step=step, seed=SEED, first=a)
        return loss, be.to_numpy(model.grads).copy()

    whole, loss, grads, first = learn(0, N), 0.0, np.zeros(model.grads.shape, np.float64), 0
    for n in shares:
        part = learn(first, first + n)
        loss, grads, first = loss + part[0] * n / N, grads + part[1] * (n / N), first + n
    return whole, (loss, grads)


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("config", CONFIGS)
def test_shares_add_up_to_the_batch(config: str, backend: str, recompute: bool, shares: tuple[int, ...]) -> None:
    model = scramble(build(CONFIGS[config], backends.get(backend), dtype="float64"), seed=1)
    model.recompute = recompute
    (loss, grads), (loss_of_shares, grads_of_shares) = whole_and_in_shares(model, shares, "float64")
    assert abs(loss - loss_of_shares) < 1e-12 * abs(loss)
    assert np.linalg.norm(grads - grads_of_shares) < 1e-12 * np.linalg.norm(grads)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_so_they_do_in_float32_and_where_steps_are_recorded(backend: str, dropout: float) -> None:
    model = scramble(build(replace(UNET, dropout=dropout), backends.get(backend)), seed=1)
    for step in range(4):  # as it is, recorded, replayed
        (loss, grads), (loss_of_shares, grads_of_shares) = whole_and_in_shares(model, (2, 5), "float32", step=step)
        assert abs(loss - loss_of_shares) < 1e-5 * abs(loss)
        assert np.linalg.norm(grads - grads_of_shares) < 1e-5 * np.linalg.norm(grads)


def test_what_is_drawn_for_a_share_is_the_batchs() -> None:
    model = build(CONFIGS["unet"])
    x0, labels = batch(model, "float32")
    whole = DIFFUSION.draw(model, x0, labels=labels, step=STEP, seed=SEED)
    share = DIFFUSION.draw(model, x0[2:], labels=labels[2:], step=STEP, seed=SEED, first=2)
    assert (int(whole.first), int(share.first)) == (0, 2)
    for name in ("x0", "timesteps", "signal", "sigma", "labels"):
        np.testing.assert_array_equal(getattr(whole, name)[2:], getattr(share, name))
    assert 0 < np.count_nonzero(whole.labels == 10) < N


@pytest.mark.parametrize("first", [-1, 2**32 - N + 1, 0.5])
def test_a_place_that_there_is_not(first: Any) -> None:
    model = build(UNET)
    x0, labels = batch(model, "float32")
    with pytest.raises(InputError, match=rf"^first must be a whole number in 0 … {2**32 - N}, got {first}$"):
        DIFFUSION.training_step(model, x0, labels=labels, step=0, first=first)
