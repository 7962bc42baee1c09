"""Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

A number depends on (seed, stream, step, position) and on nothing else: no generator state is carried, so
a resumed run, another backend or a captured CUDA graph draws the same noise. An array may be a part of a longer one,
from its row `first` on: then its positions are those it has there, and parts drawn apart make the whole.
"""

import math

from backends.array import Array, DType, Namespace

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
ROUNDS = 10
# Positions are below this: int64, as they are in kernels
MOST_NUMBERS = 1 << 63


def philox4x32(
    xp: Namespace, counter: tuple[Array, Array, Array, Array], key: tuple[int, int]
) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10 (Salmon et al. 2011, section 4.2 and table 2).

    counter: four uint64 arrays with values below 2^32; key: two integers below 2^32.
    Returns four uint64 arrays with values below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def row_size(shape: tuple[int, ...]) -> int:
    """Numbers in one row of an array of this shape: in shape[1:]."""
    return math.prod(shape[1:])


def words(xp: Namespace, count: int, seed: int, stream: int, step: int, start: int = 0) -> Array:
    """The blocks of four random words, uint64 below 2^32, that hold positions start … start + count - 1: (blocks, 4).

    The counter is (block low, block high, stream, step), the key (seed low, seed high). Position 4b is the first word
    of block b. Raises ValueError for a seed outside [0, 2^64), a stream or step outside [0, 2^32), or positions outside
    [0, 2^63).
    """
    if not (0 <= seed < 1 << 64 and 0 <= stream < 1 << 32 and 0 <= step < 1 << 32):
        raise ValueError(
            f"Philox takes 0 <= seed < 2^64 and 0 <= stream, step < 2^32, got seed={seed}, stream={stream}, step={step}"
        )
    if not 0 <= start <= MOST_NUMBERS - count:
        raise ValueError(f"Philox takes positions from 0 to 2^63 - 1, got {start} … {start + count - 1}")
    block = xp.arange(start // 4, (start + count + 3) // 4, dtype=xp.uint64)
    zero = block & 0
    counter = (block & MASK, block >> 32, zero + stream, zero + step)
    return xp.stack(philox4x32(xp, counter, (seed & MASK, seed >> 32)), axis=-1)


def open_unit(xp: Namespace, word: Array) -> Array:
    """float64 in the open interval (0, 1): the middle of the word's cell of width 2^-32."""
    return (xp.astype(word, xp.float64) + 0.5) * 2.0**-32


def random_uniform(
    xp: Namespace, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType | None = None, first: int = 0
) -> tuple[Array, None]:
    """Uniform numbers in (0, 1) of the given shape; dtype float32 by default. No backward.

    first: the row of a longer array at which this one begins. Computed in float64 and rounded once: in float32 the last
    2^-25 below 1 becomes 1. Raises ValueError as `words` does.
    """
    count, start = math.prod(shape), first * row_size(shape)
    u = cut(xp, open_unit(xp, words(xp, count, seed, stream, step, start)), start, shape)
    return xp.astype(u, dtype or xp.float32), None


def random_normal(
    xp: Namespace, shape: tuple[int, ...], seed: int, stream: int, step: int, dtype: DType | None = None, first: int = 0
) -> tuple[Array, None]:
    """Standard normal numbers of the given shape by Box & Muller 1958; dtype float32 by default. No backward.

    first: the row of a longer array at which this one begins. Computed in float64 and rounded once, so that backends
    agree to the last bit or two. Raises ValueError as `words` does.
    """
    count, start = math.prod(shape), first * row_size(shape)
    u = open_unit(xp, words(xp, count, seed, stream, step, start))
    radius = xp.sqrt(-2.0 * xp.log(u[:, 0::2]))
    angle = (2.0 * math.pi) * u[:, 1::2]
    pairs = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=-1)
    return xp.astype(cut(xp, pairs, start, shape), dtype or xp.float32), None


def cut(xp: Namespace, blocks: Array, start: int, shape: tuple[int, ...]) -> Array:
    """The numbers from position `start` on, of whole blocks of four that begin with the one which holds it."""
    skipped = start % 4
    return xp.reshape(xp.reshape(blocks, (-1,))[skipped : skipped + math.prod(shape)], shape)
