"""Both U-Nets: exact gradients over the space of configs, bookkeeping, initial values, time and labels."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tinyddpm.networks.test_layers import BACKEND, TOLERANCE, H, counted_writes, random_values, seeds, state_of
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig
from tinyddpm.testing import simple_configs, unet_configs


def model_of(config: Any, seed: int = 0) -> Any:
    """A float64 model with random parameters: nothing zero, nothing one."""
    kind = UNet if isinstance(config, UNetConfig) else SimpleUNet
    model = kind(config, backend=BACKEND, dtype="float64")
    model.params[...] = random_values(model.parameters.declarations, np.random.default_rng(seed))
    return model


def arguments(config: Any, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    size = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    x = rng.standard_normal((n, *size, config.in_channels))
    labels = None if config.num_classes is None else rng.integers(0, config.num_classes + 1, n)
    return x, rng.integers(0, 1000, n), labels


def check_model(config: Any, n: int, seed: int, recompute: bool) -> None:
    """The whole backward against one complex step, in a direction to which every tensor contributes alike."""
    rng = np.random.default_rng(seed)
    model = model_of(config, seed)
    model.recompute = recompute
    x, t, labels = arguments(config, n, rng)
    key = (seed, 7)
    given_params, given_x = model.params.copy(), x.copy()

    before = state_of(model)
    without_tape = model(x, t, labels, dropout_key=key)
    tape: list[Any] = []
    y = model(x, t, labels, tape, key)
    assert y.shape == (*x.shape[:-1], config.out_channels)
    np.testing.assert_array_equal(y, without_tape)

    model.grads[...] = np.nan
    u = rng.standard_normal(y.shape)
    given_u = u.copy()
    with counted_writes() as writes:
        dx = model.backward(u, tape)
    assert tape == []
    assert state_of(model) == before
    assert writes == dict.fromkeys(model.named_params(), 1)
    assert np.isfinite(model.grads).all()
    assert dx.shape == x.shape
    for now, then in ((model.params, given_params), (x, given_x), (u, given_u)):
        np.testing.assert_array_equal(now, then)

    gradients = {"x": dx, **model.named_grads()}
    norms = {name: float(np.linalg.norm(g)) for name, g in gradients.items()}
    # a dropout mask over so few pixels may well silence a tensor
    if config.dropout == 0:
        assert [name for name, norm in norms.items() if norm == 0] == []
        assert np.sum(dx * dx, axis=(1, 2, 3)).all()

    complex_x, complex_params = x.astype(complex), model.params.astype(complex)
    tensors = {"x": complex_x, **dict(model.parameters.views(complex_params))}
    total = math.sqrt(sum(norm * norm for norm in norms.values()))
    inner = 0.0
    for name, gradient in gradients.items():
        v = rng.standard_normal(gradient.shape) / max(norms[name], 1e-5 * total)
        tensors[name] += 1j * H * v
        inner += float(np.sum(v * gradient))
    shifted = model.with_params(complex_params)(complex_x, t, labels, dropout_key=key)
    exact = np.sum(shifted.imag * u) / H
    assert abs(exact - inner) <= TOLERANCE * math.sqrt(len(gradients))


@given(config=unet_configs(), n=st.integers(1, 3), seed=seeds, recompute=st.booleans())
@example(
    UNetConfig(image_size=(8, 12), base_channels=8, groups=4, channel_mults=(1, 2, 3), attention_resolutions=(4, 2)),
    2,
    0,
    False,
)
@settings(max_examples=60, deadline=None)
def test_unet_gradients_are_exact(config: UNetConfig, n: int, seed: int, recompute: bool) -> None:
    check_model(config, n, seed, recompute)


@given(config=simple_configs(), n=st.integers(1, 3), seed=seeds, recompute=st.booleans())
@settings(max_examples=60, deadline=None)
def test_simple_unet_gradients_are_exact(config: SimpleUNetConfig, n: int, seed: int, recompute: bool) -> None:
    check_model(config, n, seed, recompute)


SMALL = {"image_size": 8, "in_channels": 2, "base_channels": 8, "channel_mults": (1, 2), "groups": 2}
CONFIGS = [
    UNetConfig(**SMALL, num_res_blocks=1, attention_resolutions=(4,), num_heads=2, num_classes=3),
    UNetConfig(**SMALL, num_res_blocks=1, attention_resolutions=(8,), num_heads=2, time_embedding="input"),
    SimpleUNetConfig(**SMALL, num_classes=3),
    SimpleUNetConfig(**SMALL, time_embedding="resblock"),
]
CONDITIONAL = [config for config in CONFIGS if config.num_classes]


def name_of(config: Any) -> str:
    return f"{type(config).__name__.removesuffix('Config')}-{config.time_embedding}"


every_config = pytest.mark.parametrize("config", CONFIGS, ids=name_of)
every_conditional = pytest.mark.parametrize("config", CONDITIONAL, ids=name_of)


@every_config
class TestParameters:
    def test_named_views_share_memory_with_the_flat_arrays(self, config: Any) -> None:
        model = model_of(config)
        for flat, named in ((model.params, model.named_params()), (model.grads, model.named_grads())):
            assert sum(view.size for view in named.values()) == flat.size
            flat[...] = np.arange(flat.size)
            # so that no two names have the same place
            np.testing.assert_array_equal(np.concatenate([v.ravel() for v in named.values()]), flat)
            for view in named.values():
                view[...] = -1
            assert (flat == -1).all()

    def test_names_are_unique_and_the_same_for_gradients(self, config: Any) -> None:
        model = model_of(config)
        names = [d.name for d in model.parameters.declarations]
        assert len(set(names)) == len(names)
        assert list(model.named_params()) == list(model.named_grads()) == names
        shapes = {name: value.shape for name, value in model.named_params().items()}
        assert shapes == {name: value.shape for name, value in model.named_grads().items()}

    def test_with_params_uses_the_given_array_itself(self, config: Any) -> None:
        model = model_of(config)
        x, t, _ = arguments(config, 2, np.random.default_rng(1))
        average = model.params.copy()
        shared = model.with_params(average)
        assert shared.params is average
        assert type(shared) is type(model)
        np.testing.assert_array_equal(shared(x, t), model(x, t))
        average *= 1.5
        assert np.abs(shared(x, t) - model(x, t)).max() > 0.01
        assert not np.shares_memory(shared.grads, model.grads)

    def test_seeds_differ_and_repeat(self, config: Any) -> None:
        def params(seed: int) -> np.ndarray:
            return type(model_of(config))(config, backend=BACKEND, seed=seed).params

        np.testing.assert_array_equal(params(1), params(1))
        assert (params(1) != params(2)).mean() > 0.5


def test_the_default_unet_has_the_parameters_of_the_table() -> None:
    assert sum(math.prod(d.shape) for d in UNet.declarations(UNetConfig())) == 3_939_393


@every_config
class TestAtInitialisation:
    def test_the_output_is_exactly_zero(self, config: Any) -> None:
        model = type(model_of(config))(config, backend=BACKEND)
        x, t, labels = arguments(config, 2, np.random.default_rng(1))
        y = model(x.astype(np.float32), t, labels)
        assert y.dtype == np.float32
        assert (y == 0).all()

    def test_the_first_loss_is_the_noise_of_variance_one(self, config: Any) -> None:
        model = type(model_of(config))(config, backend=BACKEND)
        x0 = np.random.default_rng(2).uniform(-1, 1, (400, 8, 8, 2)).astype(np.float32)
        diffusion = Diffusion(Schedule.cosine(1000), loss="mse")
        assert abs(diffusion.training_step(model, x0, step=0, backward=False) - 1) <= 0.02
        diffusion.training_step(model, x0[:2], step=0)
        # nothing but the last bias and weights can learn yet
        assert sorted(n for n, g in model.named_grads().items() if g.any()) == ["conv_out.bias", "conv_out.weight"]


@every_config
class TestTime:
    def test_it_is_indexed_by_t_and_not_by_the_row(self, config: Any) -> None:
        model, rng = model_of(config), np.random.default_rng(3)
        x = np.repeat(rng.standard_normal((1, 8, 8, 2)), 4, axis=0)
        t = np.array([0, 17, 500, 999])
        y = model(x, t)
        order = [2, 0, 3, 1]
        np.testing.assert_allclose(model(x, t[order]), y[order], rtol=1e-10, atol=1e-12)
        for i, j in ((0, 1), (1, 2), (2, 3)):
            assert np.linalg.norm(y[i] - y[j]) > 1e-3 * np.linalg.norm(y[i])

    def test_one_t_serves_the_whole_batch(self, config: Any) -> None:
        model, rng = model_of(config), np.random.default_rng(4)
        x = np.repeat(rng.standard_normal((1, 8, 8, 2)), 3, axis=0)
        y = model(x, 250)
        np.testing.assert_allclose(y, np.repeat(y[:1], 3, axis=0), rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(y, model(x, np.full(3, 250)))


@every_config
def test_images_of_a_batch_do_not_see_each_other(config: Any) -> None:
    model = model_of(config)
    x, t, labels = arguments(config, 3, np.random.default_rng(5))
    tape: list[Any] = []
    y, u = model(x, t, labels, tape), np.random.default_rng(6).standard_normal(x.shape)
    dx = model.backward(u, tape)
    for i in range(3):
        rows = slice(i, i + 1)
        alone = model(x[rows], t[rows], None if labels is None else labels[rows], tape)
        np.testing.assert_allclose(alone, y[rows], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(model.backward(u[rows], tape), dx[rows], rtol=1e-10, atol=1e-12)


@every_conditional
class TestLabels:
    def test_none_means_the_class_after_the_last(self, config: Any) -> None:
        model = model_of(config)
        x, t, _ = arguments(config, 3, np.random.default_rng(7))
        np.testing.assert_array_equal(model(x, t), model(x, t, np.full(3, config.num_classes)))

    def test_they_matter_and_are_read_by_the_row(self, config: Any) -> None:
        model = model_of(config)
        x = np.repeat(np.random.default_rng(8).standard_normal((1, 8, 8, 2)), 4, axis=0)
        y = model(x, 5, np.arange(4))
        np.testing.assert_allclose(model(x, 5, [3, 1, 0, 2]), y[[3, 1, 0, 2]], rtol=1e-10, atol=1e-12)
        for i in range(3):
            assert np.linalg.norm(y[i] - y[i + 1]) > 1e-3 * np.linalg.norm(y[i])


@every_config
def test_dropout_needs_its_key(config: Any) -> None:
    fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
    model = model_of(type(config)(**{**fields, "dropout": 0.5}))
    x, t, labels = arguments(config, 2, np.random.default_rng(9))
    np.testing.assert_array_equal(model(x, t, labels), model_of(config)(x, t, labels))
    y = model(x, t, labels, dropout_key=(0, 1))
    np.testing.assert_array_equal(y, model(x, t, labels, dropout_key=(0, 1)))
    for other in (None, (0, 2), (1, 1), (0, 1, 1)):
        assert np.abs(y - model(x, t, labels, dropout_key=other)).max() > 0.01


def test_no_two_layers_share_a_dropout_stream() -> None:
    seen: list[int] = []

    class Recording(type(BACKEND)):  # type: ignore[misc]
        def dropout(self, x: Any, rate: float, seed: int, stream: int, step: int, first: int) -> Any:
            seen.append(stream)
            return x, None

        def dropout_mask(
            self, shape: Any, rate: float, seed: int, stream: int, *rest: int, dtype: Any, **more: Any
        ) -> Any:
            seen.append(stream)
            return np.ones(shape, dtype), None

    for config in CONFIGS:
        fields = {name: getattr(config, name) for name in config.__dataclass_fields__}
        kind = type(model_of(config))
        seen.clear()
        model = kind(type(config)(**{**fields, "dropout": 0.5}), backend=Recording())
        model(np.zeros((1, 8, 8, 2), np.float32), 0, dropout_key=(0, 0))
        assert len(seen) >= 3
        assert len(set(seen)) == len(seen)


def test_attention_stands_where_the_config_says() -> None:
    def attentions(**fields: Any) -> set[str]:
        config = UNetConfig(image_size=16, base_channels=8, channel_mults=(1, 2, 2), num_res_blocks=1, **fields)
        names = [d.name for d in UNet.declarations(config) if "attention" in d.name]
        return {name.split(".attention")[0] for name in names}

    assert attentions(attention_resolutions=()) == {"middle"}
    assert attentions(attention_resolutions=(16,)) == {"down.0", "middle", "up.0"}
    assert attentions(attention_resolutions=(4, 8), middle_attention=False) == {"down.1", "down.2", "up.1", "up.2"}


@pytest.mark.parametrize(
    ("size", "mults", "attention"),
    [
        (32, (1, 2, 4), (8,)),
        (64, (1, 2, 4), (16,)),
        (28, (1, 2, 4), (7,)),
        (8, (1, 2), (8,)),
        (64, (1, 2, 4, 8), (8,)),
        ((64, 48), (1, 2), (24,)),
        (6, (1,), (6,)),
    ],
)
def test_attention_that_nobody_chose_fits(
    size: int | tuple[int, int], mults: tuple[int, ...], attention: tuple[int, ...]
) -> None:
    config = UNetConfig(image_size=size, channel_mults=mults)
    assert config.attention_resolutions == attention
    assert UNetConfig.from_dict(config.to_dict()) == config


def test_attention_that_was_chosen_does_not_give_way() -> None:
    with pytest.raises(InputError, match="attention_resolutions names 8"):
        UNetConfig(image_size=64, attention_resolutions=(8,))
