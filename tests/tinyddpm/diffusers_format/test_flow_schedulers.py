"""Samplers of the probability flow against the schedulers of Hugging Face diffusers, step by step on the same noise.

At each step both start from our image. Two schedulers walk along: one as it is, whose tables are float32, as are the
images in two of them; and one that has float64 in their place. Where they would choose other timesteps, they are told
ours; all end without noise, as by final_sigmas_type="zero" and set_alpha_to_one=True.
"""

import types

import numpy as np
import pytest

from tests.tinyddpm.diffusers_format.test_schedulers import (
    AS_IT_IS,
    PREDICTIONS,
    SHAPE,
    WHERE_FLOAT32_CANCELS,
    WITH_FLOAT64_TABLES,
    error,
    network,
    our_diffusion,
    start,
    with_float64_tables,
)
from tinyddpm import samplers
from tinyddpm.samplers import SAMPLERS

torch = pytest.importorskip("torch", reason="compares with diffusers, which needs torch: pip install .[parity]")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers: pip install .[parity]")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpm_solver": "DPMSolverMultistepScheduler",
    "pndm": "PNDMScheduler",
}
# HeunDiscreteScheduler's own ends are others
LINEAR = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}


def sigmas_even_in_their_root(number=181):
    """Betas of a chain whose sigmas are all of Karras et al. 2022, eq. 5: those of fewer steps are among them."""
    sigmas = np.linspace(0.01 ** (1 / 7), 157 ** (1 / 7), number) ** 7
    alpha_bars = 1 / (1 + sigmas**2)
    betas = 1 - alpha_bars / np.append(1, alpha_bars[:-1])
    return {"trained_betas": betas.tolist(), "num_train_timesteps": number}


@pytest.fixture(autouse=True)
def wide_enough(monkeypatch):
    """Images that these schedulers turn into float32 stay as they are, in float64."""
    for module in ("scheduling_euler_discrete", "scheduling_dpmsolver_multistep"):
        wide = types.SimpleNamespace(**vars(torch) | {"float32": torch.float64})
        monkeypatch.setattr(f"diffusers.schedulers.{module}.torch", wide)


class Theirs:
    """A scheduler that is asked for one step at a time."""

    def __init__(self, name, diffusion, kept, precise, karras=False, **options):
        self.name, self.diffusion, self.kept, self.calls = name, diffusion, kept, 0
        self.scheduler = getattr(diffusers, SCHEDULERS[name])(**options)
        self.signals = np.append(diffusion.schedule.sqrt_alpha_bars[kept], 1.0)
        if precise:
            with_float64_tables(self.scheduler, diffusion)
        if karras or name == "pndm":
            self.scheduler.set_timesteps(len(kept))
        else:
            self.scheduler.set_timesteps(timesteps=kept.tolist())
        if precise and not karras and name != "pndm":
            sigmas = [*diffusion.schedule.sigmas[kept], 0.0]
            if name == "heun":
                sigmas = [sigmas[0], *np.repeat(sigmas[1:-1], 2), 0.0]
            self.scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)

    def call(self, x, n, following):
        """One call of `step` with an image x at step n, which gives one at step `following`, and the x0 if it says."""
        output = network(x, int(self.kept[n]))
        if self.name == "pndm":
            output = self.diffusion.to_eps(x, int(self.kept[n]), output)
        timestep = self.scheduler.timesteps[self.calls]
        assert abs(float(timestep) - self.kept[n]) < 0.5
        self.calls += 1
        # Those two hold x / sqrt(alpha_bar)
        scales = self.signals if self.name in ("euler", "heun") else np.ones_like(self.signals)
        out = self.scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(x / scales[n]))
        return out.prev_sample.numpy() * scales[following], getattr(out, "pred_original_sample", None)

    def step(self, x, n):
        after, x0 = self.call(x, n, n + 1)
        if n + 1 < len(self.kept) and (self.name == "heun" or (self.name == "pndm" and n == 0)):
            after, _ = self.call(after, n + 1, n + 1)
        return after, x0


def check(
    name, schedule, prediction, steps, spacing, tolerance=WHERE_FLOAT32_CANCELS, clip=False, threshold=None, **more
):
    given = {"prediction_type": prediction, **schedule}
    diffusion = our_diffusion(diffusers.DDPMScheduler(**given))
    if name == "heun":
        more["clip_sample"] = clip
    if name == "pndm":
        more |= {"skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": spacing}
        # It mixes outputs before it makes noises of them, which is another method where they are v
        given["prediction_type"] = "epsilon"
    kept = diffusion.schedule.spaced_indices(steps, spacing)[::-1]
    theirs = [Theirs(name, diffusion, kept, precise, **given, **more) for precise in (False, True)]
    limits = tolerance, (AS_IT_IS if "karras" in more else WITH_FLOAT64_TABLES)
    options = {"steps": steps, "spacing": spacing, "clip": clip or threshold is not None, "threshold": threshold}
    x, n = start(), -1
    for n, state in enumerate(SAMPLERS[name](network, diffusion, SHAPE, x_T=start(), **options)):
        assert state.t == kept[n]
        for walk, limit in zip(theirs, limits, strict=True):
            after, x0 = walk.step(x, n)
            assert error(state.x, after) < limit
            assert x0 is None or error(state.x0, x0.numpy()) < limit
        x = np.asarray(state.x)
    assert n == steps - 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "karras"])
@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver"])
def test_each_step_is_theirs(name, steps, spacing, prediction):
    check(name, LINEAR, prediction, steps, spacing)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("spacing", "steps"),
    # It takes all gaps for the same, which trailing ones are where the steps divide the chain
    [*(("leading", steps) for steps in (2, 3, 10, 37)), *(("trailing", steps) for steps in (2, 4, 10, 50))],
)
def test_pndm(spacing, steps, prediction):
    check("pndm", LINEAR, prediction, steps, spacing)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_of_the_cosine_schedule(name, prediction):
    # Leading spacing leaves out what is all noise, where ours take steps of first order
    check(name, COSINE, prediction, 10, "leading")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["euler", "dpm_solver"])
def test_of_the_cosine_schedule_from_its_end(name, prediction):
    check(name, COSINE, prediction, 10, "trailing", 1e-3)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_heun_clips_likewise(prediction):
    check("heun", LINEAR, prediction, 10, "trailing", clip=True)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [10, 37])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver"])
def test_use_karras_sigmas(name, steps, prediction):
    """On a chain that has them all: ours takes the nearest that there are, theirs sigmas and timesteps in between."""
    schedule = sigmas_even_in_their_root()
    check(name, schedule, prediction, steps, "karras", karras=True, use_karras_sigmas=True)


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_karras_timesteps_are_theirs_rounded(name, steps):
    scheduler = getattr(diffusers, name)(use_karras_sigmas=True, **LINEAR)
    scheduler.set_timesteps(steps)
    theirs = scheduler.timesteps.numpy()
    if name == "HeunDiscreteScheduler":
        theirs = theirs[[0, *range(1, len(theirs), 2)]]
    schedule = our_diffusion(diffusers.DDPMScheduler(**LINEAR)).schedule
    np.testing.assert_array_equal(schedule.spaced_indices(steps, "karras")[::-1], np.round(theirs))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("share", [0.5, 0.995, 1.0])
def test_dynamic_thresholding(prediction, share):
    # Theirs cuts s at sample_max_value, which is 1 by default: then it is plain clipping
    dynamic = {"thresholding": True, "dynamic_thresholding_ratio": share, "sample_max_value": 1e9}
    check("dpm_solver", LINEAR, prediction, 10, "trailing", threshold=share, **dynamic)


@pytest.mark.parametrize("share", [0.5, 0.995])
def test_dynamic_thresholding_of_ddim(share):
    options = {"timestep_spacing": "trailing", "clip_sample": False}
    diffusion = our_diffusion(diffusers.DDIMScheduler(**options))
    scheduler = diffusers.DDIMScheduler(
        **options, thresholding=True, dynamic_thresholding_ratio=share, sample_max_value=1e9
    )
    with_float64_tables(scheduler, diffusion).set_timesteps(10)
    x = start()
    for state in samplers.ddim(network, diffusion, SHAPE, steps=10, x_T=start(), threshold=share):
        output, image = torch.from_numpy(network(x, state.t)), torch.from_numpy(x)
        out = scheduler.step(output, state.t, image, use_clipped_model_output=True)
        assert error(state.x0, out.pred_original_sample.numpy()) < WITH_FLOAT64_TABLES
        assert error(state.x, out.prev_sample.numpy()) < WITH_FLOAT64_TABLES
        x = state.x


def test_heun_and_pndm_of_theirs_leave_the_images_range_where_all_is_noise():
    """What `Walk.in_noise` is for: from the end of the cosine schedule they multiply an error by 20,000."""
    diffusion = our_diffusion(diffusers.DDPMScheduler(**COSINE))
    for name in ("heun", "pndm"):
        kept = diffusion.schedule.spaced_indices(10, "trailing")[::-1]
        options = {"skip_prk_steps": True} if name == "pndm" else {}
        theirs = Theirs(name, diffusion, kept, True, timestep_spacing="trailing", **options, **COSINE)
        after, _ = theirs.step(start(), 0)
        (ours, *_) = SAMPLERS[name](network, diffusion, SHAPE, steps=10, x_T=start())
        assert np.abs(after).max() > 100 > 10 > np.abs(ours.x).max()
