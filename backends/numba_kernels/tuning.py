"""Numbers that were found by measuring, on one processor; another may want others.

Each says what it decides, and what to run when it is changed. Machine, unless said: two cores of an AMD EPYC (Zen 4),
1 MiB of second cache for each, AVX-512, Numba 0.62, November 2026. What depends on the processor by its nature, such as
the registers a product runs in, is looked up (`vectors.processor`), not tuned.
"""

# convolution.few_tiles: up to this number of tiles, each thread transforms weights itself, panel by panel; with more,
# transforming them once repays the traffic. `python -m benchmarks sample`, batch 1 and 16.
MOST_TILES = 64
# Bytes of a core's second cache that a thread of `few_tiles` works in; a multiple of a cache line.
# `python -m benchmarks sample`, batch 16.
CACHE = 837_952

# convolution.direct: what the transforms of a tile add to its products, in products, and those of the weights, in
# tiles. `python -m benchmarks ops --only conv2d`, `sample`, batch 1.
TILE_COST, WEIGHTS_COST = 1.4, 8

# matmul: below this number of pixels, packing the weights in panels costs more than it saves.
# `python -m benchmarks ops --only linear`.
PIXELS_WORTH_PACKING = 256
