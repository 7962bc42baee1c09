"""What is measured: U-Nets, batches, and what a run does."""

from dataclasses import dataclass
from typing import Any

from tinyddpm.networks.unet import UNetConfig

REFERENCE = UNetConfig()  # 3.94 million parameters, 32x32 grey


@dataclass(frozen=True)
class Workload:
    """A U-Net and a batch; kind "train" is forward, backward and Adam, "forward" is one prediction in sampling."""

    name: str
    kind: str
    config: UNetConfig
    batch: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"name": self.name, "kind": self.kind, "config": self.config.to_dict(), "batch": self.batch}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Workload":
        """The workload of these JSON values."""
        return cls(**{**values, "config": UNetConfig.from_dict(values["config"])})


SMALL = UNetConfig(image_size=16, base_channels=16)
COLOUR = UNetConfig(image_size=64, in_channels=3, channel_mults=(1, 2, 4, 4), attention_resolutions=(16, 8))
TINY = UNetConfig(image_size=8, base_channels=16, channel_mults=(1, 2), num_res_blocks=1, attention_resolutions=(4,))

TRAIN = (
    Workload("32x32 grey, 32 channels, batch 64", "train", REFERENCE, 64),
    Workload("32x32 grey, 32 channels, batch 32", "train", REFERENCE, 32),
    Workload("16x16 grey, 16 channels, batch 32", "train", SMALL, 32),
    Workload("64x64 colour, 32 channels, batch 16", "train", COLOUR, 16),
)
SAMPLE = tuple(Workload(f"32x32 grey, batch {n}", "forward", REFERENCE, n) for n in (64, 16, 1))
SMOKE = {
    "train": (Workload("8x8, smoke", "train", TINY, 4),),
    "sample": (Workload("8x8, smoke", "forward", TINY, 4),),
}
