"""`--config FILE`: options from a file, beneath those of the command line."""

import difflib
import json
import tomllib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tinyddpm.errors import InputError, MissingDataError
from tinyddpm.networks.registry import NETWORKS, kind_of
from tinyddpm.training.presets import preset
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.run_folder import CONFIG

# What only the command line sets
NOT_IN_FILES = ("config", "resume", "help")
# Fields of a run's network that follow from its data, --classes and --variance
IMPLIED = ("in_channels", "num_classes", "learned_variance")

# What other programs call these
SYNONYMS = {
    "learning_rate": "lr",
    "dataset": "data",
    "output_dir": "out",
    "random_seed": "seed",
    "num_steps": "steps",
    "max_steps": "steps",
    "num_epochs": "epochs",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "max_grad_norm": "clip_norm",
    "num_timesteps": "timesteps",
    "num_train_timesteps": "timesteps",
    "beta_schedule": "schedule",
    "resolution": "image_size",
    "channels": "base_channels",
    "dim_mults": "channel_mults",
    "horizontal_flip": "flip",
    "save_every": "checkpoint_every",
    "device": "backend",
}


def read_settings(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Makes what is in the file the defaults of the command's other options, as the callback of --config."""
    if path is None:
        return
    path = path / CONFIG if path.is_dir() else path
    values, known = parsed(path), known_options(context)
    try:
        if isinstance(values.get("data"), dict):
            values = options_of(RunConfig.from_dict(values), known)
        defaults = checked(values, known)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    here = {option.name for option in context.command.params}
    context.default_map = {name: value for name, value in defaults.items() if name in here}


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_settings,
    help="TOML file of options, such as lr = 1e-3 or channel_mults = [1, 2]: the keys are their names without "
    "the dashes in front. Or the config.json of a run. Options of the command line come first.",
)


def parsed(path: Path) -> dict[str, Any]:
    """The table in a TOML file, or the object in one that ends in .json. Raises InputError for anything else."""
    if not path.is_file():
        raise MissingDataError(f"no file {path}; give --config a TOML file, or the {CONFIG} of a run")
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid {kind} ({error}); mend it there") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold options by name, got {type(values).__name__}")
    return values


def known_options(context: click.Context) -> dict[str, click.Parameter]:
    """By key, the options that a file may set: those of `train`, and of the command itself."""
    program = context.find_root().command
    commands = [program.commands["train"]] if isinstance(program, click.Group) else []
    options = [option for command in (*commands, context.command) for option in command.params]
    by_key = {option.opts[0].lstrip("-").replace("-", "_"): option for option in options}
    return {key: option for key, option in by_key.items() if key not in NOT_IN_FILES}


def checked(values: dict[str, Any], known: dict[str, click.Parameter]) -> dict[str, Any]:
    """The values by the names of their options. Raises InputError for an unknown key or a value of a wrong type."""
    found = {}
    for key, value in values.items():
        option = known.get(key.replace("-", "_"))
        if option is None:
            close = difflib.get_close_matches(key.replace("-", "_"), [*known, *SYNONYMS], n=1, cutoff=0.5)
            near = [SYNONYMS.get(found, found) for found in close]
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(known)}"
            raise InputError(f"unknown key {key!r}; {hint}")
        wanted, fits, convert = kind_of_value(option)
        if not fits(value):
            raise InputError(f"{key} must be {wanted}, got {value!r}")
        if option.name is not None:
            found[option.name] = convert(value)
    return found


def kind_of_value(option: click.Parameter) -> tuple[str, Callable[[Any], bool], Callable[[Any], Any]]:
    """What an option takes in a file: in words, as a test, and as what makes the option's value of it."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def sides(value: Any) -> bool:
        return whole(value) or (isinstance(value, list) and len(value) == 2 and all(map(whole, value)))

    if getattr(option, "is_flag", False):
        return "true or false", lambda value: isinstance(value, bool), bool
    if option.type is click.INT:
        return "a whole number", whole, int
    if option.type is click.FLOAT:
        return "a number", lambda value: whole(value) or isinstance(value, float), float
    if isinstance(option.type, click.Choice):
        choices = tuple(option.type.choices)
        return f"one of {', '.join(choices)}", lambda value: value in choices, str
    if option.name == "image_size":
        return (
            "a whole number, or two (height, width)",
            sides,
            lambda value: tuple(value) if isinstance(value, list) else value,
        )
    if isinstance(option.type, click.Path) or option.type is click.STRING:
        return "a text", lambda value: isinstance(value, str), str
    return "a list of whole numbers", lambda value: isinstance(value, list) and all(map(whole, value)), tuple


def options_of(config: RunConfig, known: Collection[str]) -> dict[str, Any]:
    """The options that make a run's config, by key. Raises InputError for a network that those known cannot make."""
    model = config.model.to_dict()
    names = {"data": config.data.name, "model": NETWORKS[str(kind_of(config.model))].option}
    data = {key: value for key, value in config.data.to_dict().items() if key != "name"}
    # Where the preset would say otherwise
    if data["image_size"] is None and "image_size" in preset(config.data.name):
        data["image_size"] = model["image_size"]
    fresh = type(config.model).__dataclass_fields__
    for key in [key for key in model if key not in known]:
        # A model to start from brings its own
        if model.pop(key) != fresh[key].default and key not in IMPLIED and config.init is None:
            raise InputError(f"no option sets {key} of the network; build it from Python")
    del model["image_size"]
    every = {"checkpoint_every": config.checkpoint_every, "keep_checkpoints": config.keep_checkpoints}
    # A new run has had no resumption
    training = {key: value for key, value in config.training.to_dict().items() if not key.startswith("changed_")}
    values = names | data | model | config.diffusion.to_dict() | training | every
    values |= {
        "classes": config.model.num_classes is not None,
        "validate_every": config.validate_every,
        "init": config.init,
    }
    return {key: value for key, value in values.items() if value is not None}


def flags_first(options: dict[str, Any]) -> dict[str, Any]:
    """options without the file's --steps where the command line has --epochs, and the other way round."""
    context = click.get_current_context()
    for given, other in (("steps", "epochs"), ("epochs", "steps")):
        sources = context.get_parameter_source(given), context.get_parameter_source(other)
        if sources == (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            options = {**options, other: None}
    return options
