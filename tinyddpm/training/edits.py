"""What changed in a run's config.json since its last checkpoint: taken or refused key by key, and always said."""

from dataclasses import replace
from typing import Any

from tinyddpm.diffusion.schedules import NAMES as SCHEDULES
from tinyddpm.errors import InputError
from tinyddpm.training.checkpoint import Checkpoint
from tinyddpm.training.run_config import RunConfig
from tinyddpm.training.trainer import RATE_FIELDS, TrainConfig

# The entry of a checkpoint's `extra` with the config that it was trained by
ENTRY = "config"
# What the weights were trained for
KEPT = ("model.", "diffusion.", "init")
# What `resume` itself notes
NOTED = ("training.changed_at", "training.changed_lr")


def config_of(checkpoint: Checkpoint, written: RunConfig) -> RunConfig:
    """The config that a checkpoint was trained by; what it does not tell is as `written`."""
    if ENTRY in checkpoint.extra:
        return RunConfig.from_dict(checkpoint.extra[ENTRY])
    training = written.training
    if checkpoint.optimizer is not None and checkpoint.ema is not None:
        optimizer, ema = checkpoint.optimizer, checkpoint.ema
        training = replace(training, weight_decay=optimizer.weight_decay, ema_decay=ema.decay)
    seen, schedule = checkpoint.diffusion, checkpoint.diffusion.schedule
    name = schedule.name if schedule.name in SCHEDULES else written.diffusion.schedule
    diffusion = replace(
        written.diffusion, **{key: getattr(seen, key) for key in ("prediction", "loss", "variance")},
        schedule=name, timesteps=schedule.T, zero_terminal_snr=schedule.zero_terminal_snr,
    )  # fmt: skip
    return replace(written, model=checkpoint.model.config, diffusion=diffusion, training=training)


def accepted(
    path: str, written: RunConfig, before: RunConfig, step: int, steps: int | None = None
) -> tuple[RunConfig, list[str]]:
    """The config to go on with after `step` steps, and a line for each change.

    path: of config.json, for messages; written: what is in it; before: what the last checkpoint was trained by; steps:
    a new total, if one is asked for. Raises InputError for an edit of what the weights were trained for, which cannot
    change midway.
    """
    now, then = flat(written.to_dict()), flat(before.to_dict())
    edited = [key for key in now if now[key] != then.get(key)]
    lines = []
    for key in edited:
        if key.startswith(KEPT):
            raise InputError(
                f"{path}: {key} is {now[key]!r}, but this run was trained with {then.get(key)!r}, which cannot change "
                "midway; put back the file that was changed, or start a new run with it"
            )
        if key not in NOTED:
            lines.append(f"{path}: {key} is {now[key]!r} from here on; it was {then.get(key)!r}")
    training = written.training if steps is None else replace(written.training, steps=steps)
    old = before.training
    if any(getattr(training, name) != getattr(old, name) for name in RATE_FIELDS):
        training = going_over(training, old, step)
        lines.append(rate_line(training, old, step))
    elif any(key in NOTED for key in edited):
        key = next(key for key in edited if key in NOTED)
        raise InputError(
            f"{path}: {key} is noted when a run goes on, and is not to be edited; put back {then.get(key)!r}"
        )
    return replace(written, training=training), lines


def going_over(training: TrainConfig, old: TrainConfig, step: int) -> TrainConfig:
    """The new training, its learning rate going over from that of the old one after `step` steps without a jump."""
    training = replace(training, changed_at=0, changed_lr=0.0)
    if step == 0 or training.learning_rate(step) == old.learning_rate(step):
        return training
    return replace(training, changed_at=step, changed_lr=old.learning_rate(step - 1))


def rate_line(training: TrainConfig, old: TrainConfig, step: int) -> str:
    """What the learning rate does from here on."""
    end = "is kept" if training.lr_decay == "constant" else f"falls along a cosine to 0 at step {training.steps}"
    if not training.changed_at:
        return f"learning rate: goes on at {training.learning_rate(step):.3g} as before, and {end}"
    there = min(step + training.steps_of_change, training.steps)
    return (
        f"learning rate: goes over from {old.learning_rate(step - 1):.3g} at step {step} to "
        f"{training.learning_rate(there - 1):.3g} at step {there}, then {end}"
    )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; "config" inside "model" is left out of them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, prefix if key == "config" else f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
