"""No silent cliff: floating-point inputs of any precision, byte order and layout run in that of the model."""

from typing import Any

import array_api_strict
import numpy as np
import pytest

import backends
from backends import WrappedBackend
from tests.tinyddpm.tiny_runs import CONFIGS, UNET, build, images, scramble
from tinyddpm.checks import as_floats, check_number, check_whole
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.evaluation.loss_by_level import loss_by_noise_level
from tinyddpm.networks.model import Model
from tinyddpm.samplers import SAMPLERS, last
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.optimizers import EMA, Adam

DIFFUSION = Diffusion(Schedule.cosine(50))
# Halves, so that no cast loses anything
X = np.round(2 * np.random.default_rng(0).standard_normal((2, 8, 8, 1))) / 2
LABELS = np.array([1, 2])


def laid_out(x: np.ndarray, kind: str) -> np.ndarray:
    """The same numbers in another dtype or layout."""
    if kind == "transposed":
        return np.ascontiguousarray(x.astype(np.float32).transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    if kind == "every second":
        return np.repeat(x.astype(np.float32), 2, axis=2)[:, :, ::2]
    if kind == "unaligned":
        packed = np.zeros(x.nbytes // 2 + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
        packed[...] = x
        return packed
    return x.astype(kind)


KINDS = ["f2", "f4", "f8", "g", ">f2", ">f4", ">f8", "transposed", "every second", "unaligned"]


class Watching(WrappedBackend):
    """Notes the dtypes of all floating-point arrays that operations are given."""

    def __init__(self, inner: backends.Backend) -> None:
        super().__init__(inner)
        self.seen: set[str] = set()

    def around(self, name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, np.ndarray) and value.ndim > 0 and value.dtype.kind == "f":
                self.seen.add(value.dtype.str)
                assert value.ndim != 4 or name.endswith("_loss") or value.flags.aligned
        return function(*args, **kwargs)


def watched(dtype: str = "float32", kind: str = "UNet") -> tuple[Model, Watching]:
    """A model with random weights, and what its operations were given."""
    backend = Watching(backends.get("numpy"))
    return scramble(build(CONFIGS[kind], backend, dtype=dtype)), backend


@pytest.mark.parametrize("network", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_and_its_backward(network: str, kind: str) -> None:
    model, backend = watched(kind=network)
    wanted = model(X.astype(np.float32), 7)
    gradient = (X / 2).astype(np.float32)
    tape: list[Any] = []
    model(X.astype(np.float32), 7, tape=tape)
    dx, grads = model.backward(gradient, tape), model.grads.copy()
    backend.seen.clear()

    x = laid_out(X, kind)
    np.testing.assert_array_equal(model(x, 7), wanted)
    model(x, 7, tape=tape)
    np.testing.assert_array_equal(model.backward(laid_out(X / 2, kind), tape), dx)
    np.testing.assert_array_equal(model.grads, grads)
    assert backend.seen == {"<f4"}
    assert model(x, 7).dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_float64_computes_in_it(kind: str) -> None:
    model, backend = watched("float64")
    wanted = model(X, 7)
    backend.seen.clear()
    np.testing.assert_array_equal(model(laid_out(X, kind), 7), wanted)
    assert backend.seen == {"<f8"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step(kind: str) -> None:
    model, backend = watched()
    loss = DIFFUSION.training_step(model, X.astype(np.float32), step=3, labels=LABELS)
    grads = model.grads.copy()
    backend.seen.clear()
    assert DIFFUSION.training_step(model, laid_out(X, kind), step=3, labels=LABELS.astype(">i2")) == loss
    np.testing.assert_array_equal(model.grads, grads)
    # But for the uniform numbers and the sinusoids, which are made in operations
    assert backend.seen == {"<f4"}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guided", [False, True])
def test_a_walk_from_given_noise(sampler: str, kind: str, guided: bool) -> None:
    model, backend = watched()
    options: dict[str, Any] = {"eta": np.float64(0.5)} if sampler == "ddim" else {}

    def walked(x_T: np.ndarray) -> list[np.ndarray]:
        # NumPy's float64 would turn float32 arrays into float64
        predictor = classifier_free(model, np.float64(2)) if guided else model  # type: ignore[arg-type]
        states = list(SAMPLERS[sampler](predictor, DIFFUSION, X.shape, steps=3, x_T=x_T, labels=LABELS, **options))
        assert {state.x.dtype.str for state in states} | {state.x0.dtype.str for state in states} == {"<f4"}
        return [state.x for state in states]

    wanted = walked(X.astype(np.float32))
    backend.seen.clear()
    np.testing.assert_array_equal(walked(laid_out(X, kind)), wanted)
    assert backend.seen == {"<f4"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_walk_of_a_model_is_in_its_precision(dtype: str) -> None:
    model, backend = watched(dtype)
    for sampler in SAMPLERS.values():
        assert last(sampler(model, DIFFUSION, X.shape, steps=3)).x.dtype == dtype
    assert backend.seen == {np.dtype(dtype).str}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_evaluation(dtype: str) -> None:
    model, backend = watched(dtype)
    loss_by_noise_level(model, DIFFUSION, images(5), 2)
    assert backend.seen == {np.dtype(dtype).str}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_q_sample_is_of_the_images_precision(kind: str, dtype: str) -> None:
    x0, t = X.astype(dtype), np.array([3, 40])
    noise = X / 2
    found = DIFFUSION.q_sample(x0, t, laid_out(noise, kind))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, DIFFUSION.q_sample(x0, t, noise.astype(dtype)))


def test_narrower_images_without_a_model_are_float32() -> None:
    for kind, dtype in (("f2", "f4"), (">f4", "f4"), (">f8", "f8"), ("g", "f8")):
        assert DIFFUSION.q_sample(X.astype(kind), 3, X).dtype == dtype


@pytest.mark.parametrize("kind", ["f2", "f8", ">f4", "every second"])
def test_gradients_and_averages(kind: str) -> None:
    found = []
    for grads in (X[:, 0, :, 0].reshape(-1).astype(np.float32), laid_out(X, kind)[:, 0, :, 0].reshape(-1)):
        params = np.ones(grads.size, np.float32)
        optimizer, ema = Adam(params), EMA(params)
        optimizer.step(grads)
        optimizer.step(grads, ema=ema)
        ema.update(grads)
        assert {a.dtype.str for a in (optimizer.params, optimizer.m, optimizer.v, ema.params)} == {"<f4"}
        found.append((params, ema.params))
    np.testing.assert_array_equal(found[0], found[1])


def test_what_is_right_is_not_copied() -> None:
    for dtype in (np.float32, np.float64, np.complex64, np.complex128):
        x = X.astype(dtype)
        assert as_floats("x", x) is x
    x = X.astype(np.float32)
    assert as_floats("x", x, "float32") is x
    complex_x = X.astype(complex)
    assert as_floats("x", complex_x, "float64") is complex_x


def test_lists_and_other_libraries() -> None:
    assert as_floats("x", [[0.5, 1.0]], "float32").dtype == np.float32
    x = array_api_strict.asarray(X)
    found = as_floats("x", x, "float32")
    assert type(found) is type(x)
    assert found.dtype == array_api_strict.float32
    assert as_floats("x", x) is x
    torch = pytest.importorskip("torch", reason="needs the extra .[parity]")
    np.testing.assert_array_equal(as_floats("x", torch.from_numpy(X), "float32"), X)


def test_arrays_of_another_library_stay_in_it() -> None:
    model = scramble(build(UNET, dtype="float64"))
    params = array_api_strict.asarray(model.params)
    strict = model.with_params(params, backends.Backend(array_api_strict))
    x = array_api_strict.asarray(X.astype(np.float32))
    assert type(strict.checked(x, np.array(7), None)[0]) is type(x)
    np.testing.assert_allclose(np.asarray(strict(x, 7)), model(X, 7), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("value", [np.array(0.5), np.array(0.5, ">f4"), np.float16(0.5), np.array(1), np.uint8(1)])
def test_numbers_of_no_axes(value: Any) -> None:
    found = check_number("x", value, 0, 1)
    assert type(found) is float
    assert found == value


def test_whole_numbers_of_no_axes() -> None:
    for value in (np.array(3), np.array(3, ">i4"), np.uint8(3)):
        assert (check_whole("n", value), type(check_whole("n", value))) == (3, int)
