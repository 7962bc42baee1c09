"""Rung 3: what BLAS does in its innermost loop, without the patches: 8 pixels by 32 outputs of sums in registers.

They are 16 vectors, half of the AVX-512 registers. A step of `product` loads two vectors of weights and eight numbers
of the image and makes 16 fused multiply-adds of them: ten loads, where rung 1 needs 48 loads and stores, and each
weight is read once for eight pixels. LLVM does not find this by itself, so the kernel is written with
`backends.numba_kernels.vectors.lanes`: a Python function that emits the instructions.

Look at `images`: three pixels in a row of NHWC are 3 C numbers in a row, so a window needs no patch, and the windows of
neighbouring pixels are rows of one matrix that overlap. This is about the peak of the processor, where PyTorch's oneDNN
is as well. From here on only fewer multiplications help.
"""

import numpy as np
from numba import njit

from backends.numba_kernels.vectors.intrinsics import kernel
from backends.numba_kernels.vectors.lanes import BYTES, Memory, const, loop, zeros
from benchmarks.ladder.cpu.threads import share


@kernel
def product(builder, a, a_row, a_band, b, b_band, bands, depth, out, out_row):
    """out[8][32] = sum over i < bands, t < depth of a[i][row][t] b[i][t][32]; *_row, *_band: bytes to the next one."""

    def band(i, sums):
        left, right = (
            Memory(builder, a).offset(builder.mul(i, a_band)),
            Memory(builder, b).offset(builder.mul(i, b_band)),
        )
        rows = [left.offset(builder.mul(a_row, const(r))) for r in range(8)]

        def step(t, sums):
            at = right.offset(builder.mul(t, const(2 * BYTES)))
            low, high = at.load(), at.load(BYTES)
            new = []
            for r, row in enumerate(rows):
                value = row.offset(builder.mul(t, const(4))).broadcast()
                new += [value * low + sums[2 * r], value * high + sums[2 * r + 1]]
            return new

        return loop(builder, depth, sums, step)

    for i, total in enumerate(loop(builder, bands, [zeros(builder)] * 16, band)):
        Memory(builder, out).offset(builder.mul(out_row, const(i // 2))).store(total, i % 2 * BYTES)


@njit(nogil=True)
def images(part, parts, x, panels, y):
    """Every parts-th image of y, the weights being panels[K / 32][3][3 C][32]."""
    _, height, width, channels = x.shape
    image = np.zeros((height + 2, width + 9, channels), np.float32)  # the last block may read 7 pixels too many
    block = np.empty((8, 32), np.float32)
    pixel, row = 4 * channels, 4 * channels * (width + 9)
    for n in range(part, x.shape[0], parts):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    image[i + 1, j + 1, c] = x[n, i, j, c]
        for panel in range(panels.shape[0]):
            weights = panels[panel].ctypes.data
            for i in range(height):
                for j in range(0, width, 8):
                    corner = image.ctypes.data + i * row + j * pixel
                    product(corner, pixel, row, weights, 384 * channels, 3, 3 * channels, block.ctypes.data, 128)
                    for r in range(min(8, width - j)):
                        for k in range(32):
                            y[n, i, j + r, 32 * panel + k] = block[r, k]


def conv(x, w):
    """See the package."""
    _, _, channels, outputs = w.shape
    y = np.empty((*x.shape[:3], outputs), np.float32)
    panels = np.ascontiguousarray(w.reshape(3, 3 * channels, -1, 32).transpose(2, 0, 1, 3))
    share(images, x, panels, y)
    return y
