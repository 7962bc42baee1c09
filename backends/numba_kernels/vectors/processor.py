"""What kernels must know of the processor that they are compiled for: its vector registers."""

from typing import Any, NamedTuple

from llvmlite.binding import get_default_triple, get_host_cpu_features
from numba import config as numba_config

# Numba sets its attributes from the environment
config: Any = numba_config


class Registers(NamedTuple):
    """How many vector registers there are, and float32 lanes in each."""

    number: int
    lanes: int


def registers_of(architecture: str, features: set[str]) -> Registers:
    """The registers by architecture ("x86_64", "aarch64", "arm64", …) and LLVM's names of features."""
    if architecture in ("aarch64", "arm64"):
        return Registers(32, 4)
    if "avx512f" in features:
        return Registers(32, 16)
    return Registers(16, 8 if "avx" in features else 4)


def features() -> set[str]:
    """LLVM's names of the features that Numba compiles for: NUMBA_CPU_FEATURES, else this processor's."""
    if config.CPU_FEATURES is not None:
        return {name[1:] for name in config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in get_host_cpu_features().items() if present}


REGISTERS = registers_of(get_default_triple().partition("-")[0], features())
