"""Checkpoints: one safetensors file with a JSON header, checked by a digest. Loading executes no code.

Tensors: `model/NAME` and `ema/NAME` for every parameter, `adam/m` and `adam/v` flat, `schedule/betas` and
`schedule/timesteps`; `importance/losses` and `importance/counts` of `Importance`. The header's one entry, "tinyddpm",
is the digest of all the rest, a space, and JSON.
A packed model's folder holds one of averaged weights alone, as `model/NAME` in float16.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

import backends
from tinyddpm.checks import check_kind, check_whole, told
from tinyddpm.diffusion.process import Diffusion
from tinyddpm.diffusion.schedules import Schedule
from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.files import write_atomically
from tinyddpm.networks.model import Model
from tinyddpm.networks.registry import NETWORKS, kind_of
from tinyddpm.training.importance import Importance
from tinyddpm.training.optimizers import EMA, Adam, check_part, like_params

FORMAT = 1
ENTRY = "tinyddpm"
# The file that makes a folder a packed model
PACKED = "model.safetensors"
DIFFUSION_FIELDS = tuple(name for name in Diffusion.__dataclass_fields__ if name != "schedule")
OPTIMIZER_FIELDS = ("lr", "beta1", "beta2", "eps", "weight_decay")


@dataclass
class Checkpoint:
    """What a checkpoint holds: a model and its diffusion, and of a training run what resuming it needs.

    step: optimiser steps taken. extra: JSON values of the caller's own. importance: of the timesteps. Raises InputError
    for values of other kinds.
    """

    model: Model
    diffusion: Diffusion
    optimizer: Adam | None = None
    ema: EMA | None = None
    step: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    importance: Importance | None = None

    def __post_init__(self) -> None:
        check_parts(self.model, self.diffusion, self.optimizer, self.ema)
        self.step = check_whole("step", self.step, 0)

    def sampling_model(self) -> Model:
        """The model to sample from: over the averaged weights where there are any."""
        return self.model if self.ema is None else self.model.with_params(self.ema.params)


def check_parts(model: Any, diffusion: Any, optimizer: Any, ema: Any) -> None:
    """Raises InputError for what is not of the kind that a checkpoint holds, or of another model."""
    check_kind("model", model, Model, "UNet(UNetConfig())")
    check_kind("diffusion", diffusion, Diffusion, "Diffusion(Schedule.cosine(1000))").check_output(model)
    if optimizer is not None:
        check_part("optimizer", check_kind("optimizer", optimizer, Adam, "Adam(model.params)"), model.params)
        for name in ("m", "v"):
            like_params(f"optimizer.{name}", getattr(optimizer, name), model.params)
    if ema is not None:
        check_part("ema", check_kind("ema", ema, EMA, "EMA(model.params)"), model.params)


def save(
    path: str | os.PathLike[str],
    model: Model,
    diffusion: Diffusion,
    *,
    optimizer: Adam | None = None,
    ema: EMA | None = None,
    step: int = 0,
    extra: dict[str, Any] | None = None,
    importance: Importance | None = None,
) -> None:
    """Writes a checkpoint aside, flushes it and renames it.

    Raises InputError for a model it cannot name, an optimiser or average of another shape or precision than the model,
    and an extra that is no JSON, OSError as `write_atomically` does.
    """
    parts = {"optimizer": optimizer, "ema": ema, "importance": importance}
    write_atomically(path, as_bytes(model, diffusion, **parts, step=step, extra=extra))  # type: ignore[arg-type]


def as_bytes(
    model: Model,
    diffusion: Diffusion,
    *,
    optimizer: Adam | None = None,
    ema: EMA | None = None,
    step: int = 0,
    extra: dict[str, Any] | None = None,
    importance: Importance | None = None,
    half: bool = False,
) -> bytes:
    """The content of a checkpoint; half: the weights in float16. Raises InputError as `save` does, and for weights
    beyond float16's largest.
    """
    check_parts(model, diffusion, optimizer, ema)
    step = check_whole("step", step, 0)
    if not isinstance(extra, dict | None):
        raise InputError(f"extra must be a dictionary of JSON values, got {told(extra)}")
    kind = kind_of(model)
    if kind is None:
        raise InputError(f"a checkpoint holds one of {', '.join(NETWORKS)}, got {type(model).__name__}")
    be = model.backend
    tensors = {f"model/{name}": be.to_numpy(value) for name, value in model.named_params().items()}
    tensors["schedule/betas"] = diffusion.schedule.betas
    tensors["schedule/timesteps"] = diffusion.schedule.timesteps
    description: dict[str, Any] = {
        "format": FORMAT,
        "model": {"kind": kind, "config": model.config.to_dict()},
        "diffusion": {key: getattr(diffusion, key) for key in DIFFUSION_FIELDS},
        "schedule": diffusion.schedule.name,
        "step": step,
        "extra": extra or {},
    }
    if optimizer is not None:
        tensors["adam/m"], tensors["adam/v"] = be.to_numpy(optimizer.m), be.to_numpy(optimizer.v)
        description["optimizer"] = {key: getattr(optimizer, key) for key in OPTIMIZER_FIELDS}
        description["optimizer_steps"] = optimizer.steps
    if ema is not None:
        views = model.parameters.views(ema.params)
        tensors |= {f"ema/{name}": be.to_numpy(value) for name, value in views}
        description["ema"] = {"decay": ema.decay, "updates": ema.updates}
    kinds = {value.dtype.name for name, value in tensors.items() if not name.startswith("schedule/")}
    if importance is not None:
        tensors |= {"importance/losses": importance.losses, "importance/counts": importance.counts}
    if len(kinds) > 1:
        raise InputError(f"model, optimizer and ema must be of one precision, got {', '.join(sorted(kinds))}")
    if half:
        tensors = {name: in_half(name, value) for name, value in tensors.items()}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    try:
        text = json.dumps(description, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"extra must be made of JSON values, got {extra!r} ({error})") from error
    return safetensors_bytes(tensors, {ENTRY: f"{digest(text, tensors)} {text}"})


def in_half(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor of weights in float16, one of the schedule as it is. Raises InputError for weights that overflow."""
    if name.startswith("schedule/"):
        return tensor
    if not np.all(np.abs(tensor) <= np.finfo(np.float16).max):
        raise InputError(f"{name} holds weights that float16 does not; keep this model as a checkpoint")
    return tensor.astype(np.float16)


def load(path: str | os.PathLike[str], backend: backends.Backend | None = None) -> Checkpoint:
    """Reads a checkpoint and checks its digest, names and shapes before anything is built from it.

    path: of the file, or of a packed model's folder, whose weights are widened to float32. Raises MissingDataError
    where there is no file, DamagedFileError where its content is not what was written, InputError where it describes
    what this version cannot build.
    """
    path = Path(path)
    if (path / PACKED).is_file():
        path = path / PACKED
    if not path.is_file():
        raise MissingDataError(f"no checkpoint at {path}; give the path of a .safetensors file that `save` wrote")
    text, tensors = read_checked(path)
    try:
        return build(json.loads(text), tensors, backend or backends.get("auto"))
    except InputError as error:
        raise type(error)(f"{path} cannot be used: {error}; use another checkpoint") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is not a complete checkpoint: {error!r}; use another checkpoint") from error


def read_checked(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """The JSON text and the tensors of a checkpoint file, their digest verified."""
    try:
        with safe_open(path, framework="numpy") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            # A foreign file may be huge
            tensors = {name: file.get_tensor(name) for name in file.keys()} if entry else {}  # noqa: SIM118
    except (SafetensorError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedFileError(
            f"{path} is damaged or no safetensors file ({reason}); use another checkpoint"
        ) from error
    if entry is None:
        raise DamagedFileError(f"{path} is a safetensors file, but no tinyddpm checkpoint; use one that `save` wrote")
    seen, _, text = entry.partition(" ")
    if seen != digest(text, tensors):
        raise DamagedFileError(
            f"{path} is damaged: its content does not match its digest {seen[:12]}; use another checkpoint"
        )
    return text, tensors


def build(description: dict[str, Any], tensors: dict[str, np.ndarray], be: backends.Backend) -> Checkpoint:
    """The objects that a checked checkpoint describes."""
    if description["format"] != FORMAT:
        raise InputError(f"it is of format {description['format']!r}, and this version reads {FORMAT}")
    kind = description["model"]["kind"]
    if kind not in NETWORKS:
        raise InputError(f"unknown kind of model {kind!r}; this version knows {', '.join(NETWORKS)}")
    kinds = {tensor.dtype.name for name, tensor in tensors.items() if not name.startswith(("schedule/", "importance/"))}
    if kinds == {"float16"}:
        tensors = {n: t.astype(np.float32) if t.dtype == np.float16 else t for n, t in tensors.items()}
    elif kinds not in ({"float32"}, {"float64"}):
        raise DamagedFileError(f"its tensors are {', '.join(sorted(kinds))}; all must be float32, or all float64")
    model_class, config_class, _ = NETWORKS[kind]
    config = config_class.from_dict(description["model"]["config"])
    model = model_class(config, backend=be, params=flat_of(tensors, "model", model_class, config, be))
    schedule = Schedule(tensors["schedule/betas"], tensors["schedule/timesteps"], description["schedule"])
    check_whole("step", description["step"], 0)
    checkpoint = Checkpoint(
        model, Diffusion(schedule, **description["diffusion"]), step=description["step"], extra=description["extra"]
    )
    if "optimizer" in description:
        optimizer = Adam(model.params, **description["optimizer"], backend=be)
        for name in ("m", "v"):
            moment = be.asarray(tensors[f"adam/{name}"])
            setattr(optimizer, name, like_params(f"adam/{name}", moment, model.params))
        check_whole("optimizer_steps", description["optimizer_steps"], 0)
        optimizer.steps = description["optimizer_steps"]
        checkpoint.optimizer = optimizer
    if "ema" in description:
        average = flat_of(tensors, "ema", model_class, config, be)
        check_whole("updates", description["ema"]["updates"], 0)
        checkpoint.ema = EMA(average, description["ema"]["decay"], backend=be)
        checkpoint.ema.updates = description["ema"]["updates"]
    if "importance/losses" in tensors:
        kept = tensors["importance/losses"], tensors["importance/counts"]
        checkpoint.importance = Importance(schedule.T, *kept)
    return checkpoint


def flat_of(
    tensors: dict[str, np.ndarray], group: str, model_class: type[Model], config: Any, be: backends.Backend
) -> Any:
    """The flat parameter array of a group of named tensors. Raises DamagedFileError where names or shapes differ."""
    expected = {d.name: d.shape for d in model_class.declarations(config)}
    seen = {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}
    if seen.keys() != expected.keys():
        odd = sorted(seen.keys() ^ expected.keys())
        raise DamagedFileError(f"the {group} tensors do not fit the config: {len(odd)} names differ, first {odd[0]!r}")
    for name, shape in expected.items():
        if seen[name].shape != shape:
            raise DamagedFileError(f"tensor {group}/{name} has shape {seen[name].shape}, the config asks for {shape}")
    return be.asarray(np.concatenate([seen[name].reshape(-1) for name in expected]))


def digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 over the JSON text and every tensor's name, dtype, shape and bytes."""
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        sha.update(np.ascontiguousarray(tensor).data)
    return sha.hexdigest()
