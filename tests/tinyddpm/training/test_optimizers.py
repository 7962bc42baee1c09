"""Adam against its formula and PyTorch's; the moving average and its warm-up; wrong inputs."""

import math
from typing import Any

import numpy as np
import pytest

from tinyddpm.errors import InputError
from tinyddpm.training.optimizers import EMA, Adam


def random_gradients(steps: int, size: int, dtype: str = "float64") -> np.ndarray:
    """(steps, size) of very different sizes, as the gradients of different layers are."""
    rng = np.random.default_rng(31)
    return (rng.standard_normal((steps, size)) * 10.0 ** rng.uniform(-6, 2, size)).astype(dtype)


class TestAdam:
    @pytest.mark.equation("Kingma & Ba 2015, algorithm 1")
    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    def test_against_the_formula_one_number_at_a_time(self, weight_decay: float) -> None:
        lr, beta1, beta2, eps = 0.01, 0.8, 0.95, 1e-6
        gradients = random_gradients(8, 5)
        params = np.random.default_rng(0).standard_normal(5)
        expected = params.tolist()
        optimizer = Adam(params, lr, beta1, beta2, eps, weight_decay)
        m, v = [0.0] * 5, [0.0] * 5
        for n, g in enumerate(gradients.tolist(), 1):
            optimizer.step(np.array(g))
            for i in range(5):
                m[i] = beta1 * m[i] + (1 - beta1) * g[i]
                v[i] = beta2 * v[i] + (1 - beta2) * g[i] ** 2
                m_hat, v_hat = m[i] / (1 - beta1**n), v[i] / (1 - beta2**n)
                expected[i] -= lr * weight_decay * expected[i]
                expected[i] -= lr * m_hat / (math.sqrt(v_hat) + eps)
            np.testing.assert_allclose(params, expected, rtol=1e-12)
        np.testing.assert_allclose(optimizer.m, m, rtol=1e-12)
        np.testing.assert_allclose(optimizer.v, v, rtol=1e-12)
        assert optimizer.steps == 8

    @pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-13), ("float32", 1e-6)])
    @pytest.mark.parametrize("weight_decay", [0.0, 0.1])
    def test_against_torch_over_twenty_steps(self, weight_decay: float, dtype: str, limit: float) -> None:
        torch = pytest.importorskip("torch", reason="parity with PyTorch needs the extra .[parity]")
        gradients = random_gradients(20, 300, dtype)
        params = np.random.default_rng(1).standard_normal(300).astype(dtype)
        theirs = torch.from_numpy(params.copy()).requires_grad_()
        kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
        their_optimizer = kind([theirs], lr=3e-3, weight_decay=weight_decay)
        optimizer = Adam(params, lr=3e-3, weight_decay=weight_decay)
        for g in gradients:
            optimizer.step(g)
            theirs.grad = torch.from_numpy(g)
            their_optimizer.step()
            difference = params - theirs.detach().numpy()
            assert np.linalg.norm(difference) <= limit * np.linalg.norm(params)
            assert np.abs(difference).max() <= 10 * limit

    @pytest.mark.parametrize("averaged", [False, True])
    def test_scale_multiplies_the_gradient(self, averaged: bool) -> None:
        found = []
        for factor, scale in ((1.0, 0.25), (0.25, 1.0), (1.0, 1.0)):
            params = np.random.default_rng(1).standard_normal(50)
            optimizer, average = Adam(params, lr=1e-2, eps=1e-2), EMA(params) if averaged else None
            for g in random_gradients(3, 50):
                optimizer.step(factor * g, scale=scale, ema=average)
            found.append(average.params if average else params)
        np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
        assert np.linalg.norm(found[0] - found[2]) > 1e-3

    def test_the_first_step_is_lr_against_the_gradient_whatever_its_size(self) -> None:
        params = np.zeros(3)
        Adam(params, lr=0.01).step(np.array([1e-4, -3.0, 1e6]))
        np.testing.assert_allclose(params, [-0.01, 0.01, -0.01], rtol=1e-3)

    def test_params_change_in_place_and_grads_do_not(self) -> None:
        params, grads = np.ones(4, np.float32), np.arange(1.0, 5.0, dtype=np.float32)
        optimizer = Adam(params)
        view = params[1:3]
        optimizer.step(grads)
        assert optimizer.params is params
        assert (view < 1).all()
        assert params.dtype == optimizer.m.dtype == optimizer.v.dtype == np.float32
        np.testing.assert_array_equal(grads, [1, 2, 3, 4])

    @pytest.mark.parametrize("averaged", [False, True])
    def test_lr_of_one_step_replaces_the_optimisers_own_for_that_step(self, averaged: bool) -> None:
        gradients = random_gradients(3, 6)
        runs = []
        for lr, override in ((0.02, None), (0.5, 0.02)):
            params = np.zeros(6)
            optimizer, average = Adam(params, lr=lr), EMA(params) if averaged else None
            for g in gradients:
                optimizer.step(g, lr=override, ema=average)
            assert optimizer.lr == lr
            runs.append(params)
        np.testing.assert_array_equal(*runs)
        before = params.copy()
        optimizer.step(gradients[0], lr=0.0)
        np.testing.assert_array_equal(params, before)
        assert optimizer.steps == 4

    @pytest.mark.parametrize("name", ["lr", "beta1", "beta2", "eps", "weight_decay"])
    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", None, True])
    def test_rates_outside_their_ranges_are_refused(self, name: str, value: Any) -> None:
        with pytest.raises(InputError, match=f"{name} must be a number") as error:
            Adam(np.ones(3), **{name: value})
        assert repr(value) in str(error.value)

    @pytest.mark.parametrize("fields", [{"beta1": 1.0}, {"beta2": 1.0}, {"eps": 0}])
    def test_ends_that_do_not_belong_to_the_ranges(self, fields: dict[str, float]) -> None:
        with pytest.raises(InputError, match="must be a number"):
            Adam(np.ones(3), **fields)

    @pytest.mark.parametrize("grads", [np.ones(2), np.ones(1), np.ones((3, 1)), np.float64(1.0), 1.0, None])
    def test_gradients_of_another_shape_are_refused_before_anything_moves(self, grads: Any) -> None:
        params = np.ones(3)
        optimizer = Adam(params)
        with pytest.raises(InputError, match=r"grads must be an array of the parameters' shape \(3,\)"):
            optimizer.step(grads)
        assert optimizer.steps == 0
        assert (params == 1).all()

    @pytest.mark.parametrize("lr", [-1, math.nan, math.inf, "0.1", True])
    def test_a_wrong_lr_of_one_step_is_refused_before_anything_moves(self, lr: Any) -> None:
        params = np.ones(3)
        optimizer = Adam(params)
        with pytest.raises(InputError, match="lr must be a number"):
            optimizer.step(np.ones(3), lr=lr)
        assert optimizer.steps == 0
        assert (params == 1).all()


class TestEMA:
    def test_warm_up_then_the_decay_itself(self) -> None:
        ema = EMA(np.zeros(2), decay=0.9)
        decays = []
        for _ in range(100):
            decays.append(ema.decay_now())
            ema.update(np.ones(2))
        np.testing.assert_allclose(decays, [min(0.9, (1 + n) / (10 + n)) for n in range(100)], rtol=1e-15)
        assert decays[0] == 0.1
        assert decays[79] < 0.9 == decays[80]

    def test_an_update_is_a_weighted_mean(self) -> None:
        average, params = np.array([1.0, 2.0]), np.array([3.0, -4.0])
        ema = EMA(average, decay=0.05)
        ema.update(params)
        np.testing.assert_allclose(ema.params, 0.05 * average + 0.95 * params, rtol=1e-15)
        assert ema.updates == 1

    def test_little_of_the_start_is_left_after_two_thousand_updates(self) -> None:
        # without warm-up 0.9999 ** 2000, 82 %, would be
        ema = EMA(np.ones(1), decay=0.9999)
        for _ in range(2000):
            ema.update(np.zeros(1))
        left = math.prod((1 + n) / (10 + n) for n in range(2000))
        assert 0 < ema.params[0] < 1e-12
        np.testing.assert_allclose(ema.params[0], left, rtol=1e-9)

    def test_it_follows_a_constant_and_has_an_array_of_its_own(self) -> None:
        params = np.full(3, 2.0, np.float32)
        ema = EMA(params)
        assert not np.shares_memory(ema.params, params)
        params[...] = 5
        assert (ema.params == 2).all()
        held = ema.params
        for _ in range(50):
            ema.update(params)
        assert ema.params is held
        assert ema.params.dtype == np.float32
        np.testing.assert_allclose(ema.params, 5, rtol=1e-6)
        assert (params == 5).all()

    @pytest.mark.parametrize("decay", [-0.1, 1.0, 2, math.nan, "0.9", None, True])
    def test_a_decay_outside_its_range_is_refused(self, decay: Any) -> None:
        with pytest.raises(InputError, match="decay must be a number") as error:
            EMA(np.ones(3), decay)
        assert repr(decay) in str(error.value)

    @pytest.mark.parametrize("params", [np.ones(2), np.ones(1), 1.0, None])
    def test_weights_of_another_shape_are_refused(self, params: Any) -> None:
        ema = EMA(np.ones(3))
        with pytest.raises(InputError, match=r"params must be an array of the parameters' shape \(3,\)"):
            ema.update(params)
        assert ema.updates == 0
