"""The run configuration that options make; what is wrong whatever the images are is refused before they are loaded."""

from typing import Any

from tinyddpm import data
from tinyddpm.checks import both_sides, check_number, check_whole
from tinyddpm.cli.settings import flags_first
from tinyddpm.errors import InputError
from tinyddpm.networks.registry import NetworkConfig, named
from tinyddpm.training.presets import fitted, preset
from tinyddpm.training.run_config import DataConfig, DiffusionConfig, RunConfig
from tinyddpm.training.trainer import TrainConfig


def run_config(options: dict[str, Any]) -> tuple[RunConfig, data.Dataset]:
    """The configuration that the options and the data set's preset give, and the images it was fitted to."""
    options = flags_first(options)
    chosen = {key: value for key, value in options.items() if value is not None}
    values = preset(options["name"]) | chosen
    diffusion = diffusion_config(options)
    data_config = DataConfig(
        **{key: values[key] for key in ("name", "image_size", "color", "data_dir", "flip") if key in values}
    )
    check_before_data(options, values)
    if data_config.image_size is not None:
        network_config(options, values, chosen, both_sides(data_config.image_size), 1, None)
    dataset = data_config.load()
    height, width, channels = dataset.images.shape[1:]
    if values.get("classes") and dataset.num_classes is None:
        raise InputError(f"--classes needs labels, and {options['name']} has none; leave it out")
    classes = dataset.num_classes if values.get("classes") else None
    model = network_config(options, values, chosen, (height, width), channels, classes)
    if options["epochs"] is not None:
        images = values["batch_size"] * values.get("accumulate", 1)
        values["steps"] = max(1, round(options["epochs"] * len(dataset) / images))
    return RunConfig(
        data_config,
        model,
        diffusion,
        train_config(values),
        values["checkpoint_every"],
        values["keep_checkpoints"],
        values["validate_every"],
    ), dataset


def diffusion_config(options: dict[str, Any]) -> DiffusionConfig:
    """The diffusion that the options say. Raises InputError."""
    return DiffusionConfig(**pick(DiffusionConfig, options))


def check_before_data(options: dict[str, Any], values: dict[str, Any]) -> None:
    """Raises InputError for what is wrong whatever the images are: loading them can take minutes."""
    if options["epochs"] is not None:
        if options["steps"] is not None:
            raise InputError("--steps and --epochs exclude each other; give one")
        check_number("--epochs", options["epochs"], 0, 1e9, low_open=True)
    train_config(values)
    check_whole("checkpoint_every", values["checkpoint_every"])
    check_whole("keep_checkpoints", values["keep_checkpoints"])
    check_whole("validate_every", values["validate_every"], 0)
    fields = named(options["kind"]).config.__dataclass_fields__
    for full_only in ("num_res_blocks", "attention_resolutions", "num_heads"):
        if options[full_only] is not None and full_only not in fields:
            raise InputError(
                f"--{full_only.replace('_', '-')} is of the full U-Net; leave it out with --model {options['kind']}"
            )


def network_config(
    options: dict[str, Any],
    values: dict[str, Any],
    chosen: dict[str, Any],
    size: tuple[int, int],
    channels: int,
    classes: int | None,
) -> NetworkConfig:
    """The network for images of that (height, width): what was chosen, and defaults made to fit. Raises InputError."""
    config_class = named(options["kind"]).config
    defaults = {name: field.default for name, field in config_class.__dataclass_fields__.items()}
    network = pick(config_class, fitted(pick(config_class, defaults | values), chosen, size))
    height, width = size
    return config_class(
        **network
        | {
            "image_size": height if height == width else size,
            "in_channels": channels,
            "num_classes": classes,
            "learned_variance": options["variance"] == "learned",
        }
    )


def train_config(values: dict[str, Any]) -> TrainConfig:
    """How these values train; a warm-up longer than a short run would never reach the learning rate."""
    warmup = {"warmup_steps": min(100, max(1, values["steps"]) // 10)}
    return TrainConfig(**pick(TrainConfig, warmup | values))


def pick(config_class: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of the config."""
    return {key: value for key, value in values.items() if key in config_class.__dataclass_fields__}
