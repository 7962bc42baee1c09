"""Hypothesis strategies for whole networks: configs whose sizes, groups, heads and resolutions fit together.

Small ones, so that a U-Net's gradient by one complex step takes some milliseconds; oblong images, levels of one pixel,
labels and dropout among them. Strategies for single operations are in `backends.testing`.
"""

from typing import Any

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("tinyddpm.testing needs Hypothesis; run: pip install 'tinyddpm[test]'") from error

from tinyddpm.networks.simple_unet import SimpleUNetConfig
from tinyddpm.networks.unet import UNetConfig

__all__ = ["simple_configs", "unet_configs"]


def divisors(n: int) -> list[int]:
    """All of them."""
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def shared_fields(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of both configs. No group is a single channel: its normalisation would remove the time embedding."""
    mults = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    factor = 2 ** (len(mults) - 1)
    height, width = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    groups = draw(st.integers(1, 3))
    return {
        "image_size": factor * height if height == width else (factor * height, factor * width),
        "in_channels": draw(st.integers(1, 3)),
        "base_channels": groups * draw(st.integers(2, 3)),
        "channel_mults": mults,
        "groups": groups,
        "num_classes": draw(st.sampled_from([None, 3])),
        "time_embedding": draw(st.sampled_from(["resblock", "input"])),
        "dropout": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "learned_variance": draw(st.booleans()),
    }


@st.composite
def unet_configs(draw: st.DrawFn) -> UNetConfig:
    """Configs of `UNet` that fit together: up to three levels, two blocks each, attention at any of them."""
    fields = draw(shared_fields())
    size, base = fields["image_size"], fields["base_channels"]
    shorter = size if isinstance(size, int) else min(size)
    resolutions = [shorter >> level for level in range(len(fields["channel_mults"]))]
    return UNetConfig(
        **fields,
        num_res_blocks=draw(st.integers(1, 2)),
        attention_resolutions=tuple(draw(st.lists(st.sampled_from(resolutions), unique=True))),
        num_heads=draw(st.sampled_from(divisors(base))),
        head_channels=draw(st.none() | st.sampled_from(divisors(base))),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6, 1e-3])),
        middle_attention=draw(st.booleans()),
        asymmetric_padding=draw(st.booleans()),
        frequency_shift=draw(st.sampled_from([0.0, 0.5, 1.0] if base >= 4 else [0.0, 0.5])),
        cos_first=draw(st.booleans()),
    )


@st.composite
def simple_configs(draw: st.DrawFn) -> SimpleUNetConfig:
    """Configs of `SimpleUNet` that fit together."""
    return SimpleUNetConfig(**draw(shared_fields()))
