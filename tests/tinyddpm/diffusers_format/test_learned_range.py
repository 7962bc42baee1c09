"""Networks that predict variances too: `learned_range` of DDPMScheduler step by step, and folders both ways."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tinyddpm.diffusers_format.small import NUMPY, OURS, change, random_model
from tests.tinyddpm.diffusers_format.test_schedulers import AS_IT_IS, diffusers, error, network, our_diffusion, torch
from tinyddpm import samplers, streams
from tinyddpm.diffusers_format import load_diffusers, save_diffusers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError

SHAPE = (2, 3, 4, 1)
CONFIG = replace(OURS["no attention in the middle"], dropout=0.0, learned_variance=True)


def output_of(x, t, labels=None):
    """A prediction, and v on both sides of -1 and 1."""
    return np.concatenate([network(x, t), 1.5 * np.cos(2 * x + t)], axis=-1)


@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_is_ddpm_scheduler_step_by_step(steps, clip, monkeypatch):
    scheduler = diffusers.DDPMScheduler(100, variance_type="learned_range", clip_sample=clip)
    scheduler.set_timesteps(steps)
    diffusion = our_diffusion(scheduler)
    assert diffusion.variance == "learned"
    x_T = np.random.default_rng(3).standard_normal(SHAPE)
    x, drawn = x_T, {}

    def noise(i):
        if i not in drawn:
            drawn[i] = NUMPY.random_normal(SHAPE, 5, streams.SAMPLE_NOISE, i, dtype=np.float64)[0]
        return torch.from_numpy(drawn[i]).movedim(-1, 1)

    options = {"steps": steps, "x_T": x_T, "seed": 5, "spacing": "leading", "clip": clip}
    for i, state in zip(range(steps - 1, -1, -1), samplers.ddpm(output_of, diffusion, SHAPE, **options), strict=True):
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, i=i, **__: noise(i))
        given, sample = (torch.from_numpy(a).movedim(-1, 1) for a in (output_of(x, state.t), x))
        theirs = scheduler.step(given, state.t, sample).prev_sample.movedim(1, -1).numpy()
        # The scheduler's tables are float32
        assert error(state.x, theirs) <= 20 * AS_IT_IS, state.t
        x = state.x


def test_folders_both_ways(tmp_path: Path):
    model, diffusion = random_model(CONFIG), Diffusion(Schedule.linear(), variance="learned")
    save_diffusers(tmp_path / "folder", model, diffusion)
    unet = json.loads((tmp_path / "folder/unet/config.json").read_text())
    assert (unet["in_channels"], unet["out_channels"]) == (1, 2)
    again, read = load_diffusers(tmp_path / "folder", NUMPY)
    assert (again.config, read.variance) == (CONFIG, "learned")
    np.testing.assert_array_equal(again.params, model.params)
    theirs = diffusers.UNet2DModel.from_pretrained(tmp_path / "folder", subfolder="unet")
    x = np.random.default_rng(0).standard_normal((2, *CONFIG.size, 1)).astype(np.float32)
    with torch.no_grad():
        output = theirs(torch.from_numpy(x).movedim(-1, 1), 7).sample.movedim(1, -1).numpy()
    np.testing.assert_allclose(model(x, 7), output, atol=1e-5)


def test_what_does_not_go_together_is_refused(tmp_path: Path):
    model = random_model(CONFIG)
    with pytest.raises(InputError, match="does not go with a network of learned_variance=True"):
        save_diffusers(tmp_path / "folder", model, Diffusion(Schedule.linear()))
    save_diffusers(tmp_path / "folder", model, Diffusion(Schedule.linear(), variance="learned"))
    change(tmp_path / "folder/scheduler/scheduler_config.json", variance_type="fixed_small")
    with pytest.raises(InputError, match=r"out_channels=2 .* does not go with the scheduler's variance"):
        load_diffusers(tmp_path / "folder", NUMPY)
