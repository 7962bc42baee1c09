"""Models, runs and command lines so small that a test can afford many steps."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

import backends
from tinyddpm import data
from tinyddpm.cli import main
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import build_network
from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.trainer import TrainConfig, Trainer

UNET = UNetConfig(
    image_size=8,
    base_channels=4,
    channel_mults=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_heads=2,
    groups=2,
    num_classes=10,
    dropout=0.1,
)
SIMPLE = SimpleUNetConfig(image_size=8, base_channels=4, channel_mults=(1, 2), groups=2)
CONFIGS = {"UNet": UNET, "SimpleUNet": SIMPLE}

# What `train` is told for the same networks on digits, and to be quick about the rest
SIMPLE_OPTIONS = ["--model", "simple", "--base-channels", "4", "--channel-mults", "1,2", "--groups", "2"]
UNET_OPTIONS = ["--base-channels", "4", "--channel-mults", "1,2", "--groups", "2", "--num-heads", "2", "--classes"]
QUICK = ["--backend", "numpy", "--batch-size", "4", "--timesteps", "50", "--samples", "0"]


def images(count: int = 23, seed: int = 0) -> data.Dataset:
    """Random 8x8 images with labels in 0 … 9."""
    rng = np.random.default_rng(seed)
    return data.Dataset(
        "random", rng.integers(0, 256, (count, 8, 8, 1)).astype(np.uint8), rng.integers(0, 10, count), None
    )


def build(config: Any, backend: backends.Backend | None = None, **more: Any) -> Model:
    """A model of the config, by default on the plain NumPy backend."""
    return build_network(config, backend=backend or backends.get("numpy"), **more)


def scramble(model: Model, seed: int = 0) -> Model:
    """The same model with random weights, since fresh ones predict zero."""
    model.params[...] = 0.3 * np.random.default_rng(seed).standard_normal(model.params.shape)
    return model


def make_trainer(
    config: Any, training: TrainConfig, flip: bool = True, count: int = 23, backend: backends.Backend | None = None
) -> Trainer:
    """A fresh trainer on random images."""
    batches = data.Batches(images(count), training.batch_size, training.seed, flip)
    return Trainer(build(config, backend), Diffusion(Schedule.cosine(100)), batches, training)


def run_config(model: Any = SIMPLE, checkpoint_every: int = 2, keep: int = 2, **training: Any) -> RunConfig:
    """A run on digits; training: fields of `TrainConfig`."""
    return RunConfig(
        DataConfig(flip=True),
        model,
        DiffusionConfig(timesteps=50),
        TrainConfig(**{"steps": 6, "batch_size": 4, "warmup_steps": 1} | training),
        checkpoint_every,
        keep,
    )


def arrays(state: Trainer | Checkpoint) -> dict[str, Any]:
    """Everything that a checkpoint has to keep of a training run, by name."""
    assert state.optimizer is not None
    assert state.ema is not None
    optimizer, ema = state.optimizer, state.ema
    rates = (optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay)
    return {
        "params": state.model.params.copy(),
        "adam.m": optimizer.m.copy(),
        "adam.v": optimizer.v.copy(),
        "adam.steps": optimizer.steps,
        "adam.rates": rates,
        "ema.params": ema.params.copy(),
        "ema.decay": ema.decay,
        "ema.updates": ema.updates,
        "step": state.step,
    }


def assert_same(seen: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equality to the bit, dtypes included."""
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert seen[name].dtype == value.dtype, name
            assert seen[name].tobytes() == value.tobytes(), name
        else:
            assert seen[name] == value, name


def invoke(*arguments: object) -> Result:
    """The command line, run in this process; an error that it does not handle is raised."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def succeed(*arguments: object) -> str:
    """`invoke`, which must succeed: returns stdout."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


# What `CompilationNotice` says: which process must compile a kernel depends on what is on disk
NOTICE = re.compile(
    r"^(compiling kernels(, once; they are kept in .+)?|compiled \d+ kernels? in \d+\.\d s)\n", re.MULTILINE
)


def beside_notice(stderr: str) -> str:
    """All of stderr but the lines that tell of compiled kernels."""
    return NOTICE.sub("", stderr)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below folder with its content; None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def outcome(folder: Path) -> dict[str, bytes | None]:
    """`tree` without the file that says where and for how long a run was trained: no two runs are alike in that."""
    return {name: content for name, content in tree(folder).items() if name != "environment.jsonl"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def spied(trainer: Trainer) -> list[int]:
    """The numbers of the batches that the trainer asks for, as a list that grows."""
    seen: list[int] = []
    at = trainer.batches.at

    def spy(number: int) -> Any:
        seen.append(number)
        return at(number)

    trainer.batches.at = spy  # type: ignore[method-assign]
    return seen
