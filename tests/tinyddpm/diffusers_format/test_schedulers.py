"""Samplers and forward process against the schedulers of Hugging Face diffusers, step by step on the same noise.

At each step both start from our image, in float64. Two schedulers walk along: one as it is, whose alpha_bar are
float32, so that 1 - alpha_bar and beta of the first timesteps have four digits; and one given float64 tables.
"""

import json

import numpy as np
import pytest

import backends
from tinyddpm import samplers, streams
from tinyddpm.diffusers_format.scheduler import read_diffusion, write_diffusion
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule

torch = pytest.importorskip("torch", reason="compares with diffusers, which needs torch: pip install .[parity]")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers: pip install .[parity]")

SHAPE = (2, 3, 4, 1)
SEED = 5
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SCHEDULES = ("linear", "squaredcos_cap_v2")
# what is left where a shortened chain has a beta of 1 - 1e-7
WITH_FLOAT64_TABLES = 1e-9
AS_IT_IS = 1e-5
# where a step's variance is the difference of two nearly equal float32 numbers
WHERE_FLOAT32_CANCELS = 5e-4


def network(x, t, labels=None):
    """Some nonlinear function of image and time."""
    return np.sin(1.7 * x + 0.013 * t) + 0.3 * np.cos(3.0 * x * x - 0.002 * t) - 0.2 * x


def start():
    return np.random.default_rng(3).standard_normal(SHAPE)


def noise(i):
    """What our samplers add at step i, before it is scaled; nothing at the last."""
    if i == 0:
        return torch.zeros(SHAPE, dtype=torch.float64)
    drawn, _ = backends.get("numpy").random_normal(SHAPE, SEED, streams.SAMPLE_NOISE, i, dtype=np.float64)
    return torch.from_numpy(drawn)


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def our_diffusion(scheduler):
    """What we read from the file that the scheduler saves; its betas must be the scheduler's."""
    diffusion = read_diffusion(json.loads(scheduler.to_json_string()))
    # Rescaled ones are 1 minus a ratio of float32
    atol = 3e-6 if scheduler.config.rescale_betas_zero_snr else 0
    np.testing.assert_allclose(diffusion.schedule.betas, scheduler.betas.numpy(), rtol=1e-6, atol=atol)
    return diffusion


def with_float64_tables(scheduler, diffusion):
    scheduler.alphas_cumprod = torch.from_numpy(diffusion.schedule.alpha_bars.copy())
    scheduler.one = scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def follow(kind, sampler, step, steps, spacing, tolerance, **options):
    """Walks our sampler and checks each of its states against both schedulers.

    step: (scheduler, output, t, x, i) -> what `scheduler.step` returns.
    """
    as_it_is, precise = (getattr(diffusers, kind)(timestep_spacing=spacing, **options) for _ in range(2))
    diffusion = our_diffusion(as_it_is)
    with_float64_tables(precise, diffusion)
    for scheduler in (as_it_is, precise):
        scheduler.set_timesteps(steps)
    timesteps = as_it_is.timesteps.tolist()
    x, number = start(), -1
    for number, state in enumerate(sampler(diffusion, start())):
        i = len(timesteps) - 1 - number
        assert state.t == timesteps[number]
        for scheduler, limit in ((as_it_is, tolerance), (precise, WITH_FLOAT64_TABLES)):
            image = torch.from_numpy(x)
            out = step(scheduler, torch.from_numpy(network(x, state.t)), torch.tensor(state.t), image, i)
            assert error(state.x, out.prev_sample.numpy()) < limit
            assert error(state.x0, out.pred_original_sample.numpy()) < limit
        x = np.asarray(state.x)
    assert number == len(timesteps) - 1


def check_ddpm(monkeypatch, steps, clip, spacing="leading", tolerance=AS_IT_IS, **options):
    now = {}
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise(now["i"]))

    def sampler(diffusion, x_T):
        return samplers.ddpm(network, diffusion, SHAPE, steps=steps, seed=SEED, x_T=x_T, clip=clip, spacing=spacing)

    def step(scheduler, output, t, x, i):
        now["i"] = i
        return scheduler.step(output, t, x)

    follow("DDPMScheduler", sampler, step, steps, spacing, tolerance, clip_sample=clip, **options)


def check_ddim(steps, eta, clip, spacing="leading", tolerance=AS_IT_IS, keep_eps=False, **options):
    def sampler(diffusion, x_T):
        return samplers.ddim(
            network,
            diffusion,
            SHAPE,
            steps=steps,
            eta=eta,
            seed=SEED,
            x_T=x_T,
            clip=clip,
            spacing=spacing,
            keep_eps=keep_eps,
        )

    def step(scheduler, output, t, x, i):
        if spacing == "linspace" and i > 0:
            # DDIMScheduler steps back by T // steps even where its timesteps are further apart: tell it the gap
            number = len(scheduler.timesteps) - 1 - i
            gap = int(scheduler.timesteps[number] - scheduler.timesteps[number + 1])
            scheduler.num_inference_steps = 1000 // gap
            assert 1000 // scheduler.num_inference_steps == gap
        # Diffusers' default is False, which is our keep_eps
        more = {} if keep_eps else {"use_clipped_model_output": True}
        return scheduler.step(output, t, x, eta=eta, variance_noise=noise(i) if eta else None, **more)

    follow("DDIMScheduler", sampler, step, steps, spacing, tolerance, clip_sample=clip, **options)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddpm(monkeypatch, schedule, prediction, variance, clip, steps):
    check_ddpm(monkeypatch, steps, clip, beta_schedule=schedule, prediction_type=prediction, variance_type=variance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "prediction", "variance", "clip"),
    [
        ("linear", "epsilon", "fixed_large", True),
        ("linear", "sample", "fixed_small", False),
        ("squaredcos_cap_v2", "v_prediction", "fixed_small", True),
    ],
)
def test_ddpm_in_a_thousand_steps(monkeypatch, schedule, prediction, variance, clip):
    check_ddpm(
        monkeypatch,
        1000,
        clip,
        tolerance=WHERE_FLOAT32_CANCELS,
        beta_schedule=schedule,
        prediction_type=prediction,
        variance_type=variance,
    )


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_ddpm_spacings(monkeypatch, spacing, variance):
    check_ddpm(monkeypatch, 10, True, spacing, variance_type=variance)
    check_ddpm(monkeypatch, 50, True, spacing, variance_type=variance, beta_schedule="squaredcos_cap_v2")


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim(schedule, prediction, clip, eta, spacing, steps):
    # Near pure noise 1 - alpha_bar_prev - sigma^2 is next to nothing
    cancels = schedule == "squaredcos_cap_v2" and spacing != "leading"
    check_ddim(
        steps,
        eta,
        clip,
        spacing,
        WHERE_FLOAT32_CANCELS if cancels else AS_IT_IS,
        beta_schedule=schedule,
        prediction_type=prediction,
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ddim_as_diffusers_has_it_by_default(schedule, prediction, eta):
    # The first timesteps' 1 - alpha_bar, which weigh the network's noise, have four digits in float32
    tolerance = WHERE_FLOAT32_CANCELS if schedule == "squaredcos_cap_v2" else AS_IT_IS
    check_ddim(10, eta, True, "leading", tolerance, True, beta_schedule=schedule, prediction_type=prediction)


def test_keeping_eps_differs_only_where_images_are_clipped():
    diffusion = our_diffusion(diffusers.DDIMScheduler())
    last = {
        (clip, keep): samplers.last(
            samplers.ddim(network, diffusion, SHAPE, steps=5, x_T=start(), clip=clip, keep_eps=keep)
        ).x
        for clip in (True, False)
        for keep in (True, False)
    }
    np.testing.assert_allclose(last[False, True], last[False, False], rtol=1e-9)
    assert error(last[True, True], last[True, False]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "prediction", "eta", "spacing"),
    [("linear", "epsilon", 0.0, "trailing"), ("squaredcos_cap_v2", "v_prediction", 1.0, "linspace")],
)
def test_ddim_in_a_thousand_steps(schedule, prediction, eta, spacing):
    check_ddim(1000, eta, True, spacing, beta_schedule=schedule, prediction_type=prediction)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps(spacing):
    scheduler = diffusers.DDPMScheduler(timestep_spacing=spacing)
    schedule = our_diffusion(scheduler).schedule
    # In one step, diffusers visits t = 0 alone by leading and linspace; here every spacing visits the noisiest
    for steps in (2, 3, 7, 10, 37, 50, 100, 250, 333, 500, 999, 1000):
        scheduler.set_timesteps(steps)
        np.testing.assert_array_equal(schedule.spaced_indices(steps, spacing), scheduler.timesteps.numpy()[::-1])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("DDPMScheduler", {"beta_start": 0.001, "beta_end": 0.03}),
        ("DDIMScheduler", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("DDPMScheduler", {"beta_schedule": "sigmoid"}),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
        ("DDPMScheduler", {"trained_betas": np.geomspace(1e-4, 0.5, 1000).tolist()}),
    ],
    ids=["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2", "trained_betas"],
)
def test_betas(kind, options):
    scheduler = getattr(diffusers, kind)(**options)
    # Cumulated in float32, of betas in float32
    np.testing.assert_allclose(
        our_diffusion(scheduler).schedule.alpha_bars, scheduler.alphas_cumprod.numpy(), rtol=2e-5, atol=1e-9
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_forward_process(schedule):
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type="v_prediction")
    diffusion = our_diffusion(scheduler)
    rng = np.random.default_rng(0)
    x0, eps = rng.standard_normal((2, 6, 3, 4, 1))
    t = np.array([0, 1, 20, 500, 998, 999])
    theirs = torch.from_numpy(x0), torch.from_numpy(eps), torch.from_numpy(t)
    for limit in (AS_IT_IS, WITH_FLOAT64_TABLES):
        assert error(diffusion.q_sample(x0, t, eps), scheduler.add_noise(*theirs).numpy()) < limit
        assert error(diffusion.target(x0, t, eps), scheduler.get_velocity(*theirs).numpy()) < limit
        with_float64_tables(scheduler, diffusion)


# Zero terminal SNR

RESCALED = [("linear", 1000), ("scaled_linear", 1000), ("squaredcos_cap_v2", 1000), ("linear", 50)]


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize(("formula", "steps"), RESCALED)
@pytest.mark.filterwarnings("ignore:.*is not noise")
def test_rescaled_betas(kind, formula, steps):
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=steps,
        beta_schedule=formula,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    diffusion = our_diffusion(scheduler)
    np.testing.assert_allclose(diffusion.schedule.alpha_bars, scheduler.alphas_cumprod.numpy(), rtol=0, atol=1e-5)
    assert scheduler.alphas_cumprod[-1] == diffusion.schedule.alpha_bars[-1] == 0
    written = write_diffusion(diffusion)
    assert written["beta_schedule"] == formula
    assert written["rescale_betas_zero_snr"] is True
    again = diffusers.DDPMScheduler.from_config(written)
    np.testing.assert_array_equal(again.betas.numpy(), scheduler.betas.numpy())


@pytest.mark.parametrize("name", ["log_snr", "shifted_cosine", "sigmoid of zero terminal SNR"])
def test_betas_that_no_formula_of_diffusers_gives(name):
    schedule = {
        "log_snr": Schedule.log_snr(200),
        "shifted_cosine": Schedule.shifted_cosine(200, 0.5),
        "sigmoid of zero terminal SNR": Schedule.sigmoid(200).rescaled_to_zero_terminal_snr(),
    }[name]
    written = write_diffusion(Diffusion(schedule, prediction="v"))
    assert written["rescale_betas_zero_snr"] is False
    np.testing.assert_array_equal(read_diffusion(written).schedule.betas, schedule.betas)
    scheduler = diffusers.DDPMScheduler.from_config(written)
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), schedule.alpha_bars, rtol=1e-4, atol=1e-9)
    assert (scheduler.alphas_cumprod[-1] == 0) == schedule.zero_terminal_snr


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_samplers_from_zero_terminal_snr(monkeypatch, schedule, prediction, clip):
    options = {"beta_schedule": schedule, "prediction_type": prediction, "rescale_betas_zero_snr": True}
    for steps in (1, 10):
        check_ddpm(monkeypatch, steps, clip, "trailing", WHERE_FLOAT32_CANCELS, **options)
        # At eta = 1 nothing is left of the first eps, of which diffusers takes a root in float32: NaN
        for eta in (0.0, 0.5):
            check_ddim(steps, eta, clip, "trailing", WHERE_FLOAT32_CANCELS, **options)
