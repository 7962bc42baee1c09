"""What the samplers promise: their states, seeds, steps and clipping."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

import backends
from tinyddpm import samplers
from tinyddpm.diffusion.mixture import three_blobs
from tinyddpm.diffusion.process import PREDICTIONS, Diffusion
from tinyddpm.diffusion.schedules import NAMES, SPACINGS, Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig

SAMPLERS = list(samplers.SAMPLERS.values())
# Whose last step ends in the x0 that it predicts: the other mixes in the slopes before
ENDING_IN_X0 = [sampler for sampler in SAMPLERS if sampler is not samplers.pndm]
SCHEDULE = Schedule.cosine(100)
DIFFUSION = Diffusion(SCHEDULE)
BLOBS = three_blobs()
SHAPE = (3, 2, 2, 1)


def x_start(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def wild(x: np.ndarray, t: int, labels: Any = None) -> np.ndarray:
    """A network far from any truth, whose x_0 leave [-1, 1]: each pixel by itself, and not linear."""
    return np.sin(3 * x) + 0.3 * math.cos(t) * x


class Recorder:
    """A network without a backend that keeps what it was given."""

    def __init__(self, network: Any = wild) -> None:
        self.network, self.calls = network, []

    def __call__(self, x: np.ndarray, t: int, labels: Any = None) -> np.ndarray:
        output = self.network(x, t)
        self.calls.append((x.copy(), t, labels, output.copy()))
        return output


# States


def looks_ahead(sampler: Any, number: int, visited: list[int]) -> bool:
    """Whether the network is asked about the end of that step too; the cosine schedule's last image is all noise."""
    if number == len(visited) - 1 or visited[number] == SCHEDULE.T - 1:
        return False
    first = number == 0 or (number == 1 and visited[0] == SCHEDULE.T - 1)
    return sampler is samplers.heun or (sampler is samplers.pndm and first)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [None, 1, 9, 100])
def test_a_state_is_yielded_after_each_step(sampler, spacing, steps):
    model = Recorder()
    states = list(sampler(model, DIFFUSION, SHAPE, steps=steps, x_T=x_start(), clip=False, spacing=spacing))
    visited = SCHEDULE.spaced_indices(100 if steps is None else steps, spacing)[::-1].tolist()
    assert [state.t for state in states] == visited
    assert all(type(state.t) is int for state in states)
    before, calls = x_start(), iter(model.calls)
    for number, state in enumerate(states):
        # the network saw the x that the step before left, and x_0 is read from there
        x, t, _, output = next(calls)
        assert t == state.t
        if looks_ahead(sampler, number, visited):
            assert next(calls)[1] == visited[number + 1]
        np.testing.assert_array_equal(x, before)
        np.testing.assert_allclose(state.x0, DIFFUSION.to_x0(x, t, output), rtol=1e-6, atol=1e-6)
        assert state.x.shape == state.x0.shape == SHAPE
        assert state.x.dtype == state.x0.dtype == np.float64
        assert np.any(state.x != before)
        before = state.x
    assert list(calls) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_states_come_one_at_a_time_and_stay_as_they_were(sampler):
    model = Recorder()
    states = sampler(model, DIFFUSION, SHAPE, steps=5, x_T=x_start())
    assert model.calls == []
    first = next(states)
    # that of the noise alone is not corrected by any
    assert len(model.calls) == 1
    kept = first.x.copy(), first.x0.copy()
    rest = list(states)
    assert len(rest) == 4
    np.testing.assert_array_equal(first.x, kept[0])
    np.testing.assert_array_equal(first.x0, kept[1])
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.t = 0
    with pytest.raises(StopIteration):
        next(states)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_chain_of_one_step_has_one_state(sampler):
    diffusion = Diffusion(Schedule.from_betas(np.array([0.5])))
    (state,) = sampler(wild, diffusion, SHAPE, x_T=x_start())
    assert state.t == 0
    np.testing.assert_allclose(state.x, state.x0)


@pytest.mark.parametrize("sampler", ENDING_IN_X0)
@pytest.mark.parametrize("clip", [True, False])
def test_the_last_x_is_the_last_x0(sampler, clip):
    # alpha_bar before the first step is 1, and no noise is added there
    state = samplers.last(sampler(wild, DIFFUSION, SHAPE, steps=10, x_T=x_start(), clip=clip))
    np.testing.assert_allclose(state.x, state.x0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clip", [True, False])
def test_a_network_that_knows_the_image_gets_it(sampler, clip):
    image = x_start(seed=4).clip(-1, 1)
    diffusion = Diffusion(SCHEDULE, prediction="x0")
    states = sampler(lambda x, t, labels=None: image, diffusion, SHAPE, steps=10, x_T=x_start(), clip=clip)
    np.testing.assert_allclose(samplers.last(states).x, image, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])
def test_the_last_step_adds_no_noise(sampler):
    options = {"eta": 1.0} if sampler is samplers.ddim else {}
    firsts = []
    for seed in (0, 1):
        first, final = sampler(
            lambda x, t, labels=None: 0 * x, DIFFUSION, SHAPE, steps=2, x_T=x_start(), seed=seed, **options
        )
        # from the state before, the network's word (eps is 0) alone leads to the last
        ab = float(SCHEDULE.alpha_bars[final.t])
        np.testing.assert_allclose(final.x, np.clip(first.x / math.sqrt(ab), -1, 1), rtol=1e-12)
        firsts.append(first.x)
    assert np.all(firsts[0] != firsts[1])


# Start and seed


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_x_T_is_where_it_starts_and_is_not_written_to(sampler):
    model, start = Recorder(), x_start()
    before = start.copy()
    list(sampler(model, DIFFUSION, SHAPE, steps=5, x_T=start))
    np.testing.assert_array_equal(model.calls[0][0], before)
    np.testing.assert_array_equal(start, before)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_images_keep_the_dtype_of_x_T(sampler, dtype):
    for state in sampler(wild, DIFFUSION, SHAPE, steps=3, x_T=x_start().astype(dtype)):
        assert state.x.dtype == dtype
        assert state.x0.dtype == dtype


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_x_T_it_starts_from_standard_normal_noise_of_the_seed(sampler):
    starts = []
    for seed in (0, 0, 1):
        model = Recorder()
        next(sampler(model, DIFFUSION, (5000, 2, 2, 1), steps=5, seed=seed))
        starts.append(model.calls[0][0])
        assert starts[-1].dtype == np.float32
    assert stats.kstest(starts[0].reshape(-1), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(starts[0], starts[1])
    assert abs(np.corrcoef(starts[0].reshape(-1), starts[2].reshape(-1))[0, 1]) < 4 / math.sqrt(20000)


@pytest.mark.parametrize(("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5})])
def test_the_seed_decides_the_noise_of_the_steps(sampler, options):
    def final(seed):
        return samplers.last(sampler(wild, DIFFUSION, SHAPE, steps=9, seed=seed, x_T=x_start(), **options)).x

    np.testing.assert_array_equal(final(5), final(5))
    assert np.any(final(5) != final(6))


def test_ddim_draws_nothing_after_the_start_by_default():
    finals = [
        samplers.last(samplers.ddim(wild, DIFFUSION, SHAPE, steps=9, seed=seed, x_T=x_start(), **options)).x
        for seed, options in ((5, {}), (6, {}), (7, {"eta": 0.0}), (8, {"eta": 0}))
    ]
    for final in finals[1:]:
        np.testing.assert_array_equal(final, finals[0])
    with_noise = samplers.last(samplers.ddim(wild, DIFFUSION, SHAPE, steps=9, eta=0.1, x_T=x_start())).x
    assert np.any(with_noise != finals[0])


@pytest.mark.parametrize(("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 1.0})])
def test_the_first_images_do_not_depend_on_how_many_are_drawn(sampler, options):
    # a random number depends on its place in the array alone, and no image on another: image 3 of 4 is image 3 of 64
    few, many = (samplers.last(sampler(wild, DIFFUSION, (n, 2, 3, 1), steps=6, seed=2, **options)).x for n in (4, 64))
    np.testing.assert_array_equal(few, many[:4])
    assert np.any(few[0] != few[1])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_steps_by_default_and_by_number(sampler):
    by_default, by_number = (
        samplers.last(sampler(wild, DIFFUSION, SHAPE, seed=1, **options)).x
        for options in ({}, {"steps": 100, "spacing": "leading"})
    )
    np.testing.assert_array_equal(by_default, by_number)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trailing_steps_and_clipping_are_the_default(sampler):
    plain, spelled = (
        samplers.last(sampler(wild, DIFFUSION, SHAPE, steps=8, seed=1, **options)).x
        for options in ({}, {"spacing": "trailing", "clip": True})
    )
    np.testing.assert_array_equal(plain, spelled)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_shortened_chain_is_shortened_again_in_the_first_ones_timesteps(sampler):
    model = Recorder()
    list(sampler(model, Diffusion(Schedule.linear(1000).respaced(100)), SHAPE, steps=10, x_T=x_start()))
    assert sorted({t for _, t, _, _ in model.calls}, reverse=True) == list(range(999, 98, -100))


# Clipping: pitfall 14


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clip_bounds_x0_and_only_clip_does(sampler):
    for clip in (True, False):
        states = list(sampler(wild, DIFFUSION, SHAPE, steps=20, x_T=x_start(), clip=clip))
        largest = max(np.abs(state.x0).max() for state in states)
        assert largest == 1 if clip else largest > 1
        if sampler in ENDING_IN_X0:
            assert (np.abs(states[-1].x).max() <= 1) == clip


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_clipped_and_unclipped_agree_where_nothing_clips(sampler, name, prediction):
    # the perfect network's x_0 stay near the data, which lie within [-1, 1]
    schedule = Schedule.by_name(name, 100)
    model, diffusion = BLOBS.model(schedule, prediction), Diffusion(schedule, prediction=prediction)
    clipped, free = (
        list(sampler(model, diffusion, (20, 2, 2, 1), steps=25, seed=3, x_T=x_start((20, 2, 2, 1)), clip=clip))
        for clip in (True, False)
    )
    assert max(np.abs(state.x0).max() for state in free) < 1
    for one, other in zip(clipped, free, strict=True):
        np.testing.assert_allclose(one.x, other.x, atol=1e-9)
        np.testing.assert_allclose(one.x0, other.x0, atol=1e-9)


# Models


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_labels_are_passed_on(sampler):
    labels = np.array([2, 0, 1])
    for given in (labels, None):
        model = Recorder()
        list(sampler(model, DIFFUSION, SHAPE, steps=3, x_T=x_start(), labels=given))
        assert all(seen is given for _, _, seen, _ in model.calls)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_unet_samples_on_its_own_backend_and_follows_its_labels(sampler):
    config = SimpleUNetConfig(image_size=4, base_channels=4, channel_mults=(1, 2), groups=2, num_classes=3)
    model = SimpleUNet(config, backend=backends.get("numpy"))
    model.params[:] = 0.6 * np.random.default_rng(1).standard_normal(model.params.shape)
    diffusion = Diffusion(SCHEDULE, prediction="v")
    finals = [
        samplers.last(sampler(model, diffusion, (2, 4, 4, 1), steps=4, clip=False, labels=labels)).x
        for labels in (np.array([0, 1]), np.array([0, 2]), None)
    ]
    assert finals[0].shape == (2, 4, 4, 1)
    assert finals[0].dtype == np.float32
    assert np.all(np.isfinite(finals))
    # one image's label is another image's business only to rounding
    np.testing.assert_allclose(finals[0][0], finals[1][0], atol=1e-5)
    assert np.abs(finals[0][1] - finals[1][1]).max() > 1e-3
    assert np.abs(finals[0] - finals[2]).max() > 1e-3


def test_a_models_backend_draws_the_noise_in_the_images_dtype():
    drawn = []

    class Noting(backends.NumpyBackend):
        def random_normal(self, *args, dtype=None, first=0):
            drawn.append(dtype)
            return backends.OPS["random_normal"].forward(np, *args, dtype=dtype, first=first)

    model = Recorder()
    model.backend = Noting()
    list(samplers.ddpm(model, DIFFUSION, SHAPE, steps=4))
    # the start, and all steps but the last
    assert drawn == [None, *[np.float32] * 3]
    list(samplers.ddim(model, DIFFUSION, SHAPE, steps=4, eta=1.0, x_T=x_start()))
    assert drawn[4:] == [np.float64] * 3


# last


def test_last_is_the_final_state():
    states = list(samplers.ddim(wild, DIFFUSION, SHAPE, steps=5, seed=1))
    final = samplers.last(samplers.ddim(wild, DIFFUSION, SHAPE, steps=5, seed=1))
    assert final.t == states[-1].t
    np.testing.assert_array_equal(final.x, states[-1].x)
    assert samplers.last(iter(states)) is states[-1]


# Errors

BAD_FOR_BOTH = {
    "no steps": ({"steps": 0}, "got 0"),
    "negative steps": ({"steps": -1}, "got -1"),
    "more steps than there are": ({"steps": 101}, "got 101"),
    "half a step": ({"steps": 2.5}, "got 2.5"),
    "steps in words": ({"steps": "all"}, "'all'"),
    "unknown spacing": ({"steps": 5, "spacing": "uniform"}, "'uniform'"),
    "unknown spacing of all steps": ({"spacing": "uniform"}, "'uniform'"),
    "x_T of another batch": ({"x_T": x_start((4, 2, 2, 1))}, "(4, 2, 2, 1)"),
    "x_T with channels first": ({"x_T": x_start((3, 1, 2, 2))}, "(3, 1, 2, 2)"),
    "flat x_T": ({"x_T": x_start((3, 4))}, "(3, 4)"),
}
BAD = [(sampler, options, seen) for sampler in SAMPLERS for options, seen in BAD_FOR_BOTH.values()] + [
    (samplers.ddim, {"eta": -0.1}, "got -0.1"),
    (samplers.ddim, {"eta": math.nan}, "got nan"),
    (samplers.ddim, {"eta": math.inf}, "got inf"),
    (samplers.ddim, {"eta": "none"}, "'none'"),
]


@pytest.mark.parametrize(("sampler", "options", "seen"), BAD)
def test_bad_input_gets_one_line_that_names_it(sampler, options, seen):
    with pytest.raises(InputError) as caught:
        next(sampler(wild, DIFFUSION, SHAPE, **options))
    message = str(caught.value)
    assert seen in message
    assert "\n" not in message


def test_last_of_nothing_gets_one_line():
    with pytest.raises(InputError, match=r"^the sampler yielded no state$"):
        samplers.last(iter(()))
