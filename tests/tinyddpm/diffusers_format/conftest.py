"""The folder that most of these tests begin with."""

import pytest

from tests.tinyddpm.diffusers_format.small import random_model
from tinyddpm.diffusers_format import save_diffusers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.unet import UNetConfig


@pytest.fixture
def saved(tmp_path):
    """A folder that `save_diffusers` wrote."""
    config = UNetConfig(
        image_size=8, base_channels=8, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(4,), groups=4
    )
    save_diffusers(tmp_path / "saved", random_model(config), Diffusion(Schedule.linear()))
    return tmp_path / "saved"
