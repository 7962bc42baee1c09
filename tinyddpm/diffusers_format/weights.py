"""The tensors of a `UNet2DModel` and the parameters of a `UNet`: names, layouts and the safetensors file.

diffusers keeps convolutions as (K, C, kh, kw) and linear maps as (out, in), here (kh, kw, C, K) and (in, out);
and it has three linear maps for query, key and value where `AttentionBlock` has one.
"""

import math
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from tinyddpm.errors import DamagedFileError, InputError
from tinyddpm.networks.unet import UNet, UNetConfig

# Ours to theirs, applied in this order
RENAMED = (
    (r"^time\.linear([12])\.", r"time_embedding.linear_\1."),
    (r"^time\.label\.table$", "class_embedding.weight"),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^middle\.block1\.", "mid_block.resnets.0."),
    (r"^middle\.block2\.", "mid_block.resnets.1."),
    (r"^middle\.attention\.", "mid_block.attentions.0."),
    (r"^down\.(\d+)\.", r"down_blocks.\1."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.attention\.(\d+)\.", r".attentions.\1."),
    (r"\.(down|up)sample\.conv\.", r".\1samplers.0.conv."),
    (r"\.emb\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"\.projection\.", ".to_out.0."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
# Attention blocks had other names in the first published models
DEPRECATED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
KINDS = {"F16": np.float32, "F32": np.float32, "F64": np.float64}
SHOWN = 4


def diffusers_names(name: str, levels: int) -> list[str]:
    """What diffusers calls our parameter in a U-Net of this many levels: one name, or those of query, key and value."""
    # On the way up diffusers counts blocks, we count levels
    name = re.sub(r"^up\.(\d+)\.", lambda found: f"up_blocks.{levels - 1 - int(found[1])}.", name)
    for pattern, theirs in RENAMED:
        name = re.sub(pattern, theirs, name)
    return [name.replace(".qkv.", f".to_{letter}.") for letter in "qkv"] if ".qkv." in name else [name]


def axes(name: str, dimensions: int) -> tuple[int, ...]:
    """The order of our parameter's axes in diffusers' tensor."""
    if dimensions == 4:
        return (3, 2, 0, 1)
    return (1, 0) if dimensions == 2 and name.endswith(".weight") else tuple(range(dimensions))


def write_weights(arrays: dict[str, np.ndarray], levels: int) -> bytes:
    """The safetensors file of a UNet's parameters by name."""
    tensors = {}
    for name, array in arrays.items():
        theirs = diffusers_names(name, levels)
        for their_name, piece in zip(theirs, np.split(array, len(theirs), axis=-1), strict=True):
            tensors[their_name] = np.ascontiguousarray(piece.transpose(axes(name, array.ndim)))
    return safetensors_bytes(tensors, {"format": "pt"})


def read_weights(path: Path, config: UNetConfig) -> np.ndarray:
    """The flat parameters of a `UNet` of that config: float32, or float64 if any tensor is.

    Raises DamagedFileError for a file that is no safetensors, InputError where tensors' names, shapes or kinds of
    number are not those of the config.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return read_tensors(file, path, config)
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} is damaged or no safetensors file ({error}); fetch or save it again") from error


def read_tensors(file: "safe_open", path: Path, config: UNetConfig) -> np.ndarray:
    """`read_weights` of the opened file: everything is checked before a tensor is read."""
    levels = len(config.channel_mults)
    stored = {current_name(key): key for key in file.keys()}  # noqa: SIM118
    if len(stored) != len(file.keys()):
        raise InputError(f"{path} names an attention's tensors in the old and the new way at once; keep one of them")
    wanted = {d.name: (diffusers_names(d.name, levels), d.shape) for d in UNet.declarations(config)}
    names = {name for theirs, _ in wanted.values() for name in theirs}
    for problem, odd in (("lacks", names - stored.keys()), ("has unexpected", stored.keys() - names)):
        if odd:
            raise InputError(
                f"{path} {problem} {len(odd)} tensors for its config.json: {listed(odd)}; "
                "check that both files are of one model"
            )
    kinds = {name: file.get_slice(key).get_dtype() for name, key in stored.items()}
    for name, kind in sorted(kinds.items()):
        if kind not in KINDS:
            raise InputError(
                f"tensor {name} of {path} is of kind {kind}, not {', '.join(KINDS)}; re-save it as float32"
            )

    for name, (theirs, shape) in wanted.items():
        piece_shape = (*shape[:-1], shape[-1] // len(theirs))
        their_shape = [piece_shape[axis] for axis in axes(name, len(shape))]
        for their_name in theirs:
            seen = list(file.get_slice(stored[their_name]).get_shape())
            if seen != their_shape:
                raise InputError(
                    f"tensor {their_name} of {path} has shape {seen}, but its config.json asks for {their_shape}; "
                    "check that both files are of one model"
                )

    dtype = np.result_type(*(KINDS[kind] for kind in kinds.values()))
    flat, start = np.empty(sum(math.prod(shape) for _, shape in wanted.values()), dtype), 0
    for name, (theirs, shape) in wanted.items():
        to_ours = np.argsort(axes(name, len(shape)))
        pieces = [file.get_tensor(stored[their_name]).transpose(to_ours) for their_name in theirs]
        stop = start + math.prod(shape)
        flat[start:stop].reshape(shape)[...] = np.concatenate(pieces, axis=-1)
        start = stop
    return flat


def current_name(key: str) -> str:
    """A tensor's name as diffusers writes it today."""
    return re.sub(
        rf"(attentions\.\d+)\.({'|'.join(DEPRECATED)})\.", lambda found: f"{found[1]}.{DEPRECATED[found[2]]}.", key
    )


def listed(names: set[str]) -> str:
    """The first few names in order, and that there are more."""
    shown = sorted(names)[:SHOWN]
    return ", ".join(shown) + (", …" if len(names) > SHOWN else "")
