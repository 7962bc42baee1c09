"""How many blocks of a kernel run on a multiprocessor at once, and what keeps more away."""

from typing import NamedTuple

from backends.cupy_kernels.runtime.launch import ceil

WARP = 32
# Registers are handed out to whole warps, this many at a time, from four banks that each serve a quarter of the warps
REGISTER_UNIT, BANKS = 256, 4
# Shared memory is handed out in pieces of 128 bytes, and CUDA keeps 1 KB of it for itself in each block
SHARED_UNIT, RESERVED = 128, 1024


class Limits(NamedTuple):
    """What a multiprocessor has: registers of 32 bits, warps and blocks at once, bytes of shared memory."""

    registers: int
    warps: int
    blocks: int
    shared: int


# CUDA Programming Guide 13.0, "Compute Capabilities", table "Technical Specifications":
# https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-capabilities.html
TARGETS = {
    "sm_80": Limits(65536, 64, 32, 164 << 10),  # A100
    "sm_90": Limits(65536, 64, 32, 228 << 10),  # H100, H200
    "sm_100": Limits(65536, 64, 32, 228 << 10),  # B200
    "sm_120": Limits(65536, 48, 24, 100 << 10),  # RTX 50
}


class Residence(NamedTuple):
    """Blocks on a multiprocessor, the share of its warps that they are, and what limits them."""

    blocks: int
    share: float
    limit: str


def residence(target: str, threads: int, registers: int, shared: int) -> Residence:
    """How many blocks there is room for.

    target: a key of TARGETS, or one with all features of its kind, such as sm_90a; registers: of a thread; shared:
    bytes of a block, static and dynamic.
    """
    has, warps = TARGETS[target.removesuffix("a")], ceil(threads, WARP)
    of_warp = max(REGISTER_UNIT, ceil(registers * WARP, REGISTER_UNIT) * REGISTER_UNIT)
    of_block = ceil(shared + RESERVED, SHARED_UNIT) * SHARED_UNIT
    # In the order in which a tie is told: what cannot be helped first
    most = {
        "warps": has.warps // warps,
        "blocks": has.blocks,
        "registers": has.registers // BANKS // of_warp * BANKS // warps,
        "shared memory": has.shared // of_block,
    }
    limit = min(most, key=lambda name: most[name])
    return Residence(most[limit], most[limit] * warps / has.warps, limit)
