"""Launching the rungs: grids, blocks and shared memory of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backends.cupy_kernels.runtime.compilation import cupy, options
from backends.cupy_kernels.runtime.launch import RecordType, ceil
from benchmarks.ladder.cuda import v5_library

HERE = Path(__file__).parent
IMAGE = RecordType("images height width channels outputs")


class Rung(NamedTuple):
    """A source beside this file. tile: pixels and outputs of a block, or 0 for a thread each; threads: of a block."""

    source: str
    tile: tuple[int, int]
    block: tuple[int, ...]
    shared: int = 0

    def grid(self, pixels: int, outputs: int) -> tuple[int, ...]:
        """The blocks for these pixels and outputs."""
        if not self.tile[0]:
            return (ceil(pixels * outputs, self.block[0]),)
        return ceil(pixels, self.tile[0]), ceil(outputs, self.tile[1])

    def conv(self, x: Any, w: Any) -> Any:
        """See the package."""
        module, (n, h, width, c), k = cupy(), x.shape, w.shape[3]
        y = module.empty((n, h, width, k), "float32")
        kernel = compiled(module, self)
        sizes = IMAGE(images=n, height=h, width=width, channels=c, outputs=k)
        kernel(self.grid(n * h * width, k), self.block, (x, w, y, np.asarray(sizes)), shared_mem=self.shared)
        return y


KERNELS: dict[tuple[Any, str], Any] = {}


def compiled(module: Any, rung: Rung) -> Any:
    """Its kernel, compiled when it is first needed."""
    key = module, rung.source
    if key not in KERNELS:
        code = (HERE / rung.source).read_text(encoding="utf-8")
        raw = module.RawModule(code=code, options=(*options(), f"-I{HERE}"))
        KERNELS[key] = raw.get_function("conv")
        if rung.shared > 48 << 10:
            KERNELS[key].max_dynamic_shared_size_bytes = rung.shared
    return KERNELS[key]


STAGE = 4 * (64 * 36 + 32 * 72)
SOURCES = (
    Rung("v0_loops.cu", (0, 0), (256,)),
    Rung("v1_tiles.cu", (32, 32), (32, 32)),
    Rung("v2_registers.cu", (64, 64), (256,)),
    Rung("v3_tensor_cores.cu", (64, 64), (128,), STAGE),
    Rung("v4_pipeline.cu", (64, 64), (128,), 3 * STAGE),
)
RUNGS: dict[str, Callable[[Any, Any], Any]] = {rung.source.removesuffix(".cu"): rung.conv for rung in SOURCES}
RUNGS["v5_library"] = v5_library.conv
# Those that round their operands to TF32
ROUNDED = ("v3_tensor_cores", "v4_pipeline", "v5_library")
