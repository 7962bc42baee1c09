"""The files of a diffusers folder: finding them, reading their JSON, and writing a folder whole."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tinyddpm.errors import DamagedFileError, InputError, MissingDataError
from tinyddpm.files import write_atomically

WEIGHTS = "diffusion_pytorch_model.safetensors"
COMPONENTS = {"unet": ("UNet2DModel",), "scheduler": ("DDPMScheduler", "DDIMScheduler")}


def checked_folder(folder: str | os.PathLike[str]) -> Path:
    """folder as a Path. Raises MissingDataError where there is none."""
    path = Path(folder)
    if not path.is_dir():
        raise MissingDataError(
            f"no diffusers folder at {path}; give one that DDPMPipeline.save_pretrained wrote "
            "(a model named on the Hugging Face Hub has to be downloaded first)"
        )
    return path


def part(folder: Path, name: str) -> Path:
    """Where a component is: its own folder or, as in the first published models, the pipeline's."""
    return folder / name if (folder / name).is_dir() else folder


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises MissingDataError or DamagedFileError."""
    if not path.is_file():
        raise MissingDataError(f"a diffusers folder has {path.name}, but there is none at {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is no JSON ({error}); fetch or save it again") from error
    if not isinstance(values, dict):
        raise DamagedFileError(f"{path} must hold a JSON object, got {type(values).__name__}; fetch or save it again")
    return values


def check_pipeline(folder: Path) -> None:
    """Raises InputError if model_index.json, which may be missing, names more than a UNet2DModel and its scheduler."""
    if not (folder / "model_index.json").exists():
        return
    for name, entry in read_json(folder / "model_index.json").items():
        # An optional component that a pipeline does not use stands there as [null, null]
        if name.startswith("_") or not isinstance(entry, list) or entry[-1:] == [None]:
            continue
        if name not in COMPONENTS:
            raise InputError(
                f"unsupported pipeline component {name}={entry!r} in {folder / 'model_index.json'}: only "
                "a unet and a scheduler, as in DDPMPipeline, are read"
            )
        if entry[-1:] not in [[kind] for kind in COMPONENTS[name]]:
            raise InputError(
                f"unsupported pipeline component {name}={entry!r} in {folder / 'model_index.json'}: only "
                f"{' or '.join(COMPONENTS[name])} can be read"
            )


def weights_file(folder: Path) -> Path:
    """The one safetensors file of a model's folder. Raises InputError or MissingDataError with what to do instead."""
    path = folder / WEIGHTS
    if path.is_file():
        return path
    shards = sorted(folder.glob("*.safetensors.index*.json"))
    if shards:
        raise InputError(
            f"the weights in {folder} are split over several files ({shards[0].name}); re-save them as one with "
            'save_pretrained(folder, max_shard_size="100GB")'
        )
    pickles = sorted(folder.glob("*.bin"))
    if pickles:
        raise InputError(
            f"{pickles[0]} is a pickle, which can run code when read, and is not opened; re-save the model with "
            "save_pretrained(folder, safe_serialization=True)"
        )
    others = [f"{other.name}" for other in sorted(folder.glob("*.safetensors"))]
    seen = f", only {', '.join(others)}; rename the one that is meant" if others else "; fetch or save it again"
    raise MissingDataError(f"there is no {WEIGHTS} in {folder}{seen}")


def check_new_folder(folder: Path) -> None:
    """Raises InputError unless folder is new or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not an empty folder; give a new one")


def write_folder(folder: Path, content: dict[str, bytes]) -> None:
    """Writes files, named by paths within folder, aside and renames them into place as a whole.

    Raises InputError unless folder is new or empty. After any failure nothing is left behind.
    """
    check_new_folder(folder)
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        for name, data in content.items():
            write_atomically(aside / name, data)
        try:
            if folder.exists():
                folder.rmdir()
            aside.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise InputError(f"{folder} was made by another process meanwhile; give a new one") from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
