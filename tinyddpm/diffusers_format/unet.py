"""The options of diffusers' `UNet2DModel` and what they are in a `UNetConfig`."""

from typing import Any

from tinyddpm.checks import as_whole
from tinyddpm.diffusers_format.options import Options
from tinyddpm.errors import InputError
from tinyddpm.networks.unet import UNetConfig

# What an option that a file leaves out means to diffusers
DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}

# By whether the level has attention
DOWN = {False: "DownBlock2D", True: "AttnDownBlock2D"}
UP = {False: "UpBlock2D", True: "AttnUpBlock2D"}


# What the last class embedding can mean, and our mark of it in the file: diffusers takes no notice of "_…"
LAST_CLASS = ("no label", "label")
MARK = "_last_class"


def read_config(given: dict[str, Any], last_class: str | None = None) -> UNetConfig:
    """The config of the same network; last_class: one of LAST_CLASS, by default as the file is marked.

    Raises InputError, naming option and value, where there is none, and where the last of the class embeddings may
    mean either.
    """
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise InputError(f"unsupported network {given['_class_name']!r} in unet/config.json: only UNet2DModel is read")
    options = Options("UNet2DModel", given, DEFAULTS)
    channels = block_channels(options)
    check_fixed_options(options, channels)
    size = image_size(options)
    attends = attention_levels(options, len(channels))
    middle = options.flag("add_attention")
    shift = options.number("freq_shift")
    if not 0 <= shift < channels[0] // 2:
        options.refuse("freq_shift", f"it must be at least 0 and below half of {channels[0]} channels")
    embeds, no_label = options["num_class_embeds"], True
    if embeds is not None:
        no_label = means_no_label(options, given.get(MARK) if last_class is None else last_class)
    num_heads, head_channels = heads(
        options, [c for c, on in zip(channels, attends, strict=True) if on] + channels[-1:] * middle
    )
    values: dict[str, Any] = {
        "image_size": size,
        "in_channels": options.whole("in_channels"),
        "base_channels": channels[0],
        "channel_mults": tuple(c // channels[0] for c in channels),
        "num_res_blocks": options.whole("layers_per_block"),
        "attention_resolutions": tuple(
            min((size, size) if isinstance(size, int) else size) >> level for level, on in enumerate(attends) if on
        ),
        "num_heads": num_heads,
        "head_channels": head_channels,
        "groups": options.whole("norm_num_groups"),
        "num_classes": None if embeds is None else embeds - no_label,
        "no_label": no_label,
        "dropout": options.number("dropout"),
        "norm_eps": options.number("norm_eps"),
        "middle_attention": middle,
        "asymmetric_padding": options.only("downsample_padding", 0, 1) == 0,
        "frequency_shift": float(shift),
        "cos_first": options.flag("flip_sin_to_cos"),
        "learned_variance": options["out_channels"] != options["in_channels"],
    }
    try:
        return UNetConfig(**values)
    except InputError as error:
        raise InputError(f"unsupported UNet2DModel in unet/config.json: {error}") from error


def means_no_label(options: Options, last_class: Any) -> bool:
    """Whether the last class embedding stands for "no label". Raises InputError where nobody says so or otherwise."""
    # Beside "no label" there must be another
    count = options.whole("num_class_embeds", least=1 if last_class == "label" else 2)
    if last_class not in LAST_CLASS:
        raise InputError(
            f'the last of the {count} class embeddings may be a class like the others or mean "no label", which '
            'calls without labels and guidance use: say load_diffusers(…, last_class="label") or "no label"'
        )
    return last_class == "no label"


def check_fixed_options(options: Options, channels: list[int]) -> None:
    """Raises InputError for options whose other values mean a network that `UNet` is not."""
    options.only("center_input_sample", False)
    options.only("time_embedding_type", "positional")
    options.only("time_embedding_dim", None, 4 * channels[0])
    options.only("mid_block_type", "UNetMidBlock2D")
    options.only("mid_block_scale_factor", 1)
    options.only("downsample_type", "conv")
    options.only("upsample_type", "conv")
    options.only("act_fn", "silu", "swish")
    options.only("attn_norm_num_groups", None, options["norm_num_groups"])
    options.only("resnet_time_scale_shift", "default")
    options.only("class_embed_type", None)
    options.only("num_train_timesteps", None)
    options.only("out_channels", options.whole("in_channels"), 2 * options.whole("in_channels"))


def block_channels(options: Options) -> list[int]:
    """block_out_channels, all multiples of the first."""
    options.several("block_out_channels")
    channels = options.wholes("block_out_channels")
    if channels is None or any(c % channels[0] for c in channels):
        options.refuse("block_out_channels", "each must be a whole multiple of the first")
    return channels


def image_size(options: Options) -> int | tuple[int, int]:
    """sample_size, one number or (height, width)."""
    side = as_whole(options["sample_size"])
    if side is not None and side >= 1:
        return side
    sides = options.wholes("sample_size")
    if sides is None or len(sides) != 2:
        options.refuse("sample_size", "it must be a number of pixels or [height, width]; set it in unet/config.json")
    return sides[0], sides[1]


def attention_levels(options: Options, levels: int) -> list[bool]:
    """Whether each level, from full resolution down, has attention: the same on the way down as on the way up."""
    down, up = options.several("down_block_types"), options.several("up_block_types")
    for name, types, known in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        if len(types) != levels or not all(kind in known.values() for kind in types):
            options.refuse(name, f"it must name {levels} blocks, each {' or '.join(known.values())}")
    attends = [kind == DOWN[True] for kind in down]
    mirrored = [UP[on] for on in reversed(attends)]
    if up != mirrored:
        options.refuse("up_block_types", f"attention must mirror down_block_types, as in {mirrored}")
    return attends


def heads(options: Options, attention_channels: list[int]) -> tuple[int, int | None]:
    """num_heads, and head_channels where levels differ in their number of heads.

    An attention_head_dim of None is one head everywhere.
    """
    width = options["attention_head_dim"]
    if width is None:
        return 1, None
    options.whole("attention_head_dim")
    for channels in attention_channels:
        if channels % width:
            options.refuse("attention_head_dim", f"it does not divide an attention of {channels} channels")
    counts = {channels // width for channels in attention_channels} or {UNetConfig.num_heads}
    return (counts.pop(), None) if len(counts) == 1 else (UNetConfig.num_heads, width)


def write_config(config: UNetConfig) -> dict[str, Any]:
    """The unet/config.json of the same network. Raises InputError for what UNet2DModel cannot express."""
    if config.time_embedding != "resblock":
        raise InputError(
            f"UNet2DModel cannot express time_embedding={config.time_embedding!r}; "
            "build the model with time_embedding='resblock'"
        )
    if config.channel_mults[0] != 1:
        raise InputError(
            f"UNet2DModel cannot express channel_mults={config.channel_mults}, whose first must be 1; build the "
            f"model with base_channels={config.channels[0]} and every other as a multiple of that"
        )
    attends = [config.attends(side) for side in config.resolutions]
    shift = config.frequency_shift
    return {
        "_class_name": "UNet2DModel",
        **DEFAULTS,
        "sample_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "freq_shift": int(shift) if shift == int(shift) else shift,
        "flip_sin_to_cos": config.cos_first,
        "down_block_types": [DOWN[on] for on in attends],
        "up_block_types": [UP[on] for on in reversed(attends)],
        "block_out_channels": list(config.channels),
        "layers_per_block": config.num_res_blocks,
        "downsample_padding": 0 if config.asymmetric_padding else 1,
        "dropout": config.dropout,
        "attention_head_dim": head_width(config),
        "norm_num_groups": config.groups,
        "norm_eps": config.norm_eps,
        "add_attention": config.middle_attention,
        "num_class_embeds": None if config.num_classes is None else config.num_classes + config.no_label,
        **({} if config.num_classes is None else {MARK: LAST_CLASS[0 if config.no_label else 1]}),
    }


def head_width(config: UNetConfig) -> int | None:
    """Channels of every head; None for one head everywhere. Raises InputError if the attentions differ in it."""
    if not config.attention_channels:
        return DEFAULTS["attention_head_dim"]
    if all(config.heads(channels) == 1 for channels in config.attention_channels):
        return None
    widths = sorted({channels // config.heads(channels) for channels in config.attention_channels})
    if len(widths) > 1:
        raise InputError(
            f"UNet2DModel cannot express num_heads={config.num_heads} here, since it has one attention_head_dim and "
            f"these heads have {', '.join(map(str, widths))} channels; build the model with num_heads=1 "
            f"(in Python head_channels={widths[0]} too)"
        )
    return widths[0]
