"""A denoising diffusion model to read from end to end: schedules, U-Net, backward passes, optimiser, samplers.

Images are NHWC float32 in [-1, 1], other floating-point arrays are cast to the precision of the model; timesteps are
integers 0 … T-1. Read `diffusion`, `networks`, `samplers`, `training.optimizers`, `training.trainer`: that is the
paper. Operations and their gradients are in `backends.ops`.
"""

import backends as _backends

# A common word as a package's name: say so at once if it is somebody else's
if not hasattr(_backends, "OPS"):
    raise ImportError(
        f"tinyddpm needs its own package 'backends', but {getattr(_backends, '__file__', None) or _backends.__path__} "
        "shadows it; remove that from the path or rename it, or start Python elsewhere"
    )

from tinyddpm import data, samplers
from tinyddpm.diffusers_format import load_diffusers, save_diffusers
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.networks.simple_unet import SimpleUNet, SimpleUNetConfig
from tinyddpm.networks.unet import UNet, UNetConfig
from tinyddpm.samplers.guidance import classifier_free
from tinyddpm.training.checkpoint import Checkpoint, load, save
from tinyddpm.training.optimizers import EMA, Adam
from tinyddpm.training.trainer import TrainConfig, Trainer

__version__ = "0.1.0"

__all__ = [
    "EMA",
    "Adam",
    "Checkpoint",
    "DamagedFileError",
    "Diffusion",
    "InputError",
    "MissingDataError",
    "Schedule",
    "SimpleUNet",
    "SimpleUNetConfig",
    "TrainConfig",
    "Trainer",
    "UNet",
    "UNetConfig",
    "classifier_free",
    "data",
    "load",
    "load_diffusers",
    "samplers",
    "save",
    "save_diffusers",
]
