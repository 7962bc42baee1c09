"""The configuration of a training run: data, network, diffusion, training."""

from dataclasses import dataclass, replace
from typing import Any, Self

from tinyddpm import data
from tinyddpm.checks import (
    JsonConfig,
    check_choice,
    check_flag,
    check_kind,
    check_sides,
    check_whole,
    settle,
    told,
)
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import NAMES as SCHEDULES
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import InputError
from tinyddpm.networks.registry import NetworkConfig, kind_of, network
from tinyddpm.training.trainer import TrainConfig


@dataclass(frozen=True)
class DataConfig(JsonConfig):
    """Which images: the arguments of `data.load`, and whether they are mirrored at random in training."""

    name: str = "digits"
    image_size: int | tuple[int, int] | None = None
    color: bool | None = None
    data_dir: str | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("name", "data_dir"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "name"):
                raise InputError(f"{name} must be a text, got {value!r}")
        if self.color is not None:
            settle(self, "color", check_flag)
        settle(self, "flip", check_flag)
        if self.image_size is not None:
            settle(self, "image_size", check_sides)

    def at(self, name: str | None = None, data_dir: str | None = None) -> Self:
        """The same with the places given here, if any, and paths that hold in any directory."""
        name, data_dir = self.name if name is None else name, self.data_dir if data_dir is None else data_dir
        if name and name not in data.NAMES:
            name = data.absolute(name)
        return replace(self, name=name, data_dir=None if data_dir is None else data.absolute(data_dir))

    @property
    def title(self) -> str:
        """The set's name or that of its folder."""
        return self.name.rstrip("/").rpartition("/")[2] or self.name

    def load(self, split: str = "train") -> data.Dataset:
        """The images. Raises InputError as `data.load` does."""
        return data.load(self.name, split=split, image_size=self.image_size, color=self.color, data_dir=self.data_dir)


@dataclass(frozen=True)
class DiffusionConfig(JsonConfig):
    """A `Diffusion` by names: schedule (one of `schedules.NAMES`), its number of timesteps, the rest."""

    schedule: str = "cosine"
    timesteps: int = 1000
    prediction: str = "eps"
    loss: str = "mse"
    variance: str = "fixed_small"
    zero_terminal_snr: bool = False
    weighting: str = "uniform"
    min_snr_gamma: float = 5.0

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)
        settle(self, "zero_terminal_snr", check_flag)
        settle(self, "timesteps", check_whole)
        try:
            self.build_schedule()
        except InputError as error:
            cause, _, _ = str(error).partition(";")
            raise InputError(
                f"no {self.schedule} schedule of {self.timesteps} timesteps: {cause}; use more timesteps, or another "
                "schedule"
            ) from error
        self.build()

    def build_schedule(self) -> Schedule:
        """The schedule. Raises InputError as `Schedule.by_name` does."""
        return Schedule.by_name(self.schedule, self.timesteps, self.zero_terminal_snr)

    def build(self) -> Diffusion:
        """The diffusion. Raises InputError for values that `Diffusion` or `Schedule` refuse."""
        return Diffusion(
            self.build_schedule(),
            self.prediction,
            self.loss,
            self.variance,
            weighting=self.weighting,
            min_snr_gamma=self.min_snr_gamma,
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made from; `to_dict` is what config.json holds.

    checkpoint_every, keep_checkpoints: steps between checkpoints, and how many of them stay. validate_every: steps
    between two looks at held-out images; 0: none, and nothing is held out. init: where the first weights were taken
    from, None for fresh ones. Raises InputError for values outside these.
    """

    data: DataConfig
    model: NetworkConfig
    diffusion: DiffusionConfig
    training: TrainConfig
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    validate_every: int = 0
    init: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("data", DataConfig), ("diffusion", DiffusionConfig), ("training", TrainConfig)):
            check_kind(name, getattr(self, name), kind, f"{kind.__name__}()")
        if kind_of(self.model) is None:
            raise InputError(f"model must be the config of a network, such as UNetConfig(), got {told(self.model)}")
        settle(self, "checkpoint_every", check_whole)
        settle(self, "keep_checkpoints", check_whole)
        settle(self, "validate_every", check_whole, 0)
        if self.model.learned_variance != (self.diffusion.variance == "learned"):
            raise InputError(
                f"variance {self.diffusion.variance!r} does not go with learned_variance={self.model.learned_variance} "
                "of the network; change one of them"
            )
        if self.training.timestep_sampling == "importance" and self.diffusion.loss != "vlb":
            raise InputError(
                f"timestep_sampling 'importance' is for the loss 'vlb', got {self.diffusion.loss!r}; use 'uniform'"
            )
        if not isinstance(self.init, str | None):
            raise InputError(f"init must be a text, got {self.init!r}")

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON values."""
        return {
            "data": self.data.to_dict(),
            "model": {"kind": kind_of(self.model), "config": self.model.to_dict()},
            "diffusion": self.diffusion.to_dict(),
            "training": self.training.to_dict(),
            "checkpoint_every": self.checkpoint_every,
            "keep_checkpoints": self.keep_checkpoints,
            "validate_every": self.validate_every,
            "init": self.init,
        }

    @classmethod
    def from_dict(cls, values: Any) -> "RunConfig":
        """The config of these JSON values. Raises InputError for what is missing, unknown or out of range."""
        try:
            return cls(
                DataConfig.from_dict(values["data"]),
                network(values["model"]["kind"]).config.from_dict(values["model"]["config"]),
                DiffusionConfig.from_dict(values["diffusion"]),
                TrainConfig.from_dict(values["training"]),
                values["checkpoint_every"],
                values["keep_checkpoints"],
                # Earlier versions did not write these
                values.get("validate_every", 0),
                values.get("init"),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"a run's config lacks or misplaces {error}") from error
